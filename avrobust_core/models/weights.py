"""Weights that were trained elsewhere: recognised by their keys, checked, loaded whole or not at all."""

import hashlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from avrobust_core.errors import WeightsError
from avrobust_core.models.checkpoint_keys import agreeing
from avrobust_core.models.checkpoints import listed
from avrobust_core.models.checkpoints import read_checkpoint as read_checkpoint
from avrobust_core.models.checkpoints import read_with_classes as read_with_classes
from avrobust_core.models.layouts import CheckpointLayout, State
from avrobust_core.models.model import AVModel
from avrobust_core.models.module_state import is_packed, take_state, tied

HEAD: Final = "head."
"""The prefix of the keys of a checkpoint's own classifier, once converted."""

_LONGEST: Final = 120
"""Characters of a key that an error shows."""

_COUNTER: Final = "num_batches_tracked"
"""The end of the keys of batch normalisation's counters."""


def load_checkpoint(
    module: nn.Module, state: State, layouts: Sequence[CheckpointLayout], source: str, prefix: str = ""
) -> tuple[str, dict[str, Tensor]]:
    """Load a checkpoint into a module, all of it or nothing.

    Args:
        module: what is loaded into.
        state: as `read_checkpoint` gives it.
        layouts: what the module can read beside its own keys.
        source: for messages.
        prefix: with which this project's own files of whole models begin the module's keys, as "encoders.audio.".

    Returns:
        The layout's name, and the tensors of the checkpoint's own head, by their keys in it; empty if it has none.

    Raises:
        WeightsError: if no layout fits, or as `load_strictly`.
    """
    name, found = _converted(module, state, layouts, source, prefix)
    head = {key.removeprefix(HEAD): value for key, value in found.items() if key.startswith(HEAD)}
    body = {key: value for key, value in found.items() if not key.startswith(HEAD)}
    _refuse(f"{source} ({name})", module, _not_finite(head, {}))
    load_strictly(module, body, f"{source} ({name})")
    return name, head


def load_fitting_head(head: nn.Module, state: State) -> bool:
    """Load a checkpoint's own classifier where it has the head's keys and shapes; whether it had.

    A head of another number of classes is for other classes, and stays as it was.
    """
    own = head.state_dict()
    if {key: value.shape for key, value in own.items()} != {key: value.shape for key, value in state.items()}:
        return False
    head.load_state_dict(dict(state))
    return True


def load_model(
    model: AVModel, state: State, source: str, takes_head: Callable[[str, State], bool] = lambda name, head: True
) -> str:
    """Load a whole model, in its own layout or in one that its fusion knows; the layout's name.

    Args:
        model: what is loaded into.
        state: as `read_checkpoint` gives it.
        source: for messages.
        takes_head: from the layout's name and the file's own classifier, by the keys of the model's head, to whether it
            is loaded, too; else the model's head stays as it is.

    Raises:
        WeightsError: as `load_checkpoint`.
    """
    name, converted = _converted(model, state, model.fusion.layouts, source, "")
    head = {key.removeprefix(HEAD): value for key, value in converted.items() if key.startswith(HEAD)}
    if (head or not model.head.state_dict()) and not takes_head(name, head):
        kept = {HEAD + key: value for key, value in model.head.state_dict().items()}
        converted = {key: value for key, value in converted.items() if not key.startswith(HEAD)} | kept
    load_strictly(model, converted, f"{source} ({name})")
    return name


def load_strictly(module: nn.Module, state: State, source: str) -> None:
    """Load tensors by a module's own keys, where needed under the prefixes of what wrapped it (see `agreeing`).

    Numbers are cast to the module's own precision.

    Args:
        module: is not changed where there is an error.
        state: may lack batch normalisation's counters, which older checkpoints do not have, and all but one of the
            names of a tied tensor.
        source: for messages.

    Raises:
        WeightsError: lists keys that are missing, unexpected, of other shapes or kinds of numbers, not finite where the
            module's own are, below 0 where they are variances, or two names of one tensor with different values.
    """
    own = module.state_dict()
    state = agreeing(state, own)
    groups = tied(module)
    twins = {key: [twin for twin in keys if twin in state] for keys in groups for key in keys}
    missing = [key for key in own if key not in state and not key.endswith(_COUNTER) and not twins.get(key)]
    fitting = {key: (state[key], here) for key, here in own.items() if key in state and isinstance(here, Tensor)}
    shapes = [key for key, (given, here) in fitting.items() if given.shape != here.shape and not is_packed(key, given)]
    kinds = [key for key, (given, here) in fitting.items() if key not in shapes and not _same_kind(key, given, here)]
    problems = [
        ("missing", missing),
        ("unexpected", [key for key in state if key not in own]),
        ("of other shapes", [f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}" for key in shapes]),
        ("of other kinds of numbers", [f"{key} {state[key].dtype} instead of {own[key].dtype}" for key in kinds]),
    ]
    _refuse(source, module, *problems)
    together = [
        " and ".join(keys)
        for keys in groups
        if not all(torch.equal(state[one], state[other]) for one, other in pairwise(twins[keys[0]]))
    ]
    _refuse(
        source,
        module,
        _not_finite(state, own),
        ("below 0, which variances cannot be", [key for key, given in state.items() if _negative_variance(key, given)]),
        ("one tensor in the model, but different in the file", together),
    )
    take_state(module, state)


def fingerprint(path: Path) -> str:
    """A hash of a file's content: part of the identity of what is fitted from it.

    Raises:
        WeightsError: if there is no such file.
    """
    if not path.is_file():
        raise WeightsError(f"weights {path}: there is no such file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def _converted(
    module: nn.Module, state: State, layouts: Sequence[CheckpointLayout], source: str, prefix: str
) -> tuple[str, State]:
    ours = {key.removeprefix(prefix): value for key, value in state.items() if prefix and key.startswith(prefix)}
    if ours:
        return "avrobust", ours

    def published(names: State) -> CheckpointLayout | None:
        return next((layout for layout in layouts if layout.recognises(names)), None)

    own = module.state_dict()
    state = agreeing(state, own, lambda names: published(names) is not None)
    layout = published(state)
    if layout is not None:
        return layout.name, layout.convert(state)
    if any(key in own for key in state):
        return "its own", state
    known = ", ".join(["its own", *(layout.name for layout in layouts)])
    raise WeightsError(
        f"weights {source}: {type(module).__name__} does not know their layout; it reads: {known}; the file's keys are "
        f"{listed(state, _LONGEST)}"
    )


def _refuse(source: str, module: nn.Module, *problems: tuple[str, Sequence[str]]) -> None:
    """Raise an error if there is any key with any of some problems."""
    found = [f"{len(keys)} {what}: {listed(keys, _LONGEST)}" for what, keys in problems if keys]
    if found:
        raise WeightsError(f"weights {source} do not fit {type(module).__name__}: " + "; ".join(found))


def _same_kind(key: str, given: Tensor, own: Tensor) -> bool:
    """True if both are floats, whole numbers or complex ones: a cast between those would make other numbers."""
    if key.endswith(_COUNTER) or is_packed(key, given):
        return True
    return given.is_floating_point() == own.is_floating_point() and given.is_complex() == own.is_complex()


def _not_finite(state: State, own: State) -> tuple[str, list[str]]:
    """Keys whose numbers are not finite, once in the module's precision; a mask of the module's own may be infinite."""
    found = []
    for key, given in state.items():
        if not (given.is_floating_point() or given.is_complex()):
            continue
        there = own.get(key)
        if there is None:
            broken = ~torch.isfinite(given.float() if given.is_floating_point() else given)
        else:
            broken = ~torch.isfinite(given.to(there.dtype)) & torch.isfinite(there).to(given.device)
        if broken.any():
            found.append(f"{key} ({int(broken.sum())} of {given.numel()} values)")
    return "not finite", found


def _negative_variance(key: str, given: Tensor) -> bool:
    return key.rpartition(".")[2] == "running_var" and given.is_floating_point() and bool((given.float() < 0).any())
