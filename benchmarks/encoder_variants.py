"""Do channels-last memory, compilation and lower precision pay? Encoders as they are, beside themselves, on one device.

    python benchmarks/encoder_variants.py [--device cpu|cuda] [--only NAME ...] [--seconds S] [--variants NAME ...]
                                          [--threads N] [--cpu-time]

Parameters are frozen, as in an attack: `forward` is without a gradient, `attack` is forward and the gradient of the
clip. The last line is one JSON object: by encoder and variant, clips per second of both passes, and their ratios to the
encoder as it is (float32, TF32 off).
"""

import argparse
import contextlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor, nn

from avrobust_core import AVModel, MediaSpec, Registry
from avrobust_core.models.model import channels_last
from avrobust_core.registry.choices import configure

AUDIO: Final = {"cnn14": (32_000, 320_000), "ast": (16_000, 160_000)}
"""Rate and samples."""

VIDEO: Final = {"slowfast": ({"size": "r50"}, (3, 32, 224, 224)), "x3d": ({"size": "s"}, (3, 13, 160, 160))}
"""Fields and shape."""

BATCH: Final[Mapping[str, Mapping[str, int]]] = MappingProxyType(
    {
        "cpu": {"cnn14": 2, "ast": 1, "slowfast": 1, "x3d": 2},
        "cuda": {"cnn14": 32, "ast": 16, "slowfast": 8, "x3d": 16},
    }
)


def build(name: str, device: str) -> tuple[nn.Module, Tensor]:
    """A model of one encoder, and clips for it."""
    if name in AUDIO:
        rate, samples = AUDIO[name]
        media = MediaSpec(kind="audio", shape=(1, samples), rate=rate, bounds=(-1, 1), time_axis=1)
        fields: Mapping[str, Any] = {}
    else:
        fields, shape = VIDEO[name]
        media = MediaSpec(kind="video", shape=shape, rate=8, bounds=(0, 1), time_axis=1)
    found = configure(Registry.discover(), "encoder", name, dict(fields))
    torch.manual_seed(0)
    model = AVModel({"clip": found.build(media)}, None, 100).eval().requires_grad_(False)
    low, high = media.bounds or (0, 1)
    clips = low + (high - low) * torch.rand(BATCH[device][name], *media.shape)
    return model.to(device), clips.to(device)


def variants(
    name: str, device: str, wanted: Collection[str] | None
) -> Iterator[tuple[str, Callable[[Tensor], Tensor], Tensor]]:
    """Name, network and clips of all variants, or of those that are wanted; TF32 is switched on and off around each."""
    for layout in ("", "channels-last"):
        for precision in ("", "tf32", "bf16") if device == "cuda" else ("", "bf16"):
            for way in ("", "compile"):
                label = " ".join(part for part in (layout, precision, way) if part)
                if label and wanted is not None and label not in wanted:
                    continue
                model, clips = build(name, device)
                if layout:
                    model = channels_last(model)
                called: Any = torch.compile(model) if way else model
                torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"

                def network(x: Tensor, called: Any = called, half: bool = precision == "bf16") -> Tensor:
                    context = torch.autocast(device, dtype=torch.bfloat16) if half else contextlib.nullcontext()
                    with context:
                        found = called({"clip": x})
                    assert isinstance(found, Tensor)
                    return found.float()

                yield label or "as it is", network, clips


def forward(network: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Logits, without a gradient."""
    with torch.no_grad():
        network(x)


def attack(network: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Forward, and the gradient of the clip."""
    leaf = x.detach().requires_grad_()
    torch.autograd.grad(network(leaf).logsumexp(dim=1).sum(), leaf)


def rate(run: Callable[[], None], clips: int, clock: Callable[[], float], seconds: float) -> float:
    """Clips per second, over at least so many seconds and two calls, after two for warming up."""
    run()
    run()
    calls, began = 0, clock()
    while calls < 2 or clock() - began < seconds:
        run()
        calls += 1
    return clips * calls / (clock() - began)


def now(device: str) -> float:
    """Seconds, once the device has done what it was asked for."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", nargs="+", choices=[*AUDIO, *VIDEO], default=[*AUDIO, *VIDEO])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="seconds of the processor, for a busy machine")
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="only these beside `as it is`")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.cpu_time else partial(now, options.device)
    report: dict[str, dict[str, dict[str, float]]] = {}
    for name in options.only:
        plain: dict[str, float] = {}
        for variant, network, clips in variants(name, options.device, options.variants):
            try:
                found = {
                    step.__name__: rate(partial(step, network, clips), len(clips), clock, options.seconds)
                    for step in (forward, attack)
                }
            except Exception as error:  # noqa: BLE001 - a variant that a compiler cannot make is a finding
                print(f"{name} {variant}: {type(error).__name__}: {str(error).splitlines()[0]}", flush=True)
                continue
            plain = plain or found
            ratios = {f"{key}_ratio": value / plain[key] for key, value in found.items()}
            report.setdefault(name, {})[variant] = {key: round(x, 3) for key, x in (found | ratios).items()}
            print(f"{name} {variant}: {report[name][variant]}", flush=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
