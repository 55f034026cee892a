"""The exact fall of a linear function inside a ball cut by bounds: for every norm, in float64."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

BISECTIONS = 60
"""Halvings of the search for a smallest size: as many as float64 can tell apart."""

LARGEST_SIZE = 1e12
"""Beyond this size a fall is taken to be out of reach."""


def fall_linf(slope: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """Every sample moves as far as radius and bounds let it."""
    return (slope * torch.minimum(room, radius.unsqueeze(1))).sum(dim=1)


def fall_l2(slope: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """Every sample moves by t times its slope, or to its bound; t such that the length is the radius (water-filling).

    With the samples in the order in which a rising t brings them to their bounds, the length at each such event is a
    running sum; the last event inside the radius says which samples are at their bounds, and the rest is one division.
    """
    event = torch.where(slope > 0, room / slope, torch.inf)
    event, order = event.sort(dim=1)
    slope, room = slope.gather(1, order), room.gather(1, order)
    spent = torch.where(event < torch.inf, room, 0).square().cumsum(dim=1)
    fallen = torch.where(event < torch.inf, room * slope, 0).cumsum(dim=1)
    left = slope.square().flip(1).cumsum(dim=1).flip(1)  # of this sample and all after it
    after = torch.cat((left[:, 1:], torch.zeros_like(left[:, :1])), dim=1)
    length = torch.where(event < torch.inf, spent + event.square().nan_to_num(posinf=0) * after, torch.inf)
    passed = (length <= radius.square().unsqueeze(1)).sum(dim=1, keepdim=True)
    zero = torch.zeros_like(spent[:, :1])
    spent = torch.cat((zero, spent), dim=1).gather(1, passed).squeeze(1)
    fallen = torch.cat((zero, fallen), dim=1).gather(1, passed).squeeze(1)
    free = torch.cat((left, zero), dim=1).gather(1, passed).squeeze(1)
    return fallen + ((radius.square() - spent).clamp(min=0) * free).sqrt()


def fall_l1(slope: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """The steepest samples move to their bounds one after the other, until the radius is spent."""
    slope, order = slope.sort(dim=1, descending=True)
    room = room.gather(1, order)
    before = torch.cat((torch.zeros_like(room[:, :1]), room.cumsum(dim=1)[:, :-1]), dim=1)
    return (slope * torch.minimum(room, (radius.unsqueeze(1) - before).clamp(min=0))).sum(dim=1)


def fall_l0(slope: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """The samples worth most move to their bounds, as many as the radius counts."""
    worth = torch.where(slope > 0, slope * room, 0).sort(dim=1, descending=True).values
    chosen = torch.arange(worth.shape[1], device=worth.device) < radius.floor().unsqueeze(1)
    return torch.where(chosen, worth, 0).sum(dim=1)


FALLS: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = MappingProxyType(
    {"linf": fall_linf, "l2": fall_l2, "l1": fall_l1, "l0": fall_l0}
)
"""The largest fall (B,) by norm, of slopes (B, n), not negative; how far each sample may move downhill (B, n), infinite
for no bound; and radii (B,): all float64."""


def smallest_size(fall: Callable[[Tensor], Tensor], height: Tensor) -> Tensor:
    """The smallest size at which a fall reaches a height, by bisection.

    Args:
        fall: from sizes (B,) to falls (B,), not decreasing.
        height: (B,).

    Returns:
        (B,) float64: 0 where the height is not above 0, infinite where no size reaches it.
    """
    low, high = torch.zeros_like(height), torch.ones_like(height)
    possible = fall(torch.full_like(height, LARGEST_SIZE)) >= height
    while (short := possible & (fall(high) < height)).any():
        low, high = torch.where(short, high, low), torch.where(short, high * 2, high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        enough = fall(middle) >= height
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return torch.where(height <= 0, 0, torch.where(possible, high, torch.inf))
