"""The components' configurations, which a spec writes under `with:`; free of torch."""

from collections.abc import Mapping

from pydantic import Field, model_validator

from avrobust_core import AttackChoice, Config, ThreatModel


class Limits(Config):
    """The limits of one modality; those that are null do not bind."""

    excess_db: float | None = Field(default=None, ge=-100, le=100)
    """Of sound: how far above the clip's masking threshold any part of the perturbation may be, in dB."""
    ssim: float | None = Field(default=None, gt=0, lt=1)
    """Of pictures: the lowest structural similarity with the clean clip, the mean over its frames."""
    flicker: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Of pictures: how much the perturbation may change from frame to frame, root mean square, in 8-bit steps."""

    @model_validator(mode="after")
    def _some(self) -> "Limits":
        if self.excess_db is None and self.ssim is None and self.flicker is None:
            raise ValueError("limits need at least one of excess_db (sound), ssim and flicker (pictures)")
        if self.excess_db is not None and not (self.ssim is None and self.flicker is None):
            raise ValueError("excess_db is of sound, ssim and flicker are of pictures: one modality is not both")
        return self


class ImperceptibleConfig(Config):
    """Configuration of `imperceptible`."""

    attack: AttackChoice = Field(default_factory=lambda: AttackChoice(use="pgd"))
    """The attack that searches, like {use: apgd, with: {steps: 100}}; any that looks at a clip alone and keeps to the
    radius."""
    limits: Mapping[str, Limits] = Field(min_length=1)
    """Limits by modality, like {audio: {excess_db: 0}, video: {ssim: 0.95, flicker: 4}}, beside the threat's budget; an
    attacked modality without any has its budget alone."""
    rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Sample rate of the sound in Hz; null for what the data set says."""


class PerceptualSizeConfig(Config):
    """Configuration of `perceptual-size`."""

    attack: AttackChoice = Field(default_factory=lambda: AttackChoice(use="pgd"))
    """The attack whose perturbations are measured; it is carried out by the metric."""
    threat: ThreatModel
    """What it may change, like {audio: {norm: linf, eps: 0.002}}; what a model does not read is left out."""
    rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Sample rate of the sound in Hz; null for what the data set says."""
    seed: int = Field(default=0, ge=0)
    """Of the attack's random numbers."""
