"""From what was found for pairs of clips to the numbers of classes, clips and the whole."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from avrobust_core import Estimate, Measurement, bootstrap, share
from avrobust_geometry.convexity.intervals import Pairwise, mean_over_pairs

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Summary:
    """Collects values under their names, as a `Measurement` has them.

    Args:
        clips: N.
        classes: K names.
        confidence: of the intervals.
        groups: of the clips, (N,); None if every clip stands for itself.
    """

    def __init__(
        self, clips: int, classes: Sequence[str], confidence: float, groups: Sequence[str] | None = None
    ) -> None:
        self.clips, self.classes, self.confidence, self.groups = clips, tuple(classes), confidence, groups
        self.values: dict[str, Estimate] = {}
        self.per_class: dict[str, dict[str, float]] = {}
        self.per_clip: dict[str, NDArray[Any]] = {}
        self.details: dict[str, Any] = {}

    def add(self, name: Sequence[str], found: Pairwise, *, share: bool = True, per_clip: bool = True) -> None:
        """Add what was found: the mean over classes, for shares also over pairs, per class, and per clip.

        Args:
            name: the quantity, and where it was measured; empty parts are left out.
            found: for pairs.
            share: whether values are in [0, 1].
            per_clip: whether to keep each clip's mean over the pairs that it is in.
        """
        whole = _joined(name)
        mean = partial(mean_over_pairs, found, share=share, confidence=self.confidence, groups=self.groups)
        self.values[whole] = mean(macro=True)
        if share:
            pairs = _joined([f"{name[0]}-micro", *name[1:]])
            self.values[pairs] = mean(macro=False)
        sums = np.bincount(found.cls, found.value, len(self.classes))
        self.per_class[whole] = dict(
            zip(self.classes, _ratio(sums, np.bincount(found.cls, minlength=len(sums))).tolist(), strict=True)
        )
        if per_clip:
            ends = np.concatenate([found.first, found.second])
            total = np.bincount(ends, np.tile(found.value, 2), self.clips)
            self.per_clip[whole] = _ratio(total, np.bincount(ends, minlength=self.clips))

    def add_recall(self, members: Sequence[Ints], inside: Sequence[Ints], *, resamples: int, seed: int) -> None:
        """Add "recall": the mean over classes of the share of their clips that the model takes for the class.

        Args:
            members: for each class, its clips.
            inside: for each class, those of them that the model takes for it.
            resamples: of the bootstrap over clips.
            seed: of the bootstrap.
        """
        counts, hits = (np.array([len(clips) for clips in each], dtype=np.float64) for each in (members, inside))
        shares = _ratio(hits, counts)
        self.per_class["recall"] = dict(zip(self.classes, shares.tolist(), strict=True))
        present = np.flatnonzero(counts).tolist()
        known = np.unique(np.concatenate([members[c] for c in present])) if len(present) else np.zeros(0, np.int64)
        groups = None if self.groups is None else [self.groups[int(i)] for i in known]
        settled = shares[present]
        if len(known) and settled.min() == settled.max() and settled[0] in (0.0, 1.0):
            self.values["recall"] = share(np.full(len(known), settled[0]), confidence=self.confidence, groups=groups)
            return
        own, right = (_incidence([each[c] for c in present], known) for each in (members, inside))

        def macro(weights: Floats) -> Floats:
            of_class = _ratio((right @ weights.T).T, (own @ weights.T).T)
            measured = ~np.isnan(of_class)
            return _ratio(np.where(measured, of_class, 0).sum(axis=1), measured.sum(axis=1))

        self.values["recall"] = bootstrap(
            macro, len(known), confidence=self.confidence, resamples=resamples, seed=seed, groups=groups
        )

    def measurement(self) -> Measurement:
        """All of it."""
        return Measurement(self.values, self.per_class, self.per_clip, self.details)


def _incidence(groups: Sequence[Ints], clips: Ints) -> csr_matrix:
    """(groups, clips) with a 1 where a clip is in a group; `clips` ascending."""
    columns = np.searchsorted(clips, np.concatenate(groups)) if groups else np.zeros(0, dtype=np.int64)
    ends = np.concatenate([[0], np.cumsum([len(group) for group in groups], dtype=np.int64)])
    return csr_matrix((np.ones(len(columns)), columns, ends), shape=(len(groups), len(clips)))


def _ratio(sums: NDArray[Any], counts: NDArray[Any]) -> Floats:
    """Where there is nothing to divide by: NaN."""
    undefined: Floats = np.full(np.shape(sums), np.nan)
    np.divide(sums, counts, out=undefined, where=np.asarray(counts) > 0)
    return undefined


def _joined(parts: Sequence[str]) -> str:
    return "/".join(part for part in parts if part)
