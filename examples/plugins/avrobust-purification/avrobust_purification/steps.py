"""The steps of a purification: fewer levels, codecs, random rooms."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from avrobust_core import DataError, MediaSpec
from avrobust_purification.codecs import CodecFault, PictureCodec, SoundCodec
from avrobust_purification.configs import Step
from avrobust_purification.purification import PurifyingStep

MU = 255.0
"""Of mu-law companding, ITU-T G.711."""

DIRECT_TO_ROOM = 2.0
"""The power of the direct sound over that of all reflections together: our own choice."""


class Levels(PurifyingStep):
    """Sound with 2^bits - 1 levels, evenly spaced or as mu-law spaces them.

    Args:
        bits: from 2 to 16.
        mu_law: whether quiet sounds get more of the levels.
    """

    def __init__(self, bits: int, *, mu_law: bool) -> None:
        super().__init__()
        self.above_zero = 2 ** (bits - 1) - 1
        self.mu_law = mu_law

    def forward(self, x: Tensor) -> Tensor:
        if not self.mu_law:
            even: Tensor = (x * self.above_zero).round() / self.above_zero
            return even
        code = torch.sign(x) * torch.log1p(MU * x.abs()) / math.log1p(MU)
        level = (code * self.above_zero).round() / self.above_zero
        wide: Tensor = torch.sign(level) * torch.expm1(level.abs() * math.log1p(MU)) / MU
        return wide

    def extra_repr(self) -> str:
        return f"levels={2 * self.above_zero + 1}, mu_law={self.mu_law}"


class Coded(PurifyingStep):
    """Clips as a codec gives them back: leaves torch, clip by clip, on the CPU.

    Args:
        codec: writes and reads one clip.
    """

    def __init__(self, codec: SoundCodec | PictureCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, x: Tensor) -> Tensor:
        clips = [self.codec.round_trip(clip) for clip in x.float().cpu().numpy()]
        return torch.from_numpy(np.stack(clips)).to(x)

    def extra_repr(self) -> str:
        return str(self.codec)


class Room(PurifyingStep):
    """Sound as it is heard in a random room, another for each clip in every pass: smooth, and random.

    An impulse response is the direct sound and normal noise that dies away exponentially (Moorer, "About this
    reverberation business", 1979), scaled so that white noise keeps its loudness. Its time of reverberation is uniform
    between a tenth of the longest and the longest. Random numbers are torch's global ones, as those of dropout:
    a model with a room answers otherwise each time, and must be attacked in expectation (`samples` above 1).

    Args:
        seconds: the longest time in which it falls by 60 decibels.
        rate: samples per second.
    """

    smooth = True

    def __init__(self, seconds: float, rate: float) -> None:
        super().__init__()
        self.seconds, self.rate = seconds, rate

    def forward(self, x: Tensor) -> Tensor:
        clips, steps = len(x), x.shape[2]
        time = torch.arange(min(steps, math.ceil(self.seconds * self.rate)), device=x.device, dtype=x.dtype) / self.rate
        longest = self.seconds * (0.1 + 0.9 * torch.rand(clips, 1, device=x.device, dtype=x.dtype))
        tail = torch.randn(clips, len(time), device=x.device, dtype=x.dtype) * 10 ** (-3 * time / longest)
        tail = tail / tail.square().sum(dim=1, keepdim=True).clamp(min=1e-12).sqrt() / DIRECT_TO_ROOM**0.5
        response = F.pad(tail, (1, 0))
        response[:, 0] = 1
        response = response / (1 + 1 / DIRECT_TO_ROOM) ** 0.5
        length = steps + response.shape[1]
        heard = torch.fft.irfft(torch.fft.rfft(x, n=length) * torch.fft.rfft(response, n=length)[:, None], n=length)
        kept: Tensor = heard[..., :steps].clamp(-1, 1)
        return kept

    def extra_repr(self) -> str:
        return f"seconds={self.seconds}"


def make_step(step: Step, media: MediaSpec) -> PurifyingStep:
    """The step for clips of these media.

    Raises:
        DataError: if a codec does not take them: tried on a clip here, so that no study fails in the middle.
    """
    return _MAKERS[step.name](step, media)


def _levels(step: Step, media: MediaSpec) -> PurifyingStep:
    return Levels(int(step.number), mu_law=step.name == "mu-law")


def _room(step: Step, media: MediaSpec) -> PurifyingStep:
    return Room(step.number, _rate(step, media))


def _sound(step: Step, media: MediaSpec) -> PurifyingStep:
    return _tried(SoundCodec(step.name, int(step.number), round(_rate(step, media))), media, silence=0.0)


def _pictures(step: Step, media: MediaSpec) -> PurifyingStep:
    if media.shape[0] != 3:
        raise DataError(f"{step.name} takes pictures (3, T, H, W) in red, green and blue, not {media.shape}")
    return _tried(PictureCodec(step.name, int(step.number)), media, silence=0.5)


def _rate(step: Step, media: MediaSpec) -> float:
    if media.rate is None:
        raise DataError(f"{step.name} needs to know the sample rate: the data set's MediaSpec must state `rate`")
    return media.rate


def _tried(codec: SoundCodec | PictureCodec, media: MediaSpec, silence: float) -> Coded:
    try:
        codec.round_trip(np.full(media.shape, silence, dtype=np.float32))
    except CodecFault as fault:
        raise DataError(f"{codec} does not take clips of shape {media.shape}: {fault}") from fault
    return Coded(codec)


_MAKERS: Mapping[str, Callable[[Step, MediaSpec], PurifyingStep]] = MappingProxyType(
    {"mu-law": _levels, "pcm": _levels, "room": _room}
    | dict.fromkeys(("mp3", "aac", "opus"), _sound)
    | dict.fromkeys(("jpeg", "h264"), _pictures)
)
