"""A device that is not the CPU, for machines without one: tensors on it compute, and waits for it are on record."""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

ELSEWHERE: Final = torch.device("meta")
"""The device that code under test sees. Torch knows one beside the CPU that needs no hardware; its tensors hold
nothing, but inside `elsewhere` they do."""

_ASK: Final = frozenset(
    {
        "aten::_local_scalar_dense",
        "aten::nonzero",
        "aten::masked_select",
        "aten::equal",
        "aten::unique_consecutive",
        "aten::_unique2",
        "aten::unique_dim",
        "aten::repeat_interleave",
    }
)
"""Operations whose value, or whose result's shape, the host must wait for."""

_ACROSS: Final = frozenset(
    {"aten::copy_", "aten::_to_copy", "aten::index", "aten::index_put_", "aten::_index_put_impl_"}
)
"""Operations that may have tensors of two devices."""

_OWN: Final = Path(__file__).parent.parent


class _Tensor(Tensor):
    """A tensor of the other device; what it holds lies on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> _Tensor:
        found: _Tensor = Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=0, dtype=held.dtype, device=ELSEWHERE
        )
        found.held = held
        return found

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _carried_out(func, args, kwargs or {}, None)


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, waits: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._waits = waits

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or the first operation would import the whole compiler, for seconds

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _carried_out(func, args, kwargs or {}, self._waits)


class _Making(TorchFunctionMode):
    """Makes tensors of Python's numbers on the CPU and copies them: torch would leave out the values."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor, Tensor.new_tensor):
            device = kwargs.pop("device", None)
            if func is Tensor.new_tensor:
                device = device or args[0].device
                kwargs.setdefault("dtype", args[0].dtype)
                func, args = torch.tensor, args[1:]
            made = func(*args, **kwargs)
            return made if device is None else made.to(device)
        if func is Tensor.tolist and isinstance(args[0], _Tensor):
            return args[0].cpu().tolist()
        return func(*args, **kwargs)


@contextmanager
def elsewhere() -> Iterator[list[str]]:
    """Let tensors be moved to `ELSEWHERE` and made there; what has been moved there is of no use outside.

    Computing with tensors of both devices is an error, as on a GPU. Copies to and from the device are waits unless they
    are `non_blocking`; so is asking for a value, or for a shape that depends on values.

    Yields:
        the waits so far: for each the line of avrobust that waited.
    """
    waits: list[str] = []
    with _Making(), _Operations(waits):
        yield waits


def _carried_out(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], waits: list[str] | None) -> Any:
    name = func._schema.name
    here: list[Tensor] = []
    there: list[_Tensor] = []
    plain, named = _held(args, here, there), _held(kwargs, here, there)
    device = kwargs.get("device")
    target = bool(there) if device is None else torch.device(device) == ELSEWHERE
    if not there and not target:
        return func(*args, **kwargs)
    if name == "aten::copy_":
        target = isinstance(args[0], _Tensor)
    elif here and name not in _ACROSS and any(x.dim() for x in here):
        raise RuntimeError(f"{name} is given tensors of the CPU and of another device")
    if waits is not None and _waits(name, args, kwargs, target):
        waits.append(_place())
    if device is not None:
        named["device"] = torch.device("cpu")
    if named.get("pin_memory"):
        named["pin_memory"] = False
    found = func(*plain, **named)
    if not target and there and found is there[0].held:
        found = found.clone()
    written = {id(x.held): x for x in _written(func, args, kwargs) if isinstance(x, _Tensor)}
    return _wrapped(found, written, target)


def _held(tree: Any, here: list[Tensor], there: list[_Tensor]) -> Any:
    """Arguments with what tensors of the device hold in their places; both kinds of tensors are listed."""
    if isinstance(tree, _Tensor):
        there.append(tree)
        return tree.held
    if isinstance(tree, Tensor):
        here.append(tree)
    elif isinstance(tree, (list, tuple)):
        return type(tree)(_held(x, here, there) for x in tree)
    elif isinstance(tree, Mapping):
        return {key: _held(x, here, there) for key, x in tree.items()}
    return tree


def _wrapped(tree: Any, written: Mapping[int, _Tensor], target: bool) -> Any:
    """Results as tensors of their device; what was written into is returned itself."""
    if isinstance(tree, Tensor) and not isinstance(tree, _Tensor):
        return written[id(tree)] if id(tree) in written else _Tensor(tree) if target else tree
    if isinstance(tree, (list, tuple)):
        return type(tree)(_wrapped(x, written, target) for x in tree)
    return tree


@cache
def _writes(func: Any) -> tuple[tuple[int, str], ...]:
    """The arguments that an operation writes into: their places and names."""
    arguments = enumerate(func._schema.arguments)
    return tuple((i, a.name) for i, a in arguments if a.alias_info is not None and a.alias_info.is_write)


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Any]:
    for place, name in _writes(func):
        if name in kwargs:
            yield kwargs[name]
        elif place < len(args):
            yield args[place]


def _waits(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], target: bool) -> bool:
    if name in _ASK:
        return name != "aten::repeat_interleave" or kwargs.get("output_size") is None
    if name in ("aten::index", "aten::index_put_", "aten::_index_put_impl_"):
        return any(isinstance(i, Tensor) and (i.dtype == torch.bool or not isinstance(i, _Tensor)) for i in args[1])
    if name == "aten::_to_copy":
        return isinstance(args[0], _Tensor) != target and not kwargs.get("non_blocking", False)
    if name == "aten::copy_":
        blocking = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        return blocking and isinstance(args[1], _Tensor) != target and args[1].dim() > 0
    return False


def _place() -> str:
    """The innermost line of avrobust that is running, of a plugin or of the core but for this kit."""
    for frame, line in traceback.walk_stack(None):
        path = Path(frame.f_code.co_filename)
        if any(part.startswith("avrobust") for part in path.parts[:-1]) and path.parent != _OWN / "testing":
            code = linecache.getline(frame.f_code.co_filename, line).strip()
            return f"{path.parent.name}/{path.name}:{line} {code}"
    return "elsewhere"
