"""A check that broken clips stay broken in a file format's own grid of values."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from avrobust_core.attacks.goals import BatchGoal
from avrobust_core.attacks.running import attack_batch
from avrobust_core.audit.checks import Check, not_applicable
from avrobust_core.audit.look import Look
from avrobust_core.audit.recorded import broken
from avrobust_core.data.grids import Grid, grid_of
from avrobust_core.evaluation.outcomes import Outcome
from avrobust_core.evaluation.predictions import Predictions
from avrobust_core.naming import first_of

ROUNDED_CLIPS, ROUNDED_FEWEST = 6, 4


def rounding(look: Look) -> Iterator[Check]:
    """Attack a few broken clips again, round them, and ask the model once more: one check for each attack."""
    grids = _grids(look)
    for outcome in look.standing.worst:
        yield replace(_rounded(look, outcome, grids), **outcome.where)


def _rounded(look: Look, outcome: Outcome, grids: Mapping[str, Grid]) -> Check:
    run, victim = look.case.runs[outcome.attack, outcome.threat], look.case.victim
    if not grids:
        return not_applicable("rounding", "no attacked modality has known bounds")
    if run.attack.preparation is not None or outcome.minimal or look.known.random:
        why = "the attack is prepared for a whole set, ends at the boundary itself, or faces a random model"
        return not_applicable("rounding", why)
    chosen = _affordable(look, outcome.predictions)
    if len(chosen) < ROUNDED_FEWEST:
        why = f"fewer than {ROUNDED_FEWEST} broken clips can be attacked again within the budget"
        return not_applicable("rounding", why)
    positions = np.array(chosen[: look.case.batch_size])
    batch = look.case.read(look.case.ids(positions))
    attacked = attack_batch(victim, batch, replace(run, factors=(1.0,)))
    rounded = {name: grids[name].nearest(x) if name in grids else x for name, x in attacked.inputs.items()}
    again = victim.logits({**batch.inputs, **rounded})
    look.meter.spend(int(attacked.queries.sum() + attacked.backwards.sum()) + 2 * len(batch))
    lost = attacked.success & ~BatchGoal(batch.targets, victim.task).reached(again)
    ids = look.case.ids(positions[lost.cpu().numpy()])
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
    )


def _affordable(look: Look, predictions: Predictions) -> list[int]:
    """Broken clips, of the cheaper half, that can be attacked again for a quarter of what the meter has left."""
    backwards = predictions.backwards if predictions.backwards is not None else predictions.queries
    cost = predictions.queries + backwards + 2
    order = look.case.first(broken(look.case, predictions))
    cheap = np.argsort(cost[order], kind="stable")[: len(order) // 2 + ROUNDED_FEWEST]
    chosen: list[int] = []
    left = int(0.25 * look.meter.left)
    for i in order[np.sort(cheap)].tolist():
        if len(chosen) < ROUNDED_CLIPS and cost[i] <= left:
            chosen.append(i)
            left -= int(cost[i])
    return chosen


def _grids(look: Look) -> dict[str, Grid]:
    found = {}
    for name, budget in look.standing.threat.items():
        media = look.case.victim.media.get(name)
        grid = None if media is None or budget.space != "input" else grid_of(media)
        if grid is not None:
            found[name] = grid
    return found
