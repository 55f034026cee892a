"""The attacks' configurations; free of torch."""

from typing import Literal

from pydantic import Field, model_validator

from avrobust_core import Config

LossName = Literal["ce", "margin", "dlr", "rank"]


class FgsmConfig(Config):
    """Configuration of `fgsm`."""

    random_start: bool = False
    """Start from a point drawn from the ball instead of the clean clip."""
    loss: LossName = "ce"
    """Loss that is raised: ce (cross-entropy), margin (best other logit minus best of the clip's own), dlr (margin over
    the spread of the logits) or rank (mean rank of the clip's labels, which average precision measures)."""


class PgdConfig(Config):
    """Configuration of `pgd`."""

    steps: int = Field(default=20, ge=1)
    """Gradient steps of each restart."""
    step_size: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Length of a step as a share of each modality's radius; null for 2.5 / steps (Madry et al. 2018)."""
    restarts: int = Field(default=1, ge=1)
    """Independent starts; each attacks only the clips that all earlier ones failed on."""
    random_start: bool = True
    """Start from a point drawn from the ball instead of the clean clip."""
    loss: LossName = "ce"
    """Loss that is raised: ce (cross-entropy), margin (best other logit minus best of the clip's own), dlr (margin over
    the spread of the logits) or rank (mean rank of the clip's labels, which average precision measures)."""

    @model_validator(mode="after")
    def _restarts_differ(self) -> "PgdConfig":
        if self.restarts > 1 and not self.random_start:
            raise ValueError(
                f"restarts: {self.restarts} without random_start would repeat one attack; "
                "set random_start: true, or restarts: 1"
            )
        return self
