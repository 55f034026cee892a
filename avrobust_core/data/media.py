"""What a data set says of its modalities and of its task, and what an attacker may want of it; free of torch."""

from dataclasses import dataclass
from typing import Literal

Task = Literal["single-label", "multi-label"]

GoalName = Literal["untargeted", "least-likely", "runner-up", "random", "class"]
"""untargeted: any other class. Targeted: at the class that the model holds least likely, second, one drawn per clip,
or one class for all clips; never one of the clip's own, but for `class`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaSpec:
    """What a data set says of one modality.

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
