"""The video encoders' configurations; free of torch."""

from typing import Literal

from pydantic import Field

from avrobust_core import Config


class SlowFastConfig(Config):
    """Configuration of `slowfast`."""

    size: Literal["tiny", "small", "r50"] = "r50"
    """Size of the network: tiny and small for small pictures, r50 for slowfast_r50 of PyTorchVideo."""
    alpha: int = Field(default=4, ge=1)
    """Frames of the fast pathway, which sees them all, per frame of the slow one."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of dropout on the pooled embedding, in training."""


class SlowFastTinyConfig(SlowFastConfig):
    """Configuration of `slowfast-tiny`."""

    size: Literal["tiny", "small", "r50"] = "tiny"
    """Size of the network: tiny and small for small pictures, r50 for slowfast_r50 of PyTorchVideo."""
