"""Media specs and targets, as both data sets have them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from avrobust_core import MediaSpec, Task


def media_specs(*, seconds: float, sample_rate: int, frames: int, size: int) -> dict[str, MediaSpec]:
    """The specs of "audio", (1, T) in [-1, 1], and "video", (3, F, S, S) in [0, 1].

    Args:
        seconds: length of a clip.
        sample_rate: samples of sound per second.
        frames: pictures per clip, F.
        size: height and width of a picture in pixels, S.
    """
    sound, pictures = (1, round(seconds * sample_rate)), (3, frames, size, size)
    return {
        "audio": MediaSpec(kind="audio", shape=sound, rate=float(sample_rate), bounds=(-1, 1), time_axis=1),
        "video": MediaSpec(kind="video", shape=pictures, rate=frames / seconds, bounds=(0, 1), time_axis=1),
    }


def target_of(labels: Sequence[int], classes: int, task: Task) -> Tensor:
    """The one label, int64, or a multi-hot (K,) float32."""
    if task == "single-label":
        return torch.tensor(labels[0], dtype=torch.int64)
    target = torch.zeros(classes)
    target[list(labels)] = 1
    return target
