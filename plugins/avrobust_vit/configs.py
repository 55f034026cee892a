"""The configurations of the vision-transformer encoders and of CAV-MAE's fusion; free of torch."""

from typing import Final

from pydantic import Field, model_validator

from avrobust_core import Config

PATCH: Final = 16
"""Side of a patch, in frames, mel bands or pixels."""


class TransformerConfig(Config):
    """Sizes of a vision transformer; the defaults are those of ViT-B/16."""

    width: int = Field(default=768, ge=1)
    """Width of the tokens: a multiple of heads."""
    heads: int = Field(default=12, ge=1)
    """Attention heads."""

    @model_validator(mode="after")
    def _whole_heads(self) -> "TransformerConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self


class AstConfig(TransformerConfig):
    """Configuration of `ast`; the defaults are those of the published network for AudioSet."""

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


class CavMaeConfig(TransformerConfig):
    """What both encoders of CAV-MAE have."""

    depth: int = Field(default=11, ge=1)
    """Transformer layers of this modality."""
    joint_depth: int = Field(default=1, ge=0)
    """Joint layers that the head of a model with this encoder alone applies, with this modality's own norms."""

    @model_validator(mode="after")
    def _whole_positions(self) -> "CavMaeConfig":
        if self.width % 4:
            raise ValueError(f"width {self.width} must be a multiple of 4: positions are sines and cosines of two axes")
        return self


class CavMaeAudioConfig(CavMaeConfig):
    """Configuration of `cav-mae-audio`; the defaults are those of the published network."""

    frames: int = Field(default=1024, ge=PATCH, multiple_of=PATCH)
    """Frames of 10 ms that are read: longer clips are cut, shorter ones filled up with zeros. A multiple of 16."""
    mean: float = Field(default=-5.081, allow_inf_nan=False)
    """Mean of the filter bank's logarithms; the default is the published one."""
    std: float = Field(default=4.4849, gt=0, allow_inf_nan=False)
    """Standard deviation of the filter bank's logarithms; the default is the published one."""


class CavMaeVideoConfig(CavMaeConfig):
    """Configuration of `cav-mae-video`; the defaults are those of the published network, for pictures of 224x224."""


class CavMaeFusionConfig(Config):
    """Configuration of the fusion `cav-mae`; the defaults are those of the published network."""

    audio: str = Field(default="audio", min_length=1)
    """The modality that is heard."""
    video: str = Field(default="video", min_length=1)
    """The modality that is seen."""
    width: int | None = Field(default=None, ge=1)
    """Width of the joint layers; null for that of the tokens. Tokens of another width are mapped to it linearly."""
    depth: int = Field(default=1, ge=1)
    """Joint layers."""
    heads: int = Field(default=12, ge=1)
    """Attention heads, of which the width is a multiple."""

    @model_validator(mode="after")
    def _two(self) -> "CavMaeFusionConfig":
        if self.audio == self.video:
            raise ValueError(f"audio and video are both {self.audio!r}: name two modalities")
        return self
