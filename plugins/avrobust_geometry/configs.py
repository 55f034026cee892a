"""Configurations of `density` and `convexity`; free of torch and numpy."""

from typing import Annotated, Literal

from pydantic import Field

from avrobust_core import Config

Exact = Literal["auto"] | bool
"""Whether nearest neighbours are exact: auto takes what the cost model says is faster."""


class DensityConfig(Config):
    """Configuration of `density`."""

    estimators: Annotated[
        tuple[Literal["class-ratio", "log-knn", "lof", "lid", "coverage-density", "trust"], ...], Field(min_length=1)
    ] = ("class-ratio", "log-knn", "lof", "lid", "coverage-density", "trust")
    """What to compute. trust needs predictions, and is left out for bare embeddings."""
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


class ConvexityConfig(Config):
    """Configuration of `convexity`."""

    levels: Annotated[tuple[Literal["input", "tokens", "fused", "graph"], ...], Field(min_length=1)] = ("tokens",)
    """Where clips are interpolated; graph follows the neighbourhood graph of each embedding instead."""
    methods: Annotated[tuple[Literal["interpolation", "reference", "euclidean"], ...], Field(min_length=1)] = (
        "interpolation",
    )
    """How segments are looked at: one drawn point between clips that the model gets right; as the reference's notebook
    did; or ten equidistant points between any clips of a class."""
    apart: bool = True
    """Whether to move each modality by itself, too, the others being held at each end in turn."""
    pairs: int = Field(default=1000, ge=1)
    """Segments per class, drawn uniformly from all pairs of its clips; a class with fewer pairs gives all of them."""
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
