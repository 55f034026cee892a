"""Our published video networks beside PyTorchVideo's own: throughput, peak memory, agreement.

    python benchmarks/encoders_video.py [--only NAME ...] [--turns N] [--threads N] [--cpu-time]

Both have the same weights and read the same raw clips in [0, 1]; normalising them and choosing the slow pathway's
frames is part of what is measured. Parameters are frozen, as in an attack: `forward` is without a gradient, `backward`
is forward and the gradient of the clip. The last line is one JSON object, by network.
"""

import argparse
import importlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor, nn

from avrobust_core import AVModel, MediaSpec, Registry
from avrobust_core.models.weights import load_checkpoint, load_fitting_head
from avrobust_core.registry.choices import configure

CLASSES: Final = 400
MEBIBYTE: Final = 2**20

Network = Callable[[Tensor], Tensor]
"""From raw clips to logits."""


@dataclass(frozen=True, slots=True)
class Case:
    """A network that both sides have.

    Attributes:
        encoder: the component's name.
        fields: its configuration.
        original: its function in pytorchvideo.models.hub.
        shape: of the clips, with the batch.
    """

    encoder: str
    fields: Mapping[str, Any]
    original: str
    shape: tuple[int, ...]


CASES: Final[Mapping[str, Case]] = MappingProxyType(
    {
        "slowfast_r50": Case("slowfast", {"size": "r50"}, "slowfast_r50", (1, 3, 32, 224, 224)),
        "x3d_s": Case("x3d", {"size": "s"}, "x3d_s", (2, 3, 13, 160, 160)),
    }
)
"""By name: 8x8 at 224 pixels, and 13 frames of 160."""


def original(case: Case) -> tuple[nn.Module, Network]:
    """PyTorchVideo's network with random weights and statistics, and its use on raw clips."""
    from pytorchvideo.models import hub

    torch.manual_seed(0)
    network: nn.Module = getattr(hub, case.original)().eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            assert module.running_mean is not None
            assert module.running_var is not None
            for tensor, low, high in (
                (module.weight, 0.5, 1.2),
                (module.bias, -0.3, 0.3),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 2.0),
            ):
                nn.init.uniform_(tensor, low, high)
    if case.encoder == "x3d":
        head: Any = network.get_submodule("blocks.5")
        head.activation = None  # logits, as attacks need them

    def run(x: Tensor) -> Tensor:
        pixels = (x - 0.45) / 0.225
        if case.encoder == "x3d":
            return as_tensor(network(pixels))
        slow = torch.linspace(0, x.shape[2] - 1, x.shape[2] // 4).long()
        return as_tensor(network([pixels.index_select(2, slow), pixels]))

    return network, run


def ours(case: Case, weights: nn.Module | None) -> tuple[nn.Module, Network]:
    """Our network with the original's weights, read as a checkpoint; with its own where there is none."""
    found = configure(Registry.discover(), "encoder", case.encoder, dict(case.fields))
    media = MediaSpec(kind="video", shape=case.shape[1:], rate=8, bounds=(0, 1), time_axis=1)
    encoder = found.build(media)
    model = AVModel({"video": encoder}, None, CLASSES)
    if weights is not None:
        _, head = load_checkpoint(encoder, weights.state_dict(), encoder.layouts, case.original)
        assert load_fitting_head(model.head, head)
    return model.eval().requires_grad_(False), lambda x: as_tensor(model({"video": x}))


def as_tensor(x: Any) -> Tensor:
    """What a module returned, known to be a tensor."""
    assert isinstance(x, Tensor)
    return x


def clips(case: Case) -> Tensor:
    """Random clips in [0, 1]."""
    return torch.rand(case.shape, generator=torch.Generator().manual_seed(1))


def forward(network: Network, x: Tensor) -> Tensor:
    """Logits, without a gradient."""
    with torch.no_grad():
        return network(x)


def backward(network: Network, x: Tensor) -> Tensor:
    """The gradient of a weighted sum of the logits with respect to the clips."""
    leaf = x.clone().requires_grad_()
    logits = network(leaf)
    weights = torch.linspace(-1, 1, logits.shape[1], dtype=x.dtype)
    return torch.autograd.grad((logits * weights).sum(), leaf)[0]


def error(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((found - wanted).abs().max() / wanted.abs().max())


def agreement(case: Case) -> dict[str, float]:
    """`logits_error` in float32; `gradient_error` in float64, and `gradient_error_float32` for the record.

    In float32 rounding decides on which side of its kink a ReLU is that is next to it, and the few pixels before it
    get another gradient; in float64 that is rare, and any difference is one of the networks.
    """
    theirs, their_run = original(case)
    mine, our_run = ours(case, theirs)
    x = clips(case)[:1]
    found = {"logits_error": error(forward(our_run, x), forward(their_run, x))}
    ours32, theirs32 = backward(our_run, x), backward(their_run, x)
    found["gradient_error_float32"] = error(ours32, theirs32)
    for module in (mine, theirs):
        module.double()
    found["gradient_error"] = error(backward(our_run, x.double()), backward(their_run, x.double()))
    return found


def throughput(case: Case, turns: int, clock: Callable[[], float]) -> dict[str, float]:
    """Clips per second of both in turn, medians; the ratio is the median over turns, of the worse of both passes."""
    theirs, their_run = original(case)
    _, our_run = ours(case, theirs)
    x = clips(case)
    seconds: dict[str, list[float]] = {}
    for turn in range(turns + 1):
        sides = [("ours", our_run), ("theirs", their_run)]
        for name, run in sides if turn % 2 else reversed(sides):
            for what, measure in (("forward", forward), ("backward", backward)):
                began = clock()
                measure(run, x)
                if turn:  # the first turn warms caches and allocators
                    seconds.setdefault(f"{name}_{what}", []).append(clock() - began)
    found = {f"{key}_clips_per_s": round(len(x) / statistics.median(value), 4) for key, value in seconds.items()}
    for what in ("forward", "backward"):
        pairs = zip(seconds[f"theirs_{what}"], seconds[f"ours_{what}"], strict=True)
        found[f"{what}_ratio"] = statistics.median(a / b for a, b in pairs)
    found["throughput_ratio"] = min(found["forward_ratio"], found["backward_ratio"])
    return found


def memory(name: str, threads: int) -> dict[str, float]:
    """Peak resident memory, in MiB, of a process of its own for each side and pass."""
    found: dict[str, float] = {}
    for what in ("forward", "backward"):
        for side in ("ours", "theirs"):
            command = [sys.executable, __file__, "--peak", name, side, what, "--threads", str(threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[f"{side}_{what}_mib"] = float(done.stdout.split()[-1])
        found[f"{what}_memory_ratio"] = found[f"ours_{what}_mib"] / found[f"theirs_{what}_mib"]
    found["memory_ratio"] = max(found["forward_memory_ratio"], found["backward_memory_ratio"])
    return found


def peak(name: str, side: str, what: str) -> float:
    """The peak of this process, in MiB, after two passes of one side."""
    case = CASES[name]
    importlib.import_module("pytorchvideo.models.hub")  # on both sides, as its code takes far over 100 MiB
    _, run = ours(case, None) if side == "ours" else original(case)
    x = clips(case)
    for _ in range(2):
        (forward if what == "forward" else backward)(run, x)
    return high_water()


def high_water() -> float:
    """The most memory that this process has held, in MiB.

    On Linux from /proc, since what getrusage says begins with the parent's peak, which survives fork and exec.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / MEBIBYTE
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size * (1 if sys.platform == "darwin" else 1024) / MEBIBYTE


def compare(
    name: str, turns: int = 5, threads: int = 2, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """All figures of one network: `throughput_ratio`, `memory_ratio`, `logits_error`, `gradient_error` and their parts.

    Args:
        name: of `CASES`.
        turns: of the timing.
        threads: of PyTorch.
        clock: seconds, of the wall, or of the processor where other work would lengthen those of the wall.
    """
    torch.set_num_threads(threads)
    case = CASES[name]
    found = {**throughput(case, turns, clock), **memory(name, threads), **agreement(case)}
    return {key: float(f"{value:.4g}") for key, value in found.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="seconds of the processor, for a busy machine")
    parser.add_argument("--peak", nargs=3, metavar=("NAME", "SIDE", "WHAT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(peak(*options.peak))
        return
    clock = time.process_time if options.cpu_time else time.perf_counter
    report = {}
    for name in options.only:
        report[name] = compare(name, options.turns, options.threads, clock)
        print(name, report[name], flush=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
