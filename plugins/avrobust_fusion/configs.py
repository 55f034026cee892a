"""The fusions' configurations; free of torch."""

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from avrobust_core import Config

Space = Literal["logits", "softmax", "sigmoid"]
"""The quantity that `decision` averages."""

PATCH: Final = 16
"""Side of a patch in CAV-MAE, in frames, mel bands or pixels."""

Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weights = Annotated[dict[str, Weight], Field(min_length=1)]


class RawConfig(Config):
    """Configuration of `raw`: there is nothing to choose."""


class ConcatConfig(Config):
    """Configuration of `concat`."""

    hidden: int = Field(default=0, ge=0)
    """Width of a linear layer with ReLU between the concatenation and the head; 0 for none: a linear model of it."""


class SumConfig(Config):
    """Configuration of `sum`."""

    dim: int = Field(default=128, ge=1)
    """Width to which each modality's embedding is mapped, and of the fused embedding."""


class _HeadsConfig(Config):
    """A width that is divided into attention heads."""

    width: int = Field(default=192, ge=1)
    """Width to which the tokens of all modalities are mapped; a multiple of heads."""
    heads: int = Field(default=4, ge=1)
    """Attention heads."""

    @model_validator(mode="after")
    def _whole_heads(self) -> "_HeadsConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self


class TokensConfig(_HeadsConfig):
    """Options that fusions of tokens share."""

    layers: int = Field(default=2, ge=1)
    """Transformer layers."""
    mlp_ratio: float = Field(default=4.0, gt=0, le=16)
    """Width of the hidden layer of each feed-forward network, in widths of a token."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of dropout on what each part of a transformer layer adds, in training."""
    positions: bool = True
    """Tell tokens where in the clip they lie, on one scale for all modalities."""


class TransformerConfig(TokensConfig):
    """Options that `early` and `mid` share."""

    pool: Literal["class", "mean"] = "class"
    """Source of the fused embedding: a class token, or the mean over modalities of the mean of their tokens."""


class EarlyConfig(TransformerConfig):
    """Configuration of `early`."""

    layers: int = Field(default=4, ge=1)
    """Transformer layers."""
    positions: bool = False
    """Tell tokens where in the clip they lie, on one scale for all modalities. audio-patches and video-patches tell it
    themselves."""


class MidConfig(TransformerConfig):
    """Configuration of `mid`."""

    bottlenecks: int = Field(default=4, ge=0)
    """Tokens through which modalities exchange what they know, and the only ones; 0 for none: every token sees those of
    all modalities."""

    @model_validator(mode="after")
    def _exchanges(self) -> "MidConfig":
        if self.bottlenecks and self.layers < 2:
            raise ValueError(
                "layers 1 would exchange nothing: what a modality writes into the bottlenecks is read a layer later; "
                "use 2 or more, or bottlenecks 0"
            )
        return self


class AttentionConfig(TokensConfig):
    """Configuration of `attention`."""

    width: int = Field(default=128, ge=1)
    """Width to which the tokens of all modalities are mapped; a multiple of heads."""
    layers: int = Field(default=1, ge=1)
    """Cross-modal layers of each modality."""


class GatedConfig(Config):
    """Configuration of `gated`."""

    dim: int = Field(default=128, ge=1)
    """Width to which each modality's embedding is mapped, and of the fused embedding."""
    gate: Literal["dimension", "modality"] = "dimension"
    """One gate for each dimension of a modality's embedding, or one for all of it."""


class DecisionConfig(Config):
    """Configuration of `decision`."""

    weights: Literal["equal", "learned"] | Weights = "equal"
    """Weights of the modalities: equal, as learned for all clips alike, or a number above 0 by modality, such as
    {audio: 0.3, video: 0.7}; they are scaled to sum to 1."""
    space: Space = "logits"
    """The quantity that is averaged: logits; probabilities over the classes (softmax), for one label per clip; or the
    probability of each class by itself (sigmoid), for several."""


class OddOneOutConfig(Config):
    """Configuration of `odd-one-out`."""

    dim: int = Field(default=128, ge=1)
    """Width of what each expert gives, and of the fused embedding."""
    hidden: int = Field(default=128, ge=1)
    """Width of the hidden layer of the network that tells the odd one out."""


class CavMaeConfig(_HeadsConfig):
    """Options of both encoders of CAV-MAE; the defaults are those of ViT-B/16."""

    width: int = Field(default=768, ge=1, multiple_of=4)
    """Width of the tokens: a multiple of heads, and of 4, as positions are sines and cosines of two axes."""
    heads: int = Field(default=12, ge=1)
    """Attention heads."""
    depth: int = Field(default=11, ge=1)
    """Transformer layers of this modality."""
    joint_depth: int = Field(default=1, ge=0)
    """Joint layers that the head of a model with this encoder alone applies, with this modality's own norms."""


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
