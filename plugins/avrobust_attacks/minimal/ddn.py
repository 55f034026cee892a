"""DDN: direction and norm decoupled, in l2."""

from typing import ClassVar

from torch import Tensor

from avrobust_attacks.minimal.attack import SizedStep, SteppedSizes
from avrobust_attacks.minimal.configs import DdnConfig
from avrobust_attacks.minimal.steps import onto
from avrobust_core import Inputs, Region


class DDN(SteppedSizes[DdnConfig]):
    """Decoupled direction and norm (Rony et al., CVPR 2019, arXiv 1811.09600), on any region of l2 balls.

    Each step moves all modalities along one joint gradient, then sets the perturbation's size: it shrinks by `gamma`
    where the goal is reached and grows by as much where it is not. Lengths are shares of the clip's present size, so
    that nothing depends on the unit of the inputs; the size never exceeds 1, the region itself.

    What differs from the paper: the distance to the goal with a smooth maximum over classes, which sharpens as the
    search goes on (`softened`), is lowered instead of the cross-entropy raised; there are two searches
    (`SteppedSizes`), in which a point is moved out to the new size only once the goal was reached; `gamma` falls with
    the step length; and the smallest success is trimmed at the end.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"l2"})

    def shrunk(self, size: Tensor, best: Tensor) -> Tensor:
        return size

    def moved(self, region: Region, x: Inputs, step: SizedStep) -> dict[str, Tensor]:
        longer = region.step(x, step.direction, step.size * step.length)
        return onto(region, longer, step.size, lengthened=step.found)
