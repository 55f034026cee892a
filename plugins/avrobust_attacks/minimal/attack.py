"""What an attack for the smallest perturbation is: a search, a trim of what it found, a last look."""

from abc import abstractmethod

import torch

from avrobust_attacks.minimal.search import Estimate, Search, nearest_boundary
from avrobust_attacks.minimal.sure import sure_result
from avrobust_core import Attack, AttackResult, BoundVictim


class MinimalAttack(Attack):
    """Base of `cw`, `ddn` and `fmn`; a warm start is not used.

    What is returned of a model with randomness of its own (`BoundVictim.repeatable`), `sure_result` says.

    Args:
        classes: other classes whose boundaries the start compares, each at the cost of one backward pass.
        trim: forward passes of the bisection at the end.
    """

    minimal = True

    def __init__(self, *, classes: int, trim: int) -> None:
        self.classes = classes
        self.trim = trim

    @torch.no_grad()
    def __call__(self, victim: BoundVictim) -> AttackResult:
        """Attack the clips of `victim`; see the class.

        Raises:
            AvrobustError: if a loss or gradient is not finite, or no gradient reaches the attacked modalities.
        """
        search = Search(victim)
        everyone = search.positions
        if len(everyone):
            estimate = nearest_boundary(search, self.classes)
            self.look(search, estimate)
            if victim.repeatable:
                search.try_edge(everyone, estimate)
                search.trim(self.trim)
        return search.result() if victim.repeatable else sure_result(victim, search, everyone)

    @abstractmethod
    def look(self, search: Search, estimate: Estimate) -> None:
        """Score points of the region; `search`, which has at least one clip to work on, keeps the smallest success.

        Args:
            search: scores, and keeps.
            estimate: the nearest boundary of the clips to work on, by the model linearised at the clean ones.
        """


class SteppedSizes(MinimalAttack):
    """Base of `ddn` and `fmn`, which step and set each clip's size in turn; lengths are shares of the present size.

    Args:
        steps: gradients after the first-order start.
        step_size: length of the first step as a share of the present size; it falls along a cosine.
        gamma: share by which the size changes at the first step; it falls along a cosine.
        start: the first size, over that at which the nearest boundary is expected.
        momentum: share of the running mean of gradients that each step keeps.
        classes: see `MinimalAttack`.
        trim: see `MinimalAttack`.
    """

    def __init__(
        self, *, steps: int, step_size: float, gamma: float, start: float, momentum: float, classes: int, trim: int
    ) -> None:
        super().__init__(classes=classes, trim=trim)
        self.steps = steps
        self.step_size = step_size
        self.gamma = gamma
        self.start = start
        self.momentum = momentum
