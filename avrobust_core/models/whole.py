"""Networks that take all modalities at once, as models of a spec: the clips are handed on as they are, to one module.

The encoder `Raw` hands each modality's input on, and the fusion `WholeModel` gives them to the module as the dict that
it was written for. Everything else (attacks, budgets, checks, embeddings, weights) is as with any other model.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from avrobust_core.data.batches import Encoded
from avrobust_core.data.media import MediaSpec
from avrobust_core.errors import ComponentError
from avrobust_core.models.answers import check_logits, logits_of
from avrobust_core.models.base_classes import EncodedDims, Encoder, Fusion
from avrobust_core.models.layouts import CheckpointLayout, State


@dataclass(frozen=True, slots=True)
class RawDims(EncodedDims):
    """The widths of an input that is handed on flat, and `shape`: what one clip of it was."""

    shape: tuple[int, ...]


class Raw(Encoder):
    """One modality's input, handed on flat: tokens (B, 1, N) and pooled (B, N), both views of it.

    Args:
        media: of the modality; any kind and shape.
    """

    dims: RawDims

    def __init__(self, media: MediaSpec) -> None:
        super().__init__()
        size = math.prod(media.shape)
        self.dims = RawDims(token=size, embed=size, shape=media.shape)
        self.frontend = nn.Identity()
        self.time_axis = media.time_axis

    def encode(self, features: Tensor) -> Encoded:
        """From (B, ...) to (B, 1, N) and (B, N)."""
        flat = features.flatten(1)
        return Encoded(tokens=flat.unsqueeze(1), pooled=flat)


class WholeModel(Fusion):
    """Any module from a dict of modalities to logits, as the fusion of `Raw` encoders.

    Args:
        module: from {modality: (B, ...)} to logits (B, K).
        inputs: what the model's encoders return, as a fusion's `build` gets it.
        classes: K, the number of the module's logits.
        head: the dotted name of the module's last layer, an `nn.Linear`. With it the fused embedding, which the
            metrics of the latent space measure, is what goes into that layer, and a data set of another number of
            classes gets a new one; without it the embedding is the logits, and the classes must be as many.

    A checkpoint of the module by its own keys is read as the model's `weights`.

    Raises:
        ComponentError: if an encoder is not `raw`, or `head` is not a linear layer of the module with K outputs.
    """

    def __init__(
        self, module: nn.Module, inputs: Mapping[str, EncodedDims], *, classes: int, head: str | None = None
    ) -> None:
        super().__init__()
        coded = sorted(name for name, dims in inputs.items() if not isinstance(dims, RawDims))
        if coded:
            raise ComponentError(
                f"{type(module).__name__} is a whole model and takes its inputs as they are; give {', '.join(coded)} "
                "the encoder `raw`"
            )
        self.shapes = {name: dims.shape for name, dims in inputs.items() if isinstance(dims, RawDims)}
        self.layouts = _own_layouts(module, head)
        # In a tuple, since it belongs to the model as its head, and must not be among the parameters twice.
        self._last = () if head is None else (_take_out(module, head, classes),)
        self.classes = classes
        self.dim = self._last[0].in_features if self._last else classes
        self.module = module

    @property
    def title(self) -> str:
        """The name of the model in errors."""
        return type(self.module).__name__

    def forward(self, encoded: Mapping[str, Encoded]) -> Tensor:
        """The output of the module, without its last layer if that is the head: (B, F).

        Outputs that hold logits are unwrapped as `logits_of` says.

        Raises:
            ModelError: if these are not logits, or of another number of classes.
            ComponentError: if they are of another width: the head is not what the module does last.
        """
        inputs = {name: encoded[name].pooled.reshape(-1, *shape) for name, shape in self.shapes.items()}
        name, clips = self.title, len(next(iter(inputs.values())))
        found = logits_of(self.module(inputs), of=name, classes=self.dim)
        if not self._last:
            return check_logits(found, name, clips, self.classes)
        if found.dim() != 2 or found.shape[1] != self.dim:
            raise ComponentError(
                f"{name} returned {tuple(found.shape)}, where (B, {self.dim}) is expected of it without its "
                "head, which must be its last layer"
            )
        return found

    def make_head(self, classes: int) -> nn.Module:
        """The module's own last layer, a new one for another number of classes, or nothing where there is no head.

        Raises:
            ComponentError: if there is no head, and the classes are not as many as the module's logits.
        """
        if not self._last:
            if classes != self.classes:
                raise ComponentError(
                    f"{type(self.module).__name__} gives {self.classes} logits, and the data set has {classes} classes"
                )
            return nn.Identity()
        return self._last[0] if classes == self.classes else nn.Linear(self.dim, classes)


def _take_out(module: nn.Module, name: str, classes: int) -> nn.Linear:
    """The module's last layer, in whose place nothing is done from now on."""
    layer = dict(module.named_modules()).get(name)
    if not isinstance(layer, nn.Linear) or layer.out_features != classes:
        what = "has no module" if layer is None else f"has {layer}, not an nn.Linear with {classes} outputs,"
        raise ComponentError(
            f"{type(module).__name__} {what} under the name {name!r}; its linear layers are: "
            f"{', '.join(key for key, part in module.named_modules() if isinstance(part, nn.Linear)) or 'none'}"
        )
    module.set_submodule(name, nn.Identity())
    return layer


def _own_layouts(module: nn.Module, head: str | None) -> tuple[CheckpointLayout, ...]:
    """The module's own keys as a layout of the model's weights."""
    keys = tuple(module.state_dict())

    def convert(state: State) -> State:
        inside = None if head is None else f"{head}."
        return {
            f"head.{key.removeprefix(inside)}" if inside and key.startswith(inside) else f"fusion.module.{key}": value
            for key, value in state.items()
        }

    return (CheckpointLayout(name=type(module).__name__, marks=keys[:1], convert=convert),) if keys else ()
