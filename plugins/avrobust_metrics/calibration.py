"""By how much attacks left less than first-order distances promised, over models that were attacked."""

import json
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np

from avrobust_core import Estimate


def robust_estimate(withstands: Estimate, confidence: float) -> Estimate:
    """Robust accuracy under a strong attack, as the share of clips that withstand to first order lets one expect it.

    The value is that share. The interval is one of prediction, for a single model: the clips' own, moved by the
    quantiles of what this share was wrong by in the models of `calibration.json`, which
    `benchmarks/predictors.py --calibration` fits, attacks and writes.

    Args:
        withstands: the share, in [0, 1], with its interval.
        confidence: in (0, 1), of the interval.
    """
    below, above = np.quantile(calibration()["errors"], [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    low, high = np.clip([withstands.low + below, withstands.high + above], 0.0, 1.0).tolist()
    return Estimate(withstands.value, low, high, withstands.n, "prediction", withstands.groups)


@lru_cache(maxsize=1)
def calibration() -> dict[str, Any]:
    """The file: how many `models`, the sorted `errors` (robust accuracy minus the share), and their `coverage`."""
    text = files("avrobust_metrics").joinpath("calibration.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found
