"""From what was found for pairs of clips to the numbers of classes, clips and the whole."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from avrobust_core import bootstrap, share
from avrobust_geometry.convexity.intervals import mean_over_pairs
from avrobust_geometry.convexity.pairs import Segments
from avrobust_geometry.density.summaries import Findings, group_means, ratio
from avrobust_geometry.inputs import Floats, Ints


class Summary(Findings):
    """Findings of pairs of clips.

    Args:
        clips: N.
        classes: K names.
        confidence: of the intervals.
        groups: of the clips, (N,); None if every clip stands for itself.
    """

    def __init__(
        self, clips: int, classes: Sequence[str], confidence: float, groups: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        self.clips, self.classes, self.confidence, self.groups = clips, tuple(classes), confidence, groups

    def add(
        self, name: Sequence[str], pairs: Segments, found: NDArray[Any], *, share: bool = True, ends: int = 2
    ) -> None:
        """Add what was found: the mean over classes, for shares also over pairs, per class, and per clip.

        Args:
            name: the quantity, and where it was measured; empty parts are left out.
            pairs: of clips.
            found: (P,) for these.
            share: whether values are in [0, 1].
            ends: whose values they are: both clips' (2), the first one's (1), or no single clip's (0). Each of these
                gets its mean over the pairs that it is in.
        """
        values = np.asarray(found, dtype=np.float64)
        mean = partial(mean_over_pairs, pairs, values, share=share, confidence=self.confidence, groups=self.groups)
        whole = joined(name)
        self.values[whole] = mean(macro=True)
        if share:
            self.values[joined((f"{name[0]}-micro", *name[1:]))] = mean(macro=False)
        self.add_class_values(whole, self.classes, group_means(values, pairs.cls, len(self.classes)))
        if ends:
            clips = np.concatenate([pairs.first, pairs.second][:ends])
            self.per_clip[whole] = group_means(np.tile(values, ends), clips, self.clips)

    def add_rate(self, name: Sequence[str], pairs: Segments, failed: NDArray[np.bool_], lengths: Floats) -> None:
        """Add how many pairs failed per unit of their length: the mean over classes, per class, and per clip.

        The interval is Student's of the linearised ratio; where none failed, or all did, it is that of the share over
        the mean length. Classes whose pairs have no length have no value.

        Args:
            name: as of `add`.
            pairs: of clips.
            failed: (P,).
            lengths: (P,) in units, not negative.
        """
        whole, count = joined(name), len(self.classes)
        per_unit = ratio(np.bincount(pairs.cls, minlength=count), np.bincount(pairs.cls, lengths, count))
        rates = group_means(failed.astype(np.float64), pairs.cls, count) * per_unit
        self.add_class_values(whole, self.classes, rates)
        clips = np.concatenate([pairs.first, pairs.second])
        failures, looked = (np.bincount(clips, np.tile(each, 2), self.clips) for each in (failed, lengths))
        self.per_clip[whole] = ratio(failures, looked)
        known = np.isfinite(rates)[pairs.cls]
        pairs, failed, lengths = pairs.at(known), failed[known], lengths[known]
        mean = partial(mean_over_pairs, pairs, macro=True, confidence=self.confidence, groups=self.groups)
        if len(pairs) and failed.min() == failed.max():
            found, unit = mean(values=failed.astype(np.float64), share=True), float(np.nanmean(per_unit))
            self.values[whole] = replace(found, value=found.value * unit, low=found.low * unit, high=found.high * unit)
            return
        residuals = (failed - rates[pairs.cls] * lengths) * per_unit[pairs.cls]
        found = mean(values=rates[pairs.cls] + residuals, share=False)
        self.values[whole] = replace(found, low=np.maximum(0.0, found.low).item())

    def add_recall(self, members: Sequence[Ints], inside: Sequence[Ints], *, resamples: int, seed: int) -> None:
        """Add "recall": the mean over classes of the share of their clips that the model takes for the class.

        Args:
            members: for each class, its clips.
            inside: for each class, those of them that the model takes for it.
            resamples: of the bootstrap over clips.
            seed: of the bootstrap.
        """
        counts, hits = (np.array([len(clips) for clips in each], dtype=np.float64) for each in (members, inside))
        shares = ratio(hits, counts)
        self.add_class_values("recall", self.classes, shares)
        present = np.flatnonzero(counts).tolist()
        known = np.unique(np.concatenate([members[c] for c in present])) if len(present) else np.zeros(0, np.int64)
        groups = None if self.groups is None else [self.groups[int(i)] for i in known]
        settled = shares[present]
        if len(known) and settled.min() == settled.max() and settled[0] in (0.0, 1.0):
            self.values["recall"] = share(np.full(len(known), settled[0]), confidence=self.confidence, groups=groups)
            return
        own, right = (_incidence([each[c] for c in present], known) for each in (members, inside))

        def macro(weights: Floats) -> Floats:
            of_class = ratio((right @ weights.T).T, (own @ weights.T).T)
            measured = ~np.isnan(of_class)
            return ratio(np.where(measured, of_class, 0).sum(axis=1), measured.sum(axis=1))

        self.values["recall"] = bootstrap(
            macro, len(known), confidence=self.confidence, resamples=resamples, seed=seed, groups=groups
        )


def _incidence(groups: Sequence[Ints], clips: Ints) -> csr_matrix:
    """(groups, clips) with a 1 where a clip is in a group; `clips` ascending."""
    columns = np.searchsorted(clips, np.concatenate(groups)) if groups else np.zeros(0, dtype=np.int64)
    ends = np.concatenate([[0], np.cumsum([len(group) for group in groups], dtype=np.int64)])
    return csr_matrix((np.ones(len(columns)), columns, ends), shape=(len(groups), len(clips)))


def joined(parts: Sequence[str]) -> str:
    """The name that parts make, empty ones left out."""
    return "/".join(part for part in parts if part)
