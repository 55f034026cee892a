"""The video encoders' configurations; free of torch."""

from typing import Literal

from pydantic import Field, model_validator

from avrobust_core import Config


class SlowFastConfig(Config):
    """Configuration of `slowfast`."""

    size: Literal["tiny", "small", "r50", "r101"] = "r50"
    """Size of the network: tiny and small for small pictures, r50 and r101 for those of PyTorchVideo."""
    alpha: int = Field(default=4, ge=1)
    """Frames of the fast pathway, which sees them all, per frame of the slow one."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of dropout on the pooled embedding, in training."""


class SlowFastTinyConfig(SlowFastConfig):
    """Configuration of `slowfast-tiny`."""

    size: Literal["tiny", "small", "r50", "r101"] = "tiny"
    """Size of the network: tiny and small for small pictures, r50 and r101 for those of PyTorchVideo."""


class X3dConfig(Config):
    """Configuration of `x3d`."""

    size: Literal["xs", "s", "m", "l"] = "s"
    """Size of the network. xs, s and m differ in the clips that they were trained on: 4 frames of 160 pixels, 13 of 160
    and 16 of 224; l is deeper, for 16 of 312."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of dropout on the pooled embedding, in training."""


class FrameTransformerConfig(Config):
    """Configuration of `frame-transformer`."""

    width: int = Field(default=1024, ge=1)
    """Width of the tokens, to which the features are projected; a multiple of heads."""
    layers: int = Field(default=1, ge=1)
    """Transformer layers."""
    heads: int = Field(default=8, ge=1)
    """Attention heads."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of dropout on what each part of a transformer layer adds, in training."""

    @model_validator(mode="after")
    def _divisible(self) -> "FrameTransformerConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self


class TimmFramesConfig(Config):
    """Configuration of `timm-frames`."""

    model: str = Field(default="resnet18", pattern=r"^[A-Za-z0-9_.]+$")
    """Name of an image network in timm, as `timm.list_models()` gives it. Its weights are drawn anew, or read from the
    spec's `weights`; nothing is downloaded."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of dropout on the pooled embedding, in training."""


class VideoPatchesConfig(Config):
    """Configuration of `video-patches`."""

    patch_frames: int = Field(default=2, ge=1)
    """Frames of a patch."""
    patch_size: int = Field(default=16, ge=1)
    """Height and width of a patch in pixels."""
    width: int = Field(default=192, ge=1)
    """Width of the tokens."""
