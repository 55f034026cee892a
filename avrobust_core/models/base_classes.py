"""The base classes of encoders and fusions, for plugins to subclass."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from avrobust_core.data.batches import Encoded
from avrobust_core.models.layouts import CheckpointLayout


@dataclass(frozen=True, slots=True)
class EncodedDims:
    """The width of what an encoder returns: `token` is D of tokens (B, T, D), `embed` is E of pooled (B, E)."""

    token: int
    embed: int


class Encoder(nn.Module, ABC):
    """From one modality to tokens and a pooled embedding.

    Fixed differentiable steps (log-mel, pixel normalisation) belong in the `frontend`, so that budgets are
    stated on the raw input.

    Attributes:
        dims: the widths of the tokens and of the pooled embedding.
        frontend: differentiable, from the raw input (B, ...) to features (B, ...).
        time_axis: which axis of one clip's features is time; None if it is not known. Budgets with `space: features`
            that speak of time need it.
        layouts: published layouts of weights that it can read beside its own.
        origin: the component, plugin and distribution that it was built by, for errors; whoever builds it says so.
    """

    dims: EncodedDims
    frontend: nn.Module
    time_axis: int | None = None
    layouts: Sequence[CheckpointLayout] = ()
    origin: str = ""

    @abstractmethod
    def encode(self, features: Tensor) -> Encoded:
        """From the frontend's features to tokens (B, T, D) and pooled (B, E)."""

    def forward(self, x: Tensor) -> Encoded:
        """From the raw input to tokens and pooled."""
        return self.encode(self.frontend(x))

    def make_head(self, classes: int) -> nn.Module | None:
        """The classifier of a model with this encoder alone, from its tokens (B, T, D) to logits (B, classes).

        None, as here, for a linear map of its pooled embedding.
        """
        return None


class Fusion(nn.Module, ABC):
    """From what the encoders of a model return to one fused embedding.

    Attributes:
        dim: the width F of the fused embedding.
        layouts: published layouts of the weights of whole models with this fusion; they convert to the model's own
            keys: "encoders.<modality>....", "fusion....", "head....".
        origin: the component, plugin and distribution that it was built by, for errors; whoever builds it says so.
    """

    dim: int
    layouts: Sequence[CheckpointLayout] = ()
    origin: str = ""

    @abstractmethod
    def forward(self, encoded: Mapping[str, Encoded]) -> Tensor:
        """From encodings by modality to the fused embedding: (B, F), or (B, L, F) if the head pools it."""

    def make_head(self, classes: int) -> nn.Module:
        """The module from the fused embedding to logits (B, classes); linear unless the fusion needs its own."""
        return nn.Linear(self.dim, classes)
