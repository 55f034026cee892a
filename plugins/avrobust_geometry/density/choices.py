"""How densities are measured: what all searches and estimators of one layer share."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from avrobust_geometry.configs import Exact


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """How to measure; see `density`."""

    k: int
    estimators: tuple[str, ...]
    exact: Exact
    most: int
    confidence: float
    resamples: int
    seed: int
    groups: Sequence[str] | None = None
    device: str | torch.device = "cpu"
