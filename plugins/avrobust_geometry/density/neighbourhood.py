"""The neighbours that estimators share: of the clips in the reference, and of the reference in itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_geometry.configs import Exact
from avrobust_geometry.density.estimators import intrinsic_dimension
from avrobust_geometry.knn import Neighbours, nearest

DIMENSION_CLIPS = 10_000
"""Reference clips from which the intrinsic dimension is estimated at most; more do not change its third digit."""

DIMENSION_NEIGHBOURS = 10
"""Neighbours for the intrinsic dimension at least: with one there is none, with two it is of one ratio a clip."""

Array = NDArray[Any] | Tensor


@dataclass(frozen=True)
class Neighbourhood:
    """Searches on demand, each once.

    Attributes:
        points: (N, D) floats.
        reference: (M, D); None for the points.
        own: (N,) the row of the reference that is the clip itself, -1 for none; None where the points are the
            reference, each of them then its own row.
        asked: k as asked for.
        exact, seed, device: as in `nearest`.
    """

    points: Array
    reference: Array | None
    own: NDArray[np.int64] | None
    asked: int
    exact: Exact
    seed: int
    device: str | torch.device

    @property
    def rows(self) -> int:
        """M."""
        return len(self.points if self.reference is None else self.reference)

    @property
    def k(self) -> int:
        """K, clipped to the reference clips beside one of them."""
        return min(self.asked, self.rows - 1)

    @property
    def others(self) -> NDArray[np.int64]:
        """(N,) the reference clips among which each clip's neighbours are."""
        if self.reference is None:
            return np.full(len(self.points), self.rows - 1)
        known = np.zeros(len(self.points), dtype=np.bool_) if self.own is None else self.own >= 0
        return np.asarray(self.rows - known)

    @cached_property
    def toward(self) -> Neighbours:
        """Of the clips, in the reference; at least k of them."""
        if self.reference is None:
            return self.within
        return nearest(
            self.points,
            self._wanted,
            reference=self.reference,
            exclude=self.own,
            exact=self.exact,
            seed=self.seed,
            device=self.device,
        )

    @cached_property
    def within(self) -> Neighbours:
        """Of the reference, in itself; at least k of them."""
        among = self.points if self.reference is None else self.reference
        return nearest(among, self._wanted, exact=self.exact, seed=self.seed, device=self.device)

    @cached_property
    def dimension(self) -> float:
        """The intrinsic dimension m of the reference, from `DIMENSION_CLIPS` of its clips at most."""
        drawn = self._drawn
        if drawn is None:
            return intrinsic_dimension(self.within.distances)
        if self.reference is None or "within" in self.__dict__:
            return intrinsic_dimension(self.within.distances[drawn])
        at = torch.from_numpy(drawn) if isinstance(self.reference, Tensor) else drawn
        found = nearest(
            self.reference[at],
            self._wanted,
            reference=self.reference,
            exclude=drawn,
            seed=self.seed,
            device=self.device,
        )
        return intrinsic_dimension(found.distances)

    def reports(self) -> Mapping[str, Any]:
        """How the searches went that were made; of a set in itself there is one only."""
        return {
            name: search_report(found.report)
            for name, key in (("clips", "toward"), ("reference", "within"))
            if (found := self.__dict__.get(key)) is not None and not (key == "toward" and self.reference is None)
        }

    @property
    def _wanted(self) -> int:
        return min(max(self.asked, DIMENSION_NEIGHBOURS), self.rows - 1)

    @property
    def _drawn(self) -> NDArray[np.int64] | None:
        if self.rows <= DIMENSION_CLIPS:
            return None
        return np.sort(np.random.default_rng(self.seed).choice(self.rows, DIMENSION_CLIPS, replace=False))


def search_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """What of a search's report is the same each time: all but the time that it took and was expected to take."""
    return {name: value for name, value in report.items() if name not in ("seconds", "reason")}
