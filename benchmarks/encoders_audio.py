"""`cnn14` and its family beside a plain PANNs built on torchlibrosa, which is written out here."""

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any, Final, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avrobust_core import MediaSpec
from benchmarks.encoder_sides import Comparison, Ours

CLASSES: Final = 527
RATE: Final = 32_000
SECONDS: Final = 10

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

    def double(self) -> Self:
        """In float64, its Fourier transform too: its matrix in float32 is so far off that some ReLUs turn."""
        super().double()
        stft = self.spectrogram_extractor.stft
        waves = torch.from_numpy(stft.W[:, : stft.n_fft // 2 + 1].T) * torch.hann_window(stft.n_fft).double()
        stft.conv_real.weight.data, stft.conv_imag.weight.data = waves.real[:, None], waves.imag[:, None]
        return self

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


def our_panns(name: str, samples: int, rate: int = RATE, classes: int = CLASSES) -> Ours:
    """Our model for clips of so many samples."""
    media = MediaSpec(kind="audio", shape=(1, samples), rate=rate, bounds=(-1.0, 1.0), time_axis=1)
    return Ours(name, {}, media, classes)


def make_pair(name: str, clips: Tensor, rate: int = RATE, classes: int = CLASSES) -> tuple[Ours, PlainPanns]:
    """Both in evaluation mode, frozen, with the same weights."""
    torch.manual_seed(0)
    plain = PlainPanns(name, rate, classes)
    settle(plain, clips)
    ours = our_panns(name, clips.shape[1], rate, classes)
    ours.load(plain.state_dict())
    (filters,) = (each for name, each in ours.named_buffers() if name.endswith("filters"))
    plain.logmel_extractor.melW.data = filters.clone()  # the same but for the last bit, which turns some ReLUs
    return ours.eval().requires_grad_(False), plain.eval().requires_grad_(False)


def make_side(name: str, side: str, clips: Tensor) -> nn.Module:
    """One side, for these clips."""
    return our_panns(name, clips.shape[1]) if side == "ours" else PlainPanns(name)


def comparison(name: str) -> Comparison:
    """Of one network, on two clips of ten seconds."""
    return Comparison(
        clips=partial(make_clips, 2, SECONDS * RATE),
        pair=partial(make_pair, name),
        side=partial(make_side, name),
        library="torchlibrosa.stft",
    )
