"""Inputs prepared as transformers' own feature extractors do, inside the graph, so that budgets are on raw clips."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avrobust_core import DataError

VARIANCE_FLOOR = 1e-7
"""Added to a clip's variance, as in `Wav2Vec2FeatureExtractor`: silence stays silence."""

MODES = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}
"""PIL's numbers of ways to resize, by torch's names."""

HALF = (0.5, 0.5, 0.5)
"""Mean and standard deviation of the three colours where nothing else is said: pixels in [-1, 1]."""


class Waveform(nn.Module):
    """From waveforms (B, C, T) in [-1, 1] to (B, T): the mean over channels, with mean 0 and variance 1 if asked for.

    Args:
        normalise: whether it is asked for.
    """

    def __init__(self, *, normalise: bool) -> None:
        super().__init__()
        self.normalise = normalise

    def forward(self, x: Tensor) -> Tensor:
        """The waveform of each clip, (B, T); in float32 also under autocast, in float64 where the clip is."""
        with torch.autocast(x.device.type, enabled=False):
            mono = (x if x.dtype == torch.float64 else x.float()).mean(dim=1)
            if not self.normalise:
                return mono
            centred = mono - mono.mean(dim=1, keepdim=True)
            return centred / (centred.square().mean(dim=1, keepdim=True) + VARIANCE_FLOOR).sqrt()

    def extra_repr(self) -> str:
        return f"normalise={self.normalise}"


class Pictures(nn.Module):
    """From clips of pictures (B, 3, T, H, W) in [0, 1] to (B, F, 3, h, w): frames, size and scale of a model.

    F frames are taken at equal distances, from the first to the last; they are resized, cut out of the middle and
    normalised. All of it has a gradient.

    Args:
        frames: F.
        preparation: as preprocessor_config.json says it; of what it does not say, the shorter side becomes `side`, a
            square is cut out, and pixels go to [-1, 1].
        side: of the pictures that the model takes.

    Raises:
        DataError: if it asks for a way of resizing that is not known.
    """

    def __init__(self, frames: int, preparation: Mapping[str, Any], side: int) -> None:
        super().__init__()
        self.frames = frames
        said = preparation.get
        size = said("size") or {"shortest_edge": side}
        crop = said("crop_size") or {"height": side, "width": side}
        self.size: Mapping[str, int] | None = dict(size) if said("do_resize", True) else None
        self.crop = (int(crop["height"]), int(crop["width"])) if said("do_center_crop", True) else None
        number = said("resample", 2)
        if number not in MODES:
            raise DataError(f"preprocessor_config.json: resample {number!r} is not known, but: {sorted(MODES)}")
        self.mode = MODES[number]
        self.scale = 255 * float(said("rescale_factor", 1 / 255)) if said("do_rescale", True) else 255.0
        self.offset = 1.0 if said("offset", False) and said("do_rescale", True) else 0.0
        normalises = said("do_normalize", True)
        self.mean = tuple(map(float, said("image_mean") or HALF)) if normalises else (0.0,) * 3
        self.std = tuple(map(float, said("image_std") or HALF)) if normalises else (1.0,) * 3

    def forward(self, x: Tensor) -> Tensor:
        """What the model reads, (B, F, 3, h, w); in float32 also under autocast, in float64 where the clip is."""
        with torch.autocast(x.device.type, enabled=False):
            pixels = x if x.dtype == torch.float64 else x.float()
            chosen = torch.linspace(0, x.shape[2] - 1, self.frames).round().long().tolist()
            flat = pixels[:, :, chosen].transpose(1, 2).flatten(0, 1)
            sized = self._cut(self._resized(flat))
            mean, std = (sized.new_tensor(each).view(1, 3, 1, 1) for each in (self.mean, self.std))
            ready = (sized * self.scale - self.offset - mean) / std
            return ready.reshape(len(x), self.frames, *ready.shape[1:])

    def _resized(self, x: Tensor) -> Tensor:
        if self.size is None:
            return x
        height, width = x.shape[2:]
        if "shortest_edge" in self.size:
            edge = int(self.size["shortest_edge"])
            # The longer side is cut, not rounded, as in transformers and torchvision.
            target = (edge, int(edge * width / height)) if height <= width else (int(edge * height / width), edge)
        else:
            target = (int(self.size["height"]), int(self.size["width"]))
        if target == (height, width):
            return x
        smooth = self.mode in ("bilinear", "bicubic")
        return F.interpolate(x, target, mode=self.mode, antialias=smooth, align_corners=False if smooth else None)

    def _cut(self, x: Tensor) -> Tensor:
        if self.crop is None:
            return x
        height, width = self.crop
        if x.shape[2] < height or x.shape[3] < width:
            raise DataError(
                f"pictures of {x.shape[2]}x{x.shape[3]} are smaller than the {height}x{width} that are cut out of "
                "them; use larger ones, or a preprocessor_config.json that resizes"
            )
        top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
        return x[:, :, top : top + height, left : left + width]

    def extra_repr(self) -> str:
        return f"frames={self.frames}, size={self.size}, crop={self.crop}, mode={self.mode!r}"


def side_of(settings: Any) -> int:
    """The side of the square pictures that a model takes, from its configuration."""
    side = settings.image_size
    return int(side[0] if isinstance(side, (list, tuple)) else side)


def waveform_of(preparation: Mapping[str, Any], normalise: bool | None) -> Waveform:
    """How a model's waveforms are prepared: as its folder says, unless a configuration says otherwise."""
    return Waveform(normalise=preparation.get("do_normalize", True) if normalise is None else normalise)
