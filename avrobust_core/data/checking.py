"""Checks of a loader's batches: clips, targets and ids must fit together, or an error says what does not."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from avrobust_core.data.batches import Batch
from avrobust_core.data.media import Task
from avrobust_core.errors import DataError
from avrobust_core.naming import clips_named


def as_batch(item: Any, number: int, position: int, task: Task) -> Batch:
    """Turn a loader's item into a batch. Its tensors may be the caller's: give a model or an attack only copies.

    Args:
        item: a `Batch`, a pair (inputs by modality, targets), or a triple with the clips' ids.
        number: of the batch, from 0, for the error.
        position: how many clips came before: without ids a clip's number stands for it.
        task: targets of another type that hold the same numbers are cast to what it wants, int64 or float32.

    Raises:
        DataError: if it is none of these, or its parts are not all of the same number of clips.
    """
    ids: tuple[Any, ...] | range | None
    padded: tuple[Mapping[str, float], ...] = ()
    if isinstance(item, Batch):
        inputs, targets, ids, padded = dict(item.inputs), item.targets, item.ids, item.padded
    elif isinstance(item, (tuple, list)) and len(item) in (2, 3) and isinstance(item[0], Mapping):
        inputs, targets, ids = dict(item[0]), item[1], _ids(item[2], number) if len(item) == 3 else None
    else:
        raise DataError(
            f"the loader gives {_kind(item)}, not a Batch, (inputs, targets) or (inputs, targets, ids); inputs are a "
            'map from modalities to tensors, {"audio": (B, 1, T), "video": (B, 3, T, H, W)}'
        )
    where = f"batch {number} of the loader"
    if not inputs:
        raise DataError(f"{where} has no modality")
    for name, x in inputs.items():
        if not isinstance(x, Tensor):
            raise DataError(f"{where}: {name} is {type(x).__name__}, not a tensor (B, ...)")
    if not isinstance(targets, Tensor):
        raise DataError(f"{where}: the targets are {type(targets).__name__}, not a tensor")
    parts = {**inputs, "targets": targets}
    single = [str(name) for name, x in parts.items() if not x.dim()]
    if single:
        raise DataError(
            f"{where}: {', '.join(single)} is a single number, without a first dimension for the clips; a data set of "
            "single clips becomes batches by torch.utils.data.DataLoader(dataset, batch_size=...)"
        )
    ids = range(position, position + len(targets)) if ids is None else ids
    sizes = {str(name): len(x) for name, x in {**parts, "ids": ids}.items()}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise DataError(f"{where}: its parts are of different numbers of clips: {found}")
    if not ids:
        raise DataError(f"{where} is empty: it has 0 clips")
    detached = {str(name): x.detach() for name, x in inputs.items()}
    return Batch(detached, _cast(targets.detach(), task), tuple(map(str, ids)), padded)


def check_targets(targets: Tensor, ids: Sequence[str], classes: int, task: Task) -> None:
    """Refuse targets that are not what the task wants: (B,) int64 from 0 to K - 1, or (B, K) float32, zeros and ones.

    Args:
        targets: to be looked at.
        ids: the clips'.
        classes: K.
        task: whether a clip has one label or several.

    Raises:
        DataError: names the first clips, says what their targets are and what they must be.
    """
    shape, clips = tuple(targets.shape), len(ids)
    seen = f"the targets are {_type(targets)} of shape {shape}"
    if task == "single-label":
        wanted = f"with one label per clip they must be integers of shape ({clips},), from 0 to {classes - 1}"
        if shape != (clips,):
            several = len(shape) == 2 and shape[1] > 1
            remedy = "say task='multi-label', or give targets.argmax(1)" if several else "flatten them"
            raise DataError(f"{seen}; {wanted}: {remedy}")
        if targets.dtype != torch.int64:
            raise DataError(f"{seen}; {wanted}: give class numbers, targets.long() if they are whole")
        bad = (targets < 0) | (targets >= classes)
        values = targets
    else:
        wanted = f"with several labels per clip they must be zeros and ones of shape ({clips}, {classes})"
        if shape != (clips, classes):
            raise DataError(f"{seen}; {wanted}, one column for each logit of the model")
        wrong = (targets != 0) & (targets != 1)
        bad = wrong.any(dim=1)
        values = targets.gather(1, wrong.int().argmax(dim=1, keepdim=True)).squeeze(1)
    if bad.any():
        positions = bad.nonzero().flatten().tolist()
        raise DataError(
            f"the target of {clips_named([ids[i] for i in positions])} is {values[positions[0]].item():g}; {wanted}"
        )


def refuse_attacked_types(batch: Batch, modalities: Sequence[str]) -> None:
    """Refuse attacked modalities that are not float32: no attack could move them.

    Raises:
        DataError: names the modality, its type, and what to give.
    """
    for name in modalities:
        x = batch.inputs.get(name)
        if x is None or x.dtype == torch.float32:
            continue
        remedy = "x.float()" if x.is_floating_point() else "x.float() / 255 for pictures, if the model takes them so"
        raise DataError(
            f"{name} is {_type(x)} and is to be attacked; give it as float32, in the range that the model reads "
            f"({remedy}), and state its `bounds`"
        )


def refuse_other_modalities(batch: Batch, first: Batch) -> None:
    """Refuse a batch of other modalities than the first one.

    Raises:
        DataError: names its first clip, what it has and what is expected.
    """
    if batch.inputs.keys() != first.inputs.keys():
        raise DataError(
            f"the batch from clip {batch.ids[0]} on has {', '.join(batch.inputs)}, where the first one has "
            f"{', '.join(first.inputs)}: every batch must have the same modalities"
        )


def _cast(targets: Tensor, task: Task) -> Tensor:
    if task == "multi-label":
        return targets if targets.is_complex() else targets.float()
    whole = not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
    return targets.long() if whole else targets


def _ids(given: Any, number: int) -> tuple[Any, ...]:
    if isinstance(given, Tensor):
        given = given.tolist()
    if isinstance(given, (str, bytes)) or not hasattr(given, "__iter__"):
        raise DataError(f"batch {number} of the loader: its ids are {_kind(given)}, not one for each clip")
    return tuple(given)


def _kind(item: object) -> str:
    if isinstance(item, (tuple, list)):
        return f"a {type(item).__name__} of {', '.join(type(part).__name__ for part in item[:4]) or 'nothing'}"
    return type(item).__name__


def _type(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
