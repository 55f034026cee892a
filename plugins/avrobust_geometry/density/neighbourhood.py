"""The neighbours that estimators share: of the clips in the reference, and of the reference in itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avrobust_geometry.density.choices import Choices
from avrobust_geometry.density.estimators import intrinsic_dimension
from avrobust_geometry.inputs import Array, Ints
from avrobust_geometry.knn import Nearest, nearest

DIMENSION_CLIPS = 10_000
"""Reference clips from which the intrinsic dimension is estimated at most; more do not change its third digit."""

DIMENSION_NEIGHBOURS = 10
"""Neighbours for the intrinsic dimension at least: with one there is none, with two it is of one ratio a clip."""


@dataclass(frozen=True)
class Neighbourhood:
    """Searches on demand, each once.

    Attributes:
        points: (N, D) floats.
        reference: (M, D); None for the points.
        own: (N,) the row of the reference that is the clip itself, -1 for none; None where the points are the
            reference, each of them then its own row.
        choices: how to search.
    """

    points: Array
    reference: Array | None
    own: Ints | None
    choices: Choices

    @property
    def rows(self) -> int:
        """M."""
        return len(self.points if self.reference is None else self.reference)

    @property
    def k(self) -> int:
        """K, clipped to the reference clips beside one of them."""
        return min(self.choices.k, self.rows - 1)

    @property
    def others(self) -> Ints:
        """(N,) the reference clips among which each clip's neighbours are."""
        if self.reference is None:
            return np.full(len(self.points), self.rows - 1)
        known = np.zeros(len(self.points), dtype=np.bool_) if self.own is None else self.own >= 0
        return np.asarray(self.rows - known)

    @cached_property
    def toward(self) -> Nearest:
        """Of the clips, in the reference; at least k of them."""
        if self.reference is None:
            return self.within
        return self._search(self.points, reference=self.reference, exclude=self.own, exact=self.choices.exact)

    @cached_property
    def within(self) -> Nearest:
        """Of the reference, in itself; at least k of them."""
        among = self.points if self.reference is None else self.reference
        return self._search(among, exact=self.choices.exact)

    @cached_property
    def dimension(self) -> float:
        """The intrinsic dimension m of the reference, from `DIMENSION_CLIPS` of its clips at most."""
        if self.rows <= DIMENSION_CLIPS:
            return intrinsic_dimension(self.within.distances)
        generator = np.random.default_rng(self.choices.seed)
        drawn = np.sort(generator.choice(self.rows, DIMENSION_CLIPS, replace=False))
        if self.reference is None or "within" in self.__dict__:
            return intrinsic_dimension(self.within.distances[drawn])
        at = torch.from_numpy(drawn) if isinstance(self.reference, Tensor) else drawn
        return intrinsic_dimension(self._search(self.reference[at], reference=self.reference, exclude=drawn).distances)

    def reports(self) -> Mapping[str, Any]:
        """The reports of the searches that were made; of a set in itself there is only one."""
        names = {"reference": "within"} if self.reference is None else {"clips": "toward", "reference": "within"}
        made = self.__dict__  # of cached properties
        return {name: search_report(made[key].report) for name, key in names.items() if key in made}

    @property
    def _search(self) -> Callable[..., Nearest]:
        wanted = min(max(self.choices.k, DIMENSION_NEIGHBOURS), self.rows - 1)
        return partial(
            nearest, k=wanted, seed=self.choices.seed, device=self.choices.device, shares=self.choices.shares
        )


def search_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """A search's report without what differs from time to time: how long it took, and was expected to take."""
    return {name: value for name, value in report.items() if name not in ("seconds", "reason")}
