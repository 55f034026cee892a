"""Embeddings of one model on the clips of a split, one memory-mapped file per layer."""

import math
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core.data.batches import Batch
from avrobust_core.data.loading import Selection
from avrobust_core.evaluation import shards
from avrobust_core.evaluation.shards import from_column
from avrobust_core.files import read_record, reserve, write_atomically, write_record
from avrobust_core.metrics.latents import Latents, LayerKind
from avrobust_core.metrics.probe import layers_of
from avrobust_core.models.answers import refuse_non_finite
from avrobust_core.models.model import AVModel

_LAYER = "layer/"
"""The prefix of the columns of layers, so that no layer is taken for logits."""

RECORD = "record.json"
CLIPS = "clips.parquet"
"""The files of a folder beside its layers: the record that completes it, and clips with their targets and logits."""


@torch.no_grad()
def embed_batch(model: AVModel, batch: Batch, kinds: Collection[LayerKind]) -> dict[str, Tensor]:
    """The logits and the layers of a batch, by column, each (B, ...).

    Raises:
        ModelError: if the logits cannot be used, or they or a layer are not finite; names the clips.
    """
    encoded = model.encode(batch.inputs)
    fused = model.fuse(encoded)
    found = {_LAYER + name: layer.float() for name, layer in layers_of(model, encoded, fused, kinds).items()}
    found["logits"] = model.score(fused).float()
    for name, values in found.items():
        refuse_non_finite(model, values.flatten(1), batch.ids, batch.inputs, what=name.removeprefix(_LAYER))
    return found


def layers_in(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The layers among what `embed_batch` gave, by their names in `Latents.layers`."""
    return {name.removeprefix(_LAYER): x for name, x in found.items() if name.startswith(_LAYER)}


def parts_folder(folder: Path, kinds: Collection[LayerKind]) -> Path:
    """The folder of these kinds' shards before they are collected: an interrupted run may have asked for others."""
    return folder / "-".join(["parts", *sorted(kinds)])


def collect(
    folder: Path,
    selection: Selection,
    kinds: Collection[LayerKind],
    about: Mapping[str, Any],
    earlier: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Turn the shards of a folder into one file per layer and one of clips, in the selection's order.

    Only one part is in memory at a time. The layers that are there already stay.

    Args:
        folder: of these embeddings.
        selection: the clips that were asked for.
        kinds: of the layers in the shards.
        about: of the embeddings, for the record: identity, weights, versions.
        earlier: the record of what lies there already and stays; None for nothing.

    Returns:
        The record.

    Raises:
        DatasetFailure: if no clip could be read.
    """
    made = parts_folder(folder, kinds)
    paths = shards.paths(made)
    rows = shards.in_order([clip_id for path in paths for clip_id in shards.ids_in(path)], selection)
    filled = [path for path in paths if pq.read_metadata(path).num_rows]
    names = [name for name in pq.read_schema(filled[0]).names if name.startswith(_LAYER)]
    for name in names:
        path = folder / f"{_file_name(name.removeprefix(_LAYER))}.npy"
        write_atomically(path, partial(_gather, name=name, paths=filled, rows=rows))
    columns = ["id", "target", "logits", *(n for n in pq.read_schema(filled[0]).names if n.startswith(shards.CHECKSUM))]
    clips = pa.concat_tables([pq.read_table(path, columns=columns) for path in filled])
    clips = clips.combine_chunks().take(pa.array(np.argsort(rows)))
    write_atomically(folder / CLIPS, lambda file: pq.write_table(clips, file))
    before: Mapping[str, Any] = {"kinds": [], "layers": [], "seconds": 0.0} if earlier is None else earlier
    layers = sorted({*before["layers"], *(name.removeprefix(_LAYER) for name in names)})
    return write_record(
        folder / RECORD,
        {
            **about,
            "clips": len(rows),
            "kinds": sorted({*before["kinds"], *kinds}),
            "layers": layers,
            "seconds": round(before["seconds"] + sum(shards.seconds_in(path) for path in paths), 3),
            **shards.notes_of(made, selection),
        },
        [folder / CLIPS, *(folder / f"{_file_name(layer)}.npy" for layer in layers)],
    )


def load(folder: Path) -> Latents:
    """Read what `collect` wrote; layers are memory-mapped, for reading only.

    Raises:
        RunError: if the record is damaged.
    """
    record = read_record(folder / RECORD, check=())
    clips = pq.read_table(folder / CLIPS)
    return Latents(
        ids=tuple(clips["id"].to_pylist()),
        targets=from_column(clips["target"]),
        logits=from_column(clips["logits"]),
        layers={name: np.load(folder / f"{_file_name(name)}.npy", mmap_mode="r") for name in record["layers"]},
    )


def checksums(folder: Path) -> dict[str, NDArray[np.int64]]:
    """The checksums of the clips as these embeddings read them: by modality and for the targets, each (N,)."""
    return shards.columns_named(pq.read_table(folder / CLIPS), shards.CHECKSUM)


def remove_leftovers(folder: Path) -> None:
    """Remove the shards of runs that were killed before they had collected them."""
    for made in folder.glob("parts-*"):
        shards.remove(made)
        made.rmdir()


def _file_name(layer: str) -> str:
    return layer.replace("/", ".")


def _gather(file: BinaryIO, name: str, paths: Collection[Path], rows: NDArray[np.int64]) -> None:
    """Write one layer as an npy file, row by row where it belongs."""
    target: NDArray[Any] | None = None
    first = 0
    for path in paths:
        part = from_column(pq.read_table(path, columns=[name])[name])
        if target is None:
            shape = (len(rows), *part.shape[1:])
            header = {"descr": np.lib.format.dtype_to_descr(part.dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_2_0(file, header)
            file.flush()
            reserve(file, file.tell() + math.prod(shape) * part.dtype.itemsize)
            target = np.memmap(file, dtype=part.dtype, mode="r+", offset=file.tell(), shape=shape)
        target[rows[first : first + len(part)]] = part
        first += len(part)
    if isinstance(target, np.memmap):
        target.flush()
