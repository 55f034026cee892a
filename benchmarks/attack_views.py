"""The audio-visual model as peers can attack it: modules from one tensor in [0, 1] to logits."""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import cast

import torch
from torch import Tensor, nn

from avrobust_core import AVModel, Batch, MediaSpec

PADDING = 0.5


class View(nn.Module):
    """The model of one picture (B, 1, S, S) in [0, 1], which holds all that is attacked, sample after sample.

    Peers that hard-code images need a picture, as square as this. A modality with bounds (low, high) is mapped
    linearly to [0, 1], so a radius e of the picture is e (high - low) in raw units: audio in [-1, 1] may move by 2e
    where video in [0, 1] may move by e.

    Modalities that are not attacked are fixed here, and encoded in each forward as no peer knows better. For peers
    that go on with some of the clips only, the picture carries each clip's number: binary digits in pixels of 0 and
    1, which a radius below 0.5 cannot change. The model reads neither them nor the pixels left over after them.

    Args:
        model: the audio-visual model, in evaluation mode.
        batch: the clean clips.
        media: the bounds of each modality.
        attacked: modalities that are part of the picture.
        lowered: whether the model runs under bfloat16 autocast; logits are float32 all the same.
    """

    def __init__(
        self,
        model: AVModel,
        batch: Batch,
        media: Mapping[str, MediaSpec],
        attacked: tuple[str, ...],
        *,
        lowered: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.lowered = lowered
        self.attacked = attacked
        self.limits = {name: _bounds(name, media[name]) for name in attacked}
        self.shapes = {name: batch.inputs[name].shape[1:] for name in attacked}
        self.fixed = {name: x for name, x in batch.inputs.items() if name not in attacked}
        bits = (len(batch) - 1).bit_length() if self.fixed else 0
        self.digits = 2 ** torch.arange(bits, device=batch.targets.device)
        self.sizes = [shape.numel() for shape in self.shapes.values()]
        self.side = math.isqrt(sum(self.sizes) + len(self.digits) - 1) + 1
        self.eval()  # the view itself, too: peers go by it, and some bring the model into training mode afterwards

    def radius(self, modality: str, eps: float) -> float:
        """A radius of this view in the modality's raw units."""
        low, high = self.limits[modality]
        return eps * (high - low)

    def scaled(self, modality: str, raw: Tensor) -> Tensor:
        """Raw samples mapped to [0, 1], (B, size)."""
        low, high = self.limits[modality]
        return ((raw - low) / (high - low)).flatten(1)

    def pack(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The picture of the whole batch."""
        parts = [self.scaled(name, inputs[name]) for name in self.attacked]
        numbers = torch.arange(len(parts[0]), device=self.digits.device).unsqueeze(1)
        parts.append((numbers.bitwise_and(self.digits) > 0).to(parts[0].dtype))
        flat = torch.cat(parts, dim=1)
        padded = nn.functional.pad(flat, (0, self.side**2 - flat.shape[1]), value=PADDING)
        return padded.view(len(flat), 1, self.side, self.side)

    def raw(self, x: Tensor) -> dict[str, Tensor]:
        """The attacked modalities of a picture, each in its raw units, shape and bounds."""
        parts = torch.split(x.flatten(1)[:, : sum(self.sizes)], self.sizes, dim=1)
        inputs = {}
        for (name, shape), part in zip(self.shapes.items(), parts, strict=True):
            low, high = self.limits[name]
            inputs[name] = torch.unflatten(part * (high - low) + low, 1, shape)
        return inputs

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        inputs = self.raw(x)
        if self.fixed:
            start = sum(self.sizes)
            carried = x.detach().flatten(1)[:, start : start + len(self.digits)] > 0.5
            numbers = (carried * self.digits).sum(dim=1)
            inputs |= {name: fixed.index_select(0, numbers) for name, fixed in self.fixed.items()}
        with torch.autocast(x.device.type, dtype=torch.bfloat16) if self.lowered else nullcontext():
            logits = cast(Tensor, self.model(inputs))
        return logits.float()


class NativeView(nn.Module):
    """The model of one modality in its own shape, units and bounds; all else is that of one clip.

    Args:
        model: the audio-visual model, in evaluation mode.
        clip: a batch of that one clip.
        attacked: the modality.
    """

    def __init__(self, model: AVModel, clip: Batch, attacked: str) -> None:
        super().__init__()
        self.model = model
        self.attacked = attacked
        self.fixed = {name: x for name, x in clip.inputs.items() if name != attacked}
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        fixed = {name: value.expand(len(x), *value.shape[1:]) for name, value in self.fixed.items()}
        return cast(Tensor, self.model({**fixed, self.attacked: x}))


def _bounds(name: str, spec: MediaSpec) -> tuple[float, float]:
    if spec.bounds is None:
        raise ValueError(f"{name} has no bounds to be mapped from")
    return spec.bounds
