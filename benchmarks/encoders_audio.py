"""`cnn14` beside a plain PANNs built on torchlibrosa: agreement, speed and memory, side by side in one process.

    uv pip install -e '.[test,bench]'
    python -m benchmarks.encoders_audio [--clips N] [--seconds S] [--turns N] [--threads N] [--cpu-time] [--variants]

`forward` is a pass in evaluation mode without gradients; `attack` adds the gradient of the clips alone, with frozen
parameters; `training` is a pass in training mode with the gradient of all parameters. Parties run in turn; ratios are
medians over turns. Peak memory is that of a fresh process per party and pass, which imports the same modules.
"""

import argparse
import copy
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final, cast

import torch
from avrobust_audio.plugin import avrobust_encoders
from torch import Tensor, nn
from torch.nn import functional as F

from avrobust_core import AVModel, MediaSpec
from avrobust_core.models.weights import load_checkpoint, load_fitting_head

CLASSES: Final = 527
RATE: Final = 32_000
PASSES: Final = ("forward", "attack", "training")
VARIANTS: Final = ("channels-last", "compile")

WINDOWS: Final[Mapping[int, tuple[int, int, int]]] = {
    32_000: (1024, 320, 14_000),
    16_000: (512, 160, 8_000),
    8_000: (256, 80, 4_000),
}
"""The published front ends: window, hop and highest frequency by sample rate."""


class PlainBlock(nn.Module):
    """One or two convolutions with batch normalisation and ReLU, then an average pool."""

    def __init__(self, inputs: int, outputs: int, kernel: int, convs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.pairs = [(self.conv1, self.bn1)]
        if convs == 2:
            self.conv2 = nn.Conv2d(outputs, outputs, kernel, padding=kernel // 2, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
            self.pairs.append((self.conv2, self.bn2))

    def forward(self, x: Tensor, pool: int) -> Tensor:
        """From (B, inputs, frames, bands) to (B, outputs, frames // pool, bands // pool)."""
        for conv, norm in self.pairs:
            x = F.relu_(norm(conv(x)))
        return F.avg_pool2d(x, pool)


class PlainPanns(nn.Module):
    """Cnn6, Cnn10 or Cnn14 of arXiv 1912.10211, written from the paper, with the keys of its checkpoints.

    Nothing of the project's own is in it. Logits are those before the published sigmoid.

    Args:
        name: "cnn6", "cnn10" or "cnn14".
        rate: 32000, 16000 or 8000.
        classes: of the last layer.
    """

    def __init__(self, name: str, rate: int = RATE, classes: int = CLASSES) -> None:
        super().__init__()
        stft: Any = import_module("torchlibrosa.stft")
        window, hop, f_max = WINDOWS[rate]
        self.spectrogram_extractor = stft.Spectrogram(
            n_fft=window,
            hop_length=hop,
            win_length=window,
            window="hann",
            center=True,
            pad_mode="reflect",
            freeze_parameters=True,
        )
        self.logmel_extractor = stft.LogmelFilterBank(
            sr=rate,
            n_fft=window,
            n_mels=64,
            fmin=50,
            fmax=f_max,
            ref=1.0,
            amin=1e-10,
            top_db=None,
            freeze_parameters=True,
        )
        self.bn0 = nn.BatchNorm2d(64)
        widths = [64, 128, 256, 512, 1024, 2048] if name == "cnn14" else [64, 128, 256, 512]
        self.pools = [2, 2, 2, 2, 2, 1] if name == "cnn14" else [2, 2, 2, 2]
        for i, (inputs, outputs) in enumerate(zip([1, *widths], widths, strict=False), start=1):
            block = PlainBlock(inputs, outputs, 5, 1) if name == "cnn6" else PlainBlock(inputs, outputs, 3, 2)
            self.add_module(f"conv_block{i}", block)
        self.fc1 = nn.Linear(widths[-1], widths[-1])
        self.fc_audioset = nn.Linear(widths[-1], classes)

    def embed(self, waveforms: Tensor) -> Tensor:
        """From waveforms (B, T) to the published embedding (B, D)."""
        x = self.logmel_extractor(self.spectrogram_extractor(waveforms))
        x = self.bn0(x.transpose(1, 3)).transpose(1, 3)
        for i, pool in enumerate(self.pools, start=1):
            x = F.dropout(self.get_submodule(f"conv_block{i}")(x, pool), 0.2, self.training)
        x = x.mean(dim=3)
        x = F.dropout(x.max(dim=2)[0] + x.mean(dim=2), 0.5, self.training)
        return F.relu_(self.fc1(x))

    def forward(self, waveforms: Tensor) -> Tensor:
        """From waveforms (B, T) to logits (B, classes)."""
        return cast(Tensor, self.fc_audioset(self.embed(waveforms)))


class OurPanns(nn.Module):
    """Our model with this encoder alone, called as the plain one is.

    Args:
        name: of the component.
        samples: of a clip.
        rate: samples per second.
        classes: of the head.
    """

    def __init__(self, name: str, samples: int, rate: int = RATE, classes: int = CLASSES) -> None:
        super().__init__()
        component = next(c for c in avrobust_encoders() if c.name == name)
        media = MediaSpec(kind="audio", shape=(1, samples), rate=rate, bounds=(-1.0, 1.0), time_axis=1)
        self.encoder = component.make(component.config.model_validate(dict(component.example)), media)
        self.model = AVModel({"audio": self.encoder}, None, classes)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load a checkpoint of the published layout, with its head."""
        _, head = load_checkpoint(self.encoder, state, self.encoder.layouts, "plain")
        if not load_fitting_head(self.model.head, head):
            raise ValueError(f"the checkpoint's head does not fit: {', '.join(head)}")

    def forward(self, waveforms: Tensor) -> Tensor:
        """From waveforms (B, T) to logits (B, classes)."""
        return cast(Tensor, self.model({"audio": waveforms[:, None]}))


def settle(plain: PlainPanns, clips: Tensor) -> None:
    """Give a network without weights the statistics of a trained one, so that signals neither vanish nor explode.

    Args:
        plain: all its batch normalisations learn the statistics of the clips, and get scales and shifts of their own.
        clips: (B, T).
    """
    generator = torch.Generator().manual_seed(0)
    norms = [m for m in plain.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = None  # an average over all passes
            norm.weight.copy_(1 + 0.2 * torch.randn(norm.weight.shape, generator=generator))
            norm.bias.copy_(0.2 * torch.randn(norm.bias.shape, generator=generator))
        plain.train()
        plain(clips)
        plain.eval()


def make_clips(clips: int, samples: int, seed: int = 0) -> Tensor:
    """Noise (clips, samples) whose loudness changes ten times, with silence at the start of every other clip."""
    generator = torch.Generator().manual_seed(seed)
    loudness = 10 ** (-3 * torch.rand(clips, 10, generator=generator))
    loudness[::2, 0] = 0
    steps = loudness.repeat_interleave(-(-samples // 10), dim=1)[:, :samples]
    return (0.3 * steps * torch.randn(clips, samples, generator=generator)).clamp(-1, 1)


def make_pair(name: str, clips: Tensor, rate: int = RATE, classes: int = CLASSES) -> tuple[OurPanns, PlainPanns]:
    """Both in evaluation mode, frozen, with the same weights."""
    torch.manual_seed(0)
    plain = PlainPanns(name, rate, classes)
    settle(plain, clips)
    ours = OurPanns(name, clips.shape[1], rate, classes)
    ours.load(plain.state_dict())
    return ours.eval().requires_grad_(False), plain.eval().requires_grad_(False)


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
    ours: nn.Module, plain: nn.Module, clips: Tensor, turns: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, dict[str, float]]:
    """By pass: clips per second of both, and `ratio`, ours over the plain one's; medians over turns."""
    found = {}
    for name in PASSES:
        seconds: dict[str, list[float]] = {"ours": [], "plain": []}
        runs = {"ours": make_pass(ours, name, clips), "plain": make_pass(plain, name, clips)}
        for turn in range(turns + 1):
            for party in ("ours", "plain") if turn % 2 else ("plain", "ours"):
                began = clock()
                runs[party]()
                if turn:  # the first turn warms caches and allocators
                    seconds[party].append(clock() - began)
        ratios = [p / o for o, p in zip(seconds["ours"], seconds["plain"], strict=True)]
        found[name] = {party: len(clips) / statistics.median(of) for party, of in seconds.items()}
        found[name]["ratio"] = statistics.median(ratios)
    return found


def memory(name: str, clips: int, samples: int, threads: int) -> dict[str, dict[str, float]]:
    """By pass: the peak resident MiB of a fresh process of each party, and `ratio`, ours over the plain one's."""
    found: dict[str, dict[str, float]] = {}
    for step in PASSES:
        found[step] = {}
        for party in ("ours", "plain"):
            task = json.dumps([party, name, step, clips, samples, threads])
            command = [sys.executable, "-m", "benchmarks.encoders_audio", "--peak", task]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            found[step][party] = float(out.splitlines()[-1])
        found[step]["ratio"] = found[step]["ours"] / found[step]["plain"]
    return found


def peak(party: str, name: str, step: str, clips: int, samples: int, threads: int) -> float:
    """This process's peak resident MiB after two passes of one party."""
    torch.set_num_threads(threads)
    import_module("torchlibrosa.stft")  # librosa's own memory is no party's
    model = OurPanns(name, samples) if party == "ours" else PlainPanns(name)
    run = make_pass(model, step, make_clips(clips, samples))
    run(), run()
    return peak_resident()


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


def compare(
    name: str = "cnn14",
    *,
    clips: int = 2,
    seconds: float = 10.0,
    turns: int = 7,
    threads: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """One encoder beside the plain one.

    Returns:
        `throughput_ratio` (the lowest of the passes), `memory_ratio` (the highest), what `errors` finds, and where the
        ratios come from: `throughput` and `memory` by pass.
    """
    torch.set_num_threads(threads)
    x = make_clips(clips, round(seconds * RATE))
    ours, plain = make_pair(name, x)
    agreement = errors(ours, plain, x)
    speed = throughput(ours, plain, x, turns, clock)
    peaks = memory(name, clips, x.shape[1], threads)
    return {
        "throughput_ratio": min(of["ratio"] for of in speed.values()),
        "memory_ratio": max(of["ratio"] for of in peaks.values()),
        **agreement,
        "throughput": speed,
        "memory": peaks,
    }


def variants(
    name: str, clips: Tensor, turns: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, dict[str, float]]:
    """By variant and pass: clips per second of our encoder so, over those of it as it is."""
    found = {}
    for variant in VARIANTS:
        ours, _ = make_pair(name, clips)
        other, _ = make_pair(name, clips)
        if variant == "channels-last":
            changed: nn.Module = other.to(memory_format=torch.channels_last)
        else:
            changed = cast(nn.Module, torch.compile(other))
        speed = throughput(changed, ours, clips, turns, clock)
        found[variant] = {step: of["ratio"] for step, of in speed.items()}
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="CPU seconds, where others use the machine too")
    parser.add_argument("--variants", action="store_true", help="channels-last and torch.compile, too")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(peak(*json.loads(options.peak)))
        return
    clock = time.process_time if options.cpu_time else time.perf_counter
    found = compare(
        clips=options.clips, seconds=options.seconds, turns=options.turns, threads=options.threads, clock=clock
    )
    if options.variants:
        clips = make_clips(options.clips, round(options.seconds * RATE))
        found["variants"] = variants("cnn14", clips, options.turns, clock)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
