"""From what was found for pairs of clips to the numbers of classes, clips and the whole."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from avrobust_core import Estimate, bootstrap, share
from avrobust_geometry.convexity.intervals import mean_over_pairs
from avrobust_geometry.convexity.lengths import Scale
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

    def add_rate(
        self,
        name: Sequence[str],
        pairs: Segments,
        failed: NDArray[np.bool_],
        distances: Mapping[str, Floats],
        scale: Scale,
        moved: Sequence[str],
    ) -> None:
        """Add how many pairs failed per unit of their length: the mean over classes, per class, and per clip.

        The interval is Student's of the linearised ratio, units included; where none failed, or all did, it is that of
        the share over the mean length. Classes whose pairs have no length have no value.

        Args:
            name: as of `add`.
            pairs: of clips.
            failed: (P,).
            distances: of their ends, by part, (P,).
            scale: the units.
            moved: the parts that move; all if there are none.
        """
        whole, count = joined(name), len(self.classes)
        lengths, parts = scale.lengths(distances, moved)
        per_unit = ratio(np.bincount(pairs.cls, minlength=count), np.bincount(pairs.cls, lengths, count))
        rates = group_means(failed.astype(np.float64), pairs.cls, count) * per_unit
        self.add_class_values(whole, self.classes, rates)
        clips = np.concatenate([pairs.first, pairs.second])
        failures, looked = (np.bincount(clips, np.tile(each, 2), self.clips) for each in (failed, lengths))
        self.per_clip[whole] = ratio(failures, looked)
        known = np.isfinite(rates)[pairs.cls]
        along, broken = pairs.at(known), failed[known]
        if len(along) and broken.min() == broken.max():
            mean = partial(mean_over_pairs, macro=True, confidence=self.confidence, groups=self.groups)
            found, unit = mean(along, broken.astype(np.float64), share=True), float(np.nanmean(per_unit))
            self.values[whole] = replace(found, value=found.value * unit, low=found.low * unit, high=found.high * unit)
            return
        own, unit_of = rates[along.cls], per_unit[along.cls]
        values = own + (broken - own * lengths[known]) * unit_of
        pull = {part: own * each[known] * unit_of for part, each in parts.items()}
        found = self._mean_in_units(along, values, pull, scale)
        self.values[whole] = replace(found, low=np.maximum(0.0, found.low).item())

    def add_length(
        self,
        name: Sequence[str],
        pairs: Segments,
        shares: Floats,
        distances: Mapping[str, Floats],
        scale: Scale,
        moved: Sequence[str],
    ) -> None:
        """Add a share of each pair's length, in units: the mean over classes, per class, and per first clip.

        Args:
            name: as of `add`.
            pairs: of clips.
            shares: (P,).
            distances: of their ends, by part, (P,).
            scale: the units.
            moved: the parts that move; all if there are none.
        """
        lengths, parts = scale.lengths(distances, moved)
        self.add(name, pairs, shares * lengths, share=False, ends=1)
        pull = {part: -shares * each for part, each in parts.items()}
        self.values[joined(name)] = self._mean_in_units(pairs, shares * lengths, pull, scale)

    def _mean_in_units(self, pairs: Segments, values: Floats, pull: Mapping[str, Floats], scale: Scale) -> Estimate:
        """The mean over classes, with an interval that allows for the units, which are means over pairs themselves.

        Args:
            pairs: of clips.
            values: (P,).
            pull: by part, (P,) how much these values grow for each share by which the part's unit grows.
            scale: the units.
        """
        mean = partial(mean_over_pairs, macro=True, share=False, confidence=self.confidence, groups=self.groups)
        within, count = scale.within, len(self.classes)
        if not len(pairs) or not len(within) or not np.isfinite(values).all():
            return mean(pairs, values)
        value = float(np.nanmean(group_means(values, pairs.cls, count)))
        drift = np.zeros(len(within))
        for part, each in pull.items():
            drift += float(np.nanmean(group_means(each, pairs.cls, count))) * scale.deviations[part]
        # Both kinds of pairs as classes of their own, each weighted so that all together have the mean `value`.
        kinds = [len(np.unique(each.cls)) for each in (pairs, within)]
        both = Segments(
            np.concatenate([pairs.first, within.first]),
            np.concatenate([pairs.second, within.second]),
            np.concatenate([pairs.cls, within.cls + count]),
            np.concatenate([pairs.ratio, within.ratio]),
        )
        spread = np.concatenate([(values - value) / kinds[0], drift / kinds[1]])
        return replace(mean(both, value + sum(kinds) * spread), value=value)

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
