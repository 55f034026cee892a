"""A shallow audio encoder: patches of the log-mel spectrogram, projected, for fusions that do the rest themselves.

Source: the input layer of Gong, Chung, Glass, "AST: Audio Spectrogram Transformer", 2021 (arXiv 2104.01778), without
overlap, and with positions that fit clips of any length.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avrobust_audio.configs import PatchesConfig
from avrobust_audio.frontend import LogMel, ReadyMade, front_end
from avrobust_core import Encoded, EncodedDims, Encoder, MediaSpec, sinusoids


class AudioPatches(Encoder):
    """A linear map of each patch of the normalised spectrogram, plus its position.

    The position is a sinusoid of time and a learned vector per group of bands. In evaluation mode tokens are affine in
    the spectrogram. The last patch in time is filled up with what normalises to zero.

    Args:
        config: of the front end, and the patches.
        media: a waveform, or its spectrogram.

    Raises:
        DataError: if the modality is neither, or its clips are too short.
        AvrobustError: if the front end does not fit the sample rate.
    """

    frontend: LogMel | ReadyMade
    time_axis = 1

    def __init__(self, config: PatchesConfig, media: MediaSpec) -> None:
        super().__init__()
        self.dims = EncodedDims(token=config.width, embed=config.width)
        self.frontend = front_end(config, media)
        self.patch = (config.patch_frames, config.patch_mels)
        self.bn0 = nn.BatchNorm1d(config.n_mels)
        self.proj = nn.Linear(config.patch_frames * config.patch_mels, config.width)
        self.pos_bands = nn.Parameter(torch.empty(self.rows, config.width))
        nn.init.normal_(self.pos_bands, std=0.02)
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    @property
    def rows(self) -> int:
        """Patches above one another."""
        return self.frontend.n_mels // self.patch[1]

    def encode(self, features: Tensor) -> Encoded:
        """From decibels (B, 1, frames, bands) to tokens (B, T, D) and their mean (B, D).

        T is ceil(frames / frames of a patch) * rows: through time, and at each time from low to high frequencies.
        """
        frames, mels = self.patch
        x = self.bn0(features.squeeze(1).transpose(1, 2)).transpose(1, 2)
        x = F.pad(x, (0, 0, 0, -x.shape[1] % frames))
        x = x.reshape(len(x), -1, frames, self.rows, mels).transpose(2, 3)
        grid = self.proj(x.flatten(3))
        times = sinusoids(torch.arange(grid.shape[1], device=x.device), grid.shape[3]).to(grid.dtype)
        tokens = (grid + times[:, None] + self.pos_bands).flatten(1, 2)
        return Encoded(tokens=tokens, pooled=tokens.mean(dim=1))
