"""The published networks of PANNs: Cnn6, Cnn10 and Cnn14, with their front ends and their checkpoints' layout.

Source: Kong, Cao, Iqbal, Wang, Wang, Plumbley, "PANNs: Large-Scale Pretrained Audio Neural Networks for Audio Pattern
Recognition", 2020 (arXiv 1912.10211), section 3 and table 1, and its checkpoints, whose names the parameters have. Its
augmentation of spectrograms in training is left out.
"""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avrobust_audio.blocks import ConvBlock
from avrobust_audio.configs import LogMelConfig, PannsConfig
from avrobust_audio.frontend import LogMel, sample_rate
from avrobust_core import (
    CheckpointLayout,
    DataError,
    Encoded,
    EncodedDims,
    Encoder,
    MediaSpec,
    Reached,
    State,
    WeightsError,
    audioset_classes,
    linear,
    renamed,
)

RATES: Final = (32_000, 16_000, 8_000)
"""Sample rates of the published networks. At each the window takes 32 ms, and a step 10."""

MEL_FILTERS: Final = "logmel_extractor.melW"
"""A key of a checkpoint's front end, which is not learned."""


class Panns(Encoder):
    """A network of the family, from a waveform to a token per 2**pools frames and the published embedding.

    With a linear head it has the parameters of the published model, and in evaluation mode its logits, which are those
    before the model's sigmoid.

    Args:
        config: probabilities of dropout.
        media: a waveform of one of the sample rates in `RATES`.

    Attributes:
        widths: channels of each block.
        kernel: side of their square kernels.
        layers: convolutions per block.
        published_map: by sample rate, the mAP of the published network on AudioSet's evaluation segments.
        pools: how many of the blocks are followed by a 2x2 average pool, from the first.

    Raises:
        DataError: if the modality is not a waveform, has a sample rate that no published network reads, or its clips
            are too short.
    """

    widths: ClassVar[tuple[int, ...]]
    kernel: ClassVar[int] = 3
    layers: ClassVar[int] = 2
    pools: ClassVar[int] = 4
    published_map: ClassVar[Mapping[int, float]] = MappingProxyType({})
    frontend: LogMel
    time_axis = 1

    def __init__(self, config: PannsConfig, media: MediaSpec) -> None:
        super().__init__()
        self.frontend = self._published_frontend(media)
        figure = self.published_map.get(sample_rate(media))
        layout = CheckpointLayout(
            name="PANNs",
            marks=("bn0.weight", "conv_block1.conv1.weight", "fc1.weight", "fc_audioset.weight"),
            convert=partial(_convert, self.frontend.filters),
            classes=audioset_classes,
            reached=None if figure is None else Reached("map", figure, "AudioSet's evaluation segments"),
        )
        self.layouts = (layout,)
        width = self.widths[-1]
        self.dims = EncodedDims(token=width, embed=width)
        self.bn0 = nn.BatchNorm1d(self.frontend.n_mels)
        for i, (inputs, outputs) in enumerate(zip((1, *self.widths), self.widths, strict=False), start=1):
            self.add_module(f"conv_block{i}", ConvBlock(inputs, outputs, kernel=self.kernel, layers=self.layers))
        self.fc1 = linear(width, width)
        self.dropout = nn.Dropout(config.dropout)
        self.pooled_dropout = nn.Dropout(config.pooled_dropout)

    @property
    def fewest_frames(self) -> int:
        """The frames that the pools leave one step of."""
        return int(2**self.pools)

    def encode(self, features: Tensor) -> Encoded:
        """From decibels (B, 1, frames, 64) to tokens (B, frames // 2**pools, D) and the pooled embedding (B, D).

        Raises:
            DataError: if there are too few frames for the pools.
        """
        if features.shape[2] < self.fewest_frames:
            raise DataError(
                f"{features.shape[2]} frames are too few: {self.pools} pools halve the spectrogram, so at "
                f"least {self.fewest_frames} are needed; use longer clips"
            )
        x = self.bn0(features.squeeze(1).transpose(1, 2)).transpose(1, 2).unsqueeze(1)
        for i in range(1, len(self.widths) + 1):
            x = self.get_submodule(f"conv_block{i}")(x)
            if i <= self.pools:
                x = F.avg_pool2d(x, 2)
            x = self.dropout(x)
        x = x.mean(dim=3)
        pooled = self.pooled_dropout(x.max(dim=2).values + x.mean(dim=2))
        return Encoded(tokens=x.transpose(1, 2), pooled=F.relu(self.fc1(pooled)))

    def _published_frontend(self, media: MediaSpec) -> LogMel:
        rate = sample_rate(media)
        if rate not in RATES:
            raise DataError(
                f"{type(self).__name__.lower()} reads audio of {', '.join(map(str, RATES))} Hz, the sample rates of "
                f"the published networks, not of {rate} Hz; resample the data set to one of them"
            )
        config = LogMelConfig(floor="clamped")
        least = (self.fewest_frames - 1) * round(config.hop_ms * rate / 1000)
        if media.shape[1] < least:
            raise DataError(
                f"clips of {media.shape[1]} samples are too short: {self.pools} pools halve the spectrogram, "
                f"so at least {least} samples ({self.fewest_frames} frames) are needed; use longer clips, or a network "
                "with fewer pools"
            )
        return LogMel(config, media)


class Cnn6(Panns):
    """Four blocks of one 5x5 convolution: 4.8 million parameters."""

    widths = (64, 128, 256, 512)
    kernel = 5
    layers = 1


class Cnn10(Panns):
    """Four blocks of two 3x3 convolutions: 5.2 million parameters."""

    widths = (64, 128, 256, 512)


class Cnn14(Panns):
    """Six blocks of two 3x3 convolutions: 80.8 million parameters."""

    widths = (64, 128, 256, 512, 1024, 2048)
    pools = 5
    published_map = MappingProxyType({32_000: 0.431, 16_000: 0.438})


def _convert(filters: Tensor, state: State) -> State:
    theirs = state.get(MEL_FILTERS, filters)
    if theirs.shape != filters.shape or not torch.allclose(theirs.to(filters), filters, rtol=1e-3, atol=1e-6):
        raise WeightsError(
            f"the PANNs checkpoint was trained with another front end: its mel filters {tuple(theirs.shape)} are not "
            f"those of this sample rate, {tuple(filters.shape)}; give it audio of the sample rate it was trained on"
        )
    return renamed([(r"^fc_audioset\.", "head.")], state, without=r"(spectrogram|logmel)_extractor\.")
