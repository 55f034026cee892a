"""The audio encoders' configurations; free of torch."""

from pydantic import Field, model_validator

from avrobust_core import Config


class LogMelConfig(Config):
    """The log-mel front end that audio encoders share."""

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
