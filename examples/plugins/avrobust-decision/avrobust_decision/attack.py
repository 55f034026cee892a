"""HopSkipJump over several modalities: from labels alone to the smallest change that reaches the goal."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from avrobust_core import (
    Attack,
    AttackResult,
    AvrobustError,
    BoundVictim,
    ClipDraws,
    Inputs,
    Occasion,
    Passes,
    per_clip,
    select_inputs,
    where_clips,
)
from avrobust_decision.configs import HopSkipJumpConfig
from avrobust_decision.search import Search

START_SIZES = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0)
"""How far out the random points lie that a search begins with, in radii of the threat: each is tried `TRIES` times,
then all are once more, one by one."""

TRIES = 4

HALVINGS = 8
"""Lengths of a step that are tried, each half the one before."""

FIRST_LOOKS = 10
"""Bisections beside those of every round, of the first point, which may be a thousand times too far out."""

LONGER = (1.0, 1.001, 1.01, 1.05)
"""Factors by which a result is made longer where rounding has cost it the goal."""


MEMORY = 0.5
"""Share of the last round's normal that the next one adds to its own: the boundary turns little between two rounds, and
in linf, where every sample's sign counts, errors at one point are made up for at the next."""

TINY = 1e-30
"""Below this a variance is taken to be 0."""


class HopSkipJump(Attack):
    """HopSkipJump (Chen, Jordan and Wainwright 2020, algorithm 2), all attacked modalities moved at once.

    A point beyond the boundary is drawn back to it by bisection; labels of points around it tell the boundary's
    normal (their eq. 16, with the mean label for a baseline); a step along it, shorter and shorter until the label
    allows it, leads to the next. Distances are the region's: a modality counts in its own budget, in linf or l2, so
    that what is made small is the factor by which all budgets together must be scaled (`victim.region.size`).

    Differences from the paper: the points around the boundary are `probe` of the perturbation away, whatever the
    number of samples, since float32 does not tell apart what a video's would be; they stay within the media's bounds;
    the smallest point ever asked about is kept; each round's normal keeps a share of the one before (`MEMORY`).

    It asks for labels alone, at most `queries` of each clip, and takes no notice of a warm start.

    Args:
        config: says what each of its fields does.
    """

    norms = frozenset({"linf", "l2"})
    minimal = True
    access = "labels"

    def __init__(self, config: HopSkipJumpConfig) -> None:
        self.config = config

    def passes(self, occasion: Occasion) -> Passes:
        """At most `queries`."""
        return Passes(self.config.queries, exact=False)

    @torch.no_grad()
    def __call__(self, victim: BoundVictim) -> AttackResult:
        """Attack the clips of `victim`; those of which no point inside the region reaches the goal are returned clean.

        Raises:
            AvrobustError: if the model has randomness of its own, so that labels at the boundary are a toss of a coin.
        """
        if not victim.repeatable:
            raise AvrobustError(
                "hop-skip-jump finds the boundary by labels, and those of a model with randomness of its own (samples "
                "above 1) differ from look to look: attack the model without the randomness, or by its logits"
            )
        search = Search(victim)
        everyone = torch.arange(len(victim))
        search.ask(everyone, victim, victim.clean)
        self._start(search)
        looks = self._looks(victim)
        clips = search.known
        if len(clips):
            search.bisect(clips, select_inputs(search.best, clips.to(victim.device)), looks + FIRST_LOOKS)
            normal: dict[str, Tensor] = {}
            for number, probes in enumerate(self._rounds(victim, looks), start=1):
                search.bisect(clips, self._hop(search, clips, normal, number, probes), looks)
        inputs, success = search.within_reach(LONGER)
        last = victim.region.project(search.best)
        return AttackResult(inputs, success, last=where_clips(success, inputs, last))

    def _looks(self, victim: BoundVictim) -> int:
        """Bisections until the boundary is nearer than half the probes' mean way along its normal."""
        samples = sum(x[0].numel() for x in victim.clean.values())
        return math.ceil(math.log2(2 * math.sqrt(samples) / self.config.probe))

    @property
    def _starts(self) -> int:
        """Random points that may be tried of each clip: half the queries at most."""
        return min(self.config.starts, self.config.queries // 2)

    def _rounds(self, victim: BoundVictim, looks: int) -> Iterator[int]:
        """Probes of each round, as many rounds as the queries are enough for."""
        left = self.config.queries - (1 + self._starts + looks + FIRST_LOOKS + len(LONGER))
        number = 1
        while True:
            probes = min(int(self.config.first_probes * math.sqrt(number)), left - HALVINGS - looks)
            if probes < self.config.first_probes / 2:
                return
            yield probes
            left -= probes + HALVINGS + looks
            number += 1

    def _start(self, search: Search) -> None:
        """Random points, further and further from the clip, until one of them reaches the goal."""
        sizes = [size for size in START_SIZES for _ in range(TRIES)]
        for number in range(self._starts):
            clips = (~search.size.isfinite()).nonzero().squeeze(1).cpu()
            if not len(clips):
                return
            part = search.victim.select(clips)
            size = sizes[number] if number < len(sizes) else START_SIZES[number % len(START_SIZES)]
            far = {
                name: x + (size * (noise - x))
                for (name, x), noise in zip(part.clean.items(), _filled(part, f"start/{number}"), strict=True)
            }
            reach = torch.full((len(clips),), size, dtype=torch.float64, device=part.device)
            search.ask(clips, part, part.region.within(far, reach))

    def _hop(
        self, search: Search, clips: Tensor, kept: dict[str, Tensor], number: int, probes: int
    ) -> dict[str, Tensor]:
        """One round: from the best points a step along the normal of the boundary, as long as the label allows.

        Args:
            search: keeps the best points.
            clips: (b,) int64 on the CPU.
            kept: the normal of earlier rounds, by modality; this one's is written into it.
            number: of the round, from 1.
            probes: points by which the normal is estimated.

        Returns:
            By attacked modality, (b, ...): where it leads, further out than it began; the best points where it fails.
        """
        there = clips.to(search.size.device)
        part = search.victim.select(clips)
        at, size = select_inputs(search.best, there), search.size[there]
        fresh = self._normal(search, clips, part, at, number, probes)
        for name, each in fresh.items():
            kept[name] = each + MEMORY * kept[name] if name in kept else each
        length = size / math.sqrt(number)
        found = {name: x.clone() for name, x in at.items()}
        left = torch.arange(len(clips))
        for _ in range(HALVINGS):
            if not len(left):
                break
            some = left.to(there.device)
            walking = part.select(left)
            x = walking.region.step(select_inputs(at, some), select_inputs(kept, some), length[some])
            x = walking.region.within(x, size[some] + length[some])
            reached = search.ask(clips[left], walking, x)
            for name, into in found.items():
                into[some[reached]] = x[name][reached]
            length = length / 2
            left = left[~reached.cpu()]
        return found

    def _normal(
        self, search: Search, clips: Tensor, part: BoundVictim, at: Inputs, number: int, probes: int
    ) -> dict[str, Tensor]:
        """The direction in which labels reach the goal, as points around `at` (b, ...) tell it: by modality, (b, ...).

        The mean of the points' offsets, those that reach the goal against those that do not, each sample divided by its
        variance: so it is a gradient, and modalities of different units can be compared.
        """
        draws = {name: part.draws(f"probe/{number}/{name}") for name in at}
        size = search.size[clips.to(search.size.device)]
        away = {name: per_clip((self.config.probe * size).to(x.dtype), x) for name, x in at.items()}
        totals = {name: torch.zeros_like(x) for name, x in at.items()}
        signed = {name: torch.zeros_like(x) for name, x in at.items()}
        squares = {name: torch.zeros_like(x) for name, x in at.items()}
        reaching = torch.zeros_like(size)
        for first in range(0, probes, self.config.together):
            count = min(self.config.together, probes - first)
            several = part if count == 1 else search.victim.select(clips.repeat(count))
            points = {}
            for name, x in at.items():
                ball = several.balls[name]
                offset = ball.filled(_noise(draws[name], count, x)) - ball.center
                offset *= away[name].repeat(count, *[1] * (x.dim() - 1))
                points[name] = offset.add_(x.repeat(count, *[1] * (x.dim() - 1))).clamp_(*ball.limits)
            reached = search.ask(clips.repeat(count), several, points).view(count, len(clips))
            reaching += reached.sum(dim=0)
            for name, x in at.items():
                offsets = points[name].view(count, *x.shape) - x
                sign = (2.0 * reached - 1).to(x.dtype).view(count, len(clips), *[1] * (x.dim() - 1))
                totals[name] += offsets.sum(dim=0)
                signed[name] += (sign * offsets).sum(dim=0)
                squares[name] += offsets.square().sum(dim=0)
        mean = 2 * reaching / probes - 1
        mean = torch.where(mean.abs() == 1, 0, mean)  # where all agree there is no baseline
        found = {}
        for name, x in at.items():
            variance = squares[name].flatten(1).sum(dim=1) / (squares[name] != 0).flatten(1).sum(dim=1).clamp(min=1)
            offset = signed[name] - per_clip(mean.to(x.dtype), x) * totals[name]
            # Times the points' distance, so that rounds far out and near count alike.
            scale = torch.where(variance > 0, self.config.probe * size / variance.clamp(min=TINY), 0)
            found[name] = offset * per_clip(scale.to(x.dtype), x)
        return found


def _noise(draws: ClipDraws, count: int, like: Tensor) -> Tensor:
    """Normal noise for so many points of each clip, those of the first point of every clip first: (count * b, ...).

    Drawn in whole words, four samples each, so that the points are the same however many are drawn together.
    """
    samples = like[0].numel()
    drawn = draws.noise((count, -(-samples // 4) * 4), "gaussian")[:, :, :samples]
    return drawn.transpose(0, 1).reshape(count * len(like), *like.shape[1:])


def _filled(part: BoundVictim, purpose: str) -> Iterator[Tensor]:
    """Normal noise about each clip that fills its ball: of each modality, (b, ...)."""
    for name, ball in part.balls.items():
        yield ball.filled(part.draws(f"{purpose}/{name}").noise(ball.center.shape[1:], "gaussian"))
