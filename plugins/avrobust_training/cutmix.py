"""CutMix: a part of each clip is replaced by the same part of another."""

import torch
from torch import Tensor

from avrobust_core import Batch, DataError, MediaSpec, TrainingStep
from avrobust_training.configs import Axis, CutMixConfig
from avrobust_training.draws import generators, modalities_read
from avrobust_training.pairing import PairMixing, Pairs


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
        config: says what each of its fields does.
    """

    purpose = "cutmix"
    heavier = False

    def __init__(self, config: CutMixConfig) -> None:
        super().__init__(config)
        self.axis = config.axis

    def __call__(self, batch: Batch, step: TrainingStep) -> Batch:
        """The batch with parts replaced; targets (B, K) float32.

        Raises:
            DataError: if a modality has no known axis of time, or none has the plane of the box.
        """
        device = batch.targets.device
        drawn = self.pairs(batch.inputs, batch.ids, step, torch.device("cpu"))
        pairs = next(iter(drawn.values()))
        masks = self._spans(batch, step, pairs) if self.axis == "time" else self._boxes(batch, step, pairs)
        partner = pairs.partner.to(device, non_blocking=True)
        inputs, left = dict(batch.inputs), {}
        for name, x in batch.inputs.items():
            ratio = torch.ones(len(batch))
            if name in masks:
                mask = masks[name]
                ratio = 1 - mask.flatten(1).float().mean(dim=1)
                inputs[name] = torch.where(mask.to(device, non_blocking=True), x.index_select(0, partner), x)
            left[name] = Pairs(ratio.to(device, non_blocking=True), partner)
        read = {name: left[name] for name in modalities_read(left, step)}
        return Batch(inputs, self.targets(batch.targets, read, step), batch.ids)

    def _spans(self, batch: Batch, step: TrainingStep, pairs: Pairs) -> dict[str, Tensor]:
        """By modality, (B, ...) bool that broadcasts over the clips: what is replaced."""
        axes = {name: _time_axis(name, step) for name in batch.inputs}
        grid = min(x.shape[axes[name] + 1] for name, x in batch.inputs.items())
        length = ((1 - pairs.ratio) * grid).round().long()
        drawn = generators(batch.ids, step.seed, f"cutmix/start/{step.epoch}")
        start = torch.tensor([int(d.integers(grid - n + 1)) for d, n in zip(drawn, length.tolist(), strict=True)])
        masks = {}
        for name, x in batch.inputs.items():
            steps = x.shape[axes[name] + 1]
            first, last = ((at * steps / grid).round().unsqueeze(1) for at in (start, start + length))
            masks[name] = _along((first <= torch.arange(steps)) & (torch.arange(steps) < last), x, (axes[name],))
        return masks

    def _boxes(self, batch: Batch, step: TrainingStep, pairs: Pairs) -> dict[str, Tensor]:
        drawn = generators(batch.ids, step.seed, f"cutmix/center/{step.epoch}")
        center = torch.tensor([(d.random(), d.random()) for d in drawn], dtype=torch.float32)
        side = (1 - pairs.ratio).sqrt()
        masks = {}
        for name, x in batch.inputs.items():
            plane = _plane(self.axis, step.media.get(name))
            if plane is None:
                continue
            inside = []
            for axis, place in zip(plane, center.unbind(1), strict=True):
                size = x.shape[axis + 1]
                first, last = (((place + sign * side / 2) * size).round().unsqueeze(1) for sign in (-1, 1))
                inside.append((first <= torch.arange(size)) & (torch.arange(size) < last))
            masks[name] = _along(inside[0].unsqueeze(2) & inside[1].unsqueeze(1), x, plane)
        if not masks:
            wanted = "pictures (..., H, W)" if self.axis == "space" else "features (1, frames, bands) with a time axis"
            raise DataError(f"cutmix: axis: {self.axis} needs a modality of {wanted}; there is none: use axis: time")
        return masks


def _time_axis(name: str, step: TrainingStep) -> int:
    spec = step.media.get(name)
    if spec is None or spec.time_axis is None:
        raise DataError(
            f"cutmix: the data set does not say which axis of {name} is time (time_axis of its MediaSpec), so that "
            "axis: time cannot keep the modalities in step"
        )
    return spec.time_axis


def _plane(axis: Axis, spec: MediaSpec | None) -> tuple[int, int] | None:
    """The two axes of a clip in which a box lies; None if there are no such."""
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
