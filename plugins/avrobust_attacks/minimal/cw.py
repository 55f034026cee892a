"""Carlini and Wagner's attack: the smallest l2 perturbation, or linf, by penalties and Adam."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from avrobust_attacks.minimal.search import (
    TINY,
    Search,
    cosine,
    leaves_of,
    nearest_boundary,
    per_clip,
    sharpness,
    softened,
)
from avrobust_attacks.minimal.tanh import Variable
from avrobust_core import Attack, AttackResult, BoundVictim

FIRST_MOMENT, SECOND_MOMENT = 0.9, 0.99
HEADROOM = 1.5
"""The first constant over the one that the linearised model asks for: at just that one, Adam would creep."""


class CW(Attack):
    norms: ClassVar[frozenset[str]] = frozenset({"l2", "linf"})
    minimal = True

    def __init__(self, *, searches: int, steps: int, learning_rate: float, patience: int, classes: int, trim: int) -> None:
        self.searches = searches
        self.steps = steps
        self.learning_rate = learning_rate
        self.patience = patience
        self.classes = classes
        self.trim = trim

    @torch.no_grad()
    def __call__(self, victim: BoundVictim) -> AttackResult:
        search = Search(victim)
        if len(search.victim):
            self._search(search)
            search.trim(self.trim)
        return search.result()

    def _search(self, search: Search) -> None:
        region = search.region
        estimate = nearest_boundary(search, self.classes)
        unit = estimate.size.clamp(max=1)
        x = region.within(region.step(region.clean, estimate.gradients, unit), unit)
        consts = Constants.unknown(unit)
        everyone = search.positions
        for number in range(self.searches):
            x = self._descend(search, x, consts, number)
            search.work_on(everyone)


    def _descend(self, search, x, consts, number):
        region = search.region
        variables = {n: Variable(b) for n, b in region.balls.items()}
        w = {n: v.of(x[n]) for n, v in variables.items()}
        first = {n: torch.zeros_like(v) for n, v in w.items()}
        second = torch.zeros_like(consts.unit)
        ref = consts.unit
        radius = {n: b.radius for n, b in region.balls.items()}
        names = list(w)
        gains_ema = None
        corr = torch.ones(len(names), len(ref), dtype=torch.float64)
        reached_any = torch.zeros_like(ref, dtype=torch.bool)
        c = None
        for step in range(self.steps):
            share = (number * self.steps + step) / (self.steps * self.searches)
            x = {n: variables[n].value(w[n]) for n in names}
            leaves = leaves_of(x)
            with torch.enable_grad():
                conf = region.confine(leaves)
                logits, scored = search.score_logits(conf)
                soft = softened(logits, search.victim.goal, sharpness(search, share))
            g = search.downhill(soft, leaves)
            reached_any |= scored.reached
            gains = torch.stack([region.balls[n].gain(g[n]).double() for n in names])
            total = region.gain(g).double().clamp(min=TINY)
            if c is None:
                c = HEADROOM * 2 * scored.size.clamp(max=4*ref) / (ref.square() * total)
                if number:
                    inside = (c > consts.low) & (c < consts.high)
                    mid = torch.where(consts.high.isfinite(), (consts.low * consts.high).sqrt().maximum(consts.high/10), consts.low * 4)
                    c = torch.where(inside, c, mid)
            if region.kind == 'separate':
                gn = gains / total
                gains_ema = gn if gains_ema is None else .9 * gains_ema + .1 * gn
                shares = torch.stack([b.measure(x[n]) / b.radius for n, b in region.balls.items()])
                corr = (corr * (shares.clamp(min=1e-12) / shares.mean(0).clamp(min=1e-12)).clamp(.1, 10) ** .1).clamp(1e-3, 1e3)
                a = gains_ema * corr
                a = a / a.sum(0).clamp(min=TINY)
            else:
                a = torch.ones_like(gains)
            grads = {}
            sq = 0
            for i, n in enumerate(names):
                d = x[n] - region.balls[n].center
                k = (2 * a[i] / (radius[n] * ref).square()).to(d.dtype)
                push = (c * ~scored.reached).to(d.dtype)
                grads[n] = (per_clip(k, d) * d - per_clip(push, d) * g[n]) * variables[n].slope(w[n])
                sq = sq + (grads[n].flatten(1).double().norm(dim=1) * radius[n]).square()
            second = SECOND_MOMENT * second + (1 - SECOND_MOMENT) * sq
            vhat = (second / (1 - SECOND_MOMENT ** (step + 1))).sqrt().clamp(min=1e-300)
            best = search.size[search.positions]
            t = torch.where(best.isfinite(), best, scored.size.maximum(ref))
            lr = cosine(self.learning_rate, self.learning_rate * .02, share)
            for n in names:
                first[n] = FIRST_MOMENT * first[n] + (1 - FIRST_MOMENT) * grads[n]
                f = lr * t * radius[n].square() / vhat / (1 - FIRST_MOMENT ** (step + 1))
                w[n] = variables[n].moved(w[n], -per_clip(f.to(first[n].dtype), first[n]) * first[n])
        x = {n: variables[n].value(w[n]) for n in names}
        search.score(x)
        consts.high = torch.where(reached_any, torch.minimum(consts.high, c), consts.high)
        consts.low = torch.where(reached_any, consts.low, torch.maximum(consts.low, c))
        best, size = search.found()
        return {n: torch.where(per_clip(size.isfinite(), x[n]), best[n], x[n]) for n in names}


@dataclass
class Constants:
    unit: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def unknown(cls, unit):
        return cls(unit, torch.zeros_like(unit), torch.full_like(unit, torch.inf))
