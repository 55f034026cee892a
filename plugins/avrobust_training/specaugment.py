"""SpecAugment: spans of time and bands of frequency are masked."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from avrobust_core import Augmentation, AugmentedStep, Batch, DataError, TrainingStep, per_clip
from avrobust_training.configs import SpecAugmentConfig
from avrobust_training.draws import generators
from avrobust_training.refusals import time_axis


class SpecAugment(Augmentation):
    """Time and frequency masks (Park et al. 2019, arXiv 1904.08779), without time warping.

    Time masks hold for samples, frames and features alike; all modalities of a clip lose the same spans, unless each
    is to draw its own. Frequency masks are of features (1, frames, bands) of audio the paper's; of a waveform, whose
    spectrogram is made inside the encoder where nothing can be masked, they are ideal band-stop filters over the whole
    clip: bands uniform on the mel scale up to half the sampling rate, taken out of its Fourier transform. What is
    filtered is clipped to the bounds. Targets stay as they are.

    Masks may overlap; the width of each is uniform between 0 and the largest. Where `fill` is zeros and the media's
    bounds leave them out, the bound that is nearest is taken; mean is the paper's for features that are not centred.

    Args:
        config: of `specaugment`.
    """

    def __init__(self, config: SpecAugmentConfig) -> None:
        self.config = config

    def begin(self, batch: Batch, step: TrainingStep) -> AugmentedStep:
        """The masked batch.

        Raises:
            DataError: if a modality is not there, has no known axis of time, or none has frequencies to mask.
        """
        config = self.config
        chosen = tuple(batch.inputs) if config.modalities is None else tuple(config.modalities)
        missing = sorted(set(chosen) - set(batch.inputs))
        if missing:
            raise DataError(f"specaugment: there is no modality {', '.join(missing)}: mend `modalities`")
        inputs = dict(batch.inputs)
        if config.frequency_masks:
            self._mask_frequencies(inputs, chosen, batch.ids, step)
        if config.time_masks:
            for name in chosen:
                axis = time_axis(name, step, "specaugment", "; name other `modalities`, or set time_masks: 0")
                purpose = "time" if config.together else f"time/{name}"
                spans = _draw(config.time_masks, config.time_width, batch.ids, step, purpose)
                inputs[name] = self._masked(inputs[name], spans, axis, name, step)
        return AugmentedStep(replace(batch, inputs=inputs))

    def _mask_frequencies(
        self, inputs: dict[str, Tensor], chosen: Sequence[str], ids: Sequence[str], step: TrainingStep
    ) -> None:
        reached = False
        for name in chosen:
            spec = step.media.get(name)
            if spec is None or spec.kind != "audio" or spec.time_axis is None:
                continue
            masks, width = self.config.frequency_masks, self.config.frequency_width
            bands = _draw(masks, width, ids, step, f"frequency/{name}")
            if len(spec.shape) == 3:
                (axis,) = {1, 2} - {spec.time_axis}
                inputs[name] = self._masked(inputs[name], bands, axis, name, step)
                reached = True
            elif len(spec.shape) == 2 and spec.time_axis == 1 and spec.rate is not None:
                inputs[name] = step.clipped(name, _band_stop(inputs[name], bands, spec.rate))
                reached = True
        if not reached:
            raise DataError(
                "specaugment: none of the modalities has frequencies to mask: it takes waveforms (C, T) of a known "
                "rate or features (1, frames, bands), of kind audio; set frequency_masks: 0 to mask time alone"
            )

    def _masked(self, x: Tensor, spans: Tensor, axis: int, name: str, step: TrainingStep) -> Tensor:
        size = x.shape[axis + 1]
        mask = _inside((spans * size).round(), torch.arange(size, dtype=torch.float32))
        mask = mask.view(len(x), *(size if a == axis else 1 for a in range(x.dim() - 1)))
        mean = x.flatten(1).mean(dim=1) if self.config.fill == "mean" else x.new_zeros(1)
        return torch.where(mask.to(x.device, non_blocking=True), step.clipped(name, per_clip(mean, x)), x)


def _draw(masks: int, largest: float, ids: Sequence[str], step: TrainingStep, purpose: str) -> Tensor:
    """(B, masks, 2): beginning and end of each, as shares of the whole."""
    found = []
    for generator in generators(ids, step.seed, f"specaugment/{purpose}/{step.epoch}"):
        width = largest * generator.random(masks)
        start = (1 - width) * generator.random(masks)
        found.append([[a, a + w] for a, w in zip(start.tolist(), width.tolist(), strict=True)])
    return torch.tensor(found)


def _band_stop(x: Tensor, bands: Tensor, rate: float) -> Tensor:
    """Waveforms (B, C, T) without the bands (B, masks, 2), given in shares of the mel scale up to rate / 2."""
    frequencies = torch.fft.rfftfreq(x.shape[-1], d=1 / rate)
    # O'Shaughnessy's mel scale, from 0 to 1 at half the rate.
    mels = (1 + frequencies / 700).log() / (1 + torch.tensor(rate / 2 / 700)).log()
    stopped = _inside(bands, mels).unsqueeze(1).to(x.device, non_blocking=True)
    left: Tensor = torch.fft.irfft(torch.fft.rfft(x).masked_fill(stopped, 0), n=x.shape[-1])
    return left


def _inside(spans: Tensor, places: Tensor) -> Tensor:
    """(B, n) bool: which of n places lie within any of a clip's spans (B, masks, 2)."""
    return ((spans[..., :1] <= places) & (places < spans[..., 1:])).any(dim=1)
