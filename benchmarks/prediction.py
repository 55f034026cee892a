"""How well a number predicts the robust accuracy of models whose family it has not seen; from lines of JSON.

Every family is left out once. An isotonic regression of robust accuracy on the predictor, rising or falling as the
other families' rank correlation says, is fitted on them, and predicts the robust accuracy of the models left out; below
and above what it has seen it stays level. The floor is the predictor that knows nothing: the mean robust accuracy of
the other families.

Families are made by what is asked to be unseen: the kind of training (the first augmentation of the regime), the
architecture (the model's name in the spec) or the data set.

Intervals (95 %) are percentiles of a bootstrap that draws families, and models within each that is drawn; with fewer
than `FEWEST` families it draws models within them alone, which says nothing of other families (`drawn` tells). The
regressions are not fitted again in each resample: an interval is that of the mean error of these predictions. The best
of many predictors looks better than it is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from avrobust_core.statistics.rank_correlation import spearman

Floats = NDArray[np.float64]
Line = Mapping[str, Any]

FAMILIES: Mapping[str, Callable[[Line], str]] = {
    "training": lambda line: str(line["regime"]),
    "architecture": lambda line: str(line["model"]),
    "data": lambda line: str(line["set"]),
}
"""By what is unseen, the family of a line."""

FEWEST = 4
"""Families below which they are not resampled; and models below which a family has no rank correlation of its own."""


def analysed(lines: Sequence[Line], *, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """What all lines say, of all sets together and of each alone, by what is unseen.

    Args:
        lines: one model each: `set`, `model`, `regime`, `robust` in [0, 1], and `predictors` by name.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        By sets ("all", or one's name), then by what is unseen: `models`, `families` with their numbers of models,
        `drawn`, `floor` (an error), and `predictors`, each with

        - `models`: that have a value; the others are left out, also of the floor that it is compared with;
        - `rank`: its rank correlation with robust accuracy, over all of them;
        - `rank_within`: the mean of that inside each family of `FEWEST` models at least, weighted by their number;
        - `error`: the mean absolute error of what it predicts for unseen families, in shares of clips;
        - `over_floor`: this error minus the floor's, on the same resamples;
        - `worst`: the family with the largest error, and that;
        - `as_it_is`: the mean absolute error of the bare number where it lies within [0, 1];
        - `passes`: forward passes of a clip, where the lines tell.
    """
    scopes = {"all": list(lines)}
    names = list(dict.fromkeys(line["set"] for line in lines))
    if len(names) > 1:
        scopes |= {name: [line for line in lines if line["set"] == name] for name in names}
    found: dict[str, Any] = {}
    for scope, there in scopes.items():
        found[scope] = {}
        for unseen, family_of in FAMILIES.items():
            families = np.array([family_of(line) for line in there])
            if len(set(families)) > 1:
                found[scope][unseen] = _section(there, families, resamples, seed)
    return found


def _section(lines: Sequence[Line], families: NDArray[Any], resamples: int, seed: int) -> dict[str, Any]:
    """All predictors, with one kind of family unseen."""
    names = list(dict.fromkeys(name for line in lines for name in line["predictors"]))
    robust = np.array([line["robust"] for line in lines], dtype=np.float64)
    weights = draws(families, resamples, seed)
    floor = np.abs(floor_of(robust, families) - robust)
    passes = {name: cost for line in lines for name, cost in line.get("passes", {}).items()}
    predictors = {}
    for name in names:
        values = np.array([line["predictors"].get(name, np.nan) for line in lines], dtype=np.float64)
        known = np.isfinite(values)
        if known.sum() >= FEWEST and len(set(families[known])) > 1:
            predictors[name] = judged(values[known], robust[known], families[known], weights[:, known])
            predictors[name] |= {"passes": passes[name]} if name in passes else {}
    sizes = dict(zip(*(each.tolist() for each in np.unique(families, return_counts=True)), strict=True))
    return {
        "models": len(lines),
        "families": sizes,
        "drawn": "families and models" if len(sizes) >= FEWEST else "models",
        "floor": _weighted(floor, weights),
        "predictors": dict(sorted(predictors.items(), key=lambda item: item[1]["error"]["value"])),
    }


def judged(values: Floats, robust: Floats, families: NDArray[Any], weights: Floats) -> dict[str, Any]:
    """What one predictor is worth; see `analysed`.

    Args:
        values: (N,) of the predictor, finite.
        robust: (N,) in [0, 1].
        families: (N,) names, two different ones at least.
        weights: (R, N) of the bootstrap.
    """
    error = np.abs(predicted(values, robust, families) - robust)
    floor = np.abs(floor_of(robust, families) - robust)
    by_family = {str(name): float(error[families == name].mean()) for name in dict.fromkeys(families)}
    worst = max(by_family, key=lambda name: by_family[name])
    found = {
        "models": len(values),
        "rank": _interval(spearman(values, robust), weights),
        "rank_within": _interval(_within(values, robust, families), weights),
        "error": _weighted(error, weights),
        "over_floor": _weighted(error - floor, weights),
        "worst": {"family": worst, "error": by_family[worst]},
    }
    if values.min() >= 0 and values.max() <= 1:
        found["as_it_is"] = _weighted(np.abs(values - robust), weights)
    return found


def predicted(values: Floats, robust: Floats, families: NDArray[Any]) -> Floats:
    """Each model's robust accuracy as predicted from the models of other families: (N,).

    Args:
        values: (N,) of the predictor, finite.
        robust: (N,) in [0, 1].
        families: (N,) names, two different ones at least.
    """
    found = floor_of(robust, families)
    for name in np.unique(families):
        unseen = families == name
        rank = float(spearman(values[~unseen], robust[~unseen])(np.ones((1, int((~unseen).sum()))))[0])
        if np.isfinite(rank):  # else one of the two is constant, and there is nothing to learn
            regression = IsotonicRegression(increasing=bool(rank >= 0), out_of_bounds="clip")
            found[unseen] = regression.fit(values[~unseen], robust[~unseen]).predict(values[unseen])
    return found


def calibration(lines: Sequence[Line], name: str, confidence: float = 0.95) -> dict[str, Any]:
    """What a predictor that is an estimate of robust accuracy itself is wrong by.

    Args:
        lines: as in `analysed`; those without this predictor are left out.
        name: of the predictor, in [0, 1].
        confidence: of the intervals whose coverage is told.

    Returns:
        `models`; `errors`, sorted: robust accuracy minus the predictor, as it is; and `coverage`: by what is unseen and
        by family, the share of its models inside the interval that the errors of all others would have given.
    """
    there = [line for line in lines if np.isfinite(line["predictors"].get(name, np.nan))]
    errors = np.array([line["robust"] - line["predictors"][name] for line in there], dtype=np.float64)
    coverage: dict[str, dict[str, float]] = {}
    for kind, family_of in FAMILIES.items():
        families = np.array([family_of(line) for line in there])
        coverage[kind] = {}
        for family in np.unique(families):
            unseen = families == family
            low, high = np.quantile(errors[~unseen], [(1 - confidence) / 2, (1 + confidence) / 2])
            inside = (errors[unseen] >= low) & (errors[unseen] <= high)
            coverage[kind][str(family)] = round(float(inside.mean()), 3)
    return {"models": len(there), "errors": [round(each, 4) for each in np.sort(errors).tolist()], "coverage": coverage}


def floor_of(robust: Floats, families: NDArray[Any]) -> Floats:
    """The mean robust accuracy of the models of other families: (N,)."""
    found = np.empty(len(robust))
    for name in np.unique(families):
        found[families == name] = robust[families != name].mean()
    return found


def draws(families: NDArray[Any], resamples: int, seed: int) -> Floats:
    """How often each resample holds each model: (R, N).

    Families are drawn, if there are `FEWEST`, and then models within each that is drawn, as many as it has.
    """
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(families == name) for name in np.unique(families)]
    many = len(members) >= FEWEST
    found = np.zeros((resamples, len(families)))
    for row in found:
        for number in generator.integers(len(members), size=len(members)) if many else range(len(members)):
            np.add.at(row, generator.choice(members[number], size=len(members[number])), 1)
    return found


def _within(values: Floats, robust: Floats, families: NDArray[Any]) -> Callable[[Floats], Floats]:
    """From weights (R, N) to the mean rank correlation inside families: (R,); NaN where no family has one."""
    groups = [families == name for name in np.unique(families)]
    large = [(group, spearman(values[group], robust[group])) for group in groups if group.sum() >= FEWEST]

    def mean(weights: Floats) -> Floats:
        total, size = np.zeros(len(weights)), np.zeros(len(weights))
        for group, statistic in large:
            there = weights[:, group].sum(axis=1)
            each = np.full(len(weights), np.nan)
            each[there > 0] = statistic(weights[there > 0][:, group])
            known = np.isfinite(each)
            total[known] += each[known] * there[known]
            size[known] += there[known]
        return np.asarray(np.divide(total, size, out=np.full(len(weights), np.nan), where=size > 0))

    return mean


def _weighted(each: Floats, weights: Floats) -> dict[str, float | None]:
    """The mean of a number per model, with its interval."""

    def mean(drawn: Floats) -> Floats:
        size = drawn.sum(axis=1)
        return np.asarray(np.divide(drawn @ each, size, out=np.full(len(drawn), np.nan), where=size > 0))

    return _interval(mean, weights)


def _interval(statistic: Callable[[Floats], Floats], weights: Floats) -> dict[str, float | None]:
    """A statistic and its percentiles, as JSON data: None where it is not defined."""
    (value,) = statistic(np.ones((1, weights.shape[1])))
    resampled = statistic(weights)
    resampled = resampled[np.isfinite(resampled)]
    low, high = np.percentile(resampled, [2.5, 97.5]) if len(resampled) else (np.nan, np.nan)
    return {
        name: round(float(each), 4) if np.isfinite(each) else None
        for name, each in {"value": value, "low": low, "high": high}.items()
    }


def tables(found: Mapping[str, Any]) -> str:
    """What `analysed` found, for a terminal: a table for each kind of unseen family, the best predictor first."""
    parts = []
    for scope, sections in found.items():
        for unseen, section in sections.items():
            parts.append(
                f"{scope}: unseen {unseen}; {section['models']} models of {len(section['families'])} families "
                f"({', '.join(f'{name} {size}' for name, size in section['families'].items())}); intervals over "
                f"{section['drawn']}; error of the floor {_shown(section['floor'])}"
            )
            parts.append(f"{'predictor':<46}{'error':>22}{'over the floor':>24}{'rank':>24}{'inside families':>24}")
            for name, each in section["predictors"].items():
                columns = (_shown(each[key]) for key in ("over_floor", "rank", "rank_within"))
                parts.append(f"{name:<46}{_shown(each['error']):>22}" + "".join(f"{column:>24}" for column in columns))
    return "\n".join(parts)


def _shown(estimate: Mapping[str, float | None]) -> str:
    value, low, high = ("-" if each is None else f"{each:.3f}" for each in estimate.values())
    return f"{value} [{low}, {high}]"
