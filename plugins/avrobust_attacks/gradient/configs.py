"""The attacks' configurations; free of torch."""

from typing import Literal

from pydantic import Field, model_validator

from avrobust_core import Config

LossName = Literal["reach", "ce", "margin", "dlr", "rank"]
ClimbedLossName = Literal["reach", "ce", "margin", "dlr", "rank", "targeted"]


class FgsmConfig(Config):
    """Configuration of `fgsm`."""

    random_start: bool = False
    """Take the gradient at a point drawn from the ball instead of the clean clip."""
    loss: LossName = "reach"
    """Loss that is raised: reach (ce; with several labels the margin until the goal is reached, then ce), ce
    (cross-entropy), margin (best other logit minus best of the clip's own), dlr (margin over the spread of the logits)
    or rank (mean rank of the clip's labels, which average precision measures)."""


class RestartedConfig(Config):
    """Fields of `pgd` and `apgd`."""

    restarts: int = Field(default=1, ge=1)
    """Independent starts; each attacks only the clips that all earlier ones failed on."""
    random_start: bool = True
    """Start from points drawn from the ball, all restarts but the first: that begins at the clean clip, whose gradient
    leads further in few steps; where it is exactly 0, the clip's modality goes on from a drawn point. false: never."""
    loss: ClimbedLossName = "reach"
    """Loss that is raised: reach (ce; with several labels the margin until the goal is reached, then ce), ce
    (cross-entropy), margin (best other logit minus best of the clip's own), dlr (margin over the spread of the logits),
    rank (mean rank of the clip's labels, which average precision measures) or targeted (dlr towards one class after the
    other: each restart makes one climb for each of `targets`)."""
    targets: int = Field(default=9, ge=1)
    """With `loss: targeted`, how many classes are aimed at: those that the clean clip's logits hold most likely."""

    @model_validator(mode="after")
    def _restarts_differ(self) -> "RestartedConfig":
        if self.restarts > 1 and not self.random_start:
            raise ValueError(
                f"restarts: {self.restarts} without random_start would repeat one attack; "
                "set random_start: true, or restarts: 1"
            )
        return self


class PgdConfig(RestartedConfig):
    """Configuration of `pgd`."""

    steps: int = Field(default=20, ge=1)
    """Gradient steps of each restart."""
    step_size: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Length of every step as a share of each modality's radius. Lengths that sum to less than 1 do not reach the edge
    from the clean clip, and to less than 2 do not cross the ball from a random start; the point that the first gradient
    likes best in the whole ball is scored all the same. null: the first step goes to that point, and the lengths of the
    others fall from the radius to a fiftieth of it, which breaks more clips, sooner, than one length does."""


class MimConfig(Config):
    """Configuration of `mim`."""

    steps: int = Field(default=20, ge=1)
    """Gradient steps."""
    step_size: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Length of a step as a share of each modality's radius; null for 3 / steps; Dong et al. (2018) have 1 / steps,
    which is weaker. The point that the first gradient likes best in the whole ball is scored, too, so that `mim` is
    never weaker than `fgsm`."""
    decay: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of the gradients so far against the new one; 0 is PGD from the clean clip."""
    loss: LossName = "reach"
    """Loss that is raised: reach (ce; with several labels the margin until the goal is reached, then ce), ce
    (cross-entropy), margin (best other logit minus best of the clip's own), dlr (margin over the spread of the logits)
    or rank (mean rank of the clip's labels, which average precision measures)."""


class ApgdConfig(RestartedConfig):
    """Configuration of `apgd`."""

    steps: int = Field(default=50, ge=1)
    """Gradient steps of each climb; they set when step sizes are looked at."""
