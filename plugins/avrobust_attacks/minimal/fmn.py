"""FMN: the fast minimum-norm attack, in linf, l2, l1 and l0."""

from typing import ClassVar

import torch
from torch import Tensor

from avrobust_attacks.minimal.attack import SizedStep, SteppedSizes
from avrobust_attacks.minimal.configs import FmnConfig
from avrobust_core import Inputs, Region


class FMN(SteppedSizes[FmnConfig]):
    """Fast minimum-norm attack (Pintor et al., NeurIPS 2021, arXiv 2102.12827), on any region.

    Each step takes one joint gradient and sets the clip's size: `gamma` less than the smallest success of the search
    where the goal is reached, and `gamma` more than now where it is not. The perturbation moves by a step of steepest
    ascent and is projected into the region of that size.

    What differs from the paper: there are two searches (`SteppedSizes`), which begin at a first-order estimate instead
    of growing to one; lengths are shares of the clip's present size, steps suit the ball (`Region.approach`), gradients
    are those of the distance with a smooth maximum over classes, which sharpens as the search goes on (`softened`), and
    have momentum; the size never exceeds 1, the region itself, and the smallest success is trimmed at the end.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1", "l0"})

    def shrunk(self, size: Tensor, best: Tensor) -> Tensor:
        return torch.minimum(size, best)

    def moved(self, region: Region, x: Inputs, step: SizedStep) -> dict[str, Tensor]:
        return region.approach(x, step.direction, step.size, step.length)
