"""The end of a search for the smallest perturbation: a try at the edge, and the successes shrunk by bisection."""

import torch
from torch import Tensor

from avrobust_attacks.minimal.search import SLACK, SmallestSuccess
from avrobust_attacks.minimal.steps import TINY
from avrobust_core import Inputs, select_inputs, where_clips


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
