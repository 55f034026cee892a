"""The end of a search for the smallest perturbation: a try at the edge, a trim of its successes, a last look at them.

Of a model with randomness of its own, the smallest success of many looks is the luckiest of them, not the typical one,
and to bisect on would make it worse: there it is made longer until it is sure, or a climb at the edge stands for it.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from avrobust_attacks.minimal.looks import LOOKS, surely
from avrobust_attacks.minimal.search import SLACK, SmallestSuccess
from avrobust_attacks.minimal.steps import TINY, averaged, cosine, onto
from avrobust_core import AttackResult, BoundVictim, Inputs, Occasion, Passes, select_inputs, where_clips

STEPS_BACK = (1.0, 1.02, 1.1, 1.25, 1.5)
"""Factors by which a success is made longer, one after the other, where a last look finds it none."""

LONGER = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
"""Factors by which the smallest success is made longer, one after the other, until it is sure."""

EDGE_STEPS = 10
"""Gradients of the climb at the edge, of clips of which no success is sure."""

EDGE_MOMENTUM = 0.5
"""Share of the running mean of gradients that each of its steps keeps: it averages over the model's randomness."""

FIRST_LENGTH, LAST_LENGTH = 1.0, 0.02
"""Lengths of its steps, as shares of the radius."""

Confirm = Callable[[BoundVictim, Inputs], Tensor]
"""From some clips and their points to those that are a success, (b,) bool."""


def try_edge(search: SmallestSuccess, positions: Tensor, gradients: Inputs) -> None:
    """Score the edge of the region where no success is known: so few steps are no weaker than one over the radius.

    Args:
        search: keeps what it finds.
        positions: (b,) int64, among all clips.
        gradients: of those clips at the clean ones, by modality.
    """
    lost = (~search.size[positions].isfinite()).nonzero().squeeze(1)
    if not len(lost):
        return
    search.work_on(positions[lost])
    steepest = search.region.step(search.region.clean, select_inputs(gradients, lost), 1.0)
    search.score(search.region.project(steepest), 1.0)


def trim(search: SmallestSuccess, rounds: int) -> None:
    """Shrink the successes: bisect over the size at which the region cuts them off.

    First every modality of a separate region is stretched to the largest share that any has: that costs no size,
    and leaves more to be cut; where the goal is lost so, the point is taken as it was.

    For l2 the cut is the segment to the clean clip; linf, l1 and l0 keep more of what counts than the segment
    does. Each round tries where the distance, taken as linear in between, is 0, but at least a tenth of the
    bracket from either end.
    """
    if rounds:
        search.work_on(((search.size > 0) & search.size.isfinite()).nonzero().squeeze(1))
    if not rounds or not len(search.victim):
        return
    start, high = search.best_or(search.positions, search.victim.clean), search.size[search.positions]
    filled = search.region.levelled(start, high)
    scored, plain = search.probe(filled), search.probe(start)
    kept = scored.reached & (scored.size <= high * (1 + SLACK))
    start = where_clips(kept, filled, start)
    low = torch.zeros_like(high)
    above = search.clean_distance[search.positions].clamp(min=TINY)
    below = torch.where(kept, scored.distance, plain.distance).clamp(max=-TINY)
    for _ in range(rounds):
        share = (above / (above - below).clamp(min=TINY)).double().clamp(0.1, 0.9)
        tried = low + (high - low) * share
        scored = search.probe(search.region.within(start, tried))
        reached = scored.reached
        # A side that stays twice is given half its weight (Illinois), or the other one would never move.
        above, below = (
            torch.where(reached, above / 2, scored.distance),
            torch.where(reached, scored.distance, below / 2),
        )
        low, high = torch.where(reached, low, tried), torch.where(reached, tried, high)


def smallest_result(search: SmallestSuccess) -> AttackResult:
    """The smallest successes, projected into the region and scored once more; else the clean clips.

    Where that last look fails by a rounding, the perturbation is made longer, a little at a time.
    """

    def again(victim: BoundVictim, x: Inputs) -> Tensor:
        return victim.fooled(victim.confirm(x)) & (victim.region.size(x) <= 1)

    last, success = _lengthened(search, STEPS_BACK, again)
    return AttackResult(inputs=where_clips(success, last, search.whole.clean), success=success, last=last)


def sure_result(search: SmallestSuccess, attacked: Tensor) -> AttackResult:
    """The smallest success of each clip, made longer until it is sure; else where a climb at the region's edge ends.

    Of the latter, success is what one look says. All are returned as they are, for the core to look at afresh.

    Args:
        search: at its end.
        attacked: (b,) int64, the positions of those that the search did not find done at its beginning.
    """
    worth = (search.size == 0).index_fill_(0, attacked, True)
    last, sure = _lengthened(search, LONGER, lambda victim, x: surely(victim, x, victim.region.size(x) <= 1))
    left = (worth & ~sure).nonzero().squeeze(1)
    if len(left):
        end = _climbed(search, left, select_inputs(last, left))
        for name, x in last.items():
            x.index_copy_(0, left, end[name])
        chosen = search.whole.select(left)
        sure[left] = chosen.fooled(chosen.confirm(end))
    return AttackResult(inputs=last, success=sure, last=last)


def passes_at_the_end(occasion: Occasion, rounds: int) -> Passes:
    """What the end of a search takes of each clip at most, and at its beginning the looks that tell what is done.

    Args:
        occasion: what else decides it.
        rounds: of the trim.
    """
    if occasion.repeatable:
        edge = 1 if occasion.exact else 2
        return Passes(edge + (rounds + 2 if rounds else 0) + len(STEPS_BACK), exact=False)
    return Passes(LOOKS + len(LONGER) * LOOKS + 2 * EDGE_STEPS + 1, EDGE_STEPS, exact=False)


def _lengthened(
    search: SmallestSuccess, factors: Sequence[float], confirms: Confirm
) -> tuple[dict[str, Tensor], Tensor]:
    """The smallest successes, each made longer by one factor after the other until it `confirms`: (B,) bool."""
    search.examine()
    victim = search.whole
    last = victim.region.project(search.best)
    success = torch.zeros_like(search.size, dtype=torch.bool)
    asked = search.size.isfinite().nonzero().squeeze(1)
    for factor in factors:
        if not len(asked):
            break
        chosen = victim.select(asked)
        x = select_inputs(search.best, asked)
        if factor > 1:
            x = onto(chosen.region, x, (search.size[asked] * factor).clamp(max=1))
        x = chosen.region.project(x)
        found = confirms(chosen, x)
        for name, into in last.items():
            into.index_copy_(0, asked, x[name])
        success[asked] = found
        asked = asked[~found]
    return last, success


def _climbed(search: SmallestSuccess, positions: Tensor, x: Inputs) -> dict[str, Tensor]:
    """From the edge of the region beyond `x` (b, ...), the end of a climb: chosen by no look."""
    search.work_on(positions)
    region = search.region
    at = region.project(onto(region, x, torch.ones_like(region.size(x))))
    direction: dict[str, Tensor] = {}
    for step in range(EDGE_STEPS):
        share = step / EDGE_STEPS
        _, gradients = search.climb(at, share)
        direction = averaged(direction, gradients, region.gain(gradients), EDGE_MOMENTUM)
        at = region.project(region.step(at, direction, cosine(FIRST_LENGTH, LAST_LENGTH, share)))
    return at
