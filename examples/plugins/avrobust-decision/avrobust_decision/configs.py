"""The attack's configuration; free of torch."""

from typing import Any

from pydantic import Field

from avrobust_core import Config


class HopSkipJumpConfig(Config):
    """Configuration of `hop-skip-jump`."""

    queries: int = Field(default=5000, ge=100)
    """Labels that may be asked for of each clip, all told."""
    starts: int = Field(default=100, ge=1)
    """Random points, further and further out, that are tried of each clip until one reaches the goal; half the queries
    at most. A clip for which none does counts as robust: try more where that may be the reason."""
    first_probes: int = Field(default=100, ge=2)
    """Points around the boundary by which the first direction is estimated; the t-th takes sqrt(t) times as many."""
    probe: float = Field(default=0.1, gt=0, le=1)
    """How far these points are from the boundary, as a share of the perturbation there."""
    together: int = Field(default=1, ge=1)
    """Points of each clip that are asked about in one pass. It changes no result: more is faster where the model is
    small, and takes as many times the memory."""

    def identity(self) -> dict[str, Any]:
        """All but `together`."""
        return {name: value for name, value in super().identity().items() if name != "together"}
