"""Configurations of `density`, `convexity` and `guided-mixup`; free of torch and numpy."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from avrobust_core import Config

Exact = Literal["auto"] | bool
"""Exact nearest neighbours or not: auto takes what the cost model says is faster."""


class DensityConfig(Config):
    """Configuration of `density`."""

    estimators: Annotated[
        tuple[Literal["class-ratio", "log-knn", "lof", "lid", "coverage-density", "trust"], ...], Field(min_length=1)
    ] = ("class-ratio", "log-knn", "lof", "lid", "coverage-density", "trust")
    """The densities to compute. trust needs predictions, and is left out for bare embeddings."""
    k: int = Field(default=10, ge=1)
    """Neighbours: r_k is the distance to the k-th. Beyond what a set or a class holds it is clipped, and said so."""
    reference: str | None = "train"
    """The split among whose clips neighbours are looked for; null for the one that is evaluated. A clip is never its
    own neighbour."""
    layers: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Layers to measure, such as pooled/audio or fused; by default each modality before fusion and the fused one."""
    exact: Exact = "auto"
    """Exact nearest neighbours (true), pynndescent's (false), or whichever is faster (auto)."""
    most: int = Field(default=400_000_000_000, ge=1)
    """Distances, clips times reference clips, up to which all are computed where no graph will do: beyond it
    class-ratio and trust look at a subsample of the reference, and coverage-density is left out. exact: true lifts
    it."""


PLACES = ("input", "tokens", "fused", "graph")
"""The levels of convexity that every model has."""


def modality_of(layer: str) -> str | None:
    """The modality of a layer inside an encoder, encoders.MODALITY.LAYER; None for other layers."""
    parts = layer.split(".")
    return parts[1] if parts[0] == "encoders" and len(parts) > 2 else None


class ConvexityConfig(Config):
    """Configuration of `convexity`."""

    levels: Annotated[tuple[str, ...], Field(min_length=1)] = ("tokens",)
    """The places where clips are interpolated: input, tokens, fused; or layers by their names in the model, such as
    encoders.audio.conv_block2, or encoders.audio.conv_block2+encoders.video.blocks.1, at which both modalities move.
    graph follows the neighbourhood graph of each embedding instead."""
    methods: Annotated[
        tuple[Literal["interpolation", "between", "reference", "euclidean"], ...], Field(min_length=1)
    ] = ("interpolation",)
    """The ways to look at segments: one drawn point between clips of a class that the model gets right; ten points from
    such a clip to one of another class; as the reference's notebook did; or ten equidistant points between any clips of
    a class."""
    apart: bool = True
    """Move each modality by itself, too, the others being held at each end in turn."""
    pairs: int = Field(default=1000, ge=1)
    """Segments per class of interpolation and of between, drawn uniformly from all pairs of its clips, or of one of
    them and one of another class; a class with fewer pairs gives all of them."""
    euclidean_pairs: int = Field(default=5000, ge=1)
    """The same for euclidean."""
    graph_pairs: int = Field(default=5000, ge=1)
    """The same for graph: shortest paths per class and embedding."""
    k: int = Field(default=10, ge=1)
    """Neighbours in the graph."""
    exact: Exact = "auto"
    """Exact nearest neighbours for the graph (true), pynndescent's (false), or whichever is faster (auto)."""
    calibration: str | None = "train"
    """The split on whose logits the threshold of each class is chosen where clips have several labels (best F1); null
    for the one that is evaluated."""

    @field_validator("levels")
    @classmethod
    def _levels_are_places_or_layers(cls, levels: tuple[str, ...]) -> tuple[str, ...]:
        for level in levels:
            layers = level.split("+")
            if level not in PLACES and not all("." in layer.strip(".") for layer in layers):
                raise ValueError(
                    f"there is no level {level!r}; there are {', '.join(PLACES)}, and layers of the model by their "
                    "names, such as encoders.audio.conv_block2"
                )
            modalities = [modality_of(layer) for layer in layers]
            if len(layers) > 1 and (None in modalities or len(set(modalities)) < len(layers)):
                raise ValueError(f"{level!r}: give one layer of each encoder, or a single layer of anything else")
        return levels


class GuidanceConfig(Config):
    """The configuration that everything guided by the latent space of training shares."""

    control: Literal["none", "permuted", "inverted"] = "none"
    """A control for studies: permuted lends each clip the weight (and the partners) of another clip of its class: the
    same weights, no geometry; inverted does the opposite of what the guide says."""
    warmup: int = Field(default=4, ge=1)
    """Epochs that are learned without guidance, so that there are embeddings to be guided by. Weights from a network
    that knows little yet leave classes behind that it would have learned."""
    refresh: int = Field(default=1, ge=1)
    """Epochs from one guide to the next."""
    width: int = Field(default=256, ge=2)
    """Dimensions that are kept of each modality's embedding: of wider ones, a random projection."""
    score: Literal["class-ratio", "log-knn"] = "class-ratio"
    """The density that weighs clips: against the other classes, or plain."""
    beta: float = Field(default=0.5, ge=-3, le=3, allow_inf_nan=False)
    """A clip's weight is exp(beta z), z its standardised density: above 0 clips deep among their own count more, below
    0 those at the border; 0 for all alike."""
    k: int = Field(default=10, ge=1)
    """Neighbours: those of the density, and those that may be partners."""


class GuidedWeightsConfig(GuidanceConfig):
    """Configuration of `guided-weights`."""

    guide: tuple[Literal["density", "balance"], ...] = ("density",)
    """What weighs a clip's loss: density, or balance (rare classes weigh more); both multiply."""


class GuidedMixupConfig(GuidanceConfig):
    """Configuration of `guided-mixup`. Batches should hold an even number of clips: pairs are read together."""

    guide: tuple[Literal["density", "convexity", "balance"], ...] = ("density",)
    """What guides: density (how much clips weigh, and which lie near them), convexity (which classes and which ratios
    fail), balance (rare classes weigh more). Empty: plain mix-up, read in pairs."""
    level: Literal["input", "encoded"] = "input"
    """What is mixed: the raw clips, or what the encoders return."""
    weigh: Literal["loss", "sampling"] = "loss"
    """What a clip's weight is: of its loss, every clip being learned from once in each epoch; or of its chance to be an
    anchor, which leaves other clips out of the epoch."""
    tau: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Width of the kernel over neighbours: small takes the nearest, large any of the k alike."""
    local: float = Field(default=1.0, ge=0, le=1)
    """Share of the pairs whose partner is a neighbour; the others' partners come from anywhere."""
    partners: Literal["any", "other-class", "same-class"] = "same-class"
    """Which neighbours may be partners."""
    alpha: float = Field(default=0.05, gt=0, allow_inf_nan=False)
    """Both parameters of the Beta distribution of the mixing ratio: 1 draws ratios uniformly, 0.05 leaves most clips
    nearly as they are."""
    ratio: Literal["failures", "beta"] = "failures"
    """With convexity as a guide: ratios at which mixtures were misjudged come more often; or as drawn."""
