"""The audio encoders' configurations; free of torch."""

from typing import Final, Literal

from pydantic import Field, model_validator

from avrobust_core import Config

Floor = Literal["added", "clamped"]
"""The log-mel front end's treatment of power below its floor."""

POOLS: Final = 5
"""Halvings of the mel bands in `tal-trans`."""

PATCH: Final = 16
"""Side of a patch in `ast`, in frames and mel bands."""


class LogMelConfig(Config):
    """The log-mel front end that audio encoders share; of spectrograms made beforehand only `n_mels` counts."""

    n_mels: int = Field(default=64, ge=1)
    """Mel bands."""
    window_ms: float = Field(default=32.0, gt=0, allow_inf_nan=False)
    """Length of the analysis window in milliseconds."""
    hop_ms: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """Time between frames in milliseconds."""
    f_min: float = Field(default=50.0, ge=0, allow_inf_nan=False)
    """Lowest frequency of the mel bands in Hz."""
    f_max: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Highest frequency of the mel bands in Hz; null for 14000, or half the sample rate where that is lower."""
    floor: Floor = "added"
    """Treatment of power below -100 dB: that floor is added to all power (smooth), or clamped to, as by PANNs."""

    @model_validator(mode="after")
    def _ordered(self) -> "LogMelConfig":
        if self.f_max is not None and not self.f_min < self.f_max:
            raise ValueError(f"f_min {self.f_min:g} must be below f_max {self.f_max:g}")
        if self.hop_ms > self.window_ms:
            raise ValueError(f"hop_ms {self.hop_ms:g} above window_ms {self.window_ms:g} would skip samples")
        return self


class CnnConfig(LogMelConfig):
    """Configuration of `cnn`."""

    channels: tuple[int, ...] = Field(default=(16, 32, 64, 128), min_length=1)
    """Width of each block, from the first; every block but the last halves time and frequency."""
    embed: int = Field(default=128, ge=1)
    """Width of the pooled embedding."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of dropout after each block and on the embedding, in training."""

    @model_validator(mode="after")
    def _positive(self) -> "CnnConfig":
        if min(self.channels) < 1:
            raise ValueError(f"channels {list(self.channels)}: every block needs at least one channel")
        return self


class PannsConfig(Config):
    """Configuration of `cnn6`, `cnn10` and `cnn14`: the published networks; the sample rate decides the front end."""

    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Probability of dropout after each block, in training."""
    pooled_dropout: float = Field(default=0.5, ge=0, lt=1)
    """Probability of dropout between pooling and the last linear layer, in training."""


class TalTransConfig(LogMelConfig):
    """Configuration of `tal-trans`."""

    window_ms: float = Field(default=64.0, gt=0, allow_inf_nan=False)
    """Length of the analysis window in milliseconds."""
    hop_ms: float = Field(default=25.0, gt=0, allow_inf_nan=False)
    """Time between frames in milliseconds; 25 makes 400 frames of ten seconds, as in the reference."""
    embed: int = Field(default=1024, ge=1)
    """Width of the tokens: a multiple of half of n_mels, and of heads."""
    repeats: int = Field(default=2, ge=1)
    """Number of times that the one transformer layer is applied."""
    heads: int = Field(default=8, ge=1)
    """Attention heads."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of dropout on what each part of the transformer layer adds, in training."""

    @model_validator(mode="after")
    def _divisible(self) -> "TalTransConfig":
        if self.n_mels % 2**POOLS:
            raise ValueError(f"n_mels {self.n_mels} must be a multiple of {2**POOLS}: {POOLS} pools halve the bands")
        if self.embed % (self.n_mels // 2) or self.embed % self.heads:
            raise ValueError(
                f"embed {self.embed} must be a multiple of half of n_mels, {self.n_mels // 2}, and of heads, "
                f"{self.heads}"
            )
        return self


class PatchesConfig(LogMelConfig):
    """Configuration of `audio-patches`."""

    patch_frames: int = Field(default=16, ge=1)
    """Frames of a patch."""
    patch_mels: int = Field(default=16, ge=1)
    """Mel bands of a patch; n_mels must be a multiple."""
    width: int = Field(default=192, ge=1)
    """Width of the tokens."""

    @model_validator(mode="after")
    def _whole_patches(self) -> "PatchesConfig":
        if self.n_mels % self.patch_mels:
            raise ValueError(f"n_mels {self.n_mels} must be a multiple of patch_mels {self.patch_mels}")
        return self


class AstConfig(Config):
    """Configuration of `ast`; the defaults are those of the published network for AudioSet."""

    width: int = Field(default=768, ge=1)
    """Width of the tokens: a multiple of heads."""
    heads: int = Field(default=12, ge=1)
    """Attention heads."""
    depth: int = Field(default=12, ge=1)
    """Transformer layers."""
    frames: int = Field(default=1024, ge=PATCH)
    """Frames of 10 ms that are read: longer clips are cut, shorter ones filled up with zeros, as in the original."""
    fstride: int = Field(default=10, ge=1, le=PATCH)
    """Mel bands between neighbouring patches, which are 16 high."""
    tstride: int = Field(default=10, ge=1, le=PATCH)
    """Frames between neighbouring patches, which are 16 long."""
    mean: float = Field(default=-4.2677393, allow_inf_nan=False)
    """Mean of the filter bank's logarithms; the default is AudioSet's."""
    std: float = Field(default=4.5689974, gt=0, allow_inf_nan=False)
    """Standard deviation of the filter bank's logarithms, of which twice is divided by; the default is AudioSet's."""

    @model_validator(mode="after")
    def _whole_heads(self) -> "AstConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self
