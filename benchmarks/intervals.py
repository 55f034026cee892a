"""How often intervals hold the truth, and tests reject where there is nothing: the figures of docs/comparisons.md.

    python benchmarks/intervals.py [--only PART ...] [--runs N] [--json PATH]

Everything is drawn at random from a known truth, and measured by the very functions that a study uses. Beside them
stand the rules that were not chosen.

- `shares`: coverage of a share of clips by itself, summed exactly over all counts; Clopper and Pearson's, Wilson's,
  Jeffreys' with the ends of Clopper and Pearson's, and the percentile bootstrap (by simulation).
- `groups`: coverage of a share over groups, 5 to 100 of them of 1 to 50 clips, shares of 2 to 98 %, correlations
  of 0 to .7 within a group, groups of one size or not; beside it Korn and Graubard's rule by itself, and percentiles of
  the bootstrap over groups, with the width over theirs where theirs cover.
- `statistics`: coverage of a mean and a median over groups by the bootstrap, with plain percentiles and as it is.
- `rankings`: coverage of mAP and AUC over groups.
- `differences`: coverage of a paired difference between two networks over clips.
- `grouped_differences`: the same over groups as above, and false positives of the test that flips signs of groups.
- `methods`: false positives, power and width of the difference between two methods of 3 and 5 fits each, and coverage
  of one method's accuracy.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom, norm
from scipy.stats import t as student

from avrobust_core import Subject
from avrobust_core.statistics.across_fits import accuracy_across_fits, difference_across_fits
from avrobust_core.statistics.draws import Draws
from avrobust_core.statistics.intervals import (
    bootstrap,
    paired_difference,
    share,
    share_interval,
    sign_flip_p,
    weighted_median,
)

SLOW = 10
"""The two-level bootstrap is tried in one simulation of so many."""

Floats = NDArray[np.float64]
Ends = tuple[float, float]
Row = dict[str, Any]


def wilson(hits: int, n: int) -> Ends:
    """Wilson 1927."""
    z, value = norm.ppf(0.975), hits / n
    middle = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (value * (1 - value) / n + z * z / (4 * n * n)) ** 0.5
    return middle - half, middle + half


def jeffreys(hits: int, n: int) -> Ends:
    """Brown, Cai and DasGupta 2001, with Clopper and Pearson's ends at no hit and at all."""
    low, high = beta.ppf([0.025, 0.975], hits + 0.5, n - hits + 0.5)
    edge = 1 - 0.025 ** (1 / n)
    return (0.0 if hits == 0 else 1 - edge if hits == n else low), (1.0 if hits == n else edge if hits == 0 else high)


def ours(hits: int, n: int) -> Ends:
    """As a study has it."""
    found = share(np.arange(n) < hits)
    return found.low, found.high


def percentiles(hits: int, n: int) -> Ends:
    """The percentile bootstrap's ends for very many resamples: a binomial's quantiles."""
    low, high = binom.ppf([0.025, 0.975], n, hits / n) / n
    return float(low), float(high)


def shares() -> Iterator[Row]:
    """Exact coverage of shares of clips by themselves."""
    rules: dict[str, Callable[[int, int], Ends]] = {
        "clopper-pearson": ours,
        "wilson": wilson,
        "jeffreys": jeffreys,
        "percentiles": percentiles,
    }
    truths = np.concatenate([np.linspace(0.002, 0.05, 97), np.linspace(0.05, 0.5, 181)])
    for n in (24, 200, 600):
        for name, rule in rules.items():
            ends = np.array([rule(hits, n) for hits in range(n + 1)])

            def covered(truth: float, ends: Floats = ends, n: int = n) -> float:
                inside = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
                return float(binom.pmf(np.arange(n + 1), n, truth)[inside].sum())

            each = [covered(truth) for truth in truths]
            yield {
                "clips": n,
                "rule": name,
                "at 0.5 %": covered(0.005),
                "at 5 %": covered(0.05),
                "at 50 %": covered(0.5),
                "least": min(each),
                "mean": float(np.mean(each)),
                "interval of 1": [round(float(end), 5) for end in ends[1]],
            }


def grouped(
    generator: np.random.Generator, truth: float, correlation: float, sizes: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Outcomes of groups of clips, beta-binomial with this correlation within a group."""
    if correlation in (0.0, 1.0):
        own = np.full(len(sizes), truth) if correlation == 0 else (generator.random(len(sizes)) < truth).astype(float)
    else:
        scale = 1 / correlation - 1
        own = generator.beta(truth * scale, (1 - truth) * scale, len(sizes))
    return np.asarray(generator.random(sizes.sum()) < np.repeat(own, sizes))


SHARES = (0.02, 0.05, 0.1, 0.3, 0.5, 0.8, 0.98)
CORRELATIONS = (0.0, 0.1, 0.3, 0.7)
AGAIN = 0.95
"""A case that is covered less often than this in the first simulations is drawn again, four times as often: of many
cases the least would else be the unluckiest."""


def sizes_of_groups(generator: np.random.Generator, count: int, size: int, *, alike: bool) -> NDArray[np.int64]:
    """How many clips each group has."""
    spread = generator.gamma(3, 1 / 3, count)
    return np.full(count, size) if alike else np.maximum(1, generator.poisson(size * spread))


def resampled_share(hits: NDArray[np.int64], sizes: NDArray[np.int64], generator: np.random.Generator) -> Ends:
    """The percentile bootstrap over groups, plain."""
    weights = generator.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=300)
    low, high = np.quantile(weights @ hits / (weights @ sizes), [0.025, 0.975])
    return float(low), float(high)


def korn_graubard(outcomes: NDArray[np.bool_], of_clip: NDArray[np.int64]) -> Ends:
    """Korn and Graubard 1998 over groups, with Student's quantile, and as many outcomes as groups where all agree."""
    value, draws = float(outcomes.mean()), Draws.of(of_clip, len(outcomes))
    variance, degrees = draws.spread(outcomes.astype(np.float64)) if 0 < value < 1 else (0.0, np.inf)
    return share_interval(value, variance, np.inf if draws.alone else degrees, draws.effective, 0.95)


def groups(runs: int) -> Iterator[Row]:
    """Coverage of shares over groups, the least over correlations: rare and middling shares; widths beside others'."""
    generator = np.random.default_rng(0)
    for count in (5, 10, 20, 50, 100):
        for size in (1, 5, 20, 50):
            for alike in (True, False) if size > 1 else (True,):
                found: dict[str, list[float]] = {name: [] for name in ("rare", "middling", "before", "plain")}
                widths: dict[float, list[float]] = {correlation: [] for correlation in CORRELATIONS}
                for correlation in CORRELATIONS if size > 1 else (0.0,):
                    for truth in SHARES:
                        held = np.zeros(3)
                        wide = np.zeros(3)
                        done = 0
                        total = runs
                        while done < total:
                            sizes = sizes_of_groups(generator, count, size, alike=alike)
                            outcomes = grouped(generator, truth, correlation, sizes)
                            of_clip = np.repeat(np.arange(count), sizes)
                            hits = np.bincount(of_clip, outcomes, count).astype(np.int64)
                            each = share(outcomes, groups=of_clip)
                            ends = [(each.low, each.high)]
                            if done < runs:
                                ends += [korn_graubard(outcomes, of_clip), resampled_share(hits, sizes, generator)]
                                wide += [high - low for low, high in ends]
                            held[: len(ends)] += [low <= truth <= high for low, high in ends]
                            done += 1
                            total = 5 * runs if done == runs and held[0] < AGAIN * runs else total
                        found["middling" if 0.2 < truth < 0.9 else "rare"].append(held[0] / done)
                        found["before"].append(held[1] / runs)
                        found["plain"].append(held[2] / runs)
                        if held[2] / runs >= 0.93:  # a width says something beside one that covers
                            widths[correlation].append(wide[0] / wide[2])
                row: Row = {
                    "groups": count,
                    "clips each": size if alike else f"about {size}",
                    "least, 2, 5, 10 and 98 %": min(found["rare"]),
                    "least, 30, 50 and 80 %": min(found["middling"]),
                    "least of Korn and Graubard": min(found["before"]),
                    "least of percentiles": min(found["plain"]),
                }
                known = {of: float(np.mean(ratios)) for of, ratios in widths.items() if ratios}
                yield row | {f"width over percentiles', {of:g}": ratio for of, ratio in known.items()}


def statistics(runs: int) -> Iterator[Row]:
    """Coverage of means and a median over groups, by the bootstrap; half of the variance is between groups."""
    generator = np.random.default_rng(1)
    for count in (10, 20, 60):
        for size in (1, 10):
            of_clip = np.arange(count * size) // size
            for name, truth in (
                ("mean of normal", 0.0),
                ("median of lognormal", 1.0),
                ("mean of lognormal", np.exp(0.5)),
            ):
                hits = np.zeros(2)
                for seed in range(runs):
                    values = np.repeat(generator.normal(size=count), size) + generator.normal(size=count * size)
                    values = values if name == "mean of normal" else np.exp(values / 2**0.5)
                    statistic = weighted_median(values) if name.startswith("median") else partial(_mean, values)
                    drawn: list[Floats] = []

                    def kept(weights: Floats, statistic: Any = statistic, drawn: list[Floats] = drawn) -> Floats:
                        drawn.append(statistic(weights))
                        return drawn[-1]

                    each = bootstrap(kept, count * size, resamples=500, seed=seed, groups=of_clip)
                    plain = np.quantile(np.concatenate(drawn[1:]), [0.025, 0.975])
                    hits += [each.low <= truth <= each.high, plain[0] <= truth <= plain[1]]
                row = {"groups": count, "clips each": size, "statistic": name}
                yield row | {"as it is": hits[0] / runs, "plain percentiles": hits[1] / runs}


def rankings(runs: int) -> Iterator[Row]:
    """Coverage of mAP and AUC over groups; the truth is what test sets of this size come to on average."""
    from avrobust_metrics.configs import MapConfig
    from avrobust_metrics.mean_average_precision import MeanAveragePrecision

    generator, classes = np.random.default_rng(4), 5
    for count in (10, 20, 60):
        for size in (5, 20):
            of_clip = np.arange(count * size) // size
            found: dict[str, list[tuple[float, float, float]]] = {"map": [], "auc": []}
            for seed in range(runs):
                targets = generator.integers(classes, size=len(of_clip))
                logits = (
                    generator.normal(size=(len(of_clip), classes)) + generator.normal(size=(count, classes))[of_clip]
                )
                logits[np.arange(len(of_clip)), targets] += 1.5
                subject = Subject(
                    ids=tuple(map(str, range(len(of_clip)))),
                    logits=logits.astype(np.float32),
                    targets=targets,
                    classes=tuple(map(str, range(classes))),
                    task="single-label",
                    resamples=200,
                    seed=seed,
                    groups=[str(group) for group in of_clip],
                )
                values = MeanAveragePrecision(MapConfig()).measure(subject).values
                for name, each in found.items():
                    each.append((values[name].value, values[name].low, values[name].high))
            row: Row = {"groups": count, "clips each": size}
            for name, each in found.items():
                value, low, high = np.array(each).T
                row[name] = float(((low <= value.mean()) & (value.mean() <= high)).mean())
            yield row


def _mean(values: Floats, weights: Floats) -> Floats:
    return np.asarray(weights @ values / weights.sum(axis=1))


def differences(runs: int) -> Iterator[Row]:
    """Coverage of paired differences between two networks over clips."""
    generator = np.random.default_rng(2)
    cases = [(24, 2, 1), (24, 5, 2), (24, 10, 2), (100, 2, 1), (100, 2, 0), (200, 5, 2), (200, 10, 2), (1000, 1, 1)]
    for clips, first, second in [*cases, (1000, 30, 10)]:
        truth, hits = (first - second) / 100, 0
        for _ in range(runs):
            drawn = generator.choice(
                [1.0, -1.0, 0.0], p=[first / 100, second / 100, 1 - (first + second) / 100], size=clips
            )
            each = paired_difference(drawn)
            hits += each.low <= truth <= each.high
        yield {"clips": clips, "first only %": first, "second only %": second, "coverage": hits / runs}


def clustered_pairs(
    generator: np.random.Generator, first: float, second: float, correlation: float, sizes: NDArray[np.int64]
) -> Floats:
    """Differences of clips in groups: each group's chances are of a Dirichlet distribution."""
    chances = np.tile([first, second, 1 - first - second], (len(sizes), 1))
    if correlation:
        drawn = np.maximum(generator.gamma(chances * (1 / correlation - 1)), 1e-300)
        chances = drawn / drawn.sum(axis=1, keepdims=True)
    of_clip = np.repeat(chances[:, :2].cumsum(axis=1), sizes, axis=0)
    found = (generator.random((sizes.sum(), 1)) > of_clip).sum(axis=1)
    return np.asarray(np.array([1.0, -1.0, 0.0])[found])


PAIRS = ((0.01, 0.01), (0.02, 0.0), (0.02, 0.01), (0.05, 0.02), (0.1, 0.0), (0.1, 0.02), (0.1, 0.1), (0.3, 0.1))


def grouped_differences(runs: int) -> Iterator[Row]:
    """Coverage of paired differences over groups, and how often their test rejects where both are equally right."""
    generator = np.random.default_rng(3)
    for count in (5, 10, 20, 50, 100):
        for size in (1, 5, 20, 50):
            for alike in (True, False) if size > 1 else (True,):
                least: list[tuple[float, str]] = []
                rejected: list[float] = []
                for correlation in CORRELATIONS if size > 1 else (0.0,):
                    for first, second in PAIRS:
                        held = done = rejections = 0
                        total = runs
                        while done < total:
                            sizes = sizes_of_groups(generator, count, size, alike=alike)
                            drawn = clustered_pairs(generator, first, second, correlation, sizes)
                            of_clip = np.repeat(np.arange(count), sizes)
                            each = paired_difference(drawn, groups=of_clip)
                            held += each.low <= first - second + 1e-12 and first - second - 1e-12 <= each.high
                            if first == second:
                                rejections += sign_flip_p(drawn, groups=of_clip) < 0.05
                            done += 1
                            total = 5 * runs if done == runs and held < AGAIN * runs else total
                        least.append((held / done, f"{100 * first:g} and {100 * second:g} %, {correlation:g}"))
                        if first == second:
                            rejected.append(rejections / done)
                yield {
                    "groups": count,
                    "clips each": size if alike else f"about {size}",
                    "least": min(least)[0],
                    "at": min(least)[1],
                    "mean": float(np.mean([each for each, _ in least])),
                    "false positives of the test, most": max(rejected),
                }


def fits(
    generator: np.random.Generator,
    *,
    seeds: int,
    clips: int,
    accuracy: float,
    spread: float,
    shared: float,
    difference: float = 0.0,
) -> NDArray[np.bool_]:
    """Outcomes of fits of two methods on the same clips, (2, S, N).

    A clip is hard for all to one degree, for each method to another and for each fit to a third (normal, of standard
    deviations 1.5, .5 and .7), and a fit is right where its clip is easier than its threshold; thresholds are such that
    accuracies have the given mean and, between fits, the given standard deviation. `shared` is the correlation between
    the two methods' fits of one seed.
    """
    hard, own, noise = 1.5, 0.5, 0.7
    common, each = generator.normal(size=(1, seeds, 1)), generator.normal(size=(2, seeds, 1))
    effects = spread * (shared**0.5 * common + (1 - shared) ** 0.5 * each)
    means = np.clip(accuracy + effects + np.array([difference, 0.0])[:, None, None], 0.002, 0.998)
    threshold = norm.ppf(means) * (hard**2 + own**2 + noise**2) ** 0.5
    difficulty = (
        hard * generator.normal(size=clips)
        + own * generator.normal(size=(2, 1, clips))
        + noise * generator.normal(size=(2, seeds, clips))
    )
    return np.asarray(difficulty < threshold)


def rules_for_methods(
    first: NDArray[np.bool_], second: NDArray[np.bool_], *, slow: bool
) -> dict[str, tuple[float, float]]:
    """Of each rule the half-width, and the distance from 0 in half-widths; with the slow rule or without."""
    value = float(first.mean() - second.mean())
    sides = [side.mean(axis=1) for side in (first, second)]
    seeds = len(first)
    clips = paired_difference(first.mean(axis=0) - second.mean(axis=0))
    found = difference_across_fits(first, second)
    halves = {
        "clips alone": (clips.high - clips.low) / 2,
        "t over seeds, paired": student.ppf(0.975, seeds - 1) * (sides[0] - sides[1]).std(ddof=1) / seeds**0.5,
        "t over seeds, Welch": student.ppf(0.975, 2 * (seeds - 1))
        * (sum(side.var(ddof=1) for side in sides) / seeds) ** 0.5,
        "as it is": (found.high - found.low) / 2,
    }
    if slow:
        halves["two-level bootstrap"] = _two_level(first, second)
    return {name: (half, abs(value) / half if half > 0 else np.inf * abs(value)) for name, half in halves.items()}


def _two_level(first: NDArray[np.bool_], second: NDArray[np.bool_], resamples: int = 200) -> float:
    """Half the width of the percentiles where fits and clips are resampled."""
    generator = np.random.default_rng(0)
    seeds, clips = first.shape
    weights = generator.multinomial(clips, np.full(clips, 1 / clips), size=resamples) / clips
    drawn = generator.integers(seeds, size=(2, resamples, seeds))
    by_fit = [weights @ side.T for side in (first, second)]
    means = [np.take_along_axis(of, chosen, axis=1).mean(axis=1) for of, chosen in zip(by_fit, drawn, strict=True)]
    low, high = np.quantile(means[0] - means[1], [0.025, 0.975])
    return float(high - low) / 2


def methods(runs: int) -> Iterator[Row]:
    """False positives, power at a difference of 10 points, widths; and the coverage of one method's accuracy."""
    for seeds in (3, 5):
        for clips in (200, 600):
            for spread in (0.0, 0.005, 0.015, 0.03):
                yield from some_methods(seeds, clips, spread, runs)


def some_methods(seeds: int, clips: int, spread: float, runs: int) -> Iterator[Row]:
    """Of one number of fits, one of clips and one spread: a row for each rule."""
    generator = np.random.default_rng([seeds, clips, round(1000 * spread)])
    positives: dict[str, list[float]] = {}
    found: dict[str, list[float]] = {}
    widths: dict[str, list[float]] = {}
    held = []
    for accuracy in (0.1, 0.5, 0.9):
        for shared in (0.0, 0.5) if spread else (0.0,):
            draw = partial(fits, generator, seeds=seeds, clips=clips, accuracy=accuracy, spread=spread, shared=shared)
            for difference, rates in ((0.0, positives), (-0.1 if accuracy > 0.5 else 0.1, found)):
                each = [rules_for_methods(*draw(difference=difference), slow=run % SLOW == 0) for run in range(runs)]
                for name in each[0]:
                    known = [rules[name] for rules in each if name in rules]
                    rates.setdefault(name, []).append(sum(far > 1 for _, far in known) / len(known))
                    if not difference:
                        widths.setdefault(name, []).append(float(np.mean([half for half, _ in known])))
            across = [accuracy_across_fits(draw()[0]) for _ in range(runs)]
            held.append(sum(own.low <= accuracy <= own.high for own in across) / runs)
    for name, false in positives.items():
        yield {
            "fits": seeds,
            "clips": clips,
            "spread, points": 100 * spread,
            "rule": name,
            "false positives, most": max(false),
            "mean": float(np.mean(false)),
            "power at 10 points": float(np.mean(found[name])),
            "half-width, points": 100 * float(np.mean(widths[name])),
            "one method held, least": min(held) if name == "as it is" else None,
        }


def main() -> None:
    """Print one table per part, and write all of them as JSON."""
    parts: dict[str, Callable[[int], Iterator[Row]]] = {
        "shares": lambda _: shares(),
        "groups": groups,
        "statistics": statistics,
        "rankings": rankings,
        "differences": differences,
        "grouped_differences": grouped_differences,
        "methods": methods,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(parts), default=list(parts))
    parser.add_argument("--runs", type=int, default=1000, help="simulations per case (default: 1000)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    written: dict[str, list[Row]] = {"runs": [{"per case": arguments.runs}]}
    for name in arguments.only:
        print(f"\n{name}")
        for row in parts[name](arguments.runs):
            written.setdefault(name, []).append(row)
            print("  ".join(f"{key}: {_shown(value)}" for key, value in row.items() if value is not None), flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(written, indent=1, default=float))


def _shown(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
