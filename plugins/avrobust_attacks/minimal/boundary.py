"""Where the searches for the smallest perturbation begin: what the gradients at the clean clips tell."""

from dataclasses import dataclass

import torch
from torch import Tensor

from avrobust_attacks.minimal.search import Search
from avrobust_attacks.minimal.smooth import own_classes, own_logit
from avrobust_attacks.minimal.steps import TINY, leaves_of, per_clip
from avrobust_core import Goal

LEAST_START = 0.05
"""Of a model with randomness of its own, the least size at which a boundary is expected: some looks find it on the far
side of the clean clip."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The nearest boundary, as the gradients at the clean clip have it.

    Attributes:
        size: (b,) float64, at which the distance would be 0 if it were linear; infinite where the gradient is 0.
        gradients: of minus the distance to that boundary, by modality.
    """

    size: Tensor
    gradients: dict[str, Tensor]


def nearest_boundary(search: Search, classes: int) -> Estimate:
    """Which class is the nearest by the linearised model (DeepFool's first step, Moosavi-Dezfooli et al. 2016).

    The smallest margin need not be the nearest boundary. Only the `classes` with the highest logits that are not the
    clip's own are looked at. A targeted goal has one boundary.

    Args:
        search: scores the clean clips again, with a gradient.
        classes: how many other classes, each at the cost of a backward pass.
    """
    leaves = leaves_of(search.victim.clean)
    with torch.enable_grad():
        distances = _distances(search.victim(leaves), search.victim.goal, classes)
    size: Tensor | None = None
    gradients: dict[str, Tensor] = {}
    for number, distance in enumerate(distances):
        found = search.downhill(distance, leaves, more=number + 1 < len(distances))
        gain = search.region.gain(found).double()
        reach = torch.where(gain > TINY, distance.detach().double() / gain.clamp(min=TINY), torch.inf)
        nearer = torch.ones_like(reach, dtype=torch.bool) if size is None else reach < size
        size = reach if size is None else torch.minimum(reach, size)
        gradients = {name: torch.where(per_clip(nearer, g), g, gradients.get(name, g)) for name, g in found.items()}
    assert size is not None
    return Estimate(size if search.victim.repeatable else size.clamp(min=LEAST_START), gradients)


def leaving_gradients(search: Search) -> dict[str, Tensor]:
    """The gradients at the clean clips along which the own logit falls fastest; a targeted goal's rises fastest."""
    leaves = leaves_of(search.victim.clean)
    goal = search.victim.goal
    with torch.enable_grad():
        own = own_logit(search.victim(leaves), goal)
        loss = -own if goal.targeted else own
    return search.downhill(loss, leaves)


def _distances(logits: Tensor, goal: Goal, classes: int) -> list[Tensor]:
    if goal.targeted:
        return [goal.distance(logits)]
    own = own_classes(goal, logits)
    others = logits.masked_fill(own, -torch.inf)
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
