"""A climb of the clips that attacks left, and all that its first gradient tells."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core.audit.checks import Check, not_applicable
from avrobust_core.audit.derivatives import Derivatives, untrue_gradients
from avrobust_core.audit.look import Look, asker, note
from avrobust_core.audit.meter import Meter
from avrobust_core.audit.probes import Ask, Climbed, climb, corner, falling, halfway
from avrobust_core.audit.stand_in import StraightThrough
from avrobust_core.batches import Batch, select_inputs
from avrobust_core.errors import ModelError
from avrobust_core.naming import first_of
from avrobust_core.victim import BoundVictim

FEWEST_CLIMBED, MOST_STEPS = 8, 40
"""A climb's clips where the budget allows, and its steps at most."""

GOOD_STEPS = 10
"""Steps with which a climb is about as strong as one of twice as many."""

FEWEST_STEPS = 4
"""Of a climb with a stand-in."""

STAND_IN_SHARE = 0.7
"""Of what is left after the plain climb, for one with a stand-in: the best that is known of hidden gradients."""

FLAT_MARGIN = 17.0
"""Beyond this margin a softmax rounds to 1 in float32, and the plain cross-entropy has no gradient."""


def climb_checks(look: Look) -> Iterator[Check]:
    """What a climb from another start breaks, and whether its gradients are there, finite, true and not hidden.

    For a climb of s clips and k steps: s (2k + 2) passes, a random corner of the region included, and a few more for
    differences in float64 and for what seems hidden.
    """
    samples, found = look.case.victim.samples, look.found
    meter = look.meter.part(0.55)
    modalities = len(look.standing.threat.modalities)
    each = 2 * GOOD_STEPS + 2
    count = min(len(look.survivors), max(FEWEST_CLIMBED, meter.left // (each * samples)))
    count = max(1, min(count, meter.left // (4 * samples)))
    most = max(2 * look.standing.steps, 2 * GOOD_STEPS)
    exact = 0 if look.known.random else min(count, FEWEST_CLIMBED)
    spared = min((2 * modalities + 1) * exact, int(0.3 * meter.left))
    found.steps = max(1, min(((meter.left - spared) // (count * samples) - 2) // 2, most, MOST_STEPS))
    for start in range(0, count, look.case.batch_size):
        positions = look.survivors[:count][start : start + look.case.batch_size]
        _climb_some(look, positions, meter, exact - start)
    look.meter.take(meter)
    _stand_in(look)
    yield _finite(look)
    if found.behind:  # those that nothing hides count by the plain climb
        look.drops["zero-gradient"] = look.tally(
            {
                i: broken or found.behind.get(i, False)
                for i, broken in found.climbed.items()
                if i in found.behind or not any(seen[i] for seen in found.hidden.values())
            }
        )
    yield from (_zero(look, name) for name in found.hidden)
    yield from _truth(look, modalities)
    yield _saturation(look)
    for check, seen, what in (
        ("noise", found.noise, "a random point at the edge of the region breaks"),
        ("single-step", found.single, "one gradient step of the audit's own breaks"),
        ("convergence", found.climbed, f"a climb of {found.steps} steps from another start breaks"),
    ):
        if check == "single-step" and look.standing.steps <= 1:
            yield not_applicable(check, "no attack takes several steps")
        else:
            yield look.drop(check, seen, what)


def _climb_some(look: Look, positions: NDArray[np.int64], meter: Meter, exact: int) -> None:
    batch = look.case.read(look.case.ids(positions))
    bound = look.case.victim.bind(batch, look.standing.threat)
    found = look.found
    with torch.no_grad():
        note(found.noise, positions, bound.fooled(bound(corner(bound, "audit/corner"))))
    ask = asker(bound)
    climbed = climb(bound.region, bound.goal, ask, halfway(bound), falling(found.steps))
    note(found.single, positions, climbed.single)
    note(found.climbed, positions, climbed.broken)
    note(found.finite, positions, climbed.finite)
    _hidden(look, positions, bound, climbed)
    meter.count(bound)
    if exact > 0:
        _derive(look, positions[:exact], batch, bound, climbed, meter)
    _reopen(look, positions, batch, bound, climbed, meter)


def _hidden(look: Look, positions: NDArray[np.int64], bound: BoundVictim, climbed: Climbed) -> None:
    """Clips whose gradient is zero in a modality, though a move of that modality moves the outputs."""
    clean = torch.from_numpy(look.case.clean.logits[positions]).to(bound.device)
    for name, zero in climbed.zero.items():
        hidden = torch.zeros_like(zero)
        index = zero.nonzero().squeeze(1)
        if len(index):
            part = bound.select(index)
            with torch.no_grad():
                logits = part(corner(part, "audit/alone", only=name))
            change = (logits - clean[index]).abs().amax(dim=1)
            hidden[index] = change > 1e-5 * clean[index].abs().amax(dim=1)
        note(look.found.hidden.setdefault(name, {}), positions, hidden)


def _stand_in(look: Look) -> None:
    """Climb again, with a stand-in for what passes no gradient on, the clips that it hides."""
    found = look.found
    hidden = [i for i in found.climbed if any(seen[i] for seen in found.hidden.values())]
    if look.known.random or not hidden:
        return
    meter = look.meter.part(STAND_IN_SHARE)
    count = meter.affords(2 * FEWEST_STEPS + 1, len(hidden))
    steps = min(GOOD_STEPS, (meter.left // max(count, 1) - 1) // 2)
    for start in range(0, count, look.case.batch_size):
        positions = np.array(hidden[:count][start : start + look.case.batch_size])
        bound = look.case.victim.bind(look.case.read(look.case.ids(positions)), look.standing.threat)
        try:
            again = climb(bound.region, bound.goal, _straight_through(bound), halfway(bound), falling(steps))
        except (RuntimeError, ModelError):  # a step that has no derivative even so
            return
        finally:
            look.meter.count(bound)
        note(found.behind, positions, again.broken)


def _straight_through(bound: BoundVictim) -> Ask:
    ask = asker(bound)

    def through(alive: Tensor, x: Mapping[str, Tensor]) -> Tensor:
        with StraightThrough():
            return ask(alive, x)

    return through


def _derive(
    look: Look, positions: NDArray[np.int64], batch: Batch, bound: BoundVictim, climbed: Climbed, meter: Meter
) -> None:
    count = torch.arange(len(positions), device=bound.device)
    part = bound.select(count)
    derivatives = Derivatives(
        part,
        {name: x[count] for name, x in batch.inputs.items()},
        {name: x[count] for name, x in climbed.start.items()},
        {name: x[count] for name, x in climbed.gradients.items()},
        look.exact,
    )
    for name, (index, untrue) in untrue_gradients(derivatives, meter).items():
        note(look.found.untrue.setdefault(name, {}), positions[index.cpu().numpy()], untrue)


def _reopen(
    look: Look, positions: NDArray[np.int64], batch: Batch, bound: BoundVictim, climbed: Climbed, meter: Meter
) -> None:
    """Where no modality has a gradient: whether one is there in float64, behind the saturation; and climb it."""
    flat = torch.stack(list(climbed.zero.values())).all(dim=0)
    note(look.found.flat, positions, torch.zeros_like(flat))
    index = flat.nonzero().squeeze(1)[: meter.affords(2, len(flat))]
    if not len(index) or look.known.random:
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
        return look.exact.logits({**select_inputs(inputs, alive), **x}, features)

    again = climb(part.region, part.goal, ask, start, falling(steps))
    meter.spent += asked
    seen = ~torch.stack(list(again.zero.values())).all(dim=0)
    note(look.found.flat, positions[index.cpu().numpy()], seen)
    if again.broken.any():
        won = again.broken.nonzero().squeeze(1)
        chosen = part.select(won)
        points = {name: x[won] for name, x in again.points.items()}
        confirmed = torch.zeros_like(again.broken)
        before = int(bound.queries.sum())
        confirmed[won] = chosen.fooled(chosen.confirm(points))
        meter.spent += int(bound.queries.sum()) - before
        note(look.found.reopened, positions[index.cpu().numpy()], confirmed)


def _finite(look: Look) -> Check:
    broken = [i for i, finite in look.found.finite.items() if not finite]
    ids = look.case.ids(np.array(broken, dtype=np.int64))
    return Check(
        check="finite-gradient",
        status="failed" if ids else "passed",
        message=f"loss or gradient is not finite for {len(ids)} of {len(look.found.finite)} clips ({first_of(ids)})"
        if ids
        else f"loss and gradients are finite for {len(look.found.finite)} clips",
        clips=ids,
    )


def _zero(look: Look, name: str) -> Check:
    seen, behind = look.found.hidden[name], look.found.behind
    ids = look.ids(seen)
    failed = look.many(seen)
    return Check(
        check="zero-gradient",
        modality=name,
        status="failed" if failed else "passed",
        message=f"no gradient reaches {name} for {len(ids)} of {len(seen)} clips left robust ({first_of(ids)}), "
        f"though moving {name} by the radius moves the outputs: a step of the model hides it from the attack"
        + (f"; with a stand-in for it, {sum(behind.values())} of {len(behind)} are broken" if behind else "")
        if failed
        else f"where {name} moves the outputs, a gradient reaches it ({len(seen)} clips)",
        clips=ids if failed else (),
        figures={"clips": len(seen), "without": len(ids)},
    )


def _truth(look: Look, modalities: int) -> Iterator[Check]:
    if not look.found.untrue:
        why = (
            "the model's outputs change by themselves"
            if look.known.random
            else f"the budget of {look.meter.limit} passes does not reach for it"
        )
        yield not_applicable("gradient-truth", why)
        return
    how = "float64" if look.exact.double else "float32, in which alone the model runs"
    for name, untrue in look.found.untrue.items():
        # What is flat in float32 alone is `saturation`.
        seen = {i: flag for i, flag in untrue.items() if not look.found.flat.get(i, False)}
        ids = look.ids(seen)
        failed = look.many(seen, share=0.25)
        yield Check(
            check="gradient-truth",
            modality=name,
            status="failed" if failed else "passed",
            message=f"the gradient for {name} is not the derivative for {len(ids)} of {len(seen)} clips "
            f"({first_of(ids)}), by differences in {how}"
            if failed
            else f"the gradient for {name} agrees with differences of the outputs ({len(seen)} clips)",
            clips=ids if failed else (),
            figures={"clips": len(seen), "untrue": len(ids)},
        )


def _saturation(look: Look) -> Check:
    found = look.found
    seen = found.flat
    ids = look.ids(seen)
    union = {i: found.climbed[i] or found.reopened.get(i, False) for i in found.climbed}
    both = look.tally(union)
    won = [i for i, broken in union.items() if broken]
    certain = [i for i in won if found.reopened.get(i, False) or look.case.clean.margins[i] > FLAT_MARGIN]
    lost = both.established and len(certain) >= len(won) / 2 and look.case.victim.task == "single-label"
    if found.reopened:
        look.drops["saturation"] = both
    if look.many(seen) or lost:
        return Check(
            check="saturation",
            status="failed",
            message=f"for {len(ids)} of {len(seen)} clips left robust ({first_of(ids)}) the loss is flat in float32, "
            f"and is not behind the saturation, in {'float64' if look.exact.double else 'logits'}; "
            f"{both.broken} of {both.probed} are broken there"
            if ids
            else f"{len(certain)} of {both.probed} clips left robust are broken by a loss that does not saturate, "
            f"at margins beyond {FLAT_MARGIN:g}, where the cross-entropy has no gradient in float32",
            clips=ids or look.case.ids(np.array(certain)),
            figures=both.figures() | {"flat": len(ids)},
        )
    return Check(check="saturation", status="passed", message=f"the loss is flat for no share of {len(seen)} clips")
