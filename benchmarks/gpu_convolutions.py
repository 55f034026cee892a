"""The convolutions of a gradient step, one by one: in which form and order in memory a card computes them fastest."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu_attacks import ATTACKED, STILL, Rivals, frozen, gradient_step
from benchmarks.gpu_subject import Bench

SHOWN = 12
"""Convolutions that are shown by themselves, of those that take longest."""

Call = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], int]
"""Shapes of the input and of the weight, stride, padding, groups."""


class _Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the 3-D convolutions inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Counter[Call] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func._schema.name == "aten::convolution" and args[0].dim() == 5:
            x, weight, _, stride, padding, _, _, _, groups = args
            self.found[tuple(x.shape), tuple(weight.shape), tuple(stride), tuple(padding), groups] += 1
        return func(*args, **(kwargs or {}))


def convolutions(bench: Bench) -> dict[str, Any]:
    """Milliseconds of all 3-D convolutions of a joint step, forward and the gradient of the input, by form.

    `3d` as PyTorch is given them; `3d channels-last`; and `2d channels-last`: those whose kernel is flat in time over
    all pictures at once, those that are long in time only over rows of pixels, and others as `3d channels-last`.
    """
    subject = bench.subject()
    rivals = Rivals(bench, subject, ATTACKED["joint"], "tf32", STILL)
    with frozen(subject.model), _Calls() as calls:
        gradient_step(rivals.forward(), {name: subject.batch.inputs[name] for name in rivals.view.attacked})
    totals: dict[str, float] = {}
    single: list[dict[str, Any]] = []
    for call, count in calls.found.items():
        times: dict[str, float] = {}
        for precision, dtype in (("tf32", torch.float32), ("bf16", torch.bfloat16)):
            for form, make in FORMS.items():
                seconds = bench.seconds(make(call, dtype, bench.device))
                times[f"{precision} {form}"] = round(1e3 * seconds, 4)
        for name, each in times.items():
            totals[name] = totals.get(name, 0.0) + count * each
        single.append({"input": call[0], "weight": call[1], "stride": call[2], "calls": count, "ms": times})
        if bench.left < 0:
            break
    single.sort(key=lambda one: -one["calls"] * one["ms"]["tf32 3d"])
    return {"ms": {name: round(total, 3) for name, total in totals.items()}, "longest": single[:SHOWN]}


def _as_3d(call: Call, dtype: torch.dtype, device: torch.device, *, last: bool = False) -> Callable[[], object]:
    shape, kernel, stride, padding, groups = call
    order = torch.channels_last_3d if last else torch.contiguous_format
    x, weight = (torch.randn(s, dtype=dtype, device=device).to(memory_format=order) for s in (shape, kernel))
    return _step(x, lambda leaf: F.conv3d(leaf, weight, None, stride, padding, 1, groups))


def _as_3d_last(call: Call, dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    return _as_3d(call, dtype, device, last=True)


def _as_2d_last(call: Call, dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    (clips, channels, time, height, width), kernel, stride, padding, groups = call
    # In channels-last order either is a view of the clips.
    if kernel[2] == 1 and stride[0] == 1 and padding[0] == 0:
        flat, taps, steps, pads = (clips * time, channels, height, width), kernel[3:], stride[1:], padding[1:]
    elif kernel[3:] == (1, 1) and stride[1:] == (1, 1) and padding[1:] == (0, 0):
        flat, taps = (clips, channels, time, height * width), (kernel[2], 1)
        steps, pads = (stride[0], 1), (padding[0], 0)
    else:
        return _as_3d_last(call, dtype, device)
    order = torch.channels_last
    x, weight = (
        torch.randn(s, dtype=dtype, device=device).to(memory_format=order) for s in (flat, (*kernel[:2], *taps))
    )
    return _step(x, lambda leaf: F.conv2d(leaf, weight, None, steps, pads, 1, groups))


def _step(x: Tensor, run: Callable[[Tensor], Tensor]) -> Callable[[], object]:
    leaf = x.requires_grad_()
    gradient = torch.randn_like(run(leaf))

    def step() -> object:
        return torch.autograd.grad(run(leaf), leaf, gradient)

    return step


FORMS: Mapping[str, Callable[[Call, torch.dtype, torch.device], Callable[[], object]]] = {
    "3d": _as_3d,
    "3d channels-last": _as_3d_last,
    "2d channels-last": _as_2d_last,
}
