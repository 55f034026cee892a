"""Projected gradient ascent; with one step over the whole radius it is the fast gradient method."""

from collections.abc import Sequence
from typing import ClassVar

import torch

from avrobust_attacks.gradient.climbing import PlainSteps, climb, start_of
from avrobust_attacks.gradient.keepers import keeper_for
from avrobust_attacks.losses import LOSSES
from avrobust_core import Attack, AttackResult, BoundVictim

FIRST_LENGTH, LAST_LENGTH = 1.0, 0.02
"""Of the steps, by default, as a share of the radius: the first goes all the way from the clean clip to the edge."""


def falling_lengths(steps: int) -> list[float]:
    """Step lengths that fall geometrically from `FIRST_LENGTH` to `LAST_LENGTH`.

    Against steps of one length, 2.5 / steps (Madry et al. 2018), as many of these leave fewer clips unbroken, and break
    the others sooner: the first steps settle most clips, the last ones come close to a maximum, and on a linear model
    reach it under every norm.
    """
    fall = (LAST_LENGTH / FIRST_LENGTH) ** (1 / max(steps - 1, 1))
    return [FIRST_LENGTH * fall**step for step in range(steps)]


class PGD(Attack):
    """Projected gradient ascent on all attacked modalities at once (Madry et al. 2018, arXiv 1706.06083).

    Each step takes one joint gradient of the clips' losses and moves every modality by a share of its radius in the
    direction of steepest ascent of its own norm, then projects onto its ball and bounds. Every iterate is scored: the
    clean clip first, then the start and the point after each step, the last one too. Where the victim has a start,
    from a search under a smaller budget, the first restart begins there.

    Single-label: a clip's first iterate that reaches the goal is returned, and work on it stops there; a clip that is
    there from the outset costs one query and is returned clean, as a success. A clip that never gets there is returned
    clean, with success False; `last` holds the end of the restart that ended highest.

    Multi-label: what counts is the ranking over clips, which one hit does not settle. So no clip is ever done: all
    restarts run on all clips, and each clip's iterate of highest loss is returned (the clean one among them);
    `success` says whether the goal is reached there.

    The trace, (steps + 1, B), holds the loss at the first restart's start and after each of its steps; NaN where the
    clip was done before. With `ce` the loss is that of `avrobust_attacks.losses.cross_entropy`.

    Args:
        lengths: of each step of a restart, as a share of each modality's radius.
        restarts: independent starts, each on the clips that earlier ones failed on.
        random_start: start from a point drawn from the ball, from the clip's own generator; else from the clean clip.
        loss: a name in `LOSSES`.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1", "l0"})

    def __init__(self, *, lengths: Sequence[float], restarts: int, random_start: bool, loss: str) -> None:
        self.lengths = tuple(lengths)
        self.restarts = restarts
        self.random_start = random_start
        self.loss = LOSSES[loss]

    @torch.no_grad()
    def __call__(self, victim: BoundVictim) -> AttackResult:
        """Attack the clips of `victim`; see the class.

        Raises:
            AvrobustError: if a loss or gradient is not finite, or no gradient reaches the attacked modalities.
        """
        steps = len(self.lengths)
        keeper = keeper_for(victim, self.loss, steps + 1)
        if self.random_start or victim.start is not None:  # otherwise the first iterate is the clean one
            keeper.score(victim.clean)
            keeper.settle(victim.clean)
        for restart in range(self.restarts):
            if not len(keeper.victim):
                break
            start = start_of(keeper.victim, restart, random=self.random_start)
            climb(keeper, PlainSteps(self.lengths), start, steps, first_row=None if restart else 0)
        return keeper.result()
