"""What an attack for the smallest perturbation is: a search, a trim of what it found, a last look."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor

from avrobust_attacks.minimal.boundary import Estimate, leaving_gradients, nearest_boundary
from avrobust_attacks.minimal.configs import MinimalConfig, SteppedConfig
from avrobust_attacks.minimal.search import Search
from avrobust_attacks.minimal.sure import sure_result
from avrobust_core import Attack, AttackResult, BoundVictim

GROWTH = 2.0
"""By how much the size grows at each step of the second search until it reaches the goal."""

FURTHER = 8.0
"""The first size of the second search over the first one's."""


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
        search = Search(victim)
        everyone = search.positions
        if len(everyone):
            estimate = nearest_boundary(search, self.config.classes)
            self.look(search, estimate)
            if victim.repeatable:
                search.try_edge(everyone, estimate.gradients)
                search.trim(self.config.trim)
        return search.result() if victim.repeatable else sure_result(victim, search, everyone)

    @abstractmethod
    def look(self, search: Search, estimate: Estimate) -> None:
        """Score points of the region; `search`, which has at least one clip to work on, keeps the smallest success.

        Args:
            search: scores, and keeps.
            estimate: the nearest boundary of the clips to work on, by the model linearised at the clean ones.
        """


class SteppedSizes(MinimalAttack[Stepped]):
    """Base of `ddn` and `fmn`, which step and set each clip's size in turn; lengths are shares of the present size.

    There are two searches with half the steps each: which class a search comes to first decides where it ends, and no
    number of steps brings it out of there. The first is careful: it begins at the nearest boundary of the linearised
    model, with momentum. The second is bold: it begins `FURTHER` out, where the clip's own logit falls fastest, without
    momentum, and its size doubles until it reaches the goal. It finds what the first does not where logits saturate:
    there the nearest boundary is expected ten times too near, and leans to the class whose logit rises fastest, which
    is often one that never comes out on top.
    """

    def look(self, search: Search, estimate: Estimate) -> None:
        config = self.config
        second = config.steps // 2
        size = config.start * estimate.size
        self.descend(search, estimate.gradients, size, config.steps - second, config.momentum, growth=1.0)
        if second:
            self.descend(search, leaving_gradients(search), FURTHER * size, second, 0.0, growth=GROWTH)

    @abstractmethod
    def descend(
        self,
        search: Search,
        first: Mapping[str, Tensor],
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
