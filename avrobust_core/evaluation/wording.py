"""The wording of estimates in tables and elsewhere: numbers, their intervals and what these are over, marks."""

from collections.abc import Mapping, Sequence
from typing import Any

from avrobust_core.caveats import concerns

MOST_COLUMNS = 5
"""The most columns of one table; more of them become rows, or several tables."""

Json = Mapping[str, Any]
"""An estimate, or a part of a result, as JSON data."""


def percent(estimate: Json) -> str:
    """A share in %: "60.0 [52.9, 66.8]"."""
    return f"{_share(estimate['value'])} {percent_interval(estimate)}"


def percent_interval(estimate: Json) -> str:
    """The interval of a share in %; "-" for an end that there is none of."""
    return f"[{_share(estimate['low'])}, {_share(estimate['high'])}]"


def _share(value: float | None) -> str:
    """In %, with one decimal; with two next to 0 and 100, so that only these look like them."""
    if value is None:
        return "-"
    shown = f"{100 * value:.1f}"
    if shown in ("0.0", "100.0") and value not in (0, 1):
        return "<0.01" if value < 5e-5 else ">99.99" if value > 1 - 5e-5 else f"{100 * value:.2f}"
    return shown


def figures(estimate: Json) -> str:
    """Any number with three digits: "0.286 [0.25, 0.31]"."""
    value, low, high = ("-" if estimate[key] is None else f"{estimate[key]:.3g}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def size(estimate: Json) -> str:
    """A size of a perturbation, which may lie beyond all that were tried."""
    ends = [estimate[key] for key in ("value", "low", "high")]
    unknown = "-" if estimate["method"] == "none" else "beyond"
    value, low, high = (unknown if end is None else f"{end:.3f}" for end in ends)
    return f"{value if ends[0] is not None else 'beyond'} [{low}, {high}]"


def spread(estimates: Sequence[Json]) -> str:
    """The mean over seeds, the least and the greatest."""
    known = [estimate["value"] for estimate in estimates if estimate["value"] is not None]
    if not known:
        return "-"
    return f"{sum(known) / len(known):.3g} ({min(known):.3g} to {max(known):.3g})"


def difference(value: float, found: Json, p: float | None) -> str:
    """A difference in points, marked where its interval leaves 0 out: "+5.0 [+1.0, +9.0] *, p 0.012"."""
    ends = "[-, -]"
    if found["low"] is not None:
        low, high = 100 * found["low"], 100 * found["high"]
        ends = f"[{low:+.1f}, {high:+.1f}]{' *' if low > 0 or high < 0 else ''}"
    return f"{100 * value:+.1f} {ends}" + ("" if p is None else f", p {p:.2g}")


def drawn(estimate: Json) -> str:
    """The units that an estimate's interval is over: "clips", or "40 groups of clips"."""
    return "clips" if estimate.get("groups") is None else f"{estimate['groups']} groups of clips"


def of_method(item: Json) -> bool:
    """True if a pooled accuracy, or a comparison, has an interval over fits, too."""
    return "left_out" not in item.get("across_fits", {"left_out": None})


def interval(result: Json, estimates: Sequence[Json], methods: bool) -> str:
    """The explanation of the brackets.

    Args:
        result: of the run.
        estimates: whose intervals they are.
        methods: True if intervals over fits stand below some of them.
    """
    over = " or ".join(dict.fromkeys(map(drawn, estimates))) or "clips"
    below = ", for these networks; below it over fits, too, for the method" if methods else ""
    return f"[{100 * result['confidence']:g} % interval over {over}{below}]"


def over_seeds(result: Json) -> str:
    """The number of seeds that a number is the mean of, where there are several."""
    return f", mean over {len(result['seed'])} seeds" if result.get("pooled") else ""


def doubt(cell: Mapping[str, Any], attack: str | None, threat: str | None) -> str:
    """The mark before a doubtful number; the lines below the first table give the reasons."""
    caveats = cell.get("caveats", [])
    if attack == "worst case":  # as strong as the strongest: in doubt only if every attack is
        attacks = [name for name, threats in cell["robust_accuracy"].items() if threats.get(threat, {}).get("bounded")]
        return "? " if attacks and all(concerns(caveats, name, threat) for name in attacks) else ""
    return "? " if concerns(caveats, attack, threat) else ""
