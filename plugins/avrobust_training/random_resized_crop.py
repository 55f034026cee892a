"""Random crops of pictures, and mirrored ones: the same for all frames of a clip."""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from avrobust_core import Augmentation, AugmentedStep, Batch, DataError, TrainingStep
from avrobust_training.configs import RandomResizedCropConfig
from avrobust_training.draws import generators
from avrobust_training.refusals import refuse_missing

_TRIES = 10
"""Shapes that are drawn for a box until one fits into the picture."""


class RandomResizedCrop(Augmentation):
    """A box of the pictures, resized to their size, and mirrored or not (Szegedy et al. 2015, arXiv 1409.4842).

    The box's share of the area is uniform, the logarithm of its aspect ratio too, and its place. All frames of a clip,
    and all modalities that have pictures, get the same box, so that motion and alignment stay. Boxes lie anywhere, not
    on whole pixels, and are read by bilinear interpolation. Sound and targets stay as they are.

    Args:
        config: of `random-resized-crop`.
    """

    def __init__(self, config: RandomResizedCropConfig) -> None:
        self.config = config

    def begin(self, batch: Batch, step: TrainingStep) -> AugmentedStep:
        """The batch with cropped pictures.

        Raises:
            DataError: if a modality that is named is not there or has no pictures, or none has any.
        """
        chosen = self.config.modalities
        refuse_missing(chosen or (), batch, "random-resized-crop: modalities")
        pictures = [name for name, x in batch.inputs.items() if x.dim() == 5 and (chosen is None or name in chosen)]
        without = sorted(set(chosen or ()) - set(pictures))
        if without or not pictures:
            what = ", ".join(without) or "every modality"
            raise DataError(f"random-resized-crop: {what} has no pictures (channels, frames, height, width) to crop")
        inputs = dict(batch.inputs)
        for name in pictures:
            x = inputs[name]
            drawn = generators(batch.ids, step.seed, f"random-resized-crop/{step.epoch}")  # the same for all of them
            boxes = torch.tensor([self._box(generator, x.shape[3] / x.shape[4]) for generator in drawn])
            inputs[name] = step.clipped(name, cropped(x, boxes))
        return AugmentedStep(replace(batch, inputs=inputs))

    def _box(self, generator: np.random.Generator, tall: float) -> tuple[float, float, float, float]:
        """Left, top, right and bottom, as shares of a picture so many times as high as wide; see `cropped`."""
        across = down = 1.0
        for _ in range(_TRIES):
            area = generator.uniform(self.config.scale, 1)
            ratio = math.exp(generator.uniform(-1, 1) * math.log(self.config.ratio)) * tall
            if area * ratio <= 1 and area <= ratio:
                across, down = math.sqrt(area * ratio), math.sqrt(area / ratio)
                break
        left, top = generator.uniform(0, 1 - across), generator.uniform(0, 1 - down)
        ends = (left, left + across)
        if generator.random() < self.config.flip:
            ends = ends[::-1]
        return ends[0], top, ends[1], top + down


def cropped(x: Tensor, boxes: Tensor) -> Tensor:
    """Boxes of pictures, resized to the pictures' size.

    Args:
        x: (B, C, T, H, W).
        boxes: (B, 4): left, top, right and bottom of each, as shares of width and height; mirrored where the right end
            is left of the left one.
    """
    clips, channels, frames, height, width = x.shape
    left, top, right, bottom = boxes.to(x.device, x.dtype, non_blocking=True).T
    place = torch.zeros(clips, 2, 3, device=x.device, dtype=x.dtype)
    place[:, 0, 0], place[:, 0, 2] = right - left, right + left - 1
    place[:, 1, 1], place[:, 1, 2] = bottom - top, bottom + top - 1
    grid = F.affine_grid(place, [clips, 1, height, width], align_corners=False)
    flat = x.reshape(clips, channels * frames, height, width)
    return F.grid_sample(flat, grid, padding_mode="border", align_corners=False).reshape(x.shape)
