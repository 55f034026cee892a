"""The configurations of the attacks without a gradient; free of torch."""

from typing import Literal

from pydantic import Field

from avrobust_core import Config

LossName = Literal["margin", "ce", "rank"]


class NoiseConfig(Config):
    """Configuration of `noise`."""

    kind: Literal["uniform", "gaussian"] = "uniform"
    """uniform: drawn from the region itself; gaussian: normal noise of a size that fills the ball, then projected."""
    draws: int = Field(default=10, ge=1)
    """Draws for each clip; each is tried on the clips that all earlier ones failed on."""
    loss: LossName = "margin"
    """Loss by which a multi-label clip's best draw is chosen: margin, ce or rank."""


class SquareConfig(Config):
    """Configuration of `square`."""

    queries: int = Field(default=5000, ge=2)
    """Forward passes for each clip and restart; 1000 is a cheap attack."""
    p_init: float = Field(default=0.8, gt=0, le=1)
    """Share of a modality's samples that the first blocks cover; halved by the published schedule."""
    restarts: int = Field(default=1, ge=1)
    """Independent starts; each attacks only the clips that all earlier ones failed on."""
    loss: LossName = "margin"
    """Loss that is raised: margin (best other logit minus best of the clip's own), ce or rank."""


class DropConfig(Config):
    """Configuration of `drop`."""

    replace: Literal["silence", "mean", "other-clip"] = "silence"
    """The stand-in for the attacked modalities: silence (0, or what the bounds hold nearest to it: silence, black),
    mean (of all clips of the split), or other-clip (all attacked modalities of one other clip)."""
    different_class: bool = True
    """With other-clip: prefer a clip that shares no label. Targeted attacks do not see the clips' own labels: they
    choose among all other clips."""
    pool: int = Field(default=64, ge=2)
    """With other-clip: how many clips are kept to choose from."""
    split: str | None = None
    """The split of the mean or of the other clips; null for the split that is attacked."""
    batch_size: int = Field(default=32, ge=1)
    """Clips that are read at a time; it changes no result but the last bits of a mean."""
