"""A module's state as plain tensors, and back: tied names, expanded buffers and extra state included."""

import io
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from avrobust_core.errors import WeightsError
from avrobust_core.plain_text import plain_text

EXTRA: Final = "_extra_state"
"""The end of the keys of extra state (`Module.get_extra_state`)."""

_ARCHIVE: Final = b"PK\x03\x04"
"""The first bytes of packed extra state: those of a zip archive."""


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """All parameters, buffers and extra state of a module by key, on the processor, each with memory of its own.

    Tied names (two for one tensor) have a copy each, so that every key can be read by itself. Extra state other
    than a tensor is packed, as `pack_extra` does.

    Raises:
        WeightsError: if a tensor is sparse or quantised, or extra state is of objects that cannot be read back without
            executing code.
    """
    state: dict[str, Tensor] = {}
    taken: set[int] = set()
    for key, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            state[key] = pack_extra(key, value)
            unpack_extra(key, state[key])
            continue
        if value.layout != torch.strided or value.is_quantized:
            raise WeightsError(f"{type(module).__name__}: {key} is sparse or quantised, and is not saved")
        tensor = value.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        state[key] = tensor.clone() if memory in taken else tensor
        taken.add(memory)
    return state


def take_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put plain state into a module of the same layout; keys that it lacks are left as they are.

    Raises:
        WeightsError: if packed extra state cannot be read without executing code.
        RuntimeError: from torch, if a shape does not fit.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if any(step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True)):
            # An expanded tensor has one place in memory for several values, and cannot be written to.
            tensor.data = tensor.data.contiguous()
    content = {key: unpack_extra(key, value) if is_packed(key, value) else value for key, value in state.items()}
    module.load_state_dict(content, strict=False)


def tied(module: nn.Module) -> list[list[str]]:
    """The groups of keys of a module that are names of one tensor."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for key, value in module.state_dict().items():
        if isinstance(value, Tensor) and value.numel() and not value.is_meta:
            place = (value.device, value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
            groups.setdefault(place, []).append(key)
    return [keys for keys in groups.values() if len(keys) > 1]


def pack_extra(key: str, value: object) -> Tensor:
    """Extra state of any kind as a tensor of bytes, (N,) uint8: what torch.save makes of it.

    Raises:
        WeightsError: if nothing can be made of it; names the key.
    """
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
    except Exception as error:  # whatever the object's own pickling raises
        raise WeightsError(
            f"{plain_text(key, 100)}: the extra state cannot be saved: {plain_text(error, 200)}"
        ) from error
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def is_extra(key: str) -> bool:
    """True if extra state is kept under a key."""
    return key.rpartition(".")[2] == EXTRA


def is_packed(key: str, value: Tensor) -> bool:
    """True if a tensor is extra state that `pack_extra` packed."""
    flat = is_extra(key) and value.dtype == torch.uint8 and value.dim() == 1
    return flat and bytes(value[: len(_ARCHIVE)].tolist()) == _ARCHIVE


def unpack_extra(key: str, packed: Tensor) -> object:
    """The extra state that `pack_extra` was given.

    Raises:
        WeightsError: if reading it would execute code; names the key.
    """
    try:
        return torch.load(io.BytesIO(packed.cpu().numpy().tobytes()), weights_only=True)
    except Exception as error:
        raise WeightsError(
            f"{plain_text(key, 100)}: the extra state holds more than tensors and plain data, and to read it would "
            "execute code; return only those from get_extra_state"
        ) from error
