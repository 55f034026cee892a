"""The loop of all gradient attacks, and what one step of theirs is: a stepper, with all it remembers of each clip."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from avrobust_attacks.gradient.keepers import Keeper
from avrobust_core import AvrobustError, BoundVictim, Region

STEPS_BETWEEN_WAITS = {"cpu": 1}
"""By type of device, how often the host waits for it to drop the clips that are done: elsewhere than on CPU a wait
costs the work that could have been queued meanwhile, so it is done once in `DEFAULT_STEPS_BETWEEN_WAITS` steps."""

DEFAULT_STEPS_BETWEEN_WAITS = 5

Inputs = Mapping[str, Tensor]


class Stepper(ABC):
    """One climb's way of moving, and all that it remembers between steps: of each clip by itself."""

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


def climb(keeper: Keeper, stepper: Stepper, x: dict[str, Tensor], steps: int, first_row: int | None = None) -> None:
    """Climb the keeper's loss from `x`: every iterate is scored, the last one too.

    Args:
        keeper: scores the iterates and keeps the best; has at least one clip left.
        stepper: moves.
        x: the start, inside the region, of the keeper's clips.
        steps: how many; each takes one forward and one backward pass.
        first_row: of the trace, where the loss at `x` belongs, the later ones below; None for nowhere.

    Raises:
        AvrobustError: if a loss or gradient is not finite, or no gradient reaches the attacked modalities.
    """
    every = STEPS_BETWEEN_WAITS.get(keeper.victim.device.type, DEFAULT_STEPS_BETWEEN_WAITS)
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
        keeper.examine(gradients.values())
        moved = stepper.move(keeper.victim.region, x, gradients, loss)
        x = moved if waits else keeper.hold(x, moved)
    loss = keeper.score(x, None if first_row is None else first_row + steps)
    kept = keeper.settle(x)
    if not len(keeper.victim):
        return
    if kept is not None:
        x, loss = _select(x, kept), loss[kept]
        stepper.select(kept)
    keeper.rest(*stepper.rest(x, loss))


def start_of(victim: BoundVictim, run: int, *, random: bool) -> dict[str, Tensor]:
    """Where a climb begins: the first from the victim's start if it has one, others from a random point of the region.

    Args:
        victim: the clips.
        run: counts the climbs of one attack, from 0; each has random numbers of its own.
        random: if not, a climb without a start of the victim's begins from the clean clips.
    """
    if run == 0 and victim.start is not None:
        return victim.region.project(victim.start)
    if not random:
        return victim.clean
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


def _select(inputs: Inputs, kept: Tensor) -> dict[str, Tensor]:
    return {name: x.index_select(0, kept) for name, x in inputs.items()}
