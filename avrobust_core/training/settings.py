"""The settings of a fit: the optimiser's, and how its weights are selected."""

from typing import Literal

from pydantic import Field

from avrobust_core.config.sections import Section


class Regime(Section):
    """A training regime: AdamW with linear warm-up and cosine decay."""

    epochs: int = Field(ge=0, le=1_000_000)
    """Passes over the training split; 0 leaves the initial weights."""
    batch_size: int = Field(default=32, ge=1, le=1_000_000)
    """Clips per optimiser step, over all processes together."""
    learning_rate: float = Field(default=1e-3, gt=0, le=1e6)
    """Peak learning rate."""
    weight_decay: float = Field(default=1e-2, ge=0, le=1e6)
    """AdamW's decoupled weight decay; not applied to biases and normalisation."""
    warmup: float = Field(default=0.1, ge=0, le=1)
    """Share of the steps over which the learning rate rises from 0."""
    gradient_clip: float | None = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Largest Euclidean norm of the gradient; null for none."""
    validation: float = Field(default=0.1, ge=0, lt=1)
    """Share of the training split held out for selection, where the data set has no "val" split; by clip id."""
    select: Literal["best", "last"] = "best"
    """The weights that are attacked: the best on the validation clips, or the last, which needs none."""
