"""The beginning of the searches for the smallest perturbation: what the gradients at the clean clips tell."""

from dataclasses import dataclass

import torch
from torch import Tensor

from avrobust_attacks.minimal.search import SmallestSuccess, own_logit
from avrobust_attacks.minimal.steps import TINY
from avrobust_core import BatchGoal, leaves_of, where_clips

LEAST_START = 0.05
"""The least size at which a boundary is expected of a model with randomness of its own: some looks find it on the far
side of the clean clip."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """The nearest boundary, as the gradients at the clean clip have it.

    Attributes:
        size: (b,) float64, at which the distance would be 0 if it were linear; infinite where the gradient is 0.
        gradients: of minus the distance to that boundary, by modality.
    """

    size: Tensor
    gradients: dict[str, Tensor]


def nearest_boundary(search: SmallestSuccess, classes: int) -> Boundary:
    """The class that is nearest by the linearised model (DeepFool's first step, Moosavi-Dezfooli et al. 2016).

    The smallest margin need not be the nearest boundary. Only the `classes` with the highest logits that are not the
    clip's own are looked at. A targeted goal has one boundary.

    Args:
        search: scores the clean clips again, with a gradient.
        classes: how many other classes, each at the cost of a backward pass.
    """
    leaves = leaves_of(search.victim.clean)
    with torch.enable_grad():
        heights = [-distance for distance in _distances(search.victim(leaves), search.victim.goal, classes)]
    size = torch.full_like(search.size[search.positions], torch.inf)
    gradients: dict[str, Tensor] = {}
    for number, height in enumerate(heights):
        found = search.uphill(height, leaves, more=number + 1 < len(heights))
        gain = search.region.gain(found).double()
        reach = torch.where(gain > TINY, -height.detach().double() / gain.clamp(min=TINY), torch.inf)
        gradients = where_clips(reach < size, found, gradients or found)
        size = torch.minimum(reach, size)
    return Boundary(size if search.victim.repeatable else size.clamp(min=LEAST_START), gradients)


def leaving_gradients(search: SmallestSuccess) -> dict[str, Tensor]:
    """The gradients at the clean clips along which the own logit falls fastest; a targeted goal's rises fastest."""
    leaves = leaves_of(search.victim.clean)
    goal = search.victim.goal
    with torch.enable_grad():
        own = own_logit(search.victim(leaves), goal)
        height = own if goal.targeted else -own
    return search.uphill(height, leaves)


def _distances(logits: Tensor, goal: BatchGoal, classes: int) -> list[Tensor]:
    if goal.targeted:
        return [goal.distance(logits)]
    others = logits.masked_fill(goal.own(logits), -torch.inf)
    best = own_logit(logits, goal)
    nearest = others.detach().topk(min(classes, logits.shape[1] - 1), dim=1).indices
    distances = []
    for index in nearest.unbind(dim=1):
        chosen = index.unsqueeze(1)
        # A multi-label clip may have fewer other classes than are asked for: the last of them stands in.
        real = others.gather(1, chosen).squeeze(1).isfinite()
        chosen = torch.where(real.unsqueeze(1), chosen, nearest[:, :1])
        distances.append(best - logits.gather(1, chosen).squeeze(1))
    return distances
