"""Several looks at one point of a model with randomness of its own: is a success there sure, or was it lucky?"""

import torch
from torch import Tensor

from avrobust_core import BoundVictim, Inputs, select_inputs

LOOKS = 8
"""At a point of which it is to be told whether its success is sure."""

DEVIATIONS = 3.0
"""Standard deviations of one look by which a sure success is beyond the goal's boundary, in the mean of all looks:
the points tried are many, and one that 8 of 10 looks find would pass 8 of them too often."""


def found_again(victim: BoundVictim, x: Inputs, flags: Tensor) -> Tensor:
    """Those of the clips flagged that another look finds where the goal wants them: (b,) bool, as `flags`."""
    return _looked(victim, x, flags, 1)[0]


def surely(victim: BoundVictim, x: Inputs, flags: Tensor) -> Tensor:
    """Those of the clips flagged whose success is sure: every look finds it, and by far enough (`DEVIATIONS`).

    A clip that a look does not find so costs no more of them.

    Args:
        victim: the b clips.
        x: by attacked modality, (b, ...).
        flags: (b,) bool.
    """
    found, distances = _looked(victim, x, flags, LOOKS)
    if found.any():
        found[found.clone()] = distances.mean(dim=0) + DEVIATIONS * distances.std(dim=0) <= 0
    return found


def _looked(victim: BoundVictim, x: Inputs, flags: Tensor, looks: int) -> tuple[Tensor, Tensor]:
    """Those of the clips flagged that so many looks all find, (b,) bool, and their distances then, (looks, found)."""
    left = flags.nonzero().squeeze(1)
    distances = torch.empty(0, len(left), device=left.device)
    for _ in range(looks):
        if not len(left):
            break
        part = victim.select(left)
        logits = part.confirm(select_inputs(x, left))
        kept = part.fooled(logits)
        left = left[kept]
        distances = torch.cat([distances, part.goal.distance(logits).unsqueeze(0)])[:, kept]
    return torch.zeros_like(flags).index_fill_(0, left, True), distances
