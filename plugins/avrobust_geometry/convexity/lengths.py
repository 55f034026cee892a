"""Lengths of segments in units of how far apart two clips of a class typically lie."""

from collections.abc import Mapping, Sequence

import numpy as np

from avrobust_geometry.convexity.pairs import Segments
from avrobust_geometry.density.summaries import group_means
from avrobust_geometry.inputs import Floats


class Scale:
    """The units of length at one level: for each part the mean distance of two clips of a class, over classes alike.

    Args:
        within: segments between clips of a class.
        distances: by part, (P,) Euclidean, of their ends.

    Attributes:
        within: as given.
        units: by part; NaN without segments.
        deviations: by part, (P,) how far these segments' distances are from their class's mean, in units.
    """

    def __init__(self, within: Segments, distances: Mapping[str, Floats]) -> None:
        self.within = within
        self.units: dict[str, float] = {}
        self.deviations: dict[str, Floats] = {}
        for part, each in distances.items():
            means = group_means(each, within.cls, int(within.cls.max(initial=-1)) + 1)
            unit = float(np.nanmean(means)) if len(means) else float("nan")
            self.units[part] = unit
            self.deviations[part] = (each - means[within.cls]) / unit if unit > 0 else np.zeros(len(each))

    def lengths(self, distances: Mapping[str, Floats], parts: Sequence[str] = ()) -> tuple[Floats, dict[str, Floats]]:
        """Segments' lengths in units, (P,): the root of the mean square over the parts that move.

        Parts whose unit is 0 are left out; NaN if no other is there.

        Args:
            distances: by part, (P,).
            parts: those that move; all if there are none.

        Returns:
            The lengths, and by part what each has of them, (P,): by how much a length falls for each share by which
            that part's unit grows. The sum is the length.
        """
        relative = {part: distances[part] / self.units[part] for part in parts or distances if self.units[part] > 0}
        if not relative:
            return np.full_like(next(iter(distances.values())), np.nan), {}
        squares = {part: np.square(each) / len(relative) for part, each in relative.items()}
        lengths = np.sqrt(np.sum(list(squares.values()), axis=0))
        there = lengths > 0
        return lengths, {p: np.divide(x, lengths, out=np.zeros(len(x)), where=there) for p, x in squares.items()}
