"""What a minimal attack returns of a model with randomness of its own: the smallest sure success, or a try at the edge.

The smallest success of many looks is the luckiest of them, not the typical one; to bisect on would make it worse.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from avrobust_attacks.minimal.looks import surely
from avrobust_attacks.minimal.search import Search
from avrobust_attacks.minimal.steps import TINY, Momentum, cosine, leaves_of, onto
from avrobust_core import AttackResult, BoundVictim

LONGER = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
"""By what factors the smallest success is made longer, until it is sure."""

EDGE_STEPS = 10
"""Gradients of the climb at the edge, of clips of which no success is sure."""

EDGE_MOMENTUM = 0.5
"""Share of the running mean of gradients that each of its steps keeps: it averages over the model's randomness."""

FIRST_LENGTH, LAST_LENGTH = 1.0, 0.02
"""Of its steps, as shares of the radius."""


def sure_result(victim: BoundVictim, search: Search, attacked: Tensor) -> AttackResult:
    """The smallest success of each clip, made longer until it is sure; else where a climb at the region's edge ends.

    Of the latter, success is what one look says. All are returned as they are, for the core to look at afresh.

    Args:
        victim: all clips, (B,).
        search: of the same clips, at its end.
        attacked: (b,) int64, the positions of those that the search did not find done at its beginning.
    """
    last = victim.region.project(search.best)
    sure = torch.zeros_like(search.size, dtype=torch.bool)
    asked = search.size.isfinite().nonzero().squeeze(1)
    worth = (search.size == 0).index_fill_(0, attacked, True)
    for factor in LONGER:
        if not len(asked):
            break
        chosen = victim.select(asked)
        part = {name: x.index_select(0, asked) for name, x in search.best.items()}
        if factor > 1:
            part = onto(chosen.region, part, (search.size[asked].clamp(min=TINY) * factor).clamp(max=1))
        part = chosen.region.project(part)
        found = surely(chosen, part, chosen.region.size(part) <= 1)
        for name, x in last.items():
            x.index_copy_(0, asked, part[name])
        sure[asked] = found
        asked = asked[~found]
    left = (worth & ~sure).nonzero().squeeze(1)
    if len(left):
        end = _climbed(search, left, {name: x.index_select(0, left) for name, x in last.items()})
        for name, x in last.items():
            x.index_copy_(0, left, end[name])
        chosen = victim.select(left)
        sure[left] = chosen.fooled(chosen.confirm(end))
    return AttackResult(inputs=last, success=sure, last=last)


def _climbed(search: Search, positions: Tensor, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the edge of the region beyond `x` (b, ...), the end of a climb: chosen by no look."""
    search.work_on(positions)
    region = search.region
    at = region.project(onto(region, x, torch.ones_like(region.size(x))))
    momentum = Momentum(EDGE_MOMENTUM)
    for step in range(EDGE_STEPS):
        share = step / EDGE_STEPS
        leaves = leaves_of(at)
        with torch.enable_grad():
            scored = search.score(leaves, share)
        gradients = search.downhill(scored.loss, leaves)
        direction = momentum.of(gradients, region.gain(gradients))
        at = region.project(region.step(leaves, direction, cosine(FIRST_LENGTH, LAST_LENGTH, share)))
    return at
