"""Weights that were trained elsewhere: read without executing anything, recognised by their keys, loaded whole."""

import hashlib
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from avrobust_core.errors import WeightsError
from avrobust_core.model import AVModel

State = Mapping[str, Tensor]
"""Tensors by key."""

HEAD: Final = "head."
"""What the keys of a checkpoint's own classifier begin with, once converted."""

_WRAPPERS: Final = ("model", "model_state", "state_dict", "model_state_dict")
"""Keys under which training scripts keep the weights, beside optimiser and epoch."""

_PARALLEL: Final = "module."
"""What DataParallel and DistributedDataParallel put before every key."""

_SHOWN: Final = 8
"""Keys of one kind that an error names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointLayout:
    """A published layout of weights, and how it becomes a module's own.

    Attributes:
        name: whose layout it is, for messages: "PANNs".
        marks: keys that every such checkpoint has, and together no other.
        convert: from the checkpoint's tensors to those of the module, by the module's own keys. What it leaves out is
            not loaded (fixed front ends, say); keys that begin with "head." belong to the model's head.
    """

    name: str
    marks: tuple[str, ...]
    convert: Callable[[State], State]

    def recognises(self, state: State) -> bool:
        """Whether a checkpoint has this layout."""
        return all(mark in state for mark in self.marks)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by key: of a safetensors file, or of one that torch.save wrote.

    No pickle is executed: a file that holds more than tensors and plain data is refused. What wraps the weights
    ("model", "model_state", "state_dict") and what parallel training puts before each key ("module.") is taken away.

    Raises:
        WeightsError: if the file is missing, damaged, holds what may not be loaded, or no tensors.
    """
    if not path.is_file():
        raise WeightsError(f"weights {path}: there is no such file")
    content = _safetensors(path) if _is_safetensors(path) else _torch_file(path)
    while isinstance(content, Mapping):
        inner = next((content[name] for name in _WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise WeightsError(f"weights {path}: it holds a {type(content).__name__}, not tensors by key")
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise WeightsError(
            f"weights {path}: there are no tensors in it, only {', '.join(map(str, content)) or 'nothing'}"
        )
    if all(key.startswith(_PARALLEL) for key in state):
        state = {key.removeprefix(_PARALLEL): value for key, value in state.items()}
    return state


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
        WeightsError: if no layout fits, or keys are missing, unexpected or of other shapes; all of them are listed.
    """
    name, found = _converted(module, state, layouts, source, prefix)
    head = {key.removeprefix(HEAD): value for key, value in found.items() if key.startswith(HEAD)}
    body = {key: value for key, value in found.items() if not key.startswith(HEAD)}
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


def load_model(model: AVModel, state: State, source: str) -> str:
    """Load a whole model, in its own layout or in one that its fusion knows; the layout's name.

    Raises:
        WeightsError: as `load_checkpoint`.
    """
    layouts = model.fusion.layouts
    layout = next((layout for layout in layouts if layout.recognises(state)), None)
    converted = state if layout is None else layout.convert(state)
    name = "its own" if layout is None else layout.name
    if layout is None and not any(key in model.state_dict() for key in state):
        known = ", ".join(["its own", *(layout.name for layout in layouts)])
        raise WeightsError(f"weights {source}: the model does not know their layout; it reads: {known}")
    load_strictly(model, converted, f"{source} ({name})")
    return name


def load_strictly(module: nn.Module, state: State, source: str) -> None:
    """Load tensors by a module's own keys.

    Args:
        module: is not changed where there is an error.
        state: may lack batch normalisation's counters, which older checkpoints do not have.
        source: for messages.

    Raises:
        WeightsError: lists keys that are missing, unexpected or of other shapes.
    """
    own = module.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    other = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}"
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    problems = [
        f"{len(keys)} {what}: {', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of other shapes", other))
        if keys
    ]
    if problems:
        raise WeightsError(f"weights {source} do not fit {type(module).__name__}: " + "; ".join(problems))
    module.load_state_dict(dict(state), strict=False)


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
    own = module.state_dict()
    ours = {key.removeprefix(prefix): value for key, value in state.items() if prefix and key.startswith(prefix)}
    if ours:
        return "avrobust", ours
    if any(key in own for key in state) and not any(layout.recognises(state) for layout in layouts):
        return "its own", state
    for layout in layouts:
        if layout.recognises(state):
            return layout.name, layout.convert(state)
    known = ", ".join(["its own", *(layout.name for layout in layouts)])
    shown = ", ".join(list(state)[:_SHOWN])
    raise WeightsError(
        f"weights {source}: {type(module).__name__} does not know their layout; it reads: {known}; the file's keys are "
        f"{shown}"
    )


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(9)
    # Eight bytes of the header's length, of which the format allows 100 MB, then the header, which is JSON.
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") <= 100_000_000


def _safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"weights {path}: cannot be read as safetensors: {error}") from error


def _torch_file(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(
            f"weights {path}: refused, since reading it would execute code, or it is damaged ({reason}); save the "
            "weights alone, best as safetensors"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise WeightsError(f"weights {path}: cannot be read: {error}") from error
