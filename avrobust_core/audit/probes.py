"""The audit's own attacks, on every norm and kind of threat: a random corner, a climb of few steps, a random search."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from avrobust_core.attacks.bound import BoundVictim
from avrobust_core.attacks.gradients import joint_gradient, not_finite
from avrobust_core.audit.exact import opened, rise
from avrobust_core.clip_draws import ClipDraws
from avrobust_core.data.batches import select_inputs
from avrobust_core.threats.clips import per_clip, where_clips

Ask = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
"""From positions (b,) among the clips and their inputs by attacked modality (b, ...) to logits (b, K)."""

FIRST_LENGTH, LAST_LENGTH = 1.5, 0.02
"""The lengths of a climb's steps, in radii: the first reaches from half a radius off to the opposite edge."""

FIRST_SHARE, LAST_SHARE = 0.5, 0.02
"""The shares of a clip's samples that a search changes at once, at its beginning and at its end."""


@dataclass(slots=True)
class Climbed:
    """The findings of a climb for each clip.

    Attributes:
        single: (n,) bool: broken after the first step.
        broken: (n,) bool: broken at any iterate after the start.
        zero: by modality, (n,) bool: the gradient at the start was zero throughout.
        finite: (n,) bool: loss and gradient at the start were finite.
        start: by modality, (n, ...): where it began.
        gradients: by modality, (n, ...): of the loss there.
        points: by modality, (n, ...): where it ended, or broke the clip.
    """

    single: Tensor
    broken: Tensor
    zero: dict[str, Tensor]
    finite: Tensor
    start: dict[str, Tensor]
    gradients: dict[str, Tensor] = field(default_factory=dict)
    points: dict[str, Tensor] = field(default_factory=dict)


def climb(bound: BoundVictim, start: dict[str, Tensor], lengths: Sequence[float], ask: Ask | None = None) -> Climbed:
    """Climb the log-odds against each clip's classes by projected steepest ascent; clips that are broken rest.

    Args:
        bound: the clips, with an untargeted goal.
        start: by modality, (n, ...), inside the region.
        lengths: of the steps, in radii.
        ask: the model, if not as it is bound; n forward and n backward passes for each step, and n forward passes at
            the end.
    """
    ask = ask or asker(bound)
    none = torch.zeros(len(bound), dtype=torch.bool, device=bound.device)
    found = Climbed(none.clone(), none.clone(), {name: none.clone() for name in start}, ~none, start)
    found.points = {name: x.clone() for name, x in start.items()}
    alive = torch.arange(len(bound), device=bound.device)
    x = start
    for number, length in enumerate([*lengths, None]):
        if not len(alive):
            break
        goal = bound.goal.select(alive)
        leaves = {name: each.detach().requires_grad_(length is not None) for name, each in x.items()}
        with torch.set_grad_enabled(length is not None):
            logits = ask(alive, leaves)
            loss = rise(opened(logits), goal)
        done = goal.reached(logits.detach()) if number else none
        if number == 1:
            found.single[alive] = done
        found.broken[alive] |= done
        if length is None:
            break
        # Where the model's outputs hang on none of them, there is no gradient to ask for.
        gradients = (
            joint_gradient(loss, leaves)
            if loss.requires_grad
            else {name: torch.zeros_like(x) for name, x in leaves.items()}
        )
        if number == 0:
            found.gradients = gradients
            found.zero = {name: ~g.flatten(1).any(dim=1) for name, g in gradients.items()}
            found.finite = loss.detach().isfinite() & ~not_finite(gradients.values())
        moving = torch.stack([g.flatten(1).any(dim=1) for g in gradients.values()]).any(dim=0)
        kept = (~done & moving).nonzero().squeeze(1)
        alive = alive[kept]
        here = {name: each.detach()[kept] for name, each in leaves.items()}
        directions = {name: _scaled(g[kept], here[name]) for name, g in gradients.items()}
        inner = bound.region.select(alive)
        x = inner.project(inner.step(here, directions, length))
        for name, each in x.items():
            found.points[name][alive] = each
    return found


def asker(bound: BoundVictim) -> Ask:
    """The model as a probe asks it: some of the clips of a bound victim."""

    def ask(alive: Tensor, x: Mapping[str, Tensor]) -> Tensor:
        return (bound if len(alive) == len(bound) else bound.select(alive))(x)

    return ask


def falling(steps: int) -> list[float]:
    """Step lengths of a climb, in radii, that fall geometrically."""
    fall = (LAST_LENGTH / FIRST_LENGTH) ** (1 / max(steps - 1, 1))
    return [FIRST_LENGTH * fall**step for step in range(steps)]


def halfway(bound: BoundVictim) -> dict[str, Tensor]:
    """A point halfway between each clean clip and a random point of the region: ties of a model are broken there."""
    drawn = bound.sample("audit/start")
    middle = {name: clean + (drawn[name] - clean) / 2 for name, clean in bound.clean.items()}
    return bound.region.project(middle)


def corner(bound: BoundVictim, purpose: str, only: str | None = None) -> dict[str, Tensor]:
    """A random point at the region's edge: a step of one radius in a random direction, of one modality or of all."""
    directions = {
        name: direction(bound, f"{purpose}/{name}", x) if only in (None, name) else torch.zeros_like(x)
        for name, x in bound.clean.items()
    }
    return bound.region.project(bound.region.step(bound.clean, directions, 1.0))


def direction(bound: BoundVictim, purpose: str, like: Tensor) -> Tensor:
    """Normal random numbers, none of them 0, of the shape of clips (n, ...)."""
    return bound.draws(purpose).noise(like.shape[1:], "gaussian")


@torch.no_grad()
def search(bound: BoundVictim, queries: int) -> Tensor:
    """A random search that asks for outputs alone, and moves whole blocks as far as the radius allows: (n,) bool.

    It needs no gradient and sees no step smaller than the radius, so that neither rounding nor a flat loss hides
    anything from it. After Andriushchenko et al. (ECCV 2020, arXiv 1912.00049), on any region.

    Args:
        bound: the clips.
        queries: forward passes for each, at most.
    """
    count = len(bound)
    broken = torch.zeros(count, dtype=torch.bool, device=bound.device)
    alive = torch.arange(count, device=bound.device)
    best, highest = dict(bound.clean), torch.full((count,), -torch.inf, device=bound.device)
    draws = bound.draws("audit/search")
    names = list(bound.balls)
    part = bound
    for query in range(queries):
        if not len(alive):
            break
        share = FIRST_SHARE * (LAST_SHARE / FIRST_SHARE) ** (query / max(queries - 1, 1))
        chosen, draw = ([names[query % len(names)]], partial(_block, share=share)) if query else (names, _stripes)
        directions = {
            name: draw(draws, x.shape[1:]).expand_as(x) if name in chosen else torch.zeros_like(x)
            for name, x in part.clean.items()
        }
        x = part.region.project(part.region.step(best, directions, 2.0))
        logits = part(x)
        loss = rise(opened(logits), part.goal).float()
        better = loss > highest
        highest = torch.where(better, loss, highest)
        best = where_clips(better, x, best)
        won = part.fooled(logits)
        broken[alive] |= won
        kept = (~won).nonzero().squeeze(1)
        if len(kept) < len(alive):
            alive, highest, best = alive[kept], highest[kept], select_inputs(best, kept)
            part, draws = part.select(kept), draws.select(kept)
    return broken


def _scaled(gradient: Tensor, like: Tensor) -> Tensor:
    """The gradient over its largest entry, so that what is tiny in float64 is still something in float32."""
    size = per_clip(gradient.flatten(1).abs().amax(dim=1), gradient)
    return (gradient / size.clamp(min=torch.finfo(gradient.dtype).tiny)).nan_to_num(0, 0, 0).to(like)


def _stripes(draws: ClipDraws, shape: torch.Size) -> Tensor:
    """Random signs along the last axis, of each channel: shaped to broadcast over clips of this shape, (n, ...)."""
    return _signs(draws, shape if len(shape) == 1 else (shape[0], *[1] * (len(shape) - 2), shape[-1]))


def _signs(draws: ClipDraws, shape: Sequence[int]) -> Tensor:
    return torch.where(draws.uniform(*shape) < 0.5, -1.0, 1.0)


def _block(draws: ClipDraws, shape: torch.Size, share: float) -> Tensor:
    """A block over a share of each clip, zero elsewhere: of one sign for each channel, or a wave on a single axis.

    Shaped to broadcast over clips of this shape, (n, ...).
    """
    axes = range(len(shape) > 1, len(shape))
    side = share ** (1 / len(axes))
    found = _signs(draws, [1] if len(shape) == 1 else [shape[0], *[1] * len(axes)])
    for axis, place in zip(axes, draws.uniform(len(axes)).unbind(1), strict=True):
        length = shape[axis]
        wide = max(1, round(side * length))
        first = (place * (length - wide + 1)).floor().unsqueeze(1)
        steps = torch.arange(length, device=first.device)
        along = ((first <= steps) & (steps < first + wide)).float()
        if len(axes) == 1:
            along *= _wave(draws, length)
        found = found * along.view(-1, *(length if other == axis else 1 for other in range(len(shape))))
    return found


def _wave(draws: ClipDraws, length: int) -> Tensor:
    """A square wave of random period, from two samples to the whole signal: (n, length)."""
    drawn = draws.uniform(2)
    period = 2 * (max(length, 2) / 2) ** drawn[:, :1]
    phase = torch.arange(length, device=drawn.device) / period + drawn[:, 1:]
    return torch.where(phase % 1 < 0.5, 1.0, -1.0)
