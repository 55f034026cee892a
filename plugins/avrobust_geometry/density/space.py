"""Density of one layer: which estimators there are, and what each of them finds of clips, classes and the whole."""

from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from avrobust_core import Measurement
from avrobust_geometry.configs import DensityConfig
from avrobust_geometry.density import estimators
from avrobust_geometry.density.balls import Balls
from avrobust_geometry.density.choices import Choices
from avrobust_geometry.density.class_pairs import class_pairs
from avrobust_geometry.density.neighbourhood import Neighbourhood, search_report
from avrobust_geometry.density.summaries import Findings, class_medians, mean_of_finite, members_of, not_finite
from avrobust_geometry.inputs import Array, Floats, Ints, Labels
from avrobust_geometry.knn import NearestByClass

DOMINANCE = 0.5
"""Share of the sum of all clips' sizes from which on one clip makes the mean."""

MANY = 10
"""Clips with a value, from which on that is remarkable."""

ESTIMATORS: tuple[str, ...] = DensityConfig().estimators
"""All there are."""


@dataclass(frozen=True)
class Space:
    """One layer's embeddings with their labels.

    Attributes:
        points: (N, D) floats, of the clips that are measured.
        labels: (N,) int64, or (N, K) bool.
        reference: (M, D), where neighbours are looked for; None for the points.
        reference_labels: as `labels`; None for the points'.
        own: (N,) the row of the reference that is the clip itself, -1 for none; None where the points are the
            reference, or where none of them is in it.
        predicted: (N,) int64 classes; None where there are no predictions.
        classes: K names.
        choices: how to measure.
    """

    points: Array
    labels: Labels
    _: KW_ONLY
    reference: Array | None
    reference_labels: Labels | None
    own: Ints | None
    predicted: Ints | None
    classes: Sequence[str]
    choices: Choices

    @cached_property
    def members(self) -> list[Ints]:
        """For each class, its clips."""
        return members_of(self.labels, len(self.classes))

    @cached_property
    def near(self) -> Neighbourhood:
        """The neighbours that estimators share, searched once."""
        return Neighbourhood(self.points, self.reference, self.own, self.choices)

    def measure(self) -> Measurement:
        """Compute all estimators; the names of values are those of `density`."""
        found = Findings()
        found.details = self._setting()
        steps = {
            "class-ratio": self._class_ratio,
            "log-knn": self._log_knn,
            "lof": self._lof,
            "lid": self._lid,
            "coverage-density": self._coverage_density,
            "trust": self._trust,
        }
        # Neighbours within the reference first: whoever comes later finds them.
        wanted = [name for name in steps if name in self.choices.estimators]
        if {"lof", "coverage-density"} & set(wanted):
            _ = self.near.within
        for name in wanted:
            steps[name](found)
        found.details["searches"] = {**self.near.reports(), **found.details.pop("searches", {})}
        if counts := not_finite(found.per_clip):
            found.details["not_finite"] = counts
        return found.measurement()

    def _setting(self) -> dict[str, Any]:
        known = 0 if self.own is None else int((self.own >= 0).sum())
        setting: dict[str, Any] = {
            "clips": len(self.points),
            "reference_clips": self.near.rows,
            "clips_in_reference": len(self.points) if self.reference is None else known,
            "k": self.near.k,
        }
        if self.labels.ndim == 2:
            setting["clips_without_class"] = int((~self.labels.any(axis=1)).sum())
        among = self.members if self.reference_labels is None else members_of(self.reference_labels, len(self.classes))
        setting |= {
            "classes_without_clips": self._names(len(rows) == 0 for rows in self.members),
            "classes_without_reference_clips": self._names(len(rows) == 0 for rows in among),
        }
        return setting

    def _names(self, chosen: Iterable[bool]) -> list[str]:
        return [name for name, taken in zip(self.classes, chosen, strict=True) if taken]

    def _tell_dominated(self, found: Findings, name: str, values: Floats) -> None:
        """Name the clip on which alone a mean rests: such a mean says nothing of the others."""
        sizes = np.where(np.isfinite(values), np.abs(values), 0)
        clip = int(sizes.argmax())
        if sizes[clip] > DOMINANCE * sizes.sum() and np.count_nonzero(sizes) >= MANY:
            share = float(sizes[clip] / sizes.sum())
            found.details.setdefault("dominated", {})[name] = {"clip": clip, "share": round(share, 4)}

    def _add(
        self, found: Findings, name: str, values: Floats, pairs: tuple[Floats, NearestByClass] | None = None
    ) -> None:
        """Add one number per clip; per class from pairs of clip and class where those differ."""
        found.per_clip[name] = values
        self._tell_dominated(found, name, values)
        found.values[name] = mean_of_finite(values, **self.choices.interval)
        each, members = values, self.members
        if pairs is not None:
            each, members = pairs[0], members_of(pairs[1].cls, len(self.classes))
        found.per_class[name] = class_medians(each, members, self.classes)

    def _dimension(self, found: Findings) -> float:
        m = self.near.dimension
        found.details["m"] = m if np.isfinite(m) else None
        return m

    def _distances(self, found: Findings) -> Floats:
        """To each clip's neighbours, (N, k), with duplicates counted."""
        distances = self.near.toward.distances[:, : self.near.k]
        found.details["duplicates"] = {
            "clips": int((distances[:, 0] == 0).sum()),
            "clips_with_k": int((distances[:, -1] == 0).sum()),
        }
        return distances

    def _class_ratio(self, found: Findings) -> None:
        pairs = self._pairs(self.labels, self.choices.k)
        found.details.setdefault("searches", {})["classes"] = search_report(pairs.report)
        ratio = estimators.log_distance_ratio(pairs.same, pairs.other)
        odds = estimators.class_log_odds(ratio, pairs.n_same, pairs.n_other, self._dimension(found))
        for name, values in (("class-ratio", odds), ("class-ratio-plain", ratio)):
            self._add(found, name, estimators.mean_by_clip(values, pairs.clip, len(self.points)), pairs=(values, pairs))
        found.details["pairs_at_distance_0"] = {
            "same": int((pairs.same == 0).sum()),
            "other": int((pairs.other == 0).sum()),
        }
        least = np.full(len(self.classes), self.choices.k)
        np.minimum.at(least, pairs.cls, pairs.k)
        found.details["classes_with_clipped_k"] = {
            name: int(k) for name, k in zip(self.classes, least, strict=True) if 0 < k < self.choices.k
        }
        found.details["classes_without_ratio"] = self._names(least == 0)

    def _log_knn(self, found: Findings) -> None:
        radius, k = self._distances(found)[:, -1], self.near.k
        self._add(found, "log-knn", estimators.log_density(radius, k, self.near.others, self._dimension(found)))
        mean = found.values["log-knn"]
        found.values["entropy"] = replace(mean, value=-mean.value, low=-mean.high, high=-mean.low)

    def _lid(self, found: Findings) -> None:
        self._add(found, "lid", estimators.local_dimension(self._distances(found)))

    def _lof(self, found: Findings) -> None:
        self._distances(found)
        k, within, toward = self.near.k, self.near.within, self.near.toward
        radii = within.distances[:, k - 1]
        reference, clips = (
            estimators.reachability_density(each.distances[:, :k], each.indices[:, :k], radii)
            for each in (within, toward)
        )
        self._add(found, "lof", estimators.outlier_factor(clips, reference, toward.indices[:, :k]))

    def _coverage_density(self, found: Findings) -> None:
        choices, k = self.choices, self.near.k
        if len(self.points) * self.near.rows > choices.affordable:
            found.details.setdefault("left_out", {})["coverage-density"] = (
                f"{len(self.points)} x {self.near.rows} distances are more than most = {choices.most}"
            )
            return
        radii = self.near.within.distances[:, k - 1]
        balls = Balls(self.points, radii, reference=self.reference, own=self.own, device=choices.device)
        self._add(found, "density", balls.counts / k)
        if self.reference is None:
            found.details.setdefault("left_out", {})["coverage"] = (
                "of a set by itself it says nothing: the nearest neighbour lies in every ball"
            )
            return
        found.values["coverage"] = balls.coverage(**self.choices.interval)
        labels = self.labels if self.reference_labels is None else self.reference_labels
        found.per_class["coverage"] = {
            name: float(balls.covered[rows].mean()) if len(rows) else float("nan")
            for name, rows in zip(self.classes, members_of(labels, len(self.classes)), strict=True)
        }

    def _trust(self, found: Findings) -> None:
        if self.predicted is None:
            found.details.setdefault("left_out", {})["trust"] = "there are no predictions"
            return
        predicted: Labels = self.predicted
        if self.labels.ndim == 2:
            predicted = predicted[:, None] == np.arange(len(self.classes))
        pairs = self._pairs(predicted, 1)
        found.details.setdefault("searches", {})["predicted"] = search_report(pairs.report)
        self._add(found, "trust", estimators.distance_ratio(pairs.same, pairs.other))

    def _pairs(self, labels: Labels, k: int) -> NearestByClass:
        """Neighbours by class; `labels` say which classes are asked for, the clips' own say who is a neighbour."""
        alone = labels is self.labels or self.reference is not None
        return class_pairs(
            self.points,
            labels,
            k,
            self.choices,
            reference=self.reference if alone else self.points,
            reference_labels=self.reference_labels if alone else self.labels,
            own=self.own if alone else np.arange(len(self.points)),
        )


def check_estimators(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each once.

    Raises:
        ValueError: if there are none, or if one is unknown.
    """
    chosen = tuple(dict.fromkeys(names))
    unknown = [name for name in chosen if name not in ESTIMATORS]
    if unknown or not chosen:
        raise ValueError(f"estimators: {', '.join(unknown) or 'none'}: choose from {', '.join(ESTIMATORS)}")
    return chosen
