"""Levels at which clips are interpolated: raw inputs, what encoders return, what the head reads, or any array."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core import AVModel, Encoded, Probe
from avrobust_geometry.inputs import Array, Ints

ELEMENTS = 1 << 22
"""Numbers of one end's latents that are held at once: 16 MiB."""

MOST = 4096
"""Segments put through at once at most."""

Values = dict[str, Tensor]
"""The tensors that are interpolated, by name: (B, ...) each."""


@dataclass(frozen=True, slots=True)
class Level:
    """A place in a model where clips can be interpolated.

    Attributes:
        name: "input", "tokens", "fused"; empty for arrays.
        part_of: what is interpolated, and the part that it belongs to: a modality, or "all".
        batch: segments to put through at once.
        device: where values and logits lie.
        fetch: from clips, (B,) positions, to their values.
        classify: from values to logits (B, K).
    """

    name: str
    part_of: Mapping[str, str]
    batch: int
    device: torch.device
    fetch: Callable[[Ints], Values]
    classify: Callable[[Values], Tensor]

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that may be moved by themselves, the rest being held."""
        return tuple(dict.fromkeys(self.part_of.values()))

    def ends(self, first: Ints, second: Ints) -> tuple[Values, Values]:
        """The values of both ends of B segments, positions of clips, each clip fetched once."""
        clips, places = np.unique(np.concatenate([first, second]), return_inverse=True)
        index, values = torch.from_numpy(places.reshape(2, -1)).to(self.device), self.fetch(clips)
        one, other = ({name: x[end] for name, x in values.items()} for end in index)
        return one, other


def input_level(probe: Probe, split: str) -> Level:
    """Raw clips of a split, through the whole model."""
    model = probe.model
    parts = model.modalities if isinstance(model, AVModel) else tuple(probe.read(split, [0]))

    def fetch(clips: Ints) -> Values:
        inputs = probe.read(split, clips.tolist())
        return {name: inputs[name] for name in parts}

    return Level("input", {name: name for name in parts}, probe.batch_size, probe.device, fetch, probe.forward)


def tokens_level(probe: Probe, layers: Mapping[str, NDArray[Any]]) -> Level:
    """The encoders' output, tokens and pooled embedding alike, through fusion and head.

    Args:
        probe: the model.
        layers: of the clips, "tokens/<modality>" and "pooled/<modality>".
    """
    own = {name: x for name, x in layers.items() if name.split("/")[0] in ("tokens", "pooled")}
    modalities = [name.removeprefix("tokens/") for name in own if name.startswith("tokens/")]

    def classify(values: Values) -> Tensor:
        return probe.classify(
            {part: Encoded(values[f"tokens/{part}"], values[f"pooled/{part}"]) for part in modalities}
        )

    return _of_arrays("tokens", own, classify, probe.device, probe.batch_size)


def fused_level(probe: Probe, layers: Mapping[str, NDArray[Any]]) -> Level:
    """The layer "fused", which the head reads, through the head alone."""
    own = {"fused": layers["fused"]}
    return _of_arrays("fused", own, lambda values: probe.head(values["fused"]), probe.device, probe.batch_size)


def array_level(embeddings: Array, classify: Callable[[Any], Any]) -> Level:
    """Rows of one array, through a function of it.

    Args:
        embeddings: (N, ...) of floats, a numpy array or a torch tensor.
        classify: from (B, ...) of the same kind to logits (B, K), numpy or torch.
    """
    device = embeddings.device if isinstance(embeddings, Tensor) else torch.device("cpu")

    def logits_of(values: Values) -> Tensor:
        x = values[""]
        with torch.no_grad():
            found = classify(x if isinstance(embeddings, Tensor) else x.numpy())
        logits = found if isinstance(found, Tensor) else torch.from_numpy(np.asarray(found))
        if logits.ndim != 2 or len(logits) != len(x):
            raise ValueError(f"classify returned shape {tuple(logits.shape)} for {len(x)} rows: give logits (B, K)")
        return (logits if logits.is_floating_point() else logits.double()).to(device)

    return _of_arrays("", {"": embeddings}, logits_of, device, 1)


def _of_arrays(
    name: str, arrays: Mapping[str, Array], classify: Callable[[Values], Tensor], device: torch.device, least: int
) -> Level:
    def fetch(clips: Ints) -> Values:
        return {each: _rows(x, clips).to(device) for each, x in arrays.items()}

    width = sum(prod(x.shape[1:]) for x in arrays.values())
    batch = max(least, min(MOST, ELEMENTS // max(1, width)))
    return Level(name, {each: each.partition("/")[2] or "all" for each in arrays}, batch, device, fetch, classify)


def _rows(values: Array, clips: Ints) -> Tensor:
    if isinstance(values, Tensor):
        return values[torch.from_numpy(clips).to(values.device)]
    return torch.from_numpy(np.ascontiguousarray(values[clips], dtype=values.dtype.newbyteorder("=")))
