"""What an attack for the smallest perturbation is: a search, a trim of what it found, a last look."""

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from avrobust_attacks.minimal.search import Estimate, Search, leaves_of, nearest_boundary, own_logit
from avrobust_attacks.minimal.sure import sure_result
from avrobust_core import Attack, AttackResult, BoundVictim

GROWTH = 2.0
"""By how much the size grows at each step of the second search until it reaches the goal."""

FURTHER = 8.0
"""The first size of the second search over the first one's."""


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

    There are two searches with half the steps each: which class a search comes to first decides where it ends, and no
    number of steps brings it out of there. The first is careful: it begins at the nearest boundary of the linearised
    model, with momentum. The second is bold: it begins `FURTHER` out, where the clip's own logit falls fastest, without
    momentum, and its size doubles until it reaches the goal. It finds what the first does not where logits saturate:
    there the nearest boundary is expected ten times too near, and leans to the class whose logit rises fastest, which
    is often one that never comes out on top.

    Args:
        steps: gradients after the first-order start, of both searches together.
        step_size: length of the first step as a share of the present size; it falls along a cosine.
        gamma: share by which the size changes at the first step; it falls along a cosine.
        start: the first search's first size, over that at which the nearest boundary is expected.
        momentum: share of the running mean of gradients that each step of the first search keeps.
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

    def look(self, search: Search, estimate: Estimate) -> None:
        second = self.steps // 2
        size = self.start * estimate.size
        self.descend(search, estimate.gradients, size, self.steps - second, self.momentum, growth=1.0)
        if second:
            self.descend(search, _leaving(search), FURTHER * size, second, 0.0, growth=GROWTH)

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


def _leaving(search: Search) -> dict[str, Tensor]:
    """The gradients at the clean clips along which the own logit falls fastest; a targeted goal's rises fastest."""
    leaves = leaves_of(search.victim.clean)
    goal = search.victim.goal
    with torch.enable_grad():
        own = own_logit(search.victim(leaves), goal)
        loss = -own if goal.targeted else own
    return search.downhill(loss, leaves)
