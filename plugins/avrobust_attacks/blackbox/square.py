"""Square attack: a random search over blocks, which needs no gradient."""

from typing import ClassVar

import torch
from torch import Tensor

from avrobust_attacks.blackbox.configs import SquareConfig
from avrobust_attacks.blackbox.proposals import Others, proposals_for, relative
from avrobust_attacks.keepers import BestPoint
from avrobust_attacks.losses import LOSSES
from avrobust_attacks.passes import passes_of_search
from avrobust_core import Attack, AttackResult, BoundVictim, Inputs, Occasion, Passes

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After these of `SCHEDULED` steps the share of the samples that a block covers is halved."""

SCHEDULED = 10_000

DRAWN_AT_ONCE = 500
"""Steps whose random numbers are drawn together, for each clip."""


class Square(Attack):
    """Random search over blocks of each clip (Andriushchenko et al., ECCV 2020, arXiv 1912.00049), for any rank.

    Each step changes one block of each clip, in one modality, the modalities taking turns; the change is kept if the
    loss rises. Blocks are contiguous and extend over all axes but the channels': intervals of a waveform, rectangles
    of an image or a spectrogram, parts of space and time of a video. What is in them: see `LinfProposals` and
    `L2Proposals`. On signals of one axis they carry a square wave of random period, which is this project's own.

    In a shared ball, the part of the radius that a block may use is taken in turns from the other modalities and from
    its own, so that the search also finds how to split the ball.

    The clean clip is scored first: one that the model misclassifies from the outset costs one query. Single-label: a
    clip's first point that reaches the goal is returned. Multi-label: all clips are searched to the end, and each
    clip's point of highest loss is returned. The first restart begins at `victim.start`, or at that point moved out
    to the region's edge, where its loss is higher than the random start's.

    Args:
        config: says what each of its fields does; queries count all of the above.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2"})

    def __init__(self, config: SquareConfig) -> None:
        self.config = config

    def passes(self, occasion: Occasion) -> Passes:
        """The queries of each restart."""
        return passes_of_search(occasion, self.config.restarts * self.config.queries)

    @torch.no_grad()
    def __call__(self, victim: BoundVictim) -> AttackResult:
        """Attack the clips of `victim`; see the class."""
        config = self.config
        keeper = BestPoint(victim, LOSSES[config.loss])
        keeper.score(victim.clean)
        keeper.settle()
        for restart in range(config.restarts):
            if len(keeper.victim):
                _Search(keeper, restart).run(config.queries - (restart == 0), config.p_init)
        return keeper.result()


class _Search:
    """One restart.

    Args:
        keeper: holds the clips that go on.
        restart: its number.
    """

    def __init__(self, keeper: BestPoint, restart: int) -> None:
        self._keeper = keeper
        self._proposals = proposals_for(keeper.victim)
        self._first = restart == 0
        self._draws = keeper.victim.draws(f"square/{restart}")
        self._drawn = self._draws.uniform(0)

    def run(self, queries: int, p_init: float) -> None:
        """Spend at most so many queries on each clip that goes on."""
        keeper = self._keeper
        keeper.begin()
        points = self._starts()[:queries]
        for point in points:
            keeper.score(point)
        self._settle()
        steps = queries - len(points)
        numbers = [p.numbers for p in self._proposals.values()]
        for step in range(steps):
            if not len(keeper.victim):
                return
            row = step % DRAWN_AT_ONCE
            if row == 0:
                self._drawn = self._draws.uniform(min(DRAWN_AT_ONCE, steps - step), sum(numbers))
            uniform = dict(zip(self._proposals, torch.split(self._drawn[:, row], numbers, dim=1), strict=True))
            keeper.score(self._next(step, share_at(p_init, step, steps), uniform))
            self._settle(later=step + 1 < steps)

    def _starts(self) -> list[dict[str, Tensor]]:
        victim = self._keeper.victim
        numbers = [p.start_numbers for p in self._proposals.values()]
        parts = torch.split(self._draws.uniform(sum(numbers)), numbers, dim=1)
        drawn = {
            name: proposals.start(victim.balls[name], part)
            for (name, proposals), part in zip(self._proposals.items(), parts, strict=True)
        }
        points = [victim.region.project(drawn)]
        if self._first and victim.start is not None:
            edge = victim.region.stretched(victim.start, torch.ones(len(victim), device=victim.device))
            points += [victim.region.project(victim.start), victim.region.project(edge)]
        return points

    def _next(self, step: int, share: float, uniform: Inputs) -> dict[str, Tensor]:
        """The best points with one block of one modality changed; `uniform` are the modalities' random numbers."""
        victim, x = self._keeper.victim, self._keeper.best
        names = tuple(self._proposals)
        name = names[step % len(names)]
        sharing = next(group for group in victim.region.groups if name in group)
        giver = sharing[step // len(names) % len(sharing)]
        if giver != name:
            given = self._proposals[giver].release(x[giver], victim.balls[giver], share, uniform[giver])
            x = {**x, giver: given}
        squares = [relative(x[other], victim.balls[other]).square() for other in sharing if other != name]
        spent = torch.stack([each.flatten(1).sum(dim=1) for each in squares]).sum(dim=0) if squares else None
        others = Others(spent, given=giver != name)
        changed = self._proposals[name].change(x[name], victim.balls[name], share, uniform[name], others)
        return victim.region.replaced(x, name, changed)

    def _settle(self, *, later: bool = False) -> None:
        kept = self._keeper.settle(later=later)
        if kept is not None:
            self._draws = self._draws.select(kept)
            self._drawn = self._drawn[kept]
            self._proposals = proposals_for(self._keeper.victim)


def share_at(p_init: float, step: int, steps: int) -> float:
    """The share of the samples that a block covers at a step: the published schedule, stretched to `steps`."""
    return p_init * 0.5 ** sum(step * SCHEDULED > limit * steps for limit in HALVINGS)
