"""Whether what an attack has broken stays broken in a file's own grid of values."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avrobust_core.attacking import AttackRun, attack_batch
from avrobust_core.audit.checks import Check, not_applicable
from avrobust_core.audit.look import Look
from avrobust_core.audit.meter import Meter
from avrobust_core.naming import first_of

ROUNDED_CLIPS, ROUNDED_FEWEST = 6, 4

SIGNAL_LEVELS, PICTURE_LEVELS = 2**16, 2**8 - 1
"""In how many steps a file divides a modality's range: 16-bit PCM for signals of one axis beside their channels, 8 bits
for pictures and films."""


def rounding(look: Look) -> Iterator[Check]:
    """Attack a few broken clips again, round them, and ask the model once more: one check for each attack."""
    levels = _levels(look)
    for outcome in look.standing.worst:
        where: dict[str, Any] = {"attack": outcome.attack, "threat": outcome.threat}
        run = look.case.runs[outcome.attack, outcome.threat]
        predictions = outcome.predictions
        won = look.case.clean.correct & ~predictions.correct
        reason = None
        if not levels:
            reason = "no attacked modality has known bounds"
        elif run.attack.preparation is not None or outcome.minimal or look.known.random:
            reason = "the attack is prepared for a whole set, ends at the boundary itself, or faces a random model"
        meter = look.meter.part(0.25)
        backwards = predictions.backwards if predictions.backwards is not None else predictions.queries
        cost = predictions.queries + backwards + 2
        order = [i for i in look.case.order if won[i]]
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
        positions = np.array(chosen[: look.case.batch_size])
        meter.spent = 0
        yield _rounded(look, positions, replace(run, factors=(1.0,)), levels, meter, where)
        look.meter.take(meter)


def _rounded(
    look: Look,
    positions: NDArray[np.int64],
    run: AttackRun,
    levels: Mapping[str, float],
    meter: Meter,
    where: dict[str, Any],
) -> Check:
    batch = look.case.read(look.case.ids(positions))
    attacked = attack_batch(look.case.victim, batch, run)
    meter.spent += int(attacked.queries.sum() + attacked.backwards.sum()) + len(batch)
    rounded = {
        name: (x / levels[name]).round() * levels[name] if name in levels else x for name, x in attacked.inputs.items()
    }
    again = look.case.victim.logits({**batch.inputs, **rounded})
    meter.spent += len(batch)
    goal = look.case.victim.bind(batch, run.threat).goal
    lost = attacked.success & ~goal.reached(again)
    ids = tuple(clip_id for clip_id, flag in zip(batch.ids, lost.tolist(), strict=True) if flag)
    total = int(attacked.success.sum())
    failed = len(ids) > total / 2
    formats = "16-bit signals and 8-bit pictures"
    return Check(
        check="rounding",
        status="failed" if failed else "passed",
        message=f"{len(ids)} of {total} broken clips are right again ({first_of(ids)}) once rounded to {formats}"
        if failed
        else f"{total - len(ids)} of {total} broken clips stay broken when rounded to {formats}",
        clips=ids,
        figures={"clips": total, "lost": len(ids)},
        **where,
    )


def _levels(look: Look) -> dict[str, float]:
    found = {}
    for name, budget in look.standing.threat.items():
        media = look.case.victim.media.get(name)
        if media is not None and media.bounds is not None and budget.space == "input":
            found[name] = (media.bounds[1] - media.bounds[0]) / (
                SIGNAL_LEVELS if len(media.shape) <= 2 else PICTURE_LEVELS
            )
    return found
