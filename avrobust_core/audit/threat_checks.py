"""Checks of what is left under one threat: stronger and other probes on a few of the clips that no attack broke."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core.attacking import AttackRun, attack_batch
from avrobust_core.audit.case import Case, Standing
from avrobust_core.audit.checks import Check, not_applicable, shown
from avrobust_core.audit.derivatives import Derivatives, untrue_gradients
from avrobust_core.audit.drops import Drop
from avrobust_core.audit.exact import Exact
from avrobust_core.audit.meter import Meter
from avrobust_core.audit.model_checks import Behaviour
from avrobust_core.audit.probes import Ask, Climbed, climb, corner, falling, halfway, search
from avrobust_core.batches import Batch, select_inputs
from avrobust_core.budgets import Budget, ThreatModel
from avrobust_core.victim import BoundVictim

FEWEST_CLIMBED, MOST_STEPS = 8, 40
"""A climb's clips where the budget allows, and its steps at most."""

GOOD_STEPS = 10
"""Steps with which a climb is about as strong as one of twice as many."""

FEWEST_CLIPS = 2
"""Of a clip's fault, so many clips must have it, and the share below."""

FAULTY_SHARE = 0.1

SEARCH_QUERIES, SEARCH_MOST, SEARCH_LEAST = 50, 120, 10
"""Queries of the random search: those aimed at, at most, and from which on it means something."""

FREE_CLIPS, FREE_FEWEST, FREE_LENGTHS = 8, 6, (0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0)
"""The climb without a limit: clips, at least so many of them, and its steps as shares of the whole range."""

ROUNDED_CLIPS, ROUNDED_FEWEST = 6, 4

FLAT_MARGIN = 17.0
"""Beyond this margin a softmax rounds to 1 in float32, and the plain cross-entropy has no gradient."""

RANGE_LEVELS = {"audio": 2**16, "video": 2**8 - 1}
"""By kind of modality, in how many steps a file divides its range: 16-bit PCM, 8-bit pictures."""


@dataclass(slots=True)
class Probed:
    """What the probes of one threat have seen, by position of the clip.

    Attributes:
        noise, single, climbed, zero, flat, saturated, searched: see `ThreatAudit`; True where it holds.
    """

    noise: dict[int, bool] = field(default_factory=dict)
    single: dict[int, bool] = field(default_factory=dict)
    climbed: dict[int, bool] = field(default_factory=dict)
    finite: dict[int, bool] = field(default_factory=dict)
    hidden: dict[str, dict[int, bool]] = field(default_factory=dict)
    untrue: dict[str, dict[int, bool]] = field(default_factory=dict)
    flat: dict[int, bool] = field(default_factory=dict)
    reopened: dict[int, bool] = field(default_factory=dict)
    searched: dict[int, bool] = field(default_factory=dict)
    free: dict[int, bool] = field(default_factory=dict)
    steps: int = 0
    queries: int = 0
    double: bool = True


class ThreatAudit:
    """Audits what all attacks under one threat have left.

    Args:
        case: the model with its results.
        standing: what they have left.
        known: what is known of the model by itself.
        exact: the model in float64.
        meter: what may be spent.
        clips: how many clips may be looked at.
    """

    def __init__(
        self, case: Case, standing: Standing, known: Behaviour, exact: Exact, meter: Meter, clips: int
    ) -> None:
        self.case = case
        self.standing = standing
        self.known = known
        self.exact = exact
        self.meter = meter
        self.survivors = case.first(standing.survived, clips)
        self.found = Probed()
        self.drops: dict[str, Drop] = {}

    def run(self) -> Iterator[Check]:
        """All checks; `drops` then holds what each probe has taken off the robust accuracy."""
        if not self.standing.worst:
            yield not_applicable("convergence", "no attack claims a worst case: all are targeted or without a limit")
            return
        yield from self._unbounded()
        if not len(self.survivors):
            yield not_applicable("convergence", "no clip is left that could still be broken")
        elif self.meter.left < 8 * self.case.victim.samples:
            yield not_applicable("convergence", f"the budget of {self.meter.limit} passes is spent")
        else:
            yield from self._climb()
            yield from self._rounding()
            yield from self._search()
        yield from self._inert()

    # The climb, and all that its first gradient tells.

    def _climb(self) -> Iterator[Check]:
        samples, found = self.case.victim.samples, self.found
        meter = self.meter.part(0.55)
        modalities = len(self.standing.threat.modalities)
        each = 2 * GOOD_STEPS + 2
        count = min(len(self.survivors), max(FEWEST_CLIMBED, meter.left // (each * samples)))
        count = max(1, min(count, meter.left // (4 * samples)))
        most = max(2 * self.standing.steps, 2 * GOOD_STEPS)
        exact = 0 if self.known.random else min(count, FEWEST_CLIMBED)
        spared = min((2 * modalities + 1) * exact, int(0.3 * meter.left))
        found.steps = max(1, min(((meter.left - spared) // (count * samples) - 2) // 2, most, MOST_STEPS))
        for start in range(0, count, self.case.batch_size):
            positions = self.survivors[:count][start : start + self.case.batch_size]
            self._climb_some(positions, meter, exact - start)
        self.meter.take(meter)
        yield self._finite()
        yield from (self._zero(name) for name in found.hidden)
        yield from self._truth(modalities)
        yield self._saturation()
        for check, seen, what in (
            ("noise", found.noise, "a random point at the edge of the region breaks"),
            ("single-step", found.single, "one gradient step of the audit's own breaks"),
            ("convergence", found.climbed, f"a climb of {found.steps} steps from another start breaks"),
        ):
            if check == "single-step" and self.standing.steps <= 1:
                yield not_applicable(check, "no attack takes several steps")
            else:
                yield self._drop(check, seen, what)

    def _climb_some(self, positions: NDArray[np.int64], meter: Meter, exact: int) -> None:
        batch = self.case.read(self.case.ids(positions))
        bound = self.case.victim.bind(batch, self.standing.threat)
        found = self.found
        with torch.no_grad():
            _note(found.noise, positions, bound.fooled(bound(corner(bound, "audit/corner"))))
        ask = _asker(bound)
        climbed = climb(bound.region, bound.goal, ask, halfway(bound), falling(found.steps))
        _note(found.single, positions, climbed.single)
        _note(found.climbed, positions, climbed.broken)
        _note(found.finite, positions, climbed.finite)
        self._hidden(positions, bound, climbed)
        meter.count(bound)
        if exact > 0:
            self._derive(positions[:exact], batch, bound, climbed, meter)
        self._reopen(positions, batch, bound, climbed, meter)

    def _hidden(self, positions: NDArray[np.int64], bound: BoundVictim, climbed: Climbed) -> None:
        """Clips whose gradient is zero in a modality, though a move of that modality moves the outputs."""
        clean = torch.from_numpy(self.case.clean.logits[positions]).to(bound.device)
        for name, zero in climbed.zero.items():
            hidden = torch.zeros_like(zero)
            index = zero.nonzero().squeeze(1)
            if len(index):
                part = bound.select(index)
                with torch.no_grad():
                    logits = part(corner(part, "audit/alone", only=name))
                change = (logits - clean[index]).abs().amax(dim=1)
                hidden[index] = change > 1e-5 * clean[index].abs().amax(dim=1)
            _note(self.found.hidden.setdefault(name, {}), positions, hidden)

    def _derive(
        self, positions: NDArray[np.int64], batch: Batch, bound: BoundVictim, climbed: Climbed, meter: Meter
    ) -> None:
        count = torch.arange(len(positions), device=bound.device)
        part = bound.select(count)
        derivatives = Derivatives(
            part,
            {name: x[count] for name, x in batch.inputs.items()},
            {name: x[count] for name, x in climbed.start.items()},
            {name: x[count] for name, x in climbed.gradients.items()},
            self.exact,
        )
        for name, untrue in untrue_gradients(derivatives, meter).items():
            _note(self.found.untrue.setdefault(name, {}), positions, untrue)
        self.found.double = self.exact.double

    def _reopen(
        self, positions: NDArray[np.int64], batch: Batch, bound: BoundVictim, climbed: Climbed, meter: Meter
    ) -> None:
        """Where no modality has a gradient: whether one is there in float64, behind the saturation; and climb it."""
        flat = torch.stack(list(climbed.zero.values())).all(dim=0)
        _note(self.found.flat, positions, torch.zeros_like(flat))
        index = flat.nonzero().squeeze(1)[: meter.affords(2, len(flat))]
        if not len(index) or self.known.random:
            return
        features = bound.features
        inputs = select_inputs(batch.inputs, index)
        part = bound.select(index)
        start = {name: x[index] for name, x in climbed.start.items()}
        steps = max(1, min(GOOD_STEPS, (meter.left // len(index) - 2) // 2))
        asked = 0

        def ask(alive: Tensor, x: Mapping[str, Tensor]) -> Tensor:
            nonlocal asked
            asked += len(alive) * (2 if torch.is_grad_enabled() else 1)
            return self.exact.logits({**select_inputs(inputs, alive), **x}, features)

        again = climb(part.region, part.goal, ask, start, falling(steps))
        meter.spent += asked
        seen = ~torch.stack(list(again.zero.values())).all(dim=0)
        _note(self.found.flat, positions[index.cpu().numpy()], seen)
        if again.broken.any():
            won = again.broken.nonzero().squeeze(1)
            chosen = part.select(won)
            points = {name: x[won] for name, x in again.points.items()}
            confirmed = torch.zeros_like(again.broken)
            before = int(bound.queries.sum())
            confirmed[won] = chosen.fooled(chosen.confirm(points))
            meter.spent += int(bound.queries.sum()) - before
            _note(self.found.reopened, positions[index.cpu().numpy()], confirmed)

    def _finite(self) -> Check:
        broken = [i for i, finite in self.found.finite.items() if not finite]
        ids = self.case.ids(np.array(broken, dtype=np.int64))
        return Check(
            check="finite-gradient",
            status="failed" if ids else "passed",
            message=f"loss or gradient is not finite for {len(ids)} of {len(self.found.finite)} clips ({shown(ids)})"
            if ids
            else f"loss and gradients are finite for {len(self.found.finite)} clips",
            clips=ids,
        )

    def _zero(self, name: str) -> Check:
        seen = self.found.hidden[name]
        ids = self._ids(seen)
        failed = self._many(seen)
        return Check(
            check="zero-gradient",
            modality=name,
            status="failed" if failed else "passed",
            message=f"no gradient reaches {name} for {len(ids)} of {len(seen)} clips left robust ({shown(ids)}), "
            f"though moving {name} by the radius moves the outputs: a step of the model hides it from the attack"
            if failed
            else f"where {name} moves the outputs, a gradient reaches it ({len(seen)} clips)",
            clips=ids if failed else (),
            figures={"clips": len(seen), "without": len(ids)},
        )

    def _truth(self, modalities: int) -> Iterator[Check]:
        if not self.found.untrue:
            why = (
                "the model's outputs change by themselves"
                if self.known.random
                else f"the budget of {self.meter.limit} passes does not reach for it"
            )
            yield not_applicable("gradient-truth", why)
            return
        how = "float64" if self.found.double else "float32, in which alone the model runs"
        for name, seen in self.found.untrue.items():
            ids = self._ids(seen)
            failed = self._many(seen, share=0.25)
            yield Check(
                check="gradient-truth",
                modality=name,
                status="failed" if failed else "passed",
                message=f"the gradient for {name} is not the derivative for {len(ids)} of {len(seen)} clips "
                f"({shown(ids)}), by differences in {how}"
                if failed
                else f"the gradient for {name} agrees with differences in {how} ({len(seen)} clips)",
                clips=ids if failed else (),
                figures={"clips": len(seen), "untrue": len(ids)},
            )

    def _saturation(self) -> Check:
        found = self.found
        seen = found.flat
        ids = self._ids(seen)
        union = {i: found.climbed[i] or found.reopened.get(i, False) for i in found.climbed}
        both = self._tally(union)
        won = [i for i, broken in union.items() if broken]
        certain = [i for i in won if found.reopened.get(i, False) or self.case.clean.margins[i] > FLAT_MARGIN]
        lost = both.established and len(certain) >= len(won) / 2 and self.case.victim.task == "single-label"
        if found.reopened:
            self.drops["saturation"] = both
        if self._many(seen) or lost:
            return Check(
                check="saturation",
                status="failed",
                message=f"for {len(ids)} of {len(seen)} clips left robust ({shown(ids)}) the loss is flat in float32, "
                f"and is not behind the saturation, in {'float64' if self.exact.double else 'logits'}; "
                f"{both.broken} of {both.probed} are broken there"
                if ids
                else f"{len(certain)} of {both.probed} clips left robust are broken by a loss that does not saturate, "
                f"at margins beyond {FLAT_MARGIN:g}, where the cross-entropy has no gradient in float32",
                clips=ids or self.case.ids(np.array(certain)),
                figures=both.figures() | {"flat": len(ids)},
            )
        return Check(check="saturation", status="passed", message=f"the loss is flat for no share of {len(seen)} clips")

    # The random search, the climb without a limit, the file formats.

    def _search(self) -> Iterator[Check]:
        samples, found = self.case.victim.samples, self.found
        left = self.meter.left // samples
        count = min(len(self.survivors), max(FEWEST_CLIMBED // 2, left // SEARCH_QUERIES))
        found.queries = min(left // max(count, 1), SEARCH_MOST)
        if found.queries < SEARCH_LEAST:
            yield not_applicable("black-box", f"the budget of {self.meter.limit} passes does not reach for a search")
            return
        for start in range(0, count, self.case.batch_size):
            positions = self.survivors[:count][start : start + self.case.batch_size]
            bound = self.case.victim.bind(self.case.read(self.case.ids(positions)), self.standing.threat)
            _note(found.searched, positions, search(bound, found.queries))
            self.meter.count(bound)
        yield self._drop("black-box", found.searched, f"a random search of {found.queries} queries breaks")

    def _unbounded(self) -> Iterator[Check]:
        threat = self._free_threat()
        flips = self._breakable()
        if threat is None or len(flips) < FREE_FEWEST:
            why = (
                "the radius of features has no natural limit"
                if threat is None
                else f"only {len(flips)} clips are known to change their class with another clip's inputs"
            )
            yield not_applicable("unbounded", why)
            return
        meter = self.meter.part(0.2)
        samples = self.case.victim.samples
        count = meter.affords(5 * samples, min(FREE_CLIPS, len(flips)))
        if count < FREE_FEWEST:
            yield not_applicable("unbounded", f"the budget of {self.meter.limit} passes does not reach for it")
            return
        steps = min(len(FREE_LENGTHS), (meter.left // (count * samples) - 1) // 2)
        for start in range(0, count, self.case.batch_size):
            positions = np.array(flips[:count][start : start + self.case.batch_size])
            bound = self.case.victim.bind(self.case.read(self.case.ids(positions)), threat)
            climbed = climb(bound.region, bound.goal, _asker(bound), dict(bound.clean), FREE_LENGTHS[:steps])
            _note(self.found.free, positions, climbed.broken)
            meter.count(bound)
        self.meter.take(meter)
        kept = [i for i, broken in self.found.free.items() if not broken]
        ids = self.case.ids(np.array(kept, dtype=np.int64))
        failed = len(kept) > count / 2
        yield Check(
            check="unbounded",
            status="failed" if failed else "passed",
            message=f"without any limit but the bounds, {steps} gradient steps leave {len(ids)} of {count} clips as "
            f"they were ({shown(ids)}), though another clip's inputs change their class"
            if failed
            else f"without a limit, {count - len(ids)} of {count} clips are broken in {steps} steps",
            clips=ids if failed else (),
            figures={"clips": count, "left": len(ids)},
        )

    def _free_threat(self) -> ThreatModel | None:
        """The attacked modalities over their whole range."""
        budgets = {}
        for name, budget in self.standing.threat.items():
            if budget.space != "input":
                return None
            media = self.case.victim.media.get(name)
            bounds = budget.bounds or (media.bounds if media is not None else None)
            if bounds is None:
                return None
            budgets[name] = Budget(norm="linf", eps=bounds[1] - bounds[0], bounds=bounds)
        return ThreatModel.of(budgets)

    def _breakable(self) -> list[int]:
        """Clips for which a change of the attacked modalities alone is known to change the class."""
        if not self.known.flips:  # of a model of one modality: any other clip changes it
            one = len(self.standing.threat.modalities) == 1 and self._modalities == 1
            return [int(i) for i in self.case.first(self.case.clean.correct, FREE_CLIPS)] if one else []
        attacked = [self.known.flips[name] for name in self.standing.threat.modalities if name in self.known.flips]
        if len(attacked) == len(self.known.flips):  # all of them: another clip's whole inputs
            return list(attacked[0])
        return [i for i in attacked[0] if any(flips.get(i, False) for flips in attacked)] if attacked else []

    @property
    def _modalities(self) -> int:
        encoders = getattr(self.case.victim.model, "encoders", None)
        if encoders is not None:
            return len(encoders)
        return len(self.case.read(self.case.ids(self.case.order[:1])).inputs)

    def _rounding(self) -> Iterator[Check]:
        levels = self._levels()
        for outcome in self.standing.worst:
            where: dict[str, Any] = {"attack": outcome.attack, "threat": outcome.threat}
            run = self.case.runs[outcome.attack, outcome.threat]
            predictions = outcome.predictions
            won = self.case.clean.correct & ~predictions.correct
            reason = None
            if not levels:
                reason = "no attacked modality is sound or picture with known bounds"
            elif run.attack.preparation is not None or outcome.minimal or self.known.random:
                reason = "the attack is prepared for a whole set, ends at the boundary itself, or faces a random model"
            meter = self.meter.part(0.25)
            backwards = predictions.backwards if predictions.backwards is not None else predictions.queries
            cost = predictions.queries + backwards + 2
            order = [i for i in self.case.order if won[i]]
            cheap = sorted(order, key=lambda i: int(cost[i]))[: len(order) // 2 + ROUNDED_FEWEST]
            chosen: list[int] = []
            for i in sorted(cheap, key=order.index):
                if len(chosen) < ROUNDED_CLIPS and meter.spent + int(cost[i]) <= meter.limit:
                    chosen.append(int(i))
                    meter.spent += int(cost[i])
            if reason is None and len(chosen) < ROUNDED_FEWEST:
                reason = f"fewer than {ROUNDED_FEWEST} broken clips can be attacked again within the budget"
            if reason is not None:
                yield not_applicable("rounding", reason, **where)
                continue
            positions = np.array(chosen[: self.case.batch_size])
            meter.spent = 0
            yield self._rounded(positions, replace(run, factors=(1.0,)), levels, meter, where)
            self.meter.take(meter)

    def _rounded(
        self,
        positions: NDArray[np.int64],
        run: AttackRun,
        levels: Mapping[str, float],
        meter: Meter,
        where: dict[str, Any],
    ) -> Check:
        batch = self.case.read(self.case.ids(positions))
        attacked = attack_batch(self.case.victim, batch, run)
        meter.spent += int(attacked.queries.sum() + attacked.backwards.sum()) + len(batch)
        rounded = {
            name: (x / levels[name]).round() * levels[name] if name in levels else x
            for name, x in attacked.inputs.items()
        }
        again = self.case.victim.logits({**batch.inputs, **rounded})
        meter.spent += len(batch)
        goal = self.case.victim.bind(batch, run.threat).goal
        lost = attacked.success & ~goal.reached(again)
        ids = tuple(clip_id for clip_id, flag in zip(batch.ids, lost.tolist(), strict=True) if flag)
        total = int(attacked.success.sum())
        failed = len(ids) > total / 2
        formats = "8-bit pictures and 16-bit sound"
        return Check(
            check="rounding",
            status="failed" if failed else "passed",
            message=f"{len(ids)} of {total} broken clips are right again ({shown(ids)}) once rounded to {formats}"
            if failed
            else f"{total - len(ids)} of {total} broken clips stay broken when rounded to {formats}",
            clips=ids,
            figures={"clips": total, "lost": len(ids)},
            **where,
        )

    def _levels(self) -> dict[str, float]:
        found = {}
        for name, budget in self.standing.threat.items():
            media = self.case.victim.media.get(name)
            if (
                media is not None
                and media.bounds is not None
                and media.kind in RANGE_LEVELS
                and budget.space == "input"
            ):
                found[name] = (media.bounds[1] - media.bounds[0]) / RANGE_LEVELS[media.kind]
        return found

    def _inert(self) -> Iterator[Check]:
        """Whether an attack ever moved a clip: what it breaks nothing by, a probe may."""
        correct = self.case.clean.correct
        for outcome in self.standing.outcomes:
            predictions = outcome.predictions
            where: dict[str, Any] = {"attack": outcome.attack, "threat": outcome.threat}
            moved = any(bool(norms.any()) for norms in predictions.norms.values())
            won = bool((correct & ~predictions.correct).any())
            elsewhere = any(
                any(bool(norms.any()) for norms in other.predictions.norms.values())
                for other in self.case.attacked
                if other.attack == outcome.attack and other.threat not in self.standing.names
            )
            check = "inert-switch" if elsewhere else "inert-attack"
            if moved or won:
                if not elsewhere:
                    yield Check(check=check, status="passed", message="the attack moves clips", **where)
                continue
            idle = bool((predictions.queries[correct] <= self.case.victim.samples).all()) and correct.any()
            probes = {"gradient": self.found.climbed, "random": self.found.searched, "noise": self.found.noise}
            others = [i for seen in probes.values() for i, broken in seen.items() if broken]
            ids = self.case.ids(np.array(list(dict.fromkeys(others)), dtype=np.int64))
            if not idle and not ids:
                yield not_applicable(check, "the attack broke no clip, and neither did the audit's probes", **where)
                continue
            why = (
                f"the audit's probes break {len(ids)} ({shown(ids)})"
                if ids
                else "it asked the model no more than once for each clip"
            )
            yield Check(
                check=check,
                status="failed",
                message=f"the attack has moved no clip at all{' under this threat' if elsewhere else ''}, and {why}: "
                "what is called robust was not attacked",
                clips=ids,
                **where,
            )

    # What clips tell together.

    def _ids(self, seen: Mapping[int, bool]) -> tuple[str, ...]:
        return self.case.ids(np.array([i for i, flag in seen.items() if flag], dtype=np.int64))

    def _many(self, seen: Mapping[int, bool], share: float = FAULTY_SHARE) -> bool:
        count = sum(seen.values())
        return count >= max(min(FEWEST_CLIPS, len(self.survivors)), share * len(seen)) and count > 0

    def _tally(self, seen: Mapping[int, bool]) -> Drop:
        return Drop(self.standing.robust, int(self.standing.survived.sum()), len(seen), sum(seen.values()))

    def _drop(self, check: str, seen: Mapping[int, bool], what: str) -> Check:
        drop = self._tally(seen)
        self.drops[check] = drop
        ids = self._ids(seen)
        return Check(
            check=check,
            status="failed" if drop.established else "passed",
            message=f"{what} {drop.broken} of {drop.probed} clips that every attack left robust"
            + (f" ({shown(ids)})" if ids else "")
            + (
                f": not {100 * drop.robust:.1f} % are robust but about {100 * drop.expected:.1f}, at most "
                f"{100 * drop.at_most:.1f}"
                if drop.established
                else ""
            ),
            clips=ids,
            figures=drop.figures(),
        )


def _asker(bound: BoundVictim) -> Ask:
    def ask(alive: Tensor, x: Mapping[str, Tensor]) -> Tensor:
        return (bound if len(alive) == len(bound) else bound.select(alive))(x)

    return ask


def _note(into: dict[int, bool], positions: NDArray[np.int64], flags: Tensor) -> None:
    into.update(zip(positions.tolist(), flags.tolist(), strict=True))
