"""Checks of what is left under one threat: stronger and other probes on a few of the clips that no attack broke."""

from collections.abc import Iterator

from avrobust_core.audit.checks import Check, judged, not_applicable
from avrobust_core.audit.climbing import FEWEST_CLIMBED, climb_checks
from avrobust_core.audit.formats import rounding
from avrobust_core.audit.inertia import inert
from avrobust_core.audit.look import Flags, Look
from avrobust_core.audit.probes import climb, search
from avrobust_core.naming import first_of
from avrobust_core.threats.budgets import Budget, ThreatModel

SEARCH_QUERIES, SEARCH_MOST, SEARCH_LEAST = 50, 120, 10
"""Queries of the random search: those aimed at, at most, and from which on it means something."""

FREE_CLIPS, FREE_FEWEST, FREE_LENGTHS = 8, 6, (0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0)
"""The climb without a limit: clips, at least so many of them, and its steps as shares of the whole range."""


def threat_checks(look: Look) -> Iterator[Check]:
    """All checks of one threat.

    Args:
        look: new; its `drops` then hold what each probe has taken off the robust accuracy.
    """
    if not look.standing.worst:
        yield not_applicable("convergence", "no attack claims a worst case: all are targeted or without a limit")
        return
    yield from inert(look)
    yield unbounded(look)
    if not len(look.survivors):
        yield not_applicable("convergence", "no clip is left that could still be broken")
    elif look.meter.left < 8 * look.case.victim.samples:
        yield not_applicable("convergence", f"the budget of {look.meter.limit} passes is spent")
    else:
        yield from climb_checks(look)
        yield from rounding(look)
        yield searched(look)


def searched(look: Look) -> Check:
    """Search without gradients, with all that is left of the budget."""
    left = look.meter.left // look.case.victim.samples
    count = min(len(look.survivors), max(FEWEST_CLIMBED // 2, left // SEARCH_QUERIES))
    queries = min(left // max(count, 1), SEARCH_MOST)
    if queries < SEARCH_LEAST:
        return not_applicable("black-box", f"the budget of {look.meter.limit} passes does not reach for a search")
    broken: Flags = {}
    look.probe(broken, look.survivors[:count], lambda bound: search(bound, queries))
    return look.drop("black-box", broken, f"a random search of {queries} queries breaks")


def unbounded(look: Look) -> Check:
    """Climb clips that another clip's inputs are known to break, over the whole range of the attacked modalities."""
    threat = _free_threat(look)
    if threat is None:
        return not_applicable("unbounded", "the radius of features has no natural limit")
    flips = _breakable(look)
    if len(flips) < FREE_FEWEST:
        why = f"only {len(flips)} clips are known to change their class with another clip's inputs"
        return not_applicable("unbounded", why)
    samples = look.case.victim.samples
    meter = look.meter.part(0.2)
    count = meter.affords(5 * samples, min(FREE_CLIPS, len(flips)))
    if count < FREE_FEWEST:
        return not_applicable("unbounded", f"the budget of {look.meter.limit} passes does not reach for it")
    steps = min(len(FREE_LENGTHS), (meter.left // (count * samples) - 1) // 2)
    free: Flags = {}
    look.probe(free, flips[:count], lambda bound: climb(bound, dict(bound.clean), FREE_LENGTHS[:steps]).broken, threat)
    ids = look.case.ids(i for i, broken in free.items() if not broken)
    return judged(
        "unbounded",
        len(ids) > count / 2,
        f"without any limit but the bounds, {steps} gradient steps leave {len(ids)} of {count} clips as "
        f"they were ({first_of(ids)}), though another clip's inputs change their class",
        f"without a limit, {count - len(ids)} of {count} clips are broken in {steps} steps",
        clips=ids,
        figures={"clips": count, "left": len(ids)},
    )


def _free_threat(look: Look) -> ThreatModel | None:
    """The attacked modalities over their whole range."""
    budgets = {}
    for name, budget in look.standing.threat.items():
        if budget.space != "input":
            return None
        media = look.case.victim.media.get(name)
        bounds = budget.bounds or (media.bounds if media is not None else None)
        if bounds is None:
            return None
        budgets[name] = Budget(norm="linf", eps=bounds[1] - bounds[0], bounds=bounds)
    return ThreatModel.of(budgets)


def _breakable(look: Look) -> list[int]:
    """Clips for which a change of the attacked modalities alone is known to change the class."""
    if not look.known.flips:  # of a model of one modality: any other clip changes it
        one = len(look.standing.threat.modalities) == 1 and len(look.case.modalities) == 1
        return [int(i) for i in look.case.first(look.case.clean.correct, FREE_CLIPS)] if one else []
    attacked = [look.known.flips[name] for name in look.standing.threat.modalities if name in look.known.flips]
    if len(attacked) == len(look.known.flips):  # all of them: another clip's whole inputs
        return list(attacked[0])
    return [i for i in attacked[0] if any(flips.get(i, False) for flips in attacked)] if attacked else []
