"""Encoders beside their original implementations: agreement, clips per second and peak memory, in one process.

    uv pip install -e '.[test,bench]'
    python benchmarks/encoders.py [--only NAME ...] [--turns N] [--threads N] [--cpu-time]

`forward` is a pass in evaluation mode without gradients; `attack` adds the gradient of the clips alone, with frozen
parameters; `training` is a pass in training mode with the gradient of all parameters. Both sides run in turn; ratios
are medians over turns. Peak memory is that of a fresh process per side and pass, which imports the same modules.

The last line is one JSON object: for each encoder `throughput_ratio` (ours over theirs, the lowest of the passes: at
least 1 wanted), `memory_ratio` (the highest; at most 1 wanted), `logits_error` and `gradient_error` (relative to the
largest value), and what they were made from: `throughput` and `memory` by pass. Gradients are compared in float64: see
`encoder_sides.errors`.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch

from benchmarks import encoders_ast, encoders_audio, encoders_video
from benchmarks.encoder_sides import SIDES, Comparison, errors, make_pass, peak_resident, throughput

COMPARISONS: Mapping[str, Comparison] = {
    "cnn14": encoders_audio.comparison("cnn14"),
    **{name: encoders_video.comparison(name) for name in encoders_video.CASES},
    "ast": encoders_ast.COMPARISON,
}


def compare(name: str, turns: int, threads: int, clock: Callable[[], float]) -> dict[str, Any]:
    """The figures of one encoder.

    Args:
        name: of `COMPARISONS`.
        turns: of the timing.
        threads: of PyTorch.
        clock: seconds, of the wall, or of the processor where other work would lengthen those of the wall.
    """
    torch.set_num_threads(threads)
    case = COMPARISONS[name]
    clips = case.clips()
    ours, plain = case.pair(clips)
    agreement = errors(ours, plain, clips[:1])
    speed = throughput({"ours": ours, "plain": plain}, clips, case.passes, turns, clock)
    del ours, plain
    peaks = {step: memory(name, step, threads) for step in case.passes}
    return {
        "throughput_ratio": min(of["ratio"] for of in speed.values()),
        "memory_ratio": max(of["ratio"] for of in peaks.values()),
        **agreement,
        "throughput": speed,
        "memory": peaks,
    }


def memory(name: str, step: str, threads: int) -> dict[str, float]:
    """The peak resident MiB of a fresh process of each side, and `ratio`, ours over the plain one's."""
    found: dict[str, float] = {}
    for side in SIDES:
        command = [sys.executable, __file__, "--threads", str(threads), "--peak", name, side, step]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[side] = float(out.splitlines()[-1])
    return found | {"ratio": found["ours"] / found["plain"]}


def peak(name: str, side: str, step: str) -> float:
    """This process's peak resident MiB after two passes of one side."""
    case = COMPARISONS[name]
    import_module(case.library)
    clips = case.clips()
    run = make_pass(case.side(side, clips), step, clips)
    run(), run()
    return peak_resident()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(COMPARISONS), default=list(COMPARISONS))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="seconds of the processor, for a busy machine")
    parser.add_argument("--peak", nargs=3, metavar=("NAME", "SIDE", "PASS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        torch.set_num_threads(options.threads)
        print(peak(*options.peak))
        return
    clock = time.process_time if options.cpu_time else time.perf_counter
    report = {}
    for name in options.only:
        report[name] = found = compare(name, options.turns, options.threads, clock)
        print(
            f"{name}: throughput {found['throughput_ratio']:.3f}, memory {found['memory_ratio']:.3f}, "
            f"logits {found['logits_error']:.1e}, gradients {found['gradient_error']:.1e}",
            flush=True,
        )
    print(json.dumps(report))


if __name__ == "__main__":
    main()
