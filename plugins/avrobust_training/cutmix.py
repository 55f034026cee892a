"""CutMix: a part of each clip is replaced by the same part of another."""

import torch
from torch import Tensor

from avrobust_core import AugmentedStep, Batch, DataError, MediaSpec, Mixture, TrainingStep, mixed_padding
from avrobust_training.configs import Axis, CutMixConfig
from avrobust_training.draws import generators
from avrobust_training.pairing import PairMixing
from avrobust_training.refusals import time_axis

_IN_STEP = ", so that axis: time cannot keep the modalities in step"


class CutMix(PairMixing):
    """CutMix (Yun et al. 2019, arXiv 1905.04899), in time, in time and frequency, or in space.

    A clip keeps lambda ~ Beta(alpha, alpha) of itself; the rest is its partner's (see `PairMixing`), and so is that
    share of its targets, counted after rounding.

    - `time`: one span of time, the same in every modality. It begins and ends on the steps of the modality that has
      the fewest, so that samples and frames stay in step.
    - `time-frequency`: a box of frames and bands in features (1, frames, bands).
    - `space`: a box of rows and columns, the same in all frames, in pictures (..., H, W).

    Boxes are the paper's: sides in proportion to sqrt(1 - lambda), the centre anywhere, clipped at the edge. With a
    box, modalities that have no such plane stay as they are, and the targets are the mean over the modalities that
    the model reads.

    Args:
        config: of `cutmix`.
    """

    purpose = "cutmix"
    heavier = False

    def __init__(self, config: CutMixConfig) -> None:
        super().__init__(config)
        self.axis = config.axis

    def begin(self, batch: Batch, step: TrainingStep) -> AugmentedStep:
        """The batch with parts replaced; targets (B, K) float32.

        Raises:
            DataError: if a modality has no known axis of time, or none has the plane of the box.
        """
        device = batch.targets.device
        drawn = self.draw(batch.ids, step, "cpu")
        masks = self._spans(batch, step, drawn) if self.axis == "time" else self._boxes(batch, step, drawn)
        partner = drawn.partner.to(device, non_blocking=True)
        inputs, left = dict(batch.inputs), {}
        for name, x in batch.inputs.items():
            ratio = torch.ones(len(batch))
            if name in masks:
                mask = masks[name]
                ratio = 1 - mask.flatten(1).float().mean(dim=1)
                inputs[name] = torch.where(mask.to(device, non_blocking=True), x.index_select(0, partner), x)
            left[name] = Mixture(ratio.to(device, non_blocking=True), partner)
        read = [left[name] for name in step.read_by_model(left)]
        padded = mixed_padding(batch.padded, left)
        return AugmentedStep(Batch(inputs, self.targets(batch.targets, read, step), batch.ids, padded))

    def _spans(self, batch: Batch, step: TrainingStep, drawn: Mixture) -> dict[str, Tensor]:
        """By modality, a mask (B, ...) bool of the values to replace, which broadcasts over the clips."""
        axes = {name: time_axis(name, step, "cutmix", _IN_STEP) for name in batch.inputs}
        grid = min(x.shape[axes[name] + 1] for name, x in batch.inputs.items())
        length = ((1 - drawn.ratio) * grid).round().long()
        own = generators(batch.ids, step.seed, f"cutmix/start/{step.epoch}")
        start = torch.tensor([int(g.integers(grid - n + 1)) for g, n in zip(own, length.tolist(), strict=True)])
        masks = {}
        for name, x in batch.inputs.items():
            steps = x.shape[axes[name] + 1]
            first, last = ((at * steps / grid).round() for at in (start, start + length))
            masks[name] = _along(_span(first, last, steps), x, (axes[name],))
        return masks

    def _boxes(self, batch: Batch, step: TrainingStep, drawn: Mixture) -> dict[str, Tensor]:
        own = generators(batch.ids, step.seed, f"cutmix/center/{step.epoch}")
        center = torch.tensor([(g.random(), g.random()) for g in own], dtype=torch.float32)
        side = (1 - drawn.ratio).sqrt()
        masks = {}
        for name, x in batch.inputs.items():
            plane = _plane(self.axis, step.media.get(name))
            if plane is None:
                continue
            inside = []
            for axis, place in zip(plane, center.unbind(1), strict=True):
                size = x.shape[axis + 1]
                first, last = (((place + sign * side / 2) * size).round() for sign in (-1, 1))
                inside.append(_span(first, last, size))
            masks[name] = _along(inside[0].unsqueeze(2) & inside[1].unsqueeze(1), x, plane)
        if not masks:
            wanted = "pictures (..., H, W)" if self.axis == "space" else "features (1, frames, bands) with a time axis"
            raise DataError(f"cutmix: axis: {self.axis} needs a modality of {wanted}; there is none: use axis: time")
        return masks


def _span(first: Tensor, last: Tensor, size: int) -> Tensor:
    """(B, size) bool: the places from each clip's first to before its last."""
    places = torch.arange(size)
    return (first.unsqueeze(1) <= places) & (places < last.unsqueeze(1))


def _plane(axis: Axis, spec: MediaSpec | None) -> tuple[int, int] | None:
    """The two axes of a clip in which a box lies; None if it has none."""
    if spec is None or len(spec.shape) < 3:
        return None
    last = (len(spec.shape) - 2, len(spec.shape) - 1)
    timed = spec.time_axis in last
    if axis == "space":
        return None if timed else last
    return last if timed and len(spec.shape) == 3 else None


def _along(mask: Tensor, x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """(B, n, ...) for the given axes of clips as a tensor that broadcasts over (B, ...) of all axes."""
    return mask.view(len(mask), *(x.shape[a + 1] if a in axes else 1 for a in range(x.dim() - 1)))
