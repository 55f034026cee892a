"""The fusions' configurations; free of torch."""

from pydantic import Field

from avrobust_core import Config


class ConcatConfig(Config):
    """Configuration of `concat`."""

    hidden: int = Field(default=0, ge=0)
    """Width of a linear layer with ReLU between the concatenation and the head; 0 for none: a linear model of it."""


class SumConfig(Config):
    """Configuration of `sum`."""

    dim: int = Field(default=128, ge=1)
    """Width to which each modality's embedding is mapped, and of the fused embedding."""
