"""Counts of what a block of code does, in place of times, which a busy machine makes worthless."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_WAITS = frozenset({"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal"})
"""Operations that wait for the device to know a value or a shape."""


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, work: Counter[str], large: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._work = work
        self._large = large

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or the first operation would import the whole compiler, for seconds

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        work = self._work
        work["tensor operations"] += 1
        name = func._schema.name
        work["waits"] += name in _WAITS or (name == "aten::index" and any(_is_mask(i) for i in args[1]))
        for x in found if isinstance(found, tuple | list) else (found,):
            if isinstance(x, Tensor):
                work["values written"] += x.numel()
                work["large float64"] += x.dtype == torch.float64 and x.numel() >= self._large
        return found


class _Copies(TorchFunctionMode):
    _names = frozenset({"numpy", "tolist", "__array__"})

    def __init__(self, work: Counter[str], large: int) -> None:
        super().__init__()
        self._work = work
        self._large = large

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in self._names and isinstance(args[0], Tensor):
            self._work["waits"] += 1
            self._work["large copies"] += args[0].numel() >= self._large
        return func(*args, **(kwargs or {}))


@contextmanager
def counted(large: int, *, calls: bool = False) -> Iterator[Counter[str]]:
    """Count what is done inside the block.

    The counts: "tensor operations" and "values written" by them; "waits", the times that a device would have been
    waited for; "large float64", the operations that wrote a large float64 tensor; "large copies", the large tensors
    handed to numpy or to Python; "function calls" of Python, those written in C too.

    Args:
        large: from how many values on a tensor counts as large.
        calls: count Python's function calls, too.
    """
    work: Counter[str] = Counter()

    def profile(frame: FrameType, event: str, argument: object) -> None:
        del frame, argument
        if event in {"call", "c_call"}:
            work["function calls"] += 1

    with _Operations(work, large), _Copies(work, large):
        before = sys.getprofile()
        sys.setprofile(profile if calls else before)
        try:
            yield work
        finally:
            sys.setprofile(before)


def _is_mask(index: object) -> bool:
    return isinstance(index, Tensor) and index.dtype == torch.bool
