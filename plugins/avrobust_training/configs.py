"""The augmentations' configurations; free of torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from avrobust_core import Config

Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
Layer = Literal["input", "encoded"]
Axis = Literal["time", "time-frequency", "space"]


class RandomResizedCropConfig(Config):
    """Configuration of `random-resized-crop`."""

    scale: float = Field(default=0.5, gt=0, le=1)
    """Smallest share of the picture's area that a crop has; shares are uniform from it to 1."""
    ratio: float = Field(default=4 / 3, ge=1, le=10, allow_inf_nan=False)
    """Largest aspect ratio of a crop; ratios are log-uniform between its inverse and it."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability that a clip is mirrored; 0 where left and right tell classes apart (a digit, a direction)."""
    modalities: Annotated[list[str], Field(min_length=1)] | None = None
    """The modalities that are cropped; null for all that have pictures."""


class BalancedSamplingConfig(Config):
    """Configuration of `balanced-sampling`, which has nothing to choose."""


class MixingConfig(Config):
    """The configuration that all augmentations share that mix pairs of clips."""

    alpha: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Both parameters of the Beta distribution of the mixing ratio."""
    share: float = Field(default=1.0, ge=0, le=1)
    """Share of the clips that are mixed; the others stay as they are."""
    labels: Literal["mean", "union"] = "mean"
    """Targets of mixed clips: the mean of both, weighted as the clips are; or, for several labels per clip only, the
    union of both sets."""


class MixupConfig(MixingConfig):
    """Configuration of `mixup`."""

    alpha: float = Field(default=0.2, gt=0, allow_inf_nan=False)
    """Both parameters of the Beta distribution of the mixing ratio: small leaves most clips nearly as they are, 1
    draws ratios uniformly, large mixes halves."""
    together: bool = True
    """Mix all modalities of a clip with the same partner and ratio. If false, each modality draws its own,
    and the targets are the mean over modalities of what each would give."""


class ManifoldMixupConfig(MixupConfig):
    """Configuration of `manifold-mixup`."""

    alpha: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    """Both parameters of the Beta distribution of the mixing ratio; the paper takes 2."""
    layers: list[Layer] = Field(default=["encoded"], min_length=1)
    """Layers to mix at, one drawn for each batch: the raw clips (input), or what the encoders return (encoded)."""


class NoisyFeatureMixupConfig(ManifoldMixupConfig):
    """Configuration of `noisy-feature-mixup`."""

    alpha: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Both parameters of the Beta distribution of the mixing ratio."""
    layers: list[Layer] = Field(default=["input", "encoded"], min_length=1)
    """Layers to mix and add noise at, one drawn for each batch: the raw clips, or what the encoders return."""
    additive: float = Field(default=0.4, ge=0, allow_inf_nan=False)
    """Level of additive Gaussian noise, in standard deviations of the clip's own values; each clip's strength is this
    times a draw from Beta(2, 5)."""
    multiplicative: float = Field(default=0.2, ge=0, allow_inf_nan=False)
    """Level of multiplicative noise, uniform around 1; each clip's strength is this times a draw from Beta(2, 5)."""


class CutMixConfig(MixingConfig):
    """Configuration of `cutmix`."""

    alpha: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Both parameters of the Beta distribution of the share that is kept."""
    axis: Axis = "time"
    """The part that is cut: the same span of time in every modality; a box of frames and bands in features (1, frames,
    bands); or a box of rows and columns in pictures, the same in all frames."""


class NoiseConfig(Config):
    """Configuration of `noise`."""

    scale: Annotated[dict[str, Scale], Field(min_length=1)]
    """By modality, in units of the media: the standard deviation of Gaussian noise, or the largest uniform noise. What
    is not named gets none."""
    distribution: Literal["gaussian", "uniform"] = "gaussian"
    """Gaussian, or uniform between plus and minus the scale."""


class ModalityDropoutConfig(Config):
    """Configuration of `modality-dropout`."""

    probability: Annotated[dict[str, Probability], Field(min_length=1)]
    """Probability that a clip loses a modality, by modality; a clip loses one at most, so that the sum is at most 1."""
    fill: Literal["zeros", "clip"] = "zeros"
    """Its replacement: zeros (or the bound that is nearest to them), or another clip's."""

    @model_validator(mode="after")
    def _at_most_one(self) -> "ModalityDropoutConfig":
        total = sum(self.probability.values())
        if total > 1 + 1e-9:
            raise ValueError(f"probability adds up to {total:g}; a clip loses one modality at most, so that it is <= 1")
        return self


class SpecAugmentConfig(Config):
    """Configuration of `specaugment`."""

    time_masks: int = Field(default=2, ge=0, le=100)
    """Spans of time that are masked in each clip."""
    time_width: float = Field(default=0.1, gt=0, le=1)
    """Largest width of a span, as a share of the clip; widths are uniform up to it."""
    frequency_masks: int = Field(default=2, ge=0, le=100)
    """Bands of frequency that are masked in each clip's audio: in features, or by band-stop filters in a waveform."""
    frequency_width: float = Field(default=0.2, gt=0, le=1)
    """Largest width of a band, as a share of the bands of features, or of the mel scale up to half the sampling rate;
    widths are uniform up to it."""
    fill: Literal["zeros", "mean"] = "zeros"
    """The replacement of masked times and of masked bands of features: zeros (or the bound that is nearest), or
    the mean of the clip's own values."""
    together: bool = True
    """Mask the same spans of time in all modalities; if false, each draws its own."""
    modalities: Annotated[list[str], Field(min_length=1)] | None = None
    """The modalities that are masked; null for all."""
