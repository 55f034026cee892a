"""Levels at which clips are interpolated: raw inputs, named layers, what encoders return or the head reads, arrays."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core import AVModel, Encoded, ModelError, Probe
from avrobust_geometry.configs import modality_of
from avrobust_geometry.inputs import Array, Ints

ELEMENTS = 1 << 22
"""Numbers of one end's latents that are held at once: 16 MiB."""

MOST = 4096
"""Segments put through at once at most."""

BYPASSED = 0.01
"""The share of the spread of clips' logits by which these may change with what goes in before a layer that is replaced:
less than that of what a clip says passes it by."""

ROUNDING = 1e-4
"""The same for rounding, as a share of the largest logit."""

Values = dict[str, Tensor]
"""The tensors that are interpolated, by name: (B, ...) each."""


@dataclass(frozen=True, slots=True)
class Level:
    """A place in a model where clips can be interpolated.

    Attributes:
        name: "input", "tokens", "fused", or of layers; empty for arrays.
        part_of: what is interpolated, and the part that it belongs to: a modality, or "all".
        batch: segments to put through at once.
        device: where values and logits lie.
        fetch: from clips, (B,) positions, to their values.
        classify: from values to logits (B, K).
        encodes: whether fetching clips puts them through the model, so that it counts.
    """

    name: str
    part_of: Mapping[str, str]
    batch: int
    device: torch.device
    fetch: Callable[[Ints], Values]
    classify: Callable[[Values], Tensor]
    encodes: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that may be moved by themselves, the rest being held."""
        return tuple(dict.fromkeys(self.part_of.values()))

    def ends(self, first: Ints, second: Ints) -> tuple[Values, Values, int]:
        """The values of both ends of B segments, positions of clips, and how many clips that put through the model.

        Each clip is fetched once.
        """
        clips, places = np.unique(np.concatenate([first, second]), return_inverse=True)
        index, values = torch.from_numpy(places.reshape(2, -1)).to(self.device), self.fetch(clips)
        one, other = ({name: x[end] for name, x in values.items()} for end in index)
        return one, other, len(clips) if self.encodes else 0


def input_level(probe: Probe, split: str) -> Level:
    """Raw clips of a split, through the whole model."""
    model = probe.model
    parts = model.modalities if isinstance(model, AVModel) else tuple(probe.read(split, [0]))

    def fetch(clips: Ints) -> Values:
        inputs = probe.read(split, clips.tolist())
        return {name: inputs[name] for name in parts}

    return Level("input", {name: name for name in parts}, probe.batch_size, probe.device, fetch, probe.forward)


def layers_level(probe: Probe, split: str, name: str, clips: int) -> Level | None:
    """The outputs of named layers, through what comes after them; modalities without one move at their input.

    Args:
        probe: the model.
        split: whose clips are read.
        name: of a layer, or of one of each encoder with + between; those of modalities that the model does not read
            are left out.
        clips: in the split.

    Returns:
        The level; None if the model reads none of their modalities.

    Raises:
        ModelError: if the model has no such layer, the layer is not called or returns no tensor with rows for each
            clip, or what comes after it reads more of a clip than its output.
    """
    modalities = probe.model.modalities if isinstance(probe.model, AVModel) else tuple(probe.read(split, [0]))
    owners = {layer: modality_of(layer) for layer in name.split("+")}
    owners = {layer: owner for layer, owner in owners.items() if owner is None or owner in modalities}
    if not owners:
        return None
    for layer in owners:
        probe.layer(layer)
    moved = {layer: owner or "all" for layer, owner in owners.items()}
    # A layer beyond the encoders stands for all that goes in; it alone is moved.
    others = [] if None in owners.values() else [each for each in modalities if each not in owners.values()]
    carrier = probe.read(split, [0])

    def fetch(rows: Ints) -> Values:
        parts = []
        for start in range(0, len(rows), probe.batch_size):
            inputs = probe.read(split, rows[start : start + probe.batch_size].tolist())
            parts.append(probe.outputs(inputs, list(moved)) | {each: inputs[each] for each in others})
        return {each: torch.cat([part[each] for part in parts]) for each in parts[0]}

    def classify(values: Values) -> Tensor:
        count = len(next(iter(values.values())))
        # What goes into the encoders of layers that are replaced does not matter: always the same clip.
        inputs = {each: x.expand(count, *x.shape[1:]).clone() for each, x in carrier.items() if each in modalities}
        given = {each: values[each] for each in others}
        return probe.forward(inputs | given, {each: values[each] for each in moved})

    part_of = moved | {each: each for each in others}
    level = Level(name, part_of, probe.batch_size, probe.device, fetch, classify, encodes=True)
    some = np.arange(min(clips, probe.batch_size))
    _refuse_bypassed(level, probe.forward(probe.read(split, some.tolist())), some)
    return level


def _refuse_bypassed(level: Level, logits: Tensor, clips: Ints) -> None:
    """Refuse layers around which something else of a clip gets to the logits, such as a residual connection.

    Args:
        level: of layers.
        logits: (B, K) of the clips themselves.
        clips: (B,) positions.

    Raises:
        ModelError: if the layers' outputs do not give these logits, whatever the inputs are.
    """
    back = torch.arange(len(clips) - 1, -1, -1, device=level.device)
    again = level.classify({each: x[back] for each, x in level.fetch(clips).items()})[back]
    spread = (logits.amax(dim=0) - logits.amin(dim=0)).max()
    if (again - logits).abs().max() > BYPASSED * spread + ROUNDING * logits.abs().max():
        raise ModelError(
            "what comes after it reads more of a clip than its output, such as what a "
            "residual connection leads around it: name a layer that all goes through, such as the block around it"
        )


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
