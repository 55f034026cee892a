"""Convolutional audio encoders in the manner of PANNs.

Source: Kong, Cao, Iqbal, Wang, Wang, Plumbley, "PANNs: Large-Scale Pretrained Audio Neural Networks for Audio Pattern
Recognition", 2020 (arXiv 1912.10211). The parameters have the names of its published checkpoints.
"""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from avrobust_audio.blocks import ConvBlock
from avrobust_audio.configs import CnnConfig
from avrobust_audio.frontend import LogMel, ReadyMade, front_end
from avrobust_core import DataError, Encoded, EncodedDims, Encoder, MediaSpec, linear


class Cnn(Encoder):
    """Blocks of convolutions over a log-mel spectrogram, averaged over frequency, pooled over time.

    Args:
        config: of the front end, and the widths.
        media: a waveform, or its spectrogram.

    Raises:
        DataError: if the modality is neither, or mel bands or frames are too few for the pools.
        AvrobustError: if the front end does not fit the sample rate.
    """

    frontend: LogMel | ReadyMade
    time_axis = 1

    def __init__(self, config: CnnConfig, media: MediaSpec) -> None:
        super().__init__()
        channels = config.channels
        self.dims = EncodedDims(token=channels[-1], embed=config.embed)
        self.frontend = front_end(config, media)
        self.blocks = len(channels)
        self._check_size("mel bands", config.n_mels, "raise n_mels")
        self._check_size("frames", self.frontend.frames(media.shape[1]), "use longer clips, or lower hop_ms")
        self.bn0 = nn.BatchNorm1d(config.n_mels)
        for i, (inputs, outputs) in enumerate(zip((1, *channels), channels, strict=False), start=1):
            self.add_module(f"conv_block{i}", ConvBlock(inputs, outputs))
        self.fc1 = linear(channels[-1], config.embed)
        self.dropout = nn.Dropout(config.dropout)

    def encode(self, features: Tensor) -> Encoded:
        """From decibels (B, 1, frames, bands) to a token per 2**(blocks - 1) frames, and their pooled embedding.

        Raises:
            DataError: if there are too few frames for the pools.
        """
        self._check_size("frames", features.shape[2], "use longer clips, or lower hop_ms")
        x = self.bn0(features.squeeze(1).transpose(1, 2)).transpose(1, 2).unsqueeze(1)
        for i in range(1, self.blocks + 1):
            x = self.get_submodule(f"conv_block{i}")(x)
            if i < self.blocks:
                x = F.avg_pool2d(x, 2)
            x = self.dropout(x)
        x = x.mean(dim=3)
        pooled = F.relu(self.fc1(x.amax(dim=2) + x.mean(dim=2)))
        return Encoded(tokens=x.transpose(1, 2), pooled=cast(Tensor, self.dropout(pooled)))

    def _check_size(self, what: str, size: int, remedy: str) -> None:
        least = 2 ** (self.blocks - 1)
        if size < least:
            raise DataError(
                f"{size} {what} are too few for {self.blocks} blocks of convolutions: {self.blocks - 1} of them halve "
                f"the spectrogram, so at least {least} are needed; {remedy}, or give fewer channels"
            )
