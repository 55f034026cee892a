"""Attacks for the smallest perturbation: a search, a trim of what it found, a last look."""

from abc import abstractmethod
from typing import Generic, TypeVar

import torch

from avrobust_attacks.minimal.boundary import Boundary, nearest_boundary
from avrobust_attacks.minimal.configs import MinimalConfig
from avrobust_attacks.minimal.results import passes_at_the_end, smallest_result, sure_result, trim, try_edge
from avrobust_attacks.minimal.search import SmallestSuccess
from avrobust_core import Attack, AttackResult, BoundVictim, Occasion, Passes

Settings = TypeVar("Settings", bound=MinimalConfig)


class MinimalAttack(Attack, Generic[Settings]):
    """Base of `cw`, `ddn` and `fmn`; a warm start is not used.

    What is returned of a model with randomness of its own (`BoundVictim.repeatable`), `sure_result` says.

    Args:
        config: says what each of its fields does.
    """

    minimal = True

    def __init__(self, config: Settings) -> None:
        self.config = config

    def passes(self, occasion: Occasion) -> Passes:
        """The clean clip twice, with a backward pass for each class at its boundary; the search's points; the end.

        A bound: clips of which no success is known have no end, and those that stop early have fewer points.
        """
        classes = 1 if occasion.targeted else min(self.config.classes, occasion.classes - 1)
        points, others, gradients = self.looked()
        again = 1 if occasion.repeatable and occasion.exact else 2
        return Passes(2 + others + again * points, classes + gradients, exact=False) + passes_at_the_end(
            occasion, self.config.trim
        )

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
    def looked(self) -> tuple[int, int, int]:
        """What `look` takes of each clip at most: points scored, other forward passes, and backward passes."""

    @abstractmethod
    def look(self, search: SmallestSuccess, boundary: Boundary) -> None:
        """Score points of the region; `search`, which has at least one clip to work on, keeps the smallest success.

        Args:
            search: scores, and keeps.
            boundary: the nearest boundary of the clips to work on, by the model linearised at the clean ones.
        """
