"""Checks of what is left under one threat: stronger and other probes on a few of the clips that no attack broke."""

from collections.abc import Iterator

from avrobust_core.audit.checks import Check, not_applicable
from avrobust_core.audit.climbing import FEWEST_CLIMBED, climb_checks
from avrobust_core.audit.formats import rounding
from avrobust_core.audit.inertia import inert
from avrobust_core.audit.look import Flags, Look
from avrobust_core.audit.probes import search
from avrobust_core.audit.unlimited import unbounded

SEARCH_QUERIES, SEARCH_MOST, SEARCH_LEAST = 50, 120, 10
"""Queries of the random search: those aimed at, at most, and from which on it means something."""


def threat_checks(look: Look) -> Iterator[Check]:
    """All checks of one threat.

    Args:
        look: new; its `drops` then hold what each probe has taken off the robust accuracy.
    """
    if not look.standing.worst:
        yield not_applicable("convergence", "no attack claims a worst case: all are targeted or without a limit")
        return
    yield from inert(look)
    yield from unbounded(look)
    if not len(look.survivors):
        yield not_applicable("convergence", "no clip is left that could still be broken")
    elif look.meter.left < 8 * look.case.victim.samples:
        yield not_applicable("convergence", f"the budget of {look.meter.limit} passes is spent")
    else:
        yield from climb_checks(look)
        yield from rounding(look)
        yield from searched(look)


def searched(look: Look) -> Iterator[Check]:
    """Search without gradients, with all that is left of the budget."""
    left = look.meter.left // look.case.victim.samples
    count = min(len(look.survivors), max(FEWEST_CLIMBED // 2, left // SEARCH_QUERIES))
    queries = min(left // max(count, 1), SEARCH_MOST)
    if queries < SEARCH_LEAST:
        yield not_applicable("black-box", f"the budget of {look.meter.limit} passes does not reach for a search")
        return
    broken: Flags = {}
    look.probe(broken, look.survivors[:count], lambda bound: search(bound, queries))
    yield look.drop("black-box", broken, f"a random search of {queries} queries breaks")
