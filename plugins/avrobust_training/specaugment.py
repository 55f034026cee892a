"""SpecAugment: spans of time and bands of frequency are masked."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from avrobust_core import Augmentation, Batch, DataError, MediaSpec, TrainingStep
from avrobust_training.configs import SpecAugmentConfig
from avrobust_training.draws import clipped, generators


@dataclass(frozen=True, slots=True)
class Masks:
    """How many masks there are, and how wide.

    Attributes:
        count: masks per clip; they may overlap.
        width: largest width, as a share of the whole; each mask's is uniform between 0 and this.
    """

    count: int
    width: float


class SpecAugment(Augmentation):
    """Time and frequency masks (Park et al. 2019, arXiv 1904.08779), without time warping.

    Time masks hold for samples, frames and features alike; all modalities of a clip lose the same spans, unless each
    is to draw its own. Frequency masks are of features (1, frames, bands) of audio the paper's; of a waveform, whose
    spectrogram is made inside the encoder where nothing can be masked, they are ideal band-stop filters over the whole
    clip: bands uniform on the mel scale up to half the sampling rate, taken out of its Fourier transform. What is
    filtered is clipped to the bounds. Targets stay as they are.

    Args:
        config: says what each of its fields does. The paper fills features that are not centred with their mean.
    """

    def __init__(self, config: SpecAugmentConfig) -> None:
        self.time = Masks(config.time_masks, config.time_width)
        self.frequency = Masks(config.frequency_masks, config.frequency_width)
        self.fill = config.fill
        self.together = config.together
        self.modalities = config.modalities

    def __call__(self, batch: Batch, step: TrainingStep) -> Batch:
        """The masked batch.

        Raises:
            DataError: if a modality is not there, has no known axis of time, or none has frequencies to mask.
        """
        chosen = tuple(batch.inputs) if self.modalities is None else tuple(self.modalities)
        missing = sorted(set(chosen) - set(batch.inputs))
        if missing:
            raise DataError(f"specaugment: there is no modality {', '.join(missing)}: mend `modalities`")
        inputs = dict(batch.inputs)
        if self.frequency.count:
            self._mask_frequencies(inputs, chosen, batch.ids, step)
        if self.time.count:
            for name in chosen:
                axis = _time_axis(name, step)
                spans = self._draw(self.time, batch.ids, step, "time" if self.together else f"time/{name}")
                inputs[name] = self._masked(inputs[name], spans, axis, name, step)
        return Batch(inputs, batch.targets, batch.ids)

    def _mask_frequencies(
        self, inputs: dict[str, Tensor], chosen: Sequence[str], ids: Sequence[str], step: TrainingStep
    ) -> None:
        reached = False
        for name in chosen:
            spec = step.media.get(name)
            if spec is None or spec.kind != "audio" or spec.time_axis is None:
                continue
            bands = self._draw(self.frequency, ids, step, f"frequency/{name}")
            if len(spec.shape) == 3:
                (axis,) = {1, 2} - {spec.time_axis}
                inputs[name] = self._masked(inputs[name], bands, axis, name, step)
                reached = True
            elif len(spec.shape) == 2 and spec.time_axis == 1 and spec.rate is not None:
                inputs[name] = clipped(_band_stop(inputs[name], bands, spec.rate), name, step.media)
                reached = True
        if not reached:
            raise DataError(
                "specaugment: none of the modalities has frequencies to mask: it takes waveforms (C, T) of a known "
                "rate or features (1, frames, bands), of kind audio; set frequency_masks: 0 to mask time alone"
            )

    def _draw(self, masks: Masks, ids: Sequence[str], step: TrainingStep, purpose: str) -> Tensor:
        """(B, masks, 2): beginning and end of each, as shares of the whole."""
        found = []
        for generator in generators(ids, step.seed, f"specaugment/{purpose}/{step.epoch}"):
            width = masks.width * generator.random(masks.count)
            start = (1 - width) * generator.random(masks.count)
            found.append([[a, a + w] for a, w in zip(start.tolist(), width.tolist(), strict=True)])
        return torch.tensor(found)

    def _masked(self, x: Tensor, spans: Tensor, axis: int, name: str, step: TrainingStep) -> Tensor:
        size = x.shape[axis + 1]
        mask = _inside((spans * size).round(), torch.arange(size, dtype=torch.float32))
        mask = mask.view(len(x), *(size if a == axis else 1 for a in range(x.dim() - 1)))
        if self.fill == "mean":
            value = x.flatten(1).mean(dim=1).view(-1, *[1] * (x.dim() - 1))
        else:
            value = x.new_zeros([1] * x.dim())
        return torch.where(mask.to(x.device, non_blocking=True), clipped(value, name, step.media), x)


def _time_axis(name: str, step: TrainingStep) -> int:
    spec: MediaSpec | None = step.media.get(name)
    if spec is None or spec.time_axis is None:
        raise DataError(
            f"specaugment: the data set does not say which axis of {name} is time (time_axis of its MediaSpec); name "
            "other `modalities`, or set time_masks: 0"
        )
    return spec.time_axis


def _band_stop(x: Tensor, bands: Tensor, rate: float) -> Tensor:
    """Waveforms (B, C, T) without the bands (B, masks, 2), given in shares of the mel scale up to rate / 2."""
    frequencies = torch.fft.rfftfreq(x.shape[-1], d=1 / rate)
    # O'Shaughnessy's mel scale, from 0 to 1 at half the rate.
    mels = (1 + frequencies / 700).log() / (1 + torch.tensor(rate / 2 / 700)).log()
    stopped = _inside(bands, mels).unsqueeze(1).to(x.device, non_blocking=True)
    left: Tensor = torch.fft.irfft(torch.fft.rfft(x).masked_fill(stopped, 0), n=x.shape[-1])
    return left


def _inside(spans: Tensor, places: Tensor) -> Tensor:
    """Whether each of n places is within any of a clip's spans (B, masks, 2): (B, n) bool."""
    return ((spans[..., :1] <= places) & (places < spans[..., 1:])).any(dim=1)
