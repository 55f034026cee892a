"""The loop of all gradient attacks, and what one step of theirs is: a stepper, with all it remembers of each clip."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from avrobust_attacks.held import select_held
from avrobust_attacks.keepers import Keeper
from avrobust_core import Inputs, Region, joint_gradient, leaves_of, per_clip

LEAP = 4.0
"""Length of the step from the clean clip that a leap projects, as a share of the radius: at 1, bounds that hold some
samples back would leave an l2 ball unfilled; at 4, they may hold back 15 sixteenths of the gradient's square."""


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

    def rest(self, x: Inputs, loss: Tensor) -> tuple[Inputs, Tensor]:
        """The end of the climb, and the loss there, (b,): `x`, after the last step, unless it knows better."""
        return x, loss

    def select(self, kept: Tensor) -> None:
        """Forget all clips but those at `kept` (int64 positions)."""
        select_held(self, kept)


def climb(
    keeper: Keeper, stepper: Stepper, start: Inputs, steps: int, *, traced: bool, look_ahead: bool, spare: Inputs | None
) -> None:
    """Climb the keeper's loss from `start`: every iterate is scored, the last one too.

    Args:
        keeper: scores the iterates and keeps the best; has at least one clip left.
        stepper: moves.
        start: inside the region, of the keeper's clips.
        steps: how many; each takes one forward and one backward pass.
        traced: whether the losses go into the trace, from its first row on.
        look_ahead: score the point that the first gradient leaps to, too, where the stepper does not leap itself: one
            more forward pass, after which the climb from the clean clips is never weaker than `fgsm`.
        spare: another point of the region, from which a clip's modality goes on whose first gradient is exactly 0; None
            to leave such a modality where it is.

    Raises:
        AvrobustError: if a loss or gradient is not finite, or no gradient reaches the attacked modalities.
    """
    stepper.repeatable = keeper.victim.repeatable
    climber = _Climber(keeper, stepper, dict(start), spare)
    for step in range(steps):
        climber.score(step if traced else None)
        if len(keeper.victim) and step == 0 and look_ahead and not stepper.leaps:
            climber.look_ahead()
        if not len(keeper.victim):
            return
        climber.move()
    climber.end(steps if traced else None)


class _Climber:
    """A climb on its way: its point, and the loss and the gradients there, of the clips that are worked on."""

    loss: Tensor

    def __init__(self, keeper: Keeper, stepper: Stepper, x: Inputs, spare: Inputs | None) -> None:
        self._keeper = keeper
        self._stepper = stepper
        self.x = x
        self.gradients: dict[str, Tensor] = {}
        self._spare = spare

    def score(self, row: int | None) -> None:
        """Score the point, with gradients; clips that are known to be done are dropped."""
        keeper = self._keeper
        leaves = leaves_of(self.x)
        with torch.enable_grad():
            loss = keeper.score(leaves, row)
        kept = keeper.settle(later=True)
        if not len(keeper.victim):
            return
        self.gradients = joint_gradient(loss, leaves)
        self.loss = loss.detach()
        self._select(kept)
        keeper.examine(self.gradients.values())

    def look_ahead(self) -> None:
        """Score the point that the gradients leap to."""
        self._keeper.score(self._keeper.hold(self.x, leap(self._keeper.victim.region, self.gradients)))
        self._select(self._keeper.settle())

    def move(self) -> None:
        """Go to the next point; clips that may be done are held where they are."""
        region = self._keeper.victim.region
        spare, self._spare = self._spare, None  # for the first move only
        idle = {} if spare is None else {name: (g == 0).flatten(1).all(dim=1) for name, g in self.gradients.items()}
        moved = self._stepper.move(region, self.x, self.gradients, self.loss)
        if spare is not None:
            mixed = {name: torch.where(per_clip(idle[name], x), spare[name], x) for name, x in moved.items()}
            moved = region.project(mixed)
        self.x = self._keeper.hold(self.x, moved) if self._keeper.lags else moved

    def end(self, row: int | None) -> None:
        """Score the last point, and let the keeper know where the climb ended."""
        self.loss = self._keeper.score(self.x, row)
        self._select(self._keeper.settle())
        if len(self._keeper.victim):
            self._keeper.rest(*self._stepper.rest(self.x, self.loss))

    def _select(self, kept: Tensor | None) -> None:
        if kept is not None:
            select_held(self, kept)
            self._stepper.select(kept)


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
