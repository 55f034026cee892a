"""Mean average precision, ROC-AUC and d-prime over classes, with intervals from one bootstrap over clips."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from avrobust_core import Estimate, Measurement, Metric, Subject, bootstrap, share
from avrobust_metrics.configs import MapConfig
from avrobust_metrics.predictions import own_classes
from avrobust_metrics.ranking import ClassRanking


class MeanAveragePrecision(Metric):
    """Macro means over classes of average precision ("map") and ROC-AUC ("auc"), and "d-prime".

    Each class ranks all clips: by its logit (multi-label), or by its log-odds under the softmax (single-label, where a
    logit alone says nothing, because all logits of a clip may be shifted). d-prime is sqrt(2) times the inverse of the
    normal distribution at the mean AUC: infinite where that is 1.

    A class without a positive or without a negative among the clips has neither number: it is left out of the means,
    and NaN per class ("ap", "auc"); the details count and name such classes, and tables say so. The point estimates are
    scikit-learn's.

    The intervals are of what a test set of this size measures on average: the bootstrap's percentiles over clips, moved
    by the bootstrap's bias. The move matters: a resample holds positives twice, twice at one rank, which raises average
    precision where positives are few, so that plain percentiles can lie wholly above the estimate (20,000 clips, 95
    positives a class: 0.0252, percentiles 0.0272 to 0.0290). In 200 simulations each of 95 % intervals with about 20
    positives a class (10 classes of 200 clips; 40 classes of 1,000), plain percentiles covered that mean in 85 and 65 %
    of the runs, these in 90 and 94 %. The average precision of a far larger test set is lower than that of a small one,
    and neither covers it. A class that a resample leaves without positives or negatives is left out of that resample's
    mean.

    A perfect ranking stays perfect in every resample: a bootstrap knows nothing worse. There the interval is that of a
    share of clips that all agree (Clopper and Pearson), of as many as the mean's positives, or its negatives, are
    worth, whichever are fewer, or the groups that have any. `benchmarks/perfect_rankings.py` simulates it: test sets
    whose mean lies below that end were ranked perfectly in at most 0.4 % of the runs, where 2.5 are allowed.
    """

    under_attack: ClassVar[bool] = True

    def __init__(self, config: MapConfig) -> None:
        """There is nothing to choose."""

    def measure(self, subject: Subject) -> Measurement:
        """Measure one subject."""
        scores = subject.logits if subject.task == "multi-label" else log_odds(subject.logits)
        own = own_classes(subject)
        measurable = np.flatnonzero(own.any(axis=0) & ~own.all(axis=0)) if len(own) else np.array([], dtype=np.int64)
        ap, auc = np.full((2, len(subject.classes)), np.nan)
        for c in measurable:
            ap[c] = average_precision_score(own[:, c], scores[:, c])
            auc[c] = roc_auc_score(own[:, c], scores[:, c])
        map_, auc_ = self._estimates(
            subject,
            [ClassRanking(scores[:, c], own[:, c]) for c in measurable],
            ap[measurable],
            auc[measurable],
            own[:, measurable],
        )
        return Measurement(
            values={"map": map_, "auc": auc_, "d-prime": _d_prime_estimate(auc_)},
            per_class={
                "ap": dict(zip(subject.classes, ap.tolist(), strict=True)),
                "auc": dict(zip(subject.classes, auc.tolist(), strict=True)),
            },
            details=_measurable(subject.classes, own),
        )

    def _estimates(
        self,
        subject: Subject,
        rankings: list[ClassRanking],
        ap: NDArray[np.float64],
        auc: NDArray[np.float64],
        own: NDArray[np.bool_],
    ) -> tuple[Estimate, Estimate]:
        n = len(subject.ids)
        if not rankings:
            return (Estimate(float("nan"), float("nan"), float("nan"), n, "none"),) * 2
        aucs: list[NDArray[np.float64]] = []

        def mean_ap(weights: NDArray[np.float64]) -> NDArray[np.float64]:
            counts = np.ascontiguousarray(weights.T, dtype=np.float32)
            found = np.array([ranking.evaluate(counts) for ranking in rankings])  # (classes, 2, R)
            measured = (~np.isnan(found)).sum(axis=0)
            means = np.nansum(found, axis=0) / np.where(measured > 0, measured, np.nan)
            aucs.append(means[1])
            return np.asarray(means[0])

        replay = iter(aucs)  # the same seed draws the same weights in the same chunks: one pass serves both
        estimate = partial(
            bootstrap,
            n=n,
            confidence=subject.confidence,
            resamples=subject.resamples,
            seed=subject.seed,
            groups=subject.groups,
            recentred=True,
        )
        found = estimate(mean_ap, value=float(ap.mean())), estimate(lambda _: next(replay), value=float(auc.mean()))
        return _with_width(found[0], own, subject), _with_width(found[1], own, subject)


def _outcomes(own: NDArray[np.bool_], groups: Sequence[str] | None) -> int:
    """As many independent clips of weight 1 as the positives, or the negatives, of a mean over classes are worth.

    Each class has the same weight, and each of its positives the same share of it (Kish 1965, "Survey sampling").

    Args:
        own: (N, C) bool, each class with a positive and a negative.
        groups: of the clips; then groups that have any are counted in their place.
    """
    worth = []
    for has in (own, ~own):
        if groups is not None:
            names, of = np.unique(np.asarray(groups), return_inverse=True)
            of_clips, has = has, np.zeros((len(names), own.shape[1]), dtype=np.bool_)
            np.logical_or.at(has, of.reshape(-1), of_clips)
        worth.append(own.shape[1] ** 2 / (1 / has.sum(axis=0)).sum())
    return max(1, int(min(worth)))


def _with_width(found: Estimate, own: NDArray[np.bool_], subject: Subject) -> Estimate:
    """The estimate; where a ranking is perfect, or perfectly the wrong way round, with an interval that has a width.

    Args:
        found: by the bootstrap.
        own: see `_outcomes`.
        subject: that was measured.
    """
    perfect, wrong = found.value > 1 - 1e-9, found.value < 1e-9
    narrow = np.allclose([found.low, found.high], found.value, rtol=0, atol=1e-9)
    if found.method != "bootstrap" or not narrow or not (perfect or wrong):
        return found
    worth = share(np.ones(_outcomes(own, subject.groups)), confidence=subject.confidence)
    clips = share(np.ones(len(own)), confidence=subject.confidence, groups=subject.groups)
    edge = min(worth.low, clips.low)
    low, high = (edge, 1.0) if perfect else (0.0, 1 - edge)
    return replace(found, low=low, high=high, method="clopper-pearson")


def _measurable(classes: Sequence[str], own: NDArray[np.bool_]) -> dict[str, Any]:
    """The classes that can and cannot be measured, as details; a note stands below the table where some cannot."""
    missing = {
        "positive": [name for name, has in zip(classes, own.T, strict=True) if not has.any()],
        "negative": [name for name, has in zip(classes, own.T, strict=True) if len(own) and has.all()],
    }
    left_out = sum(map(len, missing.values()))
    details: dict[str, Any] = {
        "classes": len(classes),
        "classes_measured": len(classes) - left_out,
        **{f"classes_without_{what}s": names for what, names in missing.items()},
    }
    if left_out:
        reasons = [f"{len(names)} with no {what} among the clips" for what, names in missing.items() if names]
        details["notes"] = [f"{left_out} of {len(classes)} classes are left out of the means: {', '.join(reasons)}"]
    return details


def log_odds(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """log(p / (1 - p)) of each class under the softmax, (N, K): the same order of clips as by p, without saturation.

    In float64 p itself rounds to 1 at a margin of 37, and clips that differ would tie.
    """
    z = logits.astype(np.float64)
    highest = z.argmax(axis=1)
    rows = np.arange(len(z))
    total = np.logaddexp.reduce(z, axis=1)
    # 1 - p cancels only where p is above a half, which no class but the highest can be: that one is worked out apart.
    share = np.exp(z - total[:, None])
    share[rows, highest] = 0
    odds = z - (total[:, None] + np.log1p(-share))
    others = z.copy()
    others[rows, highest] = -np.inf
    odds[rows, highest] = z[rows, highest] - np.logaddexp.reduce(others, axis=1)
    return np.asarray(odds)


def d_prime(auc: float) -> float:
    """The separation of two normal distributions of unit variance with this ROC-AUC: sqrt(2) times the inverse normal.

    Infinite where the AUC is 0 or 1; NaN where it is NaN.
    """
    if auc != auc:
        return float("nan")
    if auc in (0.0, 1.0):
        return float("inf") if auc else float("-inf")
    return float(2**0.5 * NormalDist().inv_cdf(auc))


def _d_prime_estimate(auc: Estimate) -> Estimate:
    """d-prime rises with the AUC, so the ends of its percentile interval are those of the AUC's."""
    return replace(auc, value=d_prime(auc.value), low=d_prime(auc.low), high=d_prime(auc.high))
