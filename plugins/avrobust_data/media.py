"""Media specs and targets, as both data sets have them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from avrobust_core import MediaSpec, Task
from avrobust_data.configs import DecodingConfig, ToyAVConfig


def media_specs(config: ToyAVConfig | DecodingConfig) -> dict[str, MediaSpec]:
    """The specs of "audio", (1, T) in [-1, 1], and "video", (3, F, S, S) in [0, 1]."""
    sound, rate = (1, round(config.seconds * config.sample_rate)), float(config.sample_rate)
    pictures, per_second = (3, config.frames, config.size, config.size), config.frames / config.seconds
    return {
        "audio": MediaSpec(kind="audio", shape=sound, rate=rate, bounds=(-1, 1), time_axis=1),
        "video": MediaSpec(kind="video", shape=pictures, rate=per_second, bounds=(0, 1), time_axis=1),
    }


def target_of(labels: Sequence[int], classes: int, task: Task) -> Tensor:
    """The one label, int64, or a multi-hot (K,) float32."""
    if task == "single-label":
        return torch.tensor(labels[0], dtype=torch.int64)
    target = torch.zeros(classes)
    target[list(labels)] = 1
    return target
