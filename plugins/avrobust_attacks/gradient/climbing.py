"""The loop of all gradient attacks, and what one step of theirs is: a stepper, with all it remembers of each clip."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from avrobust_attacks.gradient.keepers import Keeper, like
from avrobust_core import AvrobustError, BoundVictim, Region

STEPS_BETWEEN_WAITS = {"cpu": 1}
"""By type of device, how often the host waits for it to drop the clips that are done: elsewhere than on CPU a wait
costs the work that could have been queued meanwhile, so it is done once in `DEFAULT_STEPS_BETWEEN_WAITS` steps."""

DEFAULT_STEPS_BETWEEN_WAITS = 5

LEAP = 4.0
"""Length of the step from the clean clip that a leap projects, as a share of the radius: at 1, bounds that hold some
samples back would leave an l2 ball unfilled; at 4, they may hold back 15 sixteenths of the gradient's square."""

Inputs = Mapping[str, Tensor]


class Stepper(ABC):
    """One climb's way of moving, and all that it remembers between steps: of each clip by itself.

    Attributes:
        leaps: whether its first move is a `leap`.
        repeatable: whether two looks at one point agree; `climb` says. If not, the best iterate so far is the luckiest,
            and no place to go back to.
    """

    leaps: bool = False
    repeatable: bool = True

    @abstractmethod
    def move(self, region: Region, x: Inputs, gradients: Inputs, loss: Tensor) -> dict[str, Tensor]:
        """The next iterate, inside the region.

        Args:
            region: of the b clips that are still worked on.
            x: the iterate, (b, ...) by modality; not to be changed in place.
            gradients: of the loss there; may be changed in place.
            loss: (b,), at `x`.
        """

    def rest(self, x: dict[str, Tensor], loss: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Where the climb ends, and the loss there, (b,): `x`, after the last step, unless it knows better."""
        return x, loss

    def select(self, kept: Tensor) -> None:  # noqa: B027 - most remember nothing
        """Forget all clips but those at `kept` (int64 positions)."""


def climb(
    keeper: Keeper,
    stepper: Stepper,
    x: dict[str, Tensor],
    steps: int,
    first_row: int | None = None,
    *,
    look_ahead: bool = False,
    spare: dict[str, Tensor] | None = None,
) -> None:
    """Climb the keeper's loss from `x`: every iterate is scored, the last one too.

    Args:
        keeper: scores the iterates and keeps the best; has at least one clip left.
        stepper: moves.
        x: the start, inside the region, of the keeper's clips.
        steps: how many; each takes one forward and one backward pass.
        first_row: of the trace, where the loss at `x` belongs, the later ones below; None for nowhere.
        look_ahead: score the point that the first gradient leaps to, too, where the stepper does not leap itself: one
            more forward pass, after which the climb from the clean clips is never weaker than `fgsm`.
        spare: another point of the region, from which a clip's modality goes on whose first gradient is exactly 0.

    Raises:
        AvrobustError: if a loss or gradient is not finite, or no gradient reaches the attacked modalities.
    """
    every = STEPS_BETWEEN_WAITS.get(keeper.victim.device.type, DEFAULT_STEPS_BETWEEN_WAITS)
    stepper.repeatable = keeper.victim.repeatable
    for step in range(steps):
        waits = (step + 1) % every == 0
        leaves = {name: start.detach().requires_grad_() for name, start in x.items()}
        with torch.enable_grad():
            loss = keeper.score(leaves, None if first_row is None else first_row + step)
        kept = keeper.settle(leaves) if waits else None
        if not len(keeper.victim):
            return
        gradients = joint_gradient(loss, leaves)
        loss = loss.detach()
        x = {name: leaf.detach() for name, leaf in leaves.items()}
        if kept is not None:
            x, gradients, loss = _select(x, kept), _select(gradients, kept), loss[kept]
            stepper.select(kept)
            spare = None if spare is None else _select(spare, kept)
        keeper.examine(gradients.values())
        if step == 0 and look_ahead and not stepper.leaps:
            ahead = keeper.hold(x, leap(keeper.victim.region, gradients))
            keeper.score(ahead)
            kept = keeper.settle(ahead)
            if not len(keeper.victim):
                return
            if kept is not None:
                x, gradients, loss = _select(x, kept), _select(gradients, kept), loss[kept]
                stepper.select(kept)
                spare = None if spare is None else _select(spare, kept)
        idle = {} if step or spare is None else {name: _is_zero(g) for name, g in gradients.items()}
        moved = stepper.move(keeper.victim.region, x, gradients, loss)
        if idle and spare is not None:
            mixed = {name: torch.where(like(idle[name], each), spare[name], each) for name, each in moved.items()}
            moved = keeper.victim.region.project(mixed)
        x = moved if waits else keeper.hold(x, moved)
    loss = keeper.score(x, None if first_row is None else first_row + steps)
    kept = keeper.settle(x)
    if not len(keeper.victim):
        return
    if kept is not None:
        x, loss = _select(x, kept), loss[kept]
        stepper.select(kept)
    keeper.rest(*stepper.rest(x, loss))


def leap(region: Region, gradients: Inputs) -> dict[str, Tensor]:
    """The point of the region that a linear function with these gradients likes best, wherever they were taken.

    So one step crosses the region from any start. From the clean clip it is the fast gradient method's point (linf:
    Goodfellow et al. 2015), in l2, l1 and l0 with the bounds taken into account. Where a modality's gradient is 0, its
    clean clip.

    Args:
        region: of the clips.
        gradients: (b, ...) by modality; not changed.
    """
    return region.project(region.step(region.clean, gradients, LEAP))


def drawn(victim: BoundVictim, run: int) -> dict[str, Tensor]:
    """A random point of the region for each clip; every climb of one attack, `run`, has random numbers of its own."""
    return victim.region.sample(lambda name: victim.generators(f"start/{run}/{name}"))


def joint_gradient(loss: Tensor, leaves: Inputs) -> dict[str, Tensor]:
    """The gradient of the summed loss for every modality; clips do not mix, so each gets that of its own loss.

    Raises:
        AvrobustError: if the loss does not depend on any of them.
    """
    if not loss.requires_grad:
        raise AvrobustError(
            f"no gradient reaches {', '.join(leaves)} from the model's logits: the model ignores the attacked "
            "modalities, or detaches them, and a gradient attack would measure nothing"
        )
    ones = torch.ones_like(loss)
    found = torch.autograd.grad(loss, tuple(leaves.values()), ones, allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def _is_zero(gradient: Tensor) -> Tensor:
    return (gradient == 0).flatten(1).all(dim=1)


def _select(inputs: Inputs, kept: Tensor) -> dict[str, Tensor]:
    return {name: x.index_select(0, kept) for name, x in inputs.items()}
