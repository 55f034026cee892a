"""What a run's result has numbers of, and where: attacks and threats, pairs, sections, values of metrics."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from avrobust_core.evaluation.wording import doubt

WHERE = ("model", "training", "attack", "threat")
"""The names before an entry of a section."""

WORST = "worst case"
"""The name, in a table, of all attacks under a threat together."""

Row = tuple[str, str, str, str]
"""A metric, a name, an attack ("clean" for none) and a threat."""


def with_seed(result: Mapping[str, Any], cell: Mapping[str, Any]) -> Mapping[str, Any]:
    """A cell whose regime names the seed, too, where there are several."""
    if not result.get("pooled"):
        return cell
    return {**cell, "training": f"{cell['training']}, seed {cell['seed']}"}


def cell_label(cell: Mapping[str, Any]) -> str:
    """Model and regime: "concat/standard"."""
    return f"{cell['model']}/{cell['training']}"


def conditions_of(cells: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The attacks and threats of some cells, those that failed too; then `WORST` under each threat, for several."""
    found: dict[tuple[str, str], None] = {}
    for cell in cells:
        for attack, threats in cell.get("robust_accuracy", {}).items():
            found.update(dict.fromkeys((attack, threat) for threat in threats))
        for failure in cell.get("failures", []):
            if failure["metric"] is None:
                found[failure["attack"], failure["threat"]] = None
    worst = {threat for cell in cells for threat in cell.get("worst_case", {})}
    if len({attack for attack, _ in found}) > 1:
        found.update(dict.fromkeys((WORST, threat) for _, threat in list(found) if threat in worst))
    return list(found)


def robust_estimate(cell: Mapping[str, Any], attack: str, threat: str) -> Mapping[str, Any] | None:
    """A cell's robust accuracy under an attack, or `WORST`, and a threat; None if it has none."""
    attacks: Mapping[str, Any] = cell.get("robust_accuracy", {})
    found: Mapping[str, Any] = cell.get("worst_case", {}) if attack == WORST else attacks.get(attack, {})
    estimate: Mapping[str, Any] | None = found.get(threat)
    return estimate


def section_entries(cells: Iterable[Mapping[str, Any]], section: str) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """A section's entries, each after what stands under `WHERE` and the mark of a doubtful number."""
    for cell in cells:
        for attack, threats in cell.get(section, {}).items():
            for threat, entry in threats.items():
                yield (cell["model"], cell["training"], attack, threat), doubt(cell, attack, threat), entry


def metric_row(entry: Mapping[str, Any], name: str = "") -> Row:
    """The row of a metric's entry or failure; of the whole metric, without a name."""
    return entry["metric"], name, entry["attack"] or "clean", entry["threat"] or ""


def metric_values(cell: Mapping[str, Any]) -> dict[Row, tuple[str, Mapping[str, Any]]]:
    """The measured values, each with the mark before it."""
    return {
        metric_row(entry, name): (doubt(cell, entry["attack"], entry["threat"]), estimate)
        for entry in cell.get("metrics", [])
        for name, estimate in entry.get("values", {}).items()
        if not name.partition("/")[0].endswith("-micro")  # the same, weighed otherwise: result.json has both
    }


def pair_of(item: Mapping[str, Any]) -> tuple[str, str]:
    """The compared pair, and where: "concat vs sum", "standard"."""
    first, second = ((item[side]["model"], item[side]["training"]) for side in ("first", "second"))
    if first == second:  # of two runs
        return first
    if first[0] == second[0]:
        return f"{first[1]} vs {second[1]}", first[0]
    if first[1] == second[1]:
        return f"{first[0]} vs {second[0]}", first[1]
    return f"{'/'.join(first)} vs {'/'.join(second)}", ""


def where_of(item: Mapping[str, Any]) -> str:
    """The cells of a comparison: "concat vs sum in standard"."""
    return " in ".join(filter(None, pair_of(item)))


def condition_of(item: Mapping[str, Any]) -> tuple[str, str]:
    """Attack and threat of a comparison: "clean", ""; "pgd", "both"; "worst case", "both"."""
    if item["attack"] is None:
        return "clean", ""
    return WORST if item["attack"] == "worst_case" else item["attack"], item["threat"]


def why_left_out(item: Mapping[str, Any]) -> str:
    """The reason why a pair is not compared; with the pair and the attack where it is not one cell's."""
    if "/" in item["left_out"]:
        return str(item["left_out"])
    where = " under ".join(condition_of(item)) if "attack" in item else ""
    return f"{where_of(item)}{f', {where}' if where else ''}: {item['left_out']}"
