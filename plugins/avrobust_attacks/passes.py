"""Passes that searches take of each clip, from the points that they score."""

from avrobust_core import Occasion, Passes


def passes_of_climbs(occasion: Occasion, points: int, climbs: int, gradients: int) -> Passes:
    """Those of climbs whose points a `keeper_for` scores.

    Below float32 every success is confirmed, and of several labels every point; of a model with randomness of its own
    each climb's end is looked at once more.

    Args:
        occasion: what else decides it.
        points: scored, the clean clip among them if it is.
        climbs: how many.
        gradients: taken in all of them.
    """
    if not occasion.repeatable:
        return Passes(points + climbs, gradients)
    return Passes(points * (1 if occasion.exact else 2), gradients, exact=not occasion.settles)


def passes_of_search(occasion: Occasion, points: int) -> Passes:
    """Those of searches of which a `BestPoint` scores so many points.

    Below float32 as in `passes_of_climbs`. Of a model with randomness of its own every point that is taken for better
    is looked at once more, and so is the last one.
    """
    looks = 1 if occasion.exact else 2
    if not occasion.repeatable:
        return Passes(points * (looks + 1) + 1, exact=False)
    return Passes(points * looks, exact=not occasion.settles)
