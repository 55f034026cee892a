"""DDN and FMN: a step and the size of the perturbation in turn, in two searches."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from avrobust_attacks.minimal.attack import MinimalAttack
from avrobust_attacks.minimal.boundary import Boundary, leaving_gradients
from avrobust_attacks.minimal.configs import SteppedConfig
from avrobust_attacks.minimal.search import SmallestSuccess
from avrobust_attacks.minimal.steps import averaged, cosine, onto
from avrobust_core import Inputs, Region

GROWTH = 2.0
"""Growth of the size at each step of the second search until it reaches the goal."""

FURTHER = 8.0
"""The first size of the second search over the first one's."""

LAST_STEP = 0.01
"""The last step's length as a share of the first one's, as in the papers of `ddn` and `fmn`."""

LAST_GAMMA = 0.02
"""The last change of the size as a share of the first one, as in the paper of `fmn` (0.001 of 0.05)."""


class SteppedSizes(MinimalAttack[SteppedConfig]):
    """Base of `ddn` and `fmn`, which step and set each clip's size in turn; lengths are shares of the present size.

    There are two searches with half the steps each: which class a search comes to first decides where it ends, and no
    number of steps brings it out of there. The first is careful: it begins at the nearest boundary of the linearised
    model, with momentum. The second is bold: it begins `FURTHER` out, where the clip's own logit falls fastest, without
    momentum, and its size doubles until it reaches the goal. It finds what the first does not where logits saturate:
    there the nearest boundary is expected ten times too near, and leans to the class whose logit rises fastest, which
    is often one that never comes out on top.
    """

    def looked(self) -> tuple[int, int, int]:
        steps, bold = self.config.steps, self.config.steps >= 2
        return steps + 1 + bold, int(bold), steps + bold  # the last point of each search; the gradient it begins with

    def look(self, search: SmallestSuccess, boundary: Boundary) -> None:
        config = self.config
        second = config.steps // 2
        size = config.start * boundary.size
        self.descend(search, boundary.gradients, size, config.steps - second, config.momentum, growth=1.0)
        if second:
            self.descend(search, leaving_gradients(search), FURTHER * size, second, 0.0, growth=GROWTH)

    def descend(
        self, search: SmallestSuccess, first: Inputs, size: Tensor, steps: int, momentum: float, *, growth: float
    ) -> None:
        """One search, from the clean clips.

        Args:
            search: scores, and keeps.
            first: what the first step goes along, by modality (b, ...).
            size: (b,) float64, of the first step; may be above 1.
            steps: gradients after it.
            momentum: share of the running mean of gradients that each step keeps.
            growth: at least so much the size grows by at each step while this search has not reached the goal.
        """
        region, quantum = search.region, search.region.quantum
        size = size.maximum(quantum).clamp(max=1)
        x = region.approach(region.clean, first, size, 1.0)
        direction: dict[str, Tensor] = {}
        best = torch.full_like(size, torch.inf)
        for step in range(steps):
            share = step / steps
            scored, gradients = search.climb(x, share)
            direction = averaged(direction, gradients, region.gain(gradients), momentum)
            best = torch.where(scored.reached, torch.minimum(best, scored.size), best)
            gamma = cosine(self.config.gamma, self.config.gamma * LAST_GAMMA, share)
            lower = self.shrunk(size, best) * (1 - gamma)  # between two counts of l0 it means the lower one
            larger = size * torch.where(best.isfinite(), 1 + gamma, max(growth, 1 + gamma))
            size = torch.where(scored.reached, lower, larger.maximum(size + quantum)).maximum(quantum).clamp(max=1)
            length = cosine(self.config.step_size, self.config.step_size * LAST_STEP, share)
            x = self.moved(region, x, direction, size, length, best.isfinite())
        search.score(x, 1.0)

    @abstractmethod
    def shrunk(self, size: Tensor, best: Tensor) -> Tensor:
        """The size, (b,), that shrinks where the goal is reached: of the present one and this search's smallest."""

    @abstractmethod
    def moved(
        self, region: Region, x: Inputs, direction: Inputs, size: Tensor, length: float, found: Tensor
    ) -> dict[str, Tensor]:
        """The next point, by modality, of the b clips of a region.

        Args:
            region: of the clips.
            x: the present point, (b, ...) by modality.
            direction: along which the loss rises, (b, ...) by modality.
            size: (b,) float64, the next point's.
            length: of the step, over `size`.
            found: (b,) bool, whether this search has reached the goal.
        """


class DDN(SteppedSizes):
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

    def moved(
        self, region: Region, x: Inputs, direction: Inputs, size: Tensor, length: float, found: Tensor
    ) -> dict[str, Tensor]:
        return onto(region, region.step(x, direction, size * length), size, lengthened=found)


class FMN(SteppedSizes):
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

    def moved(
        self, region: Region, x: Inputs, direction: Inputs, size: Tensor, length: float, found: Tensor
    ) -> dict[str, Tensor]:
        return region.approach(x, direction, size, length)
