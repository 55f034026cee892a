"""What a GPU gives: attacks, nearest neighbours and training beside bare loops and peers, by one command.

    uv pip install -e '.[bench]'
    python benchmarks/gpu.py [--only PART ...] [--limit SECONDS] [--out FILE] [--small] [--device cpu|cuda]

It ends within 8 minutes on one card: a part for which there is no time left before `--limit` does not begin. A part
that fails, or was not begun, is named in the JSON with the reason, and the others go on. `--small` rehearses all of it
with small sizes, on the processor where there is no card; its figures say nothing.

Parts, in this order: `card` (peak of matrix products and copies), `joint-tf32`, `audio-tf32`, ..., `video-bf16` (PGD of
20 steps that fools no clip: ours, bare loops, torchattacks and foolbox in one process and one precision, the share of
the card's peak), `robust-tf32`, `robust-bf16` (joint PGD at a radius that leaves about half of the clips: rates at what
robust accuracy), `starts`, `waits` (of the host for the device, by attack), `neighbours` and `queries` (over bare
products and top-k), `standard`, `fast-at`, `free-at`, `adversarial` (training steps over bare loops), `guided` (what
comes between epochs), `density`, `convexity`, `convolutions` (each in three forms), `variants` (channels-last and
cudnn's search for algorithms), `kernels` (the operations that take longest) and `compiled` (torch.compile).

The last line is one JSON object: `missing` (the parts without a result, and why), `answers` (the figures that a reader
looks for first), and `parts`, all of them. `--out` has it after each part, for a run that is killed.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from avrobust_core import Registry
from benchmarks import gpu_attacks, gpu_convolutions, gpu_geometry, gpu_training
from benchmarks.attack_measures import one_line
from benchmarks.attacks import quieten
from benchmarks.gpu_subject import REAL, SMALL, Bench

Part = Callable[[Bench], dict[str, Any]]

SHORT = 20.0
"""Seconds that must be left for a part to begin."""

LONG = {"guided": 45.0, "density": 45.0, "variants": 30.0, "compiled": 120.0}
"""The same of those that take longer."""


def parts() -> dict[str, Part]:
    """All parts, in order."""
    still = {
        f"{attacked}-{precision}": partial(gpu_attacks.still, attacked=attacked, precision=precision)
        for precision in gpu_attacks.PRECISIONS
        for attacked in gpu_attacks.ATTACKED
    }
    return {
        "card": card,
        **still,
        **{f"robust-{p}": partial(gpu_attacks.robust, precision=p) for p in gpu_attacks.PRECISIONS},
        "starts": gpu_attacks.starts,
        "waits": gpu_attacks.waits,
        "neighbours": gpu_geometry.neighbours,
        "queries": gpu_geometry.queries,
        **{name: partial(gpu_training.regime, name=name) for name in gpu_training.REGIMES},
        "guided": gpu_training.guided,
        "density": gpu_geometry.density_of_classes,
        "convexity": gpu_geometry.convexity_of_classes,
        "convolutions": gpu_convolutions.convolutions,
        "variants": gpu_attacks.variants,
        "kernels": gpu_attacks.kernels,
        "compiled": gpu_attacks.compiled,
    }


def main() -> None:
    """Measure and print."""
    options = parse()
    quieten()
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    bench = Bench(SMALL if options.small else REAL, device, Registry.discover(), until=time.monotonic() + options.limit)
    report: dict[str, Any] = {}
    for name, part in parts().items():
        if options.only and name not in options.only:
            continue
        began = time.monotonic()
        report[name] = carried_out(bench, name, part)
        print(f"{name}: {time.monotonic() - began:.1f} s {json.dumps(report[name])[:400]}", flush=True)
        if options.out is not None:
            _write(options.out, whole(bench, report, options))
    print(json.dumps(whole(bench, report, options)))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(parts()), help="parts to run; all by default")
    parser.add_argument("--limit", type=float, default=460.0, help="seconds within which all parts are to end")
    parser.add_argument("--out", type=Path, help="file that has the JSON object after each part")
    parser.add_argument("--small", action="store_true", help="a rehearsal with small sizes")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="cuda by default where there is a card")
    return parser.parse_args()


def carried_out(bench: Bench, name: str, part: Part) -> dict[str, Any]:
    """What a part finds, or `error`, or `not_run`."""
    if bench.left < LONG.get(name, SHORT):
        return {"not_run": f"there was no time left: {bench.left:.0f} s before the limit"}
    try:
        with gpu_attacks.tf32():
            found = part(bench)
    except Exception as error:  # noqa: BLE001 - whatever breaks one part must not take the others along
        found = {"error": one_line(error)}
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
    bench.found[name] = found
    return found


def card(bench: Bench) -> dict[str, Any]:
    """What the device is, and reaches: TFLOP/s of matrix products, TB/s of copies, bytes read and written both."""
    side, cuda = bench.size.product, bench.device.type == "cuda"
    rates: dict[str, float] = {}
    for name, dtype, fast in (
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bf16", torch.bfloat16, True),
    ):
        a, b = (torch.randn(side, side, device=bench.device).to(dtype) for _ in range(2))
        torch.backends.cuda.matmul.allow_tf32 = fast
        rates[name] = round(2 * side**3 / bench.seconds(partial(torch.mm, a, b), turns=10) / 1e12, 3)
    source = torch.empty(side * side, device=bench.device)
    target = torch.empty_like(source)
    seconds = bench.seconds(lambda: target.copy_(source), turns=10)
    return {
        "device": torch.cuda.get_device_name() if cuda else "processor",
        "memory_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1) if cuda else None,
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version() if cuda else None,  # type: ignore[no-untyped-call]
        "tflop_per_second": rates,
        "copy_tb_per_second": round(8 * source.numel() / seconds / 1e12, 3),
    }


def whole(bench: Bench, report: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """The JSON object."""
    missing = {
        name: found.get("error") or found["not_run"]
        for name, found in report.items()
        if "error" in found or "not_run" in found
    }
    return {
        "missing": missing,
        "answers": answers(report),
        "small": options.small,
        "device": bench.device.type,
        "parts": dict(report),
    }


def answers(report: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of the parts that were measured, each under its part's name."""
    keys = ("over_fastest_peer", "share_of_peak", "gap_in_clips", "over_bare", "per_step", "seconds_between_epochs")
    found = {name: {key: part[key] for key in keys if part.get(key) not in (None, {})} for name, part in report.items()}
    rates = [dict(report.get(f"robust-{p}", {}).get("clips_per_second", {})) for p in gpu_attacks.PRECISIONS]
    peers = [rate[name] for rate in rates for name in gpu_attacks.PEERS if name in rate]
    ours = [each for rate in rates for name, each in rate.items() if name not in gpu_attacks.PEERS]
    if ours and peers:
        found["joint, the best of ours over the best of peers, at a radius that breaks half"] = round(
            max(ours) / max(peers), 4
        )
    return {name: part for name, part in found.items() if part}


def _write(path: Path, found: Mapping[str, Any]) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(found))
    os.replace(new, path)


if __name__ == "__main__":
    main()
