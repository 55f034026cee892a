"""Put arbitrary points through a fitted model, as convexity and similar metrics need."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from avrobust_core.data.batches import Encoded
from avrobust_core.data.media import MediaSpec
from avrobust_core.errors import AvrobustError
from avrobust_core.metrics.latents import LayerKind
from avrobust_core.metrics.named_layers import find_layer, outputs_of, replaced
from avrobust_core.models.answers import ask
from avrobust_core.models.model import AVModel


class Probe:
    """A fitted model in evaluation mode, and the clips that may be put through it; without gradients unless it says so.

    Args:
        model: to be probed.
        read: from a split and positions in its `Latents.ids` to raw inputs by modality, (B, ...) float32.
        device: where the model is; inputs of any device are moved there, and what is returned lies there.
        batch_size: clips per forward pass that memory is known to hold.
        media: what the data set says of each modality; empty where there is no data set to say it.
        padding: from the same as `read` to what `Batch.padded` has of these clips; None where none is padded.
    """

    def __init__(
        self,
        model: nn.Module,
        read: Callable[[str, Sequence[int]], Mapping[str, Tensor]],
        *,
        device: torch.device | str = "cpu",
        batch_size: int = 32,
        media: Mapping[str, MediaSpec] | None = None,
        padding: Callable[[str, Sequence[int]], Sequence[Mapping[str, float]]] | None = None,
    ) -> None:
        self.model = model
        self.media: Mapping[str, MediaSpec] = media or {}
        self.device = torch.device(device)
        self.batch_size = batch_size
        self._read = read
        self._padding = padding

    def read(self, split: str, positions: Sequence[int]) -> dict[str, Tensor]:
        """The raw inputs of clips, by modality, each (B, ...) float32, on the model's device.

        Args:
            split: the name of a split whose latents the metric asked for.
            positions: in that split's `Latents.ids`, each any number of times.

        Raises:
            DataError: if a clip can no longer be read; names it.
        """
        return {name: x.to(self.device) for name, x in self._read(split, positions).items()}

    def padding(self, split: str, positions: Sequence[int], modality: str) -> tuple[float, ...]:
        """The share of each clip's time in a modality, at the end, that is padding: (B,); empty where none is padded.

        No attack may change it, so that what a metric says of attacks must leave it out: see `make_ball`.
        """
        if self._padding is None:
            return ()
        shares = tuple(clip.get(modality, 0.0) for clip in self._padding(split, positions))
        return shares if any(shares) else ()

    @torch.no_grad()
    def forward(self, inputs: Mapping[str, Tensor], layers: Mapping[str, Tensor] | None = None) -> Tensor:
        """Logits (B, K) float32 from raw inputs by modality.

        Args:
            inputs: (B, ...) each.
            layers: by name, (B, D) what layers return in this pass in place of what they would, as `outputs` gives it.

        Raises:
            ModelError: if the model returns no logits, or has no such layer (names near ones). That logits are finite
                is for the metric to see to: what it asks about may be no clip at all.
        """
        there = {name: x.to(self.device) for name, x in inputs.items()}
        with replaced(self.model, layers) if layers else nullcontext():
            return ask(self.model, lambda: self.model(dict(there)), there).float()

    def layer(self, name: str) -> nn.Module:
        """The model's layer of that name, as `named_modules` gives it.

        Raises:
            ModelError: if there is none; names near ones.
        """
        return find_layer(self.model, name)

    @torch.no_grad()
    def outputs(self, inputs: Mapping[str, Tensor], layers: Collection[str]) -> dict[str, Tensor]:
        """What layers return for raw inputs by modality, by the layers' names: (B, D), a clip's numbers side by side.

        A layer may return one tensor or several, with the clips or their rows, such as frames, along the first axis. Of
        a layer that is called several times it is what the last call returns.

        Raises:
            ModelError: if there is no such layer (names near ones), it is not called, or it returns anything else.
        """
        there = {name: x.to(self.device) for name, x in inputs.items()}
        clips = len(next(iter(there.values())))
        return outputs_of(self.model, layers, lambda: ask(self.model, lambda: self.model(dict(there)), there), clips)

    @torch.no_grad()
    def classify(self, encoded: Mapping[str, Encoded]) -> Tensor:
        """Logits (B, K) from what the encoders return: fusion and head.

        Raises:
            AvrobustError: if the model is not an `AVModel`.
            ModelError: as `forward`.
        """
        there = {name: Encoded(e.tokens.to(self.device), e.pooled.to(self.device)) for name, e in encoded.items()}
        return self._audio_visual().classify(there).float()

    @torch.enable_grad()
    def differentiable(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """As `forward`, with gradients towards those inputs that want them: see `leaves_of` and `joint_gradient`."""
        there = {name: x.to(self.device) for name, x in inputs.items()}
        return ask(self.model, lambda: self.model(dict(there)), there).float()

    @torch.no_grad()
    def head(self, fused: Tensor) -> Tensor:
        """Logits (B, K) from fused embeddings: the head alone.

        Raises:
            AvrobustError: if the model is not an `AVModel`.
            ModelError: as `forward`.
        """
        return self._audio_visual().score(fused.to(self.device)).float()

    def _audio_visual(self) -> AVModel:
        if not isinstance(self.model, AVModel):
            raise AvrobustError(
                f"{type(self.model).__name__} is no avrobust_core.AVModel with encoders, a fusion and a head"
            )
        return self.model


def layers_of(
    model: AVModel, encoded: Mapping[str, Encoded], fused: Tensor, kinds: Collection[LayerKind]
) -> dict[str, Tensor]:
    """The layers of these kinds by their names in `Latents.layers`."""
    found: dict[str, Tensor] = {
        f"{kind}/{name}": getattr(encoded[name], kind)
        for name in model.modalities
        for kind in ("pooled", "tokens")
        if kind in kinds
    }
    return found | ({"fused": fused} if "fused" in kinds else {})
