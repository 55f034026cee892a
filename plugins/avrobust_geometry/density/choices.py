"""The choices that all searches and estimators of one layer share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import torch

from avrobust_core import Shares
from avrobust_geometry.configs import Exact


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """The way to measure; see `density`."""

    k: int
    estimators: tuple[str, ...]
    exact: Exact
    most: int
    confidence: float
    resamples: int
    seed: int
    groups: Sequence[str] | None = None
    device: str | torch.device = "cpu"
    shares: Shares = field(default_factory=Shares)

    @property
    def affordable(self) -> float:
        """The most distances that may be computed where no graph will do."""
        return inf if self.exact is True else self.most

    @property
    def interval(self) -> dict[str, Any]:
        """The arguments of `bootstrap` that say how intervals are made."""
        return {name: getattr(self, name) for name in ("confidence", "resamples", "seed", "groups")}
