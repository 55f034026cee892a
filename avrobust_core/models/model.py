"""The model: encoders by modality, a fusion, a head."""

from collections.abc import Callable, Collection, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from avrobust_core.data.batches import Encoded
from avrobust_core.models.answers import check_logits, logits_of
from avrobust_core.models.base_classes import EncodedDims, Encoder, Fusion
from avrobust_core.models.declared import check_encoded, check_encoder, check_fused, check_fusion
from avrobust_core.models.layouts import Reached
from avrobust_core.models.windows import Windows


class Single(Fusion):
    """The fusion of a model with one encoder: what the encoder gives, as it is.

    Args:
        modality: what it reads.
        dims: the encoder's.
        pooled: whether the head reads the pooled embedding, or the tokens.
    """

    def __init__(self, modality: str, dims: EncodedDims, *, pooled: bool = True) -> None:
        super().__init__()
        self.modality = modality
        self.pooled = pooled
        self.dim = dims.embed if pooled else dims.token

    def forward(self, encoded: Mapping[str, Encoded]) -> Tensor:
        """The pooled embedding (B, E), or the tokens (B, T, D)."""
        found = encoded[self.modality]
        return found.pooled if self.pooled else found.tokens


class AVModel(nn.Module):
    """Encoders by modality -> fusion -> head. Logits out, never probabilities.

    Args:
        encoders: by modality; a modality is a name, and nothing here knows any of them.
        fusion: None for a model with one encoder.
        classes: the number of logits K.
        windows: the parts of a clip that encoders, fusion and head read one by one, each as a clip of its own; the
            logits are the mean over them, in training as in evaluation. By default the clip as it is.

    Attributes:
        reached: what these weights reached where they were published; None of others.

    Raises:
        ModelError: if an encoder or the fusion does not say its widths.
    """

    def __init__(
        self, encoders: Mapping[str, Encoder], fusion: Fusion | None, classes: int, windows: Windows | None = None
    ) -> None:
        super().__init__()
        if not encoders:
            raise ValueError("a model needs at least one encoder")
        for name, each in encoders.items():
            check_encoder(each, name)
        if fusion is not None:
            check_fusion(fusion)
        head: nn.Module | None = None
        if fusion is None:
            if len(encoders) > 1:
                raise ValueError(f"a model with the encoders {', '.join(encoders)} needs a fusion")
            ((modality, encoder),) = encoders.items()
            head = encoder.make_head(classes)
            fusion = Single(modality, encoder.dims, pooled=head is None)
        self.encoders = nn.ModuleDict(encoders)
        self.classes = classes
        self.windows = windows or Windows()
        self.reached: Reached | None = None
        self.fusion = fusion
        self.head = head if head is not None else fusion.make_head(classes)

    @property
    def title(self) -> str:
        """The name in errors; a `WholeModel` gives that of its module."""
        found = getattr(self.fusion, "title", None)
        return found if isinstance(found, str) else type(self).__name__

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that the model reads."""
        return tuple(self.encoders.keys())

    def encode(self, inputs: Mapping[str, Tensor], features: Collection[str] = ()) -> dict[str, Encoded]:
        """Encode those of the model's modalities that are among `inputs`; others are ignored.

        Args:
            inputs: by modality, raw.
            features: the modalities whose inputs are features already, as `features` gives them.

        Returns:
            By modality tokens (B, T, D) and pooled (B, E); of N windows (B, N T, D) and (B, N E), side by side.

        Raises:
            ModelError: if an encoder returns anything else than it declares.
        """
        found, windows = {}, self.windows
        for name, encoder in self.encoders.items():
            if name in inputs:
                whole, x = cast(Encoder, encoder), inputs[name]
                rows = windows.unfold(x) if name in features else windows.cut(name, x)
                encoded = whole.encode(rows) if name in features else whole(rows)
                encoded = check_encoded(whole, name, encoded, len(rows))
                found[name] = Encoded(windows.fold(encoded.tokens), windows.fold(encoded.pooled))
        return found

    def features(self, name: str, x: Tensor) -> Tensor:
        """What the frontend of a modality's encoder makes of raw inputs: (B, S, ...); of N windows (B, N S, ...)."""
        return self.windows.fold(cast(Encoder, self.encoders[name]).frontend(self.windows.cut(name, x)))

    def classify(self, encoded: Mapping[str, Encoded]) -> Tensor:
        """Logits (B, K) from the encodings of all modalities."""
        return self.score(self.fuse(encoded))

    def fuse(self, encoded: Mapping[str, Encoded]) -> Tensor:
        """The fused embedding of all encodings: (B, F), or (B, L, F) where the head pools it; N F or N L of windows.

        Raises:
            ModelError: if the fusion returns anything else than it declares.
        """
        unfold = self.windows.unfold
        rows = {name: Encoded(unfold(each.tokens), unfold(each.pooled)) for name, each in encoded.items()}
        return self.windows.fold(check_fused(self.fusion, self.fusion(rows), rows))

    def score(self, fused: Tensor) -> Tensor:
        """Logits (B, K) from the fused embedding.

        Raises:
            ModelError: if fusion and head return anything else.
        """
        rows = self.windows.unfold(fused)
        logits = check_logits(logits_of(self.head(rows), of=self.title), self.title, len(rows), self.classes)
        return self.windows.mean(logits)

    def embed(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The fused embedding of raw inputs, as `fuse` gives it."""
        return self.fuse(self.encode(inputs))

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        between: Callable[[Mapping[str, Encoded]], Mapping[str, Encoded]] | None = None,
    ) -> Tensor:
        """Logits (B, K) from raw inputs by modality.

        Args:
            inputs: by modality, raw.
            between: changes the encodings before they are fused, in training; None for nothing.

        Raises:
            KeyError: if a modality that the model reads is missing.
        """
        missing = [name for name in self.modalities if name not in inputs]
        if missing:
            raise KeyError(f"the model reads {', '.join(self.modalities)}; missing: {', '.join(missing)}")
        encoded: Mapping[str, Encoded] = self.encode(inputs)
        return self.classify(encoded if between is None else between(encoded))


def compiled(model: AVModel) -> AVModel:
    """The same model, changed in place: each encoder is compiled by torch when it is first called, and keeps its keys.

    Fusion, head and what training does between them stay as they are: next to encoders they cost little.
    """
    for encoder in model.encoders.values():
        encoder.compile()
    return model


def channels_last(model: nn.Module) -> nn.Module:
    """The same model, changed in place: weights of its convolutions, and so its activations, in channels-last order."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
        if isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)
    return model
