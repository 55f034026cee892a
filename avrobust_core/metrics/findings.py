"""A look at what a metric returned, before anything reads it: a plugin's slip is named as one."""

from collections.abc import Mapping

import numpy as np

from avrobust_core.errors import ComponentError
from avrobust_core.metrics.metric import Measurement
from avrobust_core.plain_text import shortened
from avrobust_core.statistics.intervals import Estimate

_ESTIMATE = "an avrobust_core.Estimate, as `share` and `bootstrap` give, or Estimate(value, nan, nan, n, 'none')"


def checked_measurement(found: object, who: str, clips: int) -> Measurement:
    """What a metric returned, if it is a `Measurement` whose parts are what they should be.

    Args:
        found: what `Metric.measure` returned.
        who: the metric, for the error, with its plugin and distribution where they are known.
        clips: N of the subject.

    Raises:
        ComponentError: names the metric, what it returned, and what is wanted.
    """
    if not isinstance(found, Measurement):
        raise ComponentError(
            f"{who} returned {_seen(found)}; wanted is avrobust_core.Measurement(values={{name: estimate}}), each "
            f"estimate {_ESTIMATE}"
        )
    for part in ("values", "per_class", "per_clip", "details"):
        held: object = getattr(found, part)
        if not isinstance(held, Mapping):
            raise ComponentError(f"{who} returned `{part}` as {_seen(held)}; wanted is a mapping by name")
    for name, value in found.values.items():
        if not isinstance(value, Estimate):
            raise ComponentError(f"{who} returned values[{name!r}] as {_seen(value)}; wanted is {_ESTIMATE}")
    for name, by_class in found.per_class.items():
        if not isinstance(by_class, Mapping):
            raise ComponentError(
                f"{who} returned per_class[{name!r}] as {_seen(by_class)}; wanted is a mapping from classes to numbers"
            )
    for name, numbers in found.per_clip.items():
        shape = np.shape(numbers)
        if shape != (clips,):
            raise ComponentError(
                f"{who} returned per_clip[{name!r}] of shape {shape}; wanted is one number per clip, ({clips},), in "
                "the order of the subject's ids, NaN where a clip has none"
            )
    return found


def _seen(value: object) -> str:
    return f"a {type(value).__name__}, {shortened(repr(value), 60)}"
