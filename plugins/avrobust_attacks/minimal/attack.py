"""Attacks for the smallest perturbation: a search, a trim of what it found, a last look."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from avrobust_attacks.minimal.boundary import Boundary, leaving_gradients, nearest_boundary
from avrobust_attacks.minimal.configs import MinimalConfig, SteppedConfig
from avrobust_attacks.minimal.results import smallest_result, sure_result
from avrobust_attacks.minimal.search import SmallestSuccess
from avrobust_attacks.minimal.steps import Momentum, cosine
from avrobust_attacks.minimal.trim import trim, try_edge
from avrobust_core import Attack, AttackResult, BoundVictim, Inputs, Region

GROWTH = 2.0
"""Growth of the size at each step of the second search until it reaches the goal."""

FURTHER = 8.0
"""The first size of the second search over the first one's."""

LAST_STEP = 0.01
"""The last step's length as a share of the first one's, as in the papers of `ddn` and `fmn`."""

LAST_GAMMA = 0.02
"""The last change of the size as a share of the first one, as in the paper of `fmn` (0.001 of 0.05)."""

Settings = TypeVar("Settings", bound=MinimalConfig)
Stepped = TypeVar("Stepped", bound=SteppedConfig)


class MinimalAttack(Attack, Generic[Settings]):
    """Base of `cw`, `ddn` and `fmn`; a warm start is not used.

    What is returned of a model with randomness of its own (`BoundVictim.repeatable`), `sure_result` says.

    Args:
        config: says what each of its fields does.
    """

    minimal = True

    def __init__(self, config: Settings) -> None:
        self.config = config

    @torch.no_grad()
    def __call__(self, victim: BoundVictim) -> AttackResult:
        """Attack the clips of `victim`; see the class.

        Raises:
            AvrobustError: if a loss or gradient is not finite, or no gradient reaches the attacked modalities.
        """
        search = SmallestSuccess(victim)
        everyone = search.positions
        if len(everyone):
            boundary = nearest_boundary(search, self.config.classes)
            self.look(search, boundary)
            if victim.repeatable:
                try_edge(search, everyone, boundary.gradients)
                trim(search, self.config.trim)
        return smallest_result(search) if victim.repeatable else sure_result(search, everyone)

    @abstractmethod
    def look(self, search: SmallestSuccess, boundary: Boundary) -> None:
        """Score points of the region; `search`, which has at least one clip to work on, keeps the smallest success.

        Args:
            search: scores, and keeps.
            boundary: the nearest boundary of the clips to work on, by the model linearised at the clean ones.
        """


@dataclass(frozen=True, slots=True)
class SizedStep:
    """One step of `ddn` or `fmn`.

    Attributes:
        direction: along which the loss rises, (b, ...) by modality.
        size: (b,) float64, the next point's.
        length: over `size`.
        found: (b,) bool, whether this search has reached the goal.
    """

    direction: Inputs
    size: Tensor
    length: float
    found: Tensor


class SteppedSizes(MinimalAttack[Stepped]):
    """Base of `ddn` and `fmn`, which step and set each clip's size in turn; lengths are shares of the present size.

    There are two searches with half the steps each: which class a search comes to first decides where it ends, and no
    number of steps brings it out of there. The first is careful: it begins at the nearest boundary of the linearised
    model, with momentum. The second is bold: it begins `FURTHER` out, where the clip's own logit falls fastest, without
    momentum, and its size doubles until it reaches the goal. It finds what the first does not where logits saturate:
    there the nearest boundary is expected ten times too near, and leans to the class whose logit rises fastest, which
    is often one that never comes out on top.
    """

    def look(self, search: SmallestSuccess, boundary: Boundary) -> None:
        config = self.config
        second = config.steps // 2
        size = config.start * boundary.size
        self.descend(search, boundary.gradients, size, config.steps - second, config.momentum, growth=1.0)
        if second:
            self.descend(search, leaving_gradients(search), FURTHER * size, second, 0.0, growth=GROWTH)

    def descend(
        self,
        search: SmallestSuccess,
        first: Inputs,
        size: Tensor,
        steps: int,
        momentum: float,
        *,
        growth: float,
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
        mean = Momentum(momentum)
        best = torch.full_like(size, torch.inf)
        for step in range(steps):
            share = step / steps
            scored, gradients = search.climb(x, share)
            direction = mean.of(gradients, region.gain(gradients))
            best = torch.where(scored.reached, torch.minimum(best, scored.size), best)
            gamma = cosine(self.config.gamma, self.config.gamma * LAST_GAMMA, share)
            lower = self.shrunk(size, best) * (1 - gamma)  # between two counts of l0 it means the lower one
            larger = size * torch.where(best.isfinite(), 1 + gamma, max(growth, 1 + gamma))
            size = torch.where(scored.reached, lower, larger.maximum(size + quantum)).maximum(quantum).clamp(max=1)
            length = cosine(self.config.step_size, self.config.step_size * LAST_STEP, share)
            x = self.moved(region, x, SizedStep(direction, size, length, best.isfinite()))
        search.score(x, 1.0)

    @abstractmethod
    def shrunk(self, size: Tensor, best: Tensor) -> Tensor:
        """The size, (b,), that shrinks where the goal is reached: of the present one and this search's smallest."""

    @abstractmethod
    def moved(self, region: Region, x: Inputs, step: SizedStep) -> dict[str, Tensor]:
        """The next point, by modality, of the b clips of a region."""
