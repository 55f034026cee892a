"""What a metric returns is looked at before anything reads it: a slip names the metric and what is wanted."""

from typing import Any

import numpy as np
import pytest

from avrobust_core import Estimate, Measurement
from avrobust_core.errors import ComponentError
from avrobust_core.metrics.findings import checked_measurement

GOOD = Estimate(0.5, 0.4, 0.6, 3, "bootstrap")


def test_a_sound_measurement_is_returned_as_it_is() -> None:
    found = Measurement(values={"x": GOOD}, per_class={"x": {"a": 1.0}}, per_clip={"x": np.zeros(3)})
    assert checked_measurement(found, "metric 'mine'", 3) is found


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (0.5, "returned a float, 0.5; wanted is avrobust_core.Measurement(values="),
        (GOOD, "returned a Estimate, "),
        (None, "returned a NoneType, None"),
        (Measurement(values={"x": 0.5}), "returned values['x'] as a float, 0.5; wanted is an avrobust_core.Estimate"),
        (Measurement(values=GOOD), "returned `values` as a Estimate"),
        (Measurement(values={"x": GOOD}, per_class={"x": 1.0}), "per_class['x'] as a float, 1.0; wanted is a mapping"),
        (
            Measurement(values={"x": GOOD}, per_clip={"x": np.zeros(4)}),
            "per_clip['x'] of shape (4,); wanted is one number per clip, (3,)",
        ),
        (Measurement(values={"x": GOOD}, details=["note"]), "returned `details` as a list"),
    ],
)  # type: ignore[arg-type]
def test_anything_else_names_the_metric_and_what_is_wanted(found: Any, told: str) -> None:
    with pytest.raises(ComponentError) as caught:
        checked_measurement(found, "metric 'mine' (plugin 'p' of acme 1.0)", 3)
    assert told in str(caught.value)
    assert str(caught.value).startswith("metric 'mine' (plugin 'p' of acme 1.0) returned")
