"""Windows of a clip: a model may answer for several parts of it along time, and give the mean of its logits."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from avrobust_core.data.media import MediaSpec
from avrobust_core.errors import DataError

_ROUNDING = 1e-6
"""A length this close to a whole number of steps is one, as a share of it: seconds are often rounded."""


@dataclass(frozen=True, slots=True)
class Span:
    """The windows of one modality.

    Attributes:
        axis: of a clip, without the batch, along which they lie: time.
        length: of each, in steps of that axis.
        starts: of each, in order.
    """

    axis: int
    length: int
    starts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of a model's clips, cut inside the model: an attack perturbs the whole clip, and sees their mean.

    A sample that lies in two windows is the same in both, whatever an attack does to it.

    In what goes on inside the model each window is a row of its own; outside, a row is a clip, whose windows stand side
    by side along the first axis behind the batch: of tokens (B, T, D) one after the other, of vectors (B, E) likewise.

    Attributes:
        count: N, how many a clip has; 1 for the clip as it is.
        spans: by modality, where they lie.
    """

    count: int = 1
    spans: Mapping[str, Span] = field(default_factory=dict)

    def media(self, name: str, spec: MediaSpec) -> MediaSpec:
        """What an encoder reads at a time: the modality with the length of one window."""
        if self.count == 1:
            return spec
        span = self.spans[name]
        return replace(spec, shape=(*spec.shape[: span.axis], span.length, *spec.shape[span.axis + 1 :]))

    def cut(self, name: str, x: Tensor) -> Tensor:
        """The windows of clips: from (B, ...) to (B N, ...), those of the first clip first."""
        if self.count == 1:
            return x
        span = self.spans[name]
        return torch.stack([x.narrow(span.axis + 1, at, span.length) for at in span.starts], dim=1).flatten(0, 1)

    def fold(self, x: Tensor) -> Tensor:
        """From a row for each window, (B N, S, ...), to a row for each clip, (B, N S, ...)."""
        return x if self.count == 1 else x.reshape(len(x) // self.count, self.count * x.shape[1], *x.shape[2:])

    def unfold(self, x: Tensor) -> Tensor:
        """What `fold` was given."""
        return x if self.count == 1 else x.reshape(len(x) * self.count, x.shape[1] // self.count, *x.shape[2:])

    def mean(self, logits: Tensor) -> Tensor:
        """The mean over the windows of each clip: from (B N, K) to (B, K)."""
        return logits if self.count == 1 else logits.reshape(-1, self.count, logits.shape[1]).mean(dim=1)


def make_windows(media: Mapping[str, MediaSpec], count: int, seconds: float | None = None) -> Windows:
    """Windows evenly spaced over the clip, the first at its beginning and the last at its end, alike in all modalities.

    They begin at whole steps of the modality with the fewest, so that they hold the same time in each.

    Args:
        media: what the model reads.
        count: at least 2.
        seconds: their length; by default the clip's divided by `count`, so that they lie one behind another.

    Raises:
        DataError: if a modality has no time, no rate where `seconds` are given, or no whole number of steps in a
            window; if a clip is shorter than a window, or some of the windows are the same.
    """
    lengths = {name: _length(name, spec, count, seconds) for name, spec in media.items()}
    steps = {name: spec.shape[_axis(name, spec)] for name, spec in media.items()}
    coarsest = min(steps, key=lambda name: steps[name])
    room = steps[coarsest] - lengths[coarsest]
    offsets = [round(i * room / (count - 1)) for i in range(count)]
    if len(set(offsets)) < count:
        raise DataError(
            f"{count} windows of {lengths[coarsest]} of the {steps[coarsest]} steps of {coarsest} can only begin at "
            f"{room + 1} places, so that some would be the same: ask for fewer, or for more steps in a clip"
        )
    spans = {}
    for name, spec in media.items():
        last = steps[name] - lengths[name]
        starts = (min(round(offset * steps[name] / steps[coarsest]), last) for offset in offsets)
        spans[name] = Span(_axis(name, spec), lengths[name], tuple(starts))
    return Windows(count, spans)


def _axis(name: str, spec: MediaSpec) -> int:
    if spec.time_axis is None:
        raise DataError(f"{name} of shape {spec.shape} has no axis of time that the data set states: no windows of it")
    return spec.time_axis % len(spec.shape)


def _length(name: str, spec: MediaSpec, count: int, seconds: float | None) -> int:
    """Of a window of one modality, in steps."""
    steps = spec.shape[_axis(name, spec)]
    if seconds is None:
        if steps % count:
            raise DataError(
                f"the {steps} steps of {name} cannot be cut into {count} windows of equal length: ask for another "
                f"number of them, or for clips of {steps - steps % count or count} or {steps + -steps % count} steps"
            )
        return steps // count
    if spec.rate is None:
        raise DataError(f"the data set states no rate of {name}: leave out the `seconds` of the windows")
    asked = seconds * spec.rate
    length = round(asked)
    if length < 1 or abs(asked - length) > _ROUNDING * asked:
        fitting = " or ".join(f"{whole / spec.rate:.6g} s" for whole in (int(asked), int(asked) + 1) if whole)
        raise DataError(
            f"a window of {seconds:g} s is {asked:.6g} steps of {name}, of which there are {spec.rate:g} in a second: "
            f"ask for {fitting}"
        )
    if length > steps:
        raise DataError(f"a window of {seconds:g} s is longer than a clip: {name} has {steps / spec.rate:g} s")
    return length
