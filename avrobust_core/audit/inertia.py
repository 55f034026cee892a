"""Whether an attack has moved anything at all."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from avrobust_core.audit.checks import Check, not_applicable, shown
from avrobust_core.audit.drops import FEWEST_BROKEN
from avrobust_core.audit.look import Look


def inert(look: Look) -> Iterator[Check]:
    """Whether an attack ever moved a clip: what it breaks nothing by, a probe may."""
    correct = look.case.clean.correct
    for outcome in look.standing.outcomes:
        predictions = outcome.predictions
        where: dict[str, Any] = {"attack": outcome.attack, "threat": outcome.threat}
        moved = any(bool(norms.any()) for norms in predictions.norms.values())
        won = bool((correct & ~predictions.correct).any())
        elsewhere = any(
            any(bool(norms.any()) for norms in other.predictions.norms.values())
            for other in look.case.attacked
            if other.attack == outcome.attack and other.threat not in look.standing.names
        )
        check = "inert-switch" if elsewhere else "inert-attack"
        lost = predictions.no_gradient.values()
        if lost and all(bool(missing[look.standing.survived].all()) for missing in lost):
            yield not_applicable(check, "no gradient has reached the attack: see zero-gradient", **where)
            continue
        if moved or won:
            if not elsewhere:
                yield Check(check=check, status="passed", message="the attack moves clips", **where)
            continue
        idle = bool((predictions.queries[correct] <= look.case.victim.samples).all()) and correct.any()
        probes = {"gradient": look.found.climbed, "random": look.found.searched, "noise": look.found.noise}
        others = [i for seen in probes.values() for i, broken in seen.items() if broken]
        ids = look.case.ids(np.array(list(dict.fromkeys(others)), dtype=np.int64))
        if not idle and (len(ids) < FEWEST_BROKEN or outcome.aim.targeted):
            yield not_applicable(check, "the attack broke no clip, and the audit's probes hardly any", **where)
            continue
        why = (
            f"the audit's probes break {len(ids)} ({shown(ids)})"
            if ids
            else "it asked the model no more than once for each clip"
        )
        yield Check(
            check=check,
            status="failed",
            message=f"the attack returned no clip that it had moved{' under this threat' if elsewhere else ''}, and "
            f"{why}: what is called robust was not attacked",
            clips=ids,
            **where,
        )
