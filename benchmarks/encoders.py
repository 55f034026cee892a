"""Encoders beside their original implementations: agreement, clips per second and peak memory, in one process.

    uv pip install -e '.[test,bench]'
    python benchmarks/encoders.py [--only NAME ...] [--turns N] [--threads N] [--cpu-time]

The last line is one JSON object: for each encoder `throughput_ratio` (ours over theirs, the lowest of the passes: at
least 1 wanted), `memory_ratio` (the highest; at most 1 wanted), `logits_error` and `gradient_error` (relative to the
largest value), and what they were made from. Gradients are compared in float64: see `encoders_audio.errors`.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from benchmarks import encoders_ast, encoders_audio, encoders_video


class Compare(Protocol):
    """One encoder beside its original."""

    def __call__(self, *, turns: int, threads: int, clock: Callable[[], float]) -> Mapping[str, Any]:
        """The figures of one encoder."""


COMPARISONS: Mapping[str, Compare] = {
    "cnn14": partial(encoders_audio.compare, "cnn14"),
    **{name: partial(encoders_video.compare, name) for name in encoders_video.CASES},
    "ast": encoders_ast.compare,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(COMPARISONS), default=list(COMPARISONS))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="seconds of the processor, for a busy machine")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    report = {}
    for name in options.only:
        found = COMPARISONS[name](turns=options.turns, threads=options.threads, clock=clock)
        report[name] = found
        print(
            f"{name}: throughput {found['throughput_ratio']:.3f}, memory {found['memory_ratio']:.3f}, "
            f"logits {found['logits_error']:.1e}, gradients {found['gradient_error']:.1e}",
            flush=True,
        )
    print(json.dumps(report))


if __name__ == "__main__":
    main()
