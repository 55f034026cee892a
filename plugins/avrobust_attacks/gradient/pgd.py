"""Projected gradient ascent; with one step over the whole radius it is the fast gradient method."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from avrobust_attacks.gradient.keepers import FirstSuccess, HighestLoss, Keeper
from avrobust_attacks.losses import LOSSES
from avrobust_core import Attack, AttackResult, AvrobustError, BoundVictim

STEPS_BETWEEN_WAITS = {"cpu": 1}
"""By type of device, how often the host waits for it to drop the clips that are done: elsewhere than on CPU a wait
costs the work that could have been queued meanwhile, so it is done once in `DEFAULT_STEPS_BETWEEN_WAITS` steps."""

DEFAULT_STEPS_BETWEEN_WAITS = 5


class PGD(Attack):
    """Projected gradient ascent on all attacked modalities at once (Madry et al. 2018, arXiv 1706.06083).

    Each step takes one joint gradient of the clips' losses and moves every modality by `step_size` times its radius in
    the direction of steepest ascent of its own norm, then projects onto its ball and bounds. Every iterate is scored:
    the clean clip first, then the start and the point after each step, the last one too.

    Single-label: a clip's first misclassified iterate is returned, and work on it stops there; a clip that the model
    misclassifies from the outset costs one query and is returned clean, as a success. A clip that is never fooled is
    returned clean, with success False.

    Multi-label: what counts is the ranking over clips, which one hit does not settle. So no clip is ever done: all
    restarts run on all clips, and each clip's iterate of highest loss is returned (the clean one among them);
    `success` says whether the model's highest logit at that iterate is of none of the clip's classes.

    The trace, (steps + 1, B), holds the loss at the first restart's start and after each of its steps; NaN where the
    clip was done before. With `ce` the loss is that of `avrobust_attacks.losses.cross_entropy`.

    Args:
        steps: of each restart.
        step_size: length of a step as a share of each modality's radius.
        restarts: independent starts, each on the clips that earlier ones failed on.
        random_start: start from a point drawn from the ball, from the clip's own generator; else from the clean clip.
        loss: a name in `LOSSES`.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1", "l0"})

    def __init__(self, *, steps: int, step_size: float, restarts: int, random_start: bool, loss: str) -> None:
        self.steps = steps
        self.step_size = step_size
        self.restarts = restarts
        self.random_start = random_start
        self.loss = LOSSES[loss]

    @torch.no_grad()
    def __call__(self, victim: BoundVictim) -> AttackResult:
        """Attack the clips of `victim`; see the class.

        Raises:
            AvrobustError: if a loss or gradient is not finite, or no gradient reaches the attacked modalities.
        """
        kind = HighestLoss if victim.task == "multi-label" else FirstSuccess
        keeper = kind(victim, self.loss, self.steps)
        if self.random_start:  # otherwise the first iterate is the clean one
            keeper.score(victim.clean)
            keeper.settle(victim.clean)
        for restart in range(self.restarts):
            if len(keeper.victim):
                self._climb(keeper, self._start(keeper.victim, restart), traced=restart == 0)
        return keeper.result

    def _start(self, victim: BoundVictim, restart: int) -> dict[str, Tensor]:
        if not self.random_start:
            return victim.clean
        return victim.region.sample(lambda name: victim.generators(f"start/{restart}/{name}"))

    def _climb(self, keeper: Keeper, x: dict[str, Tensor], *, traced: bool) -> None:
        every = STEPS_BETWEEN_WAITS.get(keeper.victim.device.type, DEFAULT_STEPS_BETWEEN_WAITS)
        for step in range(self.steps):
            leaves = {name: start.detach().requires_grad_() for name, start in x.items()}
            with torch.enable_grad():
                loss = keeper.score(leaves, step if traced else None)
            kept = keeper.settle(leaves) if (step + 1) % every == 0 else None
            if not len(keeper.victim):
                return
            gradients = _joint_gradient(loss, leaves)
            if kept is not None:
                leaves = {name: leaf.index_select(0, kept) for name, leaf in leaves.items()}
                gradients = {name: gradient.index_select(0, kept) for name, gradient in gradients.items()}
            keeper.examine(gradients.values())
            region = keeper.victim.region
            x = region.project(region.step(leaves, gradients, self.step_size))
            if (step + 1) % every:
                x = keeper.hold(leaves, x)
        keeper.score(x, self.steps if traced else None)
        keeper.settle(x)


def _joint_gradient(loss: Tensor, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of the summed loss for every modality; clips do not mix, so each gets that of its own loss."""
    if not loss.requires_grad:
        raise AvrobustError(
            f"no gradient reaches {', '.join(leaves)} from the model's logits: the model ignores the attacked "
            "modalities, or detaches them, and a gradient attack would measure nothing"
        )
    ones = torch.ones_like(loss)
    found = torch.autograd.grad(loss, tuple(leaves.values()), ones, allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))
