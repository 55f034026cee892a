"""`ast` beside transformers' own: agreement, speed and memory, side by side in one process.

    uv pip install -e '.[test,bench]'
    python -m benchmarks.encoders_ast [--clips N] [--seconds S] [--turns N] [--threads N] [--cpu-time]

Theirs is torchaudio's Kaldi filter bank of one clip at a time, as in AST's code, then ASTForAudioClassification with
its default attention. What is measured, and how, is as in `encoders_audio`: `forward`, `attack` (forward and the
gradient of the clips) and `training` (forward and that of all parameters).
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, cast

import torch
from avrobust_audio.plugin import avrobust_encoders
from torch import Tensor, nn
from torch.nn import functional as F
from torchaudio.compliance import kaldi

from avrobust_core import AVModel, MediaSpec
from avrobust_core.models.weights import load_checkpoint, load_fitting_head
from benchmarks.encoders_audio import PASSES, errors, make_clips, make_pass, peak_resident, throughput

CLASSES: Final = 527
RATE: Final = 16_000
MEAN: Final = -4.2677393
STD: Final = 4.5689974
MODELING: Final = "transformers.models.audio_spectrogram_transformer.modeling_audio_spectrogram_transformer"


class PlainAst(nn.Module):
    """AST in transformers, from waveforms, with random weights in which no part is zero.

    Args:
        frames: that it reads.
        sizes: of transformers' configuration, where they are not the published ones.
    """

    def __init__(self, frames: int, **sizes: int) -> None:
        super().__init__()
        transformers: Any = import_module("transformers")
        config = transformers.ASTConfig(max_length=frames, num_labels=CLASSES, **sizes)
        self.frames = frames
        self.model = transformers.ASTForAudioClassification(config)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if parameter.ndim == 1 or name.endswith(("_token", "position_embeddings")):
                    parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))

    def forward(self, waveforms: Tensor) -> Tensor:
        """From waveforms (B, T) to logits (B, classes)."""
        rows = [
            kaldi.fbank(
                clip[None] - clip.mean(),
                htk_compat=True,
                sample_frequency=RATE,
                use_energy=False,
                window_type="hanning",
                num_mel_bins=128,
                dither=0.0,
                frame_shift=10,
            )[: self.frames]
            for clip in waveforms
        ]
        features = torch.stack([F.pad(row, (0, 0, 0, self.frames - len(row))) for row in rows])
        return cast(Tensor, self.model((features - MEAN) / (2 * STD)).logits)


class OurAst(nn.Module):
    """Our model with `ast` alone, called as the plain one is.

    Args:
        samples: of a clip.
        fields: of its configuration.
    """

    def __init__(self, samples: int, **fields: int) -> None:
        super().__init__()
        component = next(c for c in avrobust_encoders() if c.name == "ast")
        media = MediaSpec(kind="audio", shape=(1, samples), rate=RATE, bounds=(-1.0, 1.0), time_axis=1)
        self.encoder = component.make(component.config.model_validate(fields), media)
        self.model = AVModel({"audio": self.encoder}, None, CLASSES)

    def load(self, plain: PlainAst) -> None:
        """Take the plain one's weights, as a checkpoint of transformers, with its head."""
        _, head = load_checkpoint(self.encoder, plain.model.state_dict(), self.encoder.layouts, "plain")
        if not load_fitting_head(self.model.head, head):
            raise ValueError(f"the checkpoint's head does not fit: {', '.join(head)}")

    def forward(self, waveforms: Tensor) -> Tensor:
        """From waveforms (B, T) to logits (B, classes)."""
        return cast(Tensor, self.model({"audio": waveforms[:, None]}))


def frames_of(samples: int) -> int:
    """The frames that a network for clips of so many samples reads: 10 ms each, 1024 for 10.24 s."""
    return samples * 100 // RATE


def make_pair(samples: int) -> tuple[OurAst, PlainAst]:
    """Both in evaluation mode, frozen, of the published sizes, with the same weights."""
    torch.manual_seed(0)
    plain = PlainAst(frames_of(samples))
    ours = OurAst(samples, frames=frames_of(samples))
    ours.load(plain)
    return ours.eval().requires_grad_(False), plain.eval().requires_grad_(False)


def memory(clips: int, samples: int, threads: int) -> dict[str, dict[str, float]]:
    """By pass: the peak resident MiB of a fresh process of each party, and `ratio`, ours over the plain one's."""
    found: dict[str, dict[str, float]] = {}
    for step in PASSES:
        found[step] = {}
        for party in ("ours", "plain"):
            task = json.dumps([party, step, clips, samples, threads])
            command = [sys.executable, "-m", "benchmarks.encoders_ast", "--peak", task]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            found[step][party] = float(out.splitlines()[-1])
        found[step]["ratio"] = found[step]["ours"] / found[step]["plain"]
    return found


def peak(party: str, step: str, clips: int, samples: int, threads: int) -> float:
    """This process's peak resident MiB after two passes of one party."""
    torch.set_num_threads(threads)
    import_module(MODELING)  # its own memory is no party's
    frames = frames_of(samples)
    model = OurAst(samples, frames=frames) if party == "ours" else PlainAst(frames)
    run = make_pass(model, step, make_clips(clips, samples))
    run(), run()
    return peak_resident()


def compare(
    *,
    clips: int = 1,
    seconds: float = 10.24,
    turns: int = 5,
    threads: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """`ast` beside transformers' AST of the same weights.

    Args:
        clips: in a batch.
        seconds: of a clip; 10.24 are the published 1024 frames.
        turns: of the timing.
        threads: of PyTorch.
        clock: seconds, of the wall, or of the processor where other work would lengthen those of the wall.

    Returns:
        `throughput_ratio` (the lowest of the passes), `memory_ratio` (the highest), what `errors` finds, and where the
        ratios come from: `throughput` and `memory` by pass.
    """
    torch.set_num_threads(threads)
    x = make_clips(clips, round(seconds * RATE))
    ours, plain = make_pair(x.shape[1])
    agreement = errors(ours, plain, x[:1])
    speed = throughput(ours, plain, x, turns, clock)
    del ours, plain
    peaks = memory(clips, x.shape[1], threads)
    return {
        "throughput_ratio": min(of["ratio"] for of in speed.values()),
        "memory_ratio": max(of["ratio"] for of in peaks.values()),
        **agreement,
        "throughput": speed,
        "memory": peaks,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.24)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="CPU seconds, where others use the machine too")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(peak(*json.loads(options.peak)))
        return
    clock = time.process_time if options.cpu_time else time.perf_counter
    found = compare(
        clips=options.clips, seconds=options.seconds, turns=options.turns, threads=options.threads, clock=clock
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
