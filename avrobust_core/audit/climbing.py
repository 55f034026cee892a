"""A climb of the clips that attacks left, and checks of its first gradient."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core.attacks.bound import BoundVictim
from avrobust_core.audit.checks import Check, judged, not_applicable
from avrobust_core.audit.derivatives import Derivatives
from avrobust_core.audit.look import Flags, Look, note
from avrobust_core.audit.meter import Meter
from avrobust_core.audit.probes import Ask, Climbed, asker, climb, corner, falling, halfway
from avrobust_core.audit.stand_in import StraightThrough
from avrobust_core.data.batches import Batch, select_inputs
from avrobust_core.errors import ModelError
from avrobust_core.naming import first_of

FEWEST_CLIMBED, MOST_STEPS = 8, 40
"""A climb's clips where the budget allows, and its steps at most."""

GOOD_STEPS = 10
"""Steps with which a climb is about as strong as one of twice as many."""

FEWEST_STEPS = 4
"""The fewest steps of a climb with a stand-in."""

STAND_IN_SHARE = 0.7
"""The share of what the plain climb leaves, for one with a stand-in: the best probe of hidden gradients."""

FLAT_MARGIN = 17.0
"""Beyond this margin a softmax rounds to 1 in float32, and the plain cross-entropy has no gradient."""


def climb_checks(look: Look) -> Iterator[Check]:
    """Check by a climb from another start: what it breaks, and that its gradients are finite, true and not hidden.

    For a climb of s clips and k steps: s (2k + 2) passes, a random corner of the region included, and a few more for
    differences in float64 and for what seems hidden.
    """
    samples = look.case.victim.samples
    meter = look.meter.part(0.55)
    count = min(len(look.survivors), max(FEWEST_CLIMBED, meter.left // ((2 * GOOD_STEPS + 2) * samples)))
    count = max(1, min(count, meter.left // (4 * samples)))
    most = max(2 * look.standing.steps, 2 * GOOD_STEPS)
    exact = 0 if look.known.random else min(count, FEWEST_CLIMBED)
    spared = min((2 * len(look.standing.threat.modalities) + 1) * exact, int(0.3 * meter.left))
    steps = max(1, min(((meter.left - spared) // (count * samples) - 2) // 2, most, MOST_STEPS))
    found = _Climb(look, meter, steps)
    for positions in look.case.chunks(look.survivors[:count]):
        found.climb(positions, exact)
        exact -= len(positions)
    found.stand_in()
    yield from found.checks()


@dataclass(slots=True)
class _Climb:
    """A climb under one threat, and its findings by position of the clip.

    Attributes:
        look: the clips.
        meter: pays for the climb.
        steps: of the climb.
        noise: broken by a random corner of the region.
        single: broken by the first step.
        climbed: broken by the climb.
        finite: loss and gradient are finite.
        hidden: by modality: no gradient reaches it, though moving it moves the outputs.
        untrue: by modality: its gradient is not the derivative.
        flat: no modality has a gradient in float32, and one has in float64.
        reopened: of those, broken by a climb in float64.
        behind: of the hidden, broken by a climb with a stand-in for what hides the gradient.
    """

    look: Look
    meter: Meter
    steps: int
    noise: Flags = field(default_factory=dict)
    single: Flags = field(default_factory=dict)
    climbed: Flags = field(default_factory=dict)
    finite: Flags = field(default_factory=dict)
    hidden: dict[str, Flags] = field(default_factory=dict)
    untrue: dict[str, Flags] = field(default_factory=dict)
    flat: Flags = field(default_factory=dict)
    reopened: Flags = field(default_factory=dict)
    behind: Flags = field(default_factory=dict)

    def climb(self, positions: NDArray[np.int64], exact: int) -> None:
        """Climb some clips, and hold the gradients of the first `exact` of them against differences."""
        batch = self.look.case.read(self.look.case.ids(positions))
        bound = self.look.case.victim.bind(batch, self.look.standing.threat)
        with torch.no_grad():
            note(self.noise, positions, bound.fooled(bound(corner(bound, "audit/corner"))))
        climbed = climb(bound, halfway(bound), falling(self.steps))
        note(self.single, positions, climbed.single)
        note(self.climbed, positions, climbed.broken)
        note(self.finite, positions, climbed.finite)
        self._hide(positions, bound, climbed)
        self.meter.count(bound)
        if exact > 0:
            derivatives = Derivatives(bound, batch.inputs, climbed, self.look.exact)
            for name, (index, untrue) in derivatives.untrue(min(exact, len(positions)), self.meter).items():
                note(self.untrue.setdefault(name, {}), positions[index.cpu().numpy()], untrue)
        self._reopen(positions, batch, bound, climbed)

    def _hide(self, positions: NDArray[np.int64], bound: BoundVictim, climbed: Climbed) -> None:
        """Note clips whose gradient is zero in a modality, though a move of that modality moves the outputs."""
        clean = torch.from_numpy(self.look.case.clean.logits[positions]).to(bound.device)
        for name, zero in climbed.zero.items():
            hidden = torch.zeros_like(zero)
            index = zero.nonzero().squeeze(1)
            if len(index):
                part = bound.select(index)
                with torch.no_grad():
                    logits = part(corner(part, "audit/alone", only=name))
                change = (logits - clean[index]).abs().amax(dim=1)
                hidden[index] = change > 1e-5 * clean[index].abs().amax(dim=1)
            note(self.hidden.setdefault(name, {}), positions, hidden)

    def _reopen(self, positions: NDArray[np.int64], batch: Batch, bound: BoundVictim, climbed: Climbed) -> None:
        """Look in float64 for a gradient behind the saturation of clips without one, and climb it."""
        flat = torch.stack(list(climbed.zero.values())).all(dim=0)
        note(self.flat, positions, torch.zeros_like(flat))
        index = flat.nonzero().squeeze(1)[: self.meter.affords(2, len(flat))]
        if not len(index) or self.look.known.random:
            return
        inputs = select_inputs(batch.inputs, index)
        part = bound.select(index)
        steps = max(1, min(GOOD_STEPS, (self.meter.left // len(index) - 2) // 2))

        def ask(alive: Tensor, x: Mapping[str, Tensor]) -> Tensor:
            self.meter.spend(len(alive) * (2 if torch.is_grad_enabled() else 1))
            return self.look.exact.logits({**select_inputs(inputs, alive), **x}, bound.features)

        again = climb(part, select_inputs(climbed.start, index), falling(steps), ask)
        seen = ~torch.stack(list(again.zero.values())).all(dim=0)
        note(self.flat, positions[index.cpu().numpy()], seen)
        won = again.broken.nonzero().squeeze(1)
        if len(won):
            chosen = part.select(won)
            confirmed = chosen.fooled(chosen.confirm(select_inputs(again.points, won)))
            self.meter.spend(len(won) * self.look.case.victim.samples)
            note(self.reopened, positions[index[won].cpu().numpy()], confirmed)

    def stand_in(self) -> None:
        """Climb again, with a stand-in for what passes no gradient on, the clips that it hides."""
        hidden = [i for i in self.climbed if any(seen[i] for seen in self.hidden.values())]
        if self.look.known.random or not hidden:
            return
        meter = self.look.meter.part(STAND_IN_SHARE)
        count = meter.affords(2 * FEWEST_STEPS + 1, len(hidden))
        steps = min(GOOD_STEPS, (meter.left // max(count, 1) - 1) // 2)

        def again(bound: BoundVictim) -> Tensor:
            return climb(bound, halfway(bound), falling(steps), _through(asker(bound))).broken

        with suppress(RuntimeError, ModelError):  # of a step that has no derivative even so
            self.look.probe(self.behind, hidden[:count], again)

    def checks(self) -> Iterator[Check]:
        """The findings as checks; the look's drops then hold what the climb has taken off the robust accuracy."""
        look = self.look
        yield self._finite()
        if self.behind:  # those that nothing hides count by the plain climb
            look.drops["zero-gradient"] = look.tally(
                {
                    i: broken or self.behind.get(i, False)
                    for i, broken in self.climbed.items()
                    if i in self.behind or not any(seen[i] for seen in self.hidden.values())
                }
            )
        yield from (self._zero(name) for name in self.hidden)
        yield from self._truth()
        yield self._saturation()
        yield look.drop("noise", self.noise, "a random point at the edge of the region breaks")
        if look.standing.steps <= 1:
            yield not_applicable("single-step", "no attack takes several steps")
        else:
            yield look.drop("single-step", self.single, "one gradient step of the audit's own breaks")
        yield look.drop("convergence", self.climbed, f"a climb of {self.steps} steps from another start breaks")

    def _finite(self) -> Check:
        ids = self.look.case.ids(i for i, finite in self.finite.items() if not finite)
        return judged(
            "finite-gradient",
            bool(ids),
            f"loss or gradient is not finite for {len(ids)} of {len(self.finite)} clips ({first_of(ids)})",
            f"loss and gradients are finite for {len(self.finite)} clips",
            clips=ids,
        )

    def _zero(self, name: str) -> Check:
        seen, behind = self.hidden[name], self.behind
        ids = self.look.ids(seen)
        return judged(
            "zero-gradient",
            self.look.many(seen),
            f"no gradient reaches {name} for {len(ids)} of {len(seen)} clips left robust ({first_of(ids)}), "
            f"though moving {name} by the radius moves the outputs: a step of the model hides it from the attack"
            + (f"; with a stand-in for it, {sum(behind.values())} of {len(behind)} are broken" if behind else ""),
            f"where {name} moves the outputs, a gradient reaches it ({len(seen)} clips)",
            modality=name,
            clips=ids,
            figures={"clips": len(seen), "without": len(ids)},
        )

    def _truth(self) -> Iterator[Check]:
        if not self.untrue:
            why = f"the budget of {self.look.meter.limit} passes does not reach for it"
            if self.look.known.random:
                why = "the model's outputs change by themselves"
            yield not_applicable("gradient-truth", why)
        how = "float64" if self.look.exact.double else "float32, in which alone the model runs"
        for name, untrue in self.untrue.items():
            # What is flat in float32 alone is `saturation`.
            seen = {i: flag for i, flag in untrue.items() if not self.flat.get(i, False)}
            ids = self.look.ids(seen)
            yield judged(
                "gradient-truth",
                self.look.many(seen, share=0.25),
                f"the gradient for {name} is not the derivative for {len(ids)} of {len(seen)} clips "
                f"({first_of(ids)}), by differences in {how}",
                f"the gradient for {name} agrees with differences of the outputs ({len(seen)} clips)",
                modality=name,
                clips=ids,
                figures={"clips": len(seen), "untrue": len(ids)},
            )

    def _saturation(self) -> Check:
        look, seen = self.look, self.flat
        ids = look.ids(seen)
        union = {i: self.climbed[i] or self.reopened.get(i, False) for i in self.climbed}
        both = look.tally(union)
        won = [i for i, broken in union.items() if broken]
        certain = [i for i in won if self.reopened.get(i, False) or look.case.clean.margins[i] > FLAT_MARGIN]
        lost = both.established and len(certain) >= len(won) / 2 and look.case.victim.task == "single-label"
        if self.reopened:
            look.drops["saturation"] = both
        if look.many(seen) or lost:
            return Check(
                check="saturation",
                status="failed",
                message=f"for {len(ids)} of {len(seen)} clips left robust ({first_of(ids)}) the loss is flat in "
                f"float32, and is not behind the saturation, in {'float64' if look.exact.double else 'logits'}; "
                f"{both.broken} of {both.probed} are broken there"
                if ids
                else f"{len(certain)} of {both.probed} clips left robust are broken by a loss that does not saturate, "
                f"at margins beyond {FLAT_MARGIN:g}, where the cross-entropy has no gradient in float32",
                clips=ids or look.case.ids(certain),
                figures=both.figures() | {"flat": len(ids)},
            )
        return Check(check="saturation", status="passed", message=f"the loss is flat for no share of {len(seen)} clips")


def _through(ask: Ask) -> Ask:
    def through(alive: Tensor, x: Mapping[str, Tensor]) -> Tensor:
        with StraightThrough():
            return ask(alive, x)

    return through
