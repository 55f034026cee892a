"""The description of a data set's modalities and task, and the names of attackers' goals; free of torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from avrobust_core.errors import DataError

Task = Literal["single-label", "multi-label"]

GoalName = Literal["untargeted", "least-likely", "runner-up", "random", "class"]
"""untargeted: any other class. Targeted: at the class that the model holds least likely, second, one drawn per clip,
or one class for all clips; never one of the clip's own, but for `class`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaSpec:
    """A data set's description of one modality.

    Attributes:
        kind: what the tensor is, e.g. "audio", "video", "depth"; an encoder may refuse a kind it cannot read.
        shape: of one clip, without the batch: audio (C, T), video (3, T, H, W).
        rate: samples or frames per second; None where time has no rate.
        bounds: lowest and highest value a clip may take, e.g. (-1, 1); None if unbounded.
        time_axis: which axis of `shape` is time; None if none is, or it is not known. Budgets that speak of time need
            it.
        optional: whether a clip may lack it. It is then NaN throughout, which what reads it must know how to take, and
            no threat may attack it in such a clip.
    """

    kind: str
    shape: tuple[int, ...]
    rate: float | None = None
    bounds: tuple[float, float] | None = None
    time_axis: int | None = None
    optional: bool = False

    def require(self, what: str, kind: str, shape: Sequence[int | str]) -> None:
        """Refuse a modality that an encoder cannot read.

        Args:
            what: the encoder reads: "pictures".
            kind: that this must be.
            shape: that a clip must have: a size for each axis, or its name where any size will do, but 0.

        Raises:
            DataError: if the kind or the shape is another.
        """
        fits = len(self.shape) == len(shape) and all(
            size == axis or (isinstance(axis, str) and size > 0) for axis, size in zip(shape, self.shape, strict=True)
        )
        if self.kind != kind or not fits:
            raise DataError(
                f"this encoder reads {what}, kind {kind!r} of shape ({', '.join(map(str, shape))}), not kind "
                f"{self.kind!r} of shape {self.shape}; give this modality another encoder"
            )
