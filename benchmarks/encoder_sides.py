"""What is measured of an encoder beside its original: agreement, speed, and the memory of a process of its own."""

import copy
import resource
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from avrobust_core import AVModel, MediaSpec, Registry
from avrobust_core.models.weights import load_checkpoint, load_fitting_head
from avrobust_core.registry.choices import configure

PASSES: Final = ("forward", "attack", "training")
SIDES: Final = ("ours", "plain")


class Ours(nn.Module):
    """A model with one of our encoders alone, called as its original is.

    Args:
        name: of the encoder.
        fields: of its configuration.
        media: of the clips.
        classes: of the head.
    """

    def __init__(self, name: str, fields: Mapping[str, Any], media: MediaSpec, classes: int) -> None:
        super().__init__()
        self.encoder = configure(Registry.discover(), "encoder", name, dict(fields)).build(media)
        self.model = AVModel({"clip": self.encoder}, None, classes)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load the original's weights as a checkpoint of its layout, with its head."""
        _, head = load_checkpoint(self.encoder, state, self.encoder.layouts, "plain")
        if not load_fitting_head(self.model.head, head):
            raise ValueError(f"the checkpoint's head does not fit: {', '.join(head)}")

    def forward(self, clips: Tensor) -> Tensor:
        """From clips of pictures (B, 3, T, H, W), or waveforms (B, T), to logits (B, classes)."""
        return cast(Tensor, self.model({"clip": clips[:, None] if clips.ndim == 2 else clips}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """An encoder beside its original.

    Attributes:
        clips: that both read.
        pair: ours and the original with the same weights, for these clips; in evaluation mode, frozen.
        side: one of `SIDES` with weights of its own, for these clips.
        library: the original's module, which a process imports on both sides: its own memory is neither's.
        passes: those of `PASSES` that are measured.
    """

    clips: Callable[[], Tensor]
    pair: Callable[[Tensor], tuple[nn.Module, nn.Module]]
    side: Callable[[str, Tensor], nn.Module]
    library: str
    passes: tuple[str, ...] = PASSES


def errors(ours: nn.Module, plain: nn.Module, clips: Tensor) -> dict[str, float]:
    """How far two models in evaluation mode are apart: largest differences over largest values.

    In float32 a rounding error can turn a ReLU, or another step of time into the largest, and with it a gradient: of
    one network computed in two orders, too. So whether the gradients are the same is asked in float64, and how much
    of float32's is rounding is told for each.

    Returns:
        `logits_error` in float32, `gradient_error` of the clips' gradients in float64, and of `rounding_ours` and
        `rounding_plain` each model's gradients in float32 against its own in float64.
    """
    our_logits, our_gradient = _logits_and_gradient(ours, clips)
    logits, gradient = _logits_and_gradient(plain, clips)
    _, our_exact = _logits_and_gradient(copy.deepcopy(ours).double(), clips.double())
    _, exact = _logits_and_gradient(copy.deepcopy(plain).double(), clips.double())
    return {
        "logits_error": _apart(our_logits, logits),
        "gradient_error": _apart(our_exact, exact),
        "rounding_ours": _apart(our_gradient, our_exact),
        "rounding_plain": _apart(gradient, exact),
    }


def _logits_and_gradient(model: nn.Module, clips: Tensor) -> tuple[Tensor, Tensor]:
    x = clips.clone().requires_grad_()
    logits = model(x)
    weights = torch.linspace(-1, 1, logits.shape[1], dtype=logits.dtype)
    (gradient,) = torch.autograd.grad((logits * weights).sum(), x)
    return logits.detach(), gradient


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def make_pass(model: nn.Module, name: str, clips: Tensor) -> Callable[[], None]:
    """One of `PASSES` of a model, to be called again and again; sets the model's mode."""

    def forward() -> None:
        with torch.no_grad():
            model(clips)

    def attack() -> None:
        x = clips.clone().requires_grad_()
        torch.autograd.grad(model(x).sum(), x)

    def training() -> None:
        torch.autograd.grad(model(clips).sum(), [p for p in model.parameters() if p.requires_grad])

    model.train(name == "training")
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(name == "training" and "_extractor." not in key)
    return {"forward": forward, "attack": attack, "training": training}[name]


def throughput(
    models: Mapping[str, nn.Module], clips: Tensor, passes: tuple[str, ...], turns: int, clock: Callable[[], float]
) -> dict[str, dict[str, float]]:
    """By pass: clips per second of both sides, and `ratio`, ours over the plain one's; medians over turns."""
    found = {}
    for name in passes:
        seconds: dict[str, list[float]] = {side: [] for side in SIDES}
        runs = {side: make_pass(model, name, clips) for side, model in models.items()}
        for turn in range(turns + 1):
            for side in SIDES if turn % 2 else reversed(SIDES):
                began = clock()
                runs[side]()
                if turn:  # the first turn warms caches and allocators
                    seconds[side].append(clock() - began)
        ratios = [p / o for o, p in zip(seconds["ours"], seconds["plain"], strict=True)]
        found[name] = {side: len(clips) / statistics.median(of) for side, of in seconds.items()}
        found[name]["ratio"] = statistics.median(ratios)
    return found


def peak_resident() -> float:
    """This process's peak resident MiB.

    Not `ru_maxrss` where there is better: on Linux a process inherits that of the one that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)
