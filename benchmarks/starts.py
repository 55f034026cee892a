"""What random starts cost over one generator for each clip, as starts were drawn before, side by side in one process.

    python benchmarks/starts.py [--pairs N] [--device NAME]

For batches of 32 clips of 16,000 samples and of 3 x 32 x 112 x 112, in linf and l2: `numbers` are the random numbers
alone, `start` is the point of the ball that they make, projected. The last line is one JSON object: of each,
nanoseconds per sample with generators (`before`) and with ours (`now`), the best of all pairs, and the median ratio of
pairs that run in turn. On CPU it is the processor's time, of one thread: what else runs on the machine counts less.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from avrobust_core import Ball, Budget, ClipDraws, clip_generator, make_ball
from avrobust_core.threats.clips import clip_norm, per_clip

CLIPS = 32
SHAPES = {"16k": (1, 16_000), "320k": (1, 320_000), "video": (3, 32, 112, 112)}
NORMS: dict[Literal["linf", "l2"], float] = {"linf": 0.01, "l2": 3.0}
IDS = [f"clip-{number}" for number in range(CLIPS)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report = {}
    for size, shape in SHAPES.items():
        clean = torch.rand(CLIPS, *shape, generator=torch.Generator().manual_seed(0)).to(options.device)
        for norm, eps in NORMS.items():
            ball = make_ball(clean, Budget(norm=norm, eps=eps), (0.0, 1.0))
            for what, before, now in (
                ("numbers", generated, numbers),
                ("start", started, start),
            ):
                found = compared(partial(before, ball), partial(now, ball), options.pairs, clean)
                report[f"{size} {norm} {what}"] = found
                print(f"{size} {norm} {what}: {found}", flush=True)
    print(json.dumps(report))


def compared(before: Callable[[], Tensor], now: Callable[[], Tensor], pairs: int, like: Tensor) -> dict[str, float]:
    """Nanoseconds per sample of both, and the ratio of the first to the second."""
    seconds(before, like), seconds(now, like)  # the first run of each warms caches and allocators
    found = [(seconds(before, like), seconds(now, like)) for _ in range(pairs)]
    best = [min(each) * 1e9 / like.numel() for each in zip(*found, strict=True)]
    ratio = statistics.median(first / second for first, second in found)
    return {"before": round(best[0], 2), "now": round(best[1], 2), "ratio": round(ratio, 2)}


def seconds(draw: Callable[[], Tensor], like: Tensor) -> float:
    """How long it takes, to the end of what the device was told."""
    if not like.is_cuda:
        began = time.process_time()
        draw()
        return time.process_time() - began
    torch.cuda.synchronize(like.device)
    began = time.perf_counter()
    draw()
    torch.cuda.synchronize(like.device)
    return time.perf_counter() - began


def numbers(ball: Ball) -> Tensor:
    """Our noise of a start."""
    return draws(ball).noise(ball.center.shape[1:], "gaussian" if ball.norm == "l2" else "uniform")


def start(ball: Ball) -> Tensor:
    """Our start."""
    return ball.sample(draws(ball))


def draws(ball: Ball) -> ClipDraws:
    """Our random numbers."""
    return ClipDraws.of(0, IDS, "start", ball.center.device)


def generated(ball: Ball) -> Tensor:
    """The noise of a start, each clip's from its own generator, brought to the device."""
    shape = ball.center.shape[1:]
    if ball.norm == "l2":
        return torch.stack([torch.randn(shape, generator=each) for each in generators()]).to(ball.center.device)
    noise = torch.stack([torch.rand(shape, generator=each) for each in generators()])
    return noise.to(ball.center.device).mul_(2).sub_(1)


def started(ball: Ball) -> Tensor:
    """A start that is made of it."""
    noise = generated(ball)
    if ball.norm == "linf":
        return ball.project(ball.center + ball.step_radius * noise)
    share = torch.stack([torch.rand((), generator=each, dtype=torch.float64) for each in generators()])
    share = share.to(noise.device) ** (1 / noise[0].numel()) / clip_norm(noise)
    return ball.project(ball.center + noise * ball.step_radius * per_clip(share.float(), noise))


def generators() -> list[torch.Generator]:
    """One for each clip."""
    return [clip_generator(0, clip_id, "start") for clip_id in IDS]


if __name__ == "__main__":
    main()
