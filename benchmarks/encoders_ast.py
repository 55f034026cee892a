"""`ast` beside transformers' own.

Theirs is torchaudio's Kaldi filter bank of one clip at a time, as in AST's code, then ASTForAudioClassification with
its default attention.
"""

from functools import partial
from importlib import import_module
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchaudio.compliance import kaldi

from avrobust_core import MediaSpec
from benchmarks.encoder_sides import Comparison, Ours
from benchmarks.encoders_audio import make_clips

CLASSES: Final = 527
RATE: Final = 16_000
SAMPLES: Final = 163_840
"""10.24 s, the published 1024 frames of 10 ms."""
MEAN: Final = -4.2677393
STD: Final = 4.5689974


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


def make_side(side: str, clips: Tensor) -> nn.Module:
    """One side of the published sizes, for clips of so many samples."""
    samples = clips.shape[1]
    frames = samples * 100 // RATE
    if side == "plain":
        return PlainAst(frames)
    media = MediaSpec(kind="audio", shape=(1, samples), rate=RATE, bounds=(-1.0, 1.0), time_axis=1)
    return Ours("ast", {"frames": frames}, media, CLASSES)


def make_pair(clips: Tensor) -> tuple[nn.Module, nn.Module]:
    """Both in evaluation mode, frozen, with the same weights."""
    torch.manual_seed(0)
    plain, ours = cast(PlainAst, make_side("plain", clips)), cast(Ours, make_side("ours", clips))
    ours.load(plain.model.state_dict())
    return ours.eval().requires_grad_(False), plain.eval().requires_grad_(False)


COMPARISON: Final = Comparison(
    clips=partial(make_clips, 1, SAMPLES),
    pair=make_pair,
    side=make_side,
    library="transformers.models.audio_spectrogram_transformer.modeling_audio_spectrogram_transformer",
)
