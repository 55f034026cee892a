"""What makes attacks on a model faster, chosen by measuring: nothing of it is the faster way everywhere."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from avrobust_core.blame import sentence
from avrobust_core.errors import ModelError
from avrobust_core.models.compiling import CompiledEncoders
from avrobust_core.models.model import AVModel, channels_last

Setting = Literal["channels_last", "compile", "cudnn_benchmark"]

Lowered = Callable[[torch.device], AbstractContextManager[None]]
"""From a device to the passes of attacks on it."""

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)

TURNS = 3
"""Times that each way is measured, after a pass that does not count; the fastest decides."""

LEAST_GAIN = 0.03
"""A setting is taken if it saves this share of the time: less is a machine's noise."""

WHOLE = "model"
"""Where a setting is one for all encoders, its name among those of modalities."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A setting that was tried.

    Attributes:
        ratio: the seconds with it over those without; infinite where it cannot be used.
        problem: why it cannot be used; "" where it can.
    """

    ratio: float
    problem: str = ""

    @property
    def taken(self) -> bool:
        """True if it saves at least `LEAST_GAIN` of the time."""
        return self.ratio <= 1 - LEAST_GAIN

    def to_json(self) -> dict[str, object]:
        """As it is kept with results: `taken`, and `time_ratio` or the `problem`."""
        found = {"problem": self.problem} if self.problem else {"time_ratio": round(self.ratio, 3)}
        return {"taken": self.taken, **found}

    def __str__(self) -> str:
        taken = "taken" if self.taken else "not taken"
        return f"{taken}, {self.problem or f'{self.ratio:.2f} of the time'}"


def tune(
    model: AVModel,
    inputs: Mapping[str, Tensor],
    settings: Collection[Setting],
    lowered: Lowered,
    compiled: CompiledEncoders,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Setting, dict[str, Tried]]:
    """Choose, one after the other and encoder by encoder, the settings that make attacks faster, and leave them so.

    Measured is a forward and a backward pass over one modality of a batch, in the attacks' precision. Results differ by
    rounding alone.

    Args:
        model: frozen, on its device; changed in place.
        inputs: of a batch, by modality.
        settings: `channels_last`: the order in memory of an encoder's convolutions; `compile`: whether it is among
            `compiled`; `cudnn_benchmark`: cuDNN's search for the fastest algorithm of each convolution, on a GPU, for
            all encoders or none.
        lowered: the precision of attacks, on a device, with `compiled` in place.
        compiled: the model's.
        clock: seconds.

    Returns:
        By setting and modality what was found; of `cudnn_benchmark` under `WHOLE`. What does not apply is not in it.
    """
    found: dict[Setting, dict[str, Tried]] = {}
    names = [name for name in model.encoders if name in inputs]

    def seconds(of: Iterable[str] = names) -> float:
        return sum(_seconds(model, name, inputs[name], lowered, clock) for name in of)

    for name in names:
        encoder = model.encoders[name]
        before = seconds([name])
        if "channels_last" in settings and any(isinstance(module, CONVOLUTIONS) for module in encoder.modules()):
            channels_last(encoder)
            with_it = seconds([name])
            tried = found.setdefault("channels_last", {})[name] = Tried(with_it / before)
            if tried.taken:
                before = with_it
            else:
                _contiguous(encoder)
        if "compile" in settings:
            compiled.add(name)
            try:
                tried = Tried(seconds([name]) / before)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # noqa: BLE001 - as it is the encoder has just worked
                tried = Tried(float("inf"), str(error) if isinstance(error, ModelError) else sentence(error))
            found.setdefault("compile", {})[name] = tried
            if not tried.taken:
                compiled.remove(name)
    if "cudnn_benchmark" in settings and next(iter(inputs.values())).is_cuda:
        before = seconds()
        torch.backends.cudnn.benchmark = True
        tried = Tried(seconds() / before)
        found["cudnn_benchmark"] = {WHOLE: tried}
        torch.backends.cudnn.benchmark = tried.taken
    return found


def _contiguous(encoder: nn.Module) -> None:
    for module in encoder.modules():
        if isinstance(module, CONVOLUTIONS):
            module.to(memory_format=torch.contiguous_format)


def _seconds(model: AVModel, name: str, x: Tensor, lowered: Lowered, clock: Callable[[], float]) -> float:
    taken = []
    for _ in range(TURNS + 1):
        began = _now(x.device, clock)
        leaf = x.detach().requires_grad_()
        with torch.enable_grad(), lowered(x.device):
            pooled = model.encode({name: leaf})[name].pooled
        if pooled.requires_grad:
            torch.autograd.grad(pooled.float().sum(), leaf)
        taken.append(_now(x.device, clock) - began)
    return max(min(taken[1:]), 1e-9)


def _now(device: torch.device, clock: Callable[[], float]) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return clock()
