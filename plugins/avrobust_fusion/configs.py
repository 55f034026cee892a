"""The fusions' configurations; free of torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from avrobust_core import Config

Space = Literal["logits", "softmax", "sigmoid"]
"""Where `decision` averages."""

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


class _TokensConfig(Config):
    """What fusions of tokens share."""

    width: int = Field(default=192, ge=1)
    """Width to which the tokens of all modalities are mapped; a multiple of heads."""
    layers: int = Field(default=2, ge=1)
    """Transformer layers."""
    heads: int = Field(default=4, ge=1)
    """Attention heads."""
    mlp_ratio: float = Field(default=4.0, gt=0, le=16)
    """Width of the hidden layer of each feed-forward network, in widths of a token."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of dropout on what each part of a transformer layer adds, in training."""
    positions: bool = True
    """Whether tokens are told where in the clip they lie, in order, on one scale for all modalities."""

    @model_validator(mode="after")
    def _divisible(self) -> "_TokensConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self


class TransformerConfig(_TokensConfig):
    """What `early` and `mid` share."""

    pool: Literal["class", "mean"] = "class"
    """What becomes the fused embedding: a class token, or the mean over modalities of the mean of their tokens."""


class EarlyConfig(TransformerConfig):
    """Configuration of `early`."""

    layers: int = Field(default=4, ge=1)
    """Transformer layers."""
    positions: bool = False
    """Whether tokens are told where in the clip they lie, in order, on one scale for all modalities. audio-patches and
    video-patches tell it themselves."""


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


class AttentionConfig(_TokensConfig):
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
    """How much each modality counts: equally, as learned for all clips alike, or a number above 0 by modality, such as
    {audio: 0.3, video: 0.7}; they are scaled to sum to 1."""
    space: Space = "logits"
    """What is averaged: logits; probabilities of which one class is right (softmax), for one label per clip; or the
    probability of each class by itself (sigmoid), for several."""


class OddOneOutConfig(Config):
    """Configuration of `odd-one-out`."""

    dim: int = Field(default=128, ge=1)
    """Width of what each expert gives, and of the fused embedding."""
    hidden: int = Field(default=128, ge=1)
    """Width of the hidden layer of the network that tells the odd one out."""
