"""Parts of token fusions: cross-attention, a transformer layer, and the tokens of all modalities made alike.

Sources: Vaswani et al., "Attention Is All You Need", 2017 (arXiv 1706.03762), with the normalisation before each part
instead of after it.
"""

from collections.abc import Mapping
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avrobust_core import Encoded, EncodedDims, attend, linear, sinusoids
from avrobust_fusion.configs import TokensConfig
from avrobust_fusion.modalities import positions_present, token_widths

CLIP_STEPS: Final = 100.0
"""Length of a clip in the steps of positions, however many tokens it has."""

INITIAL_STD: Final = 0.02
"""Standard deviation of learned tokens and embeddings at first."""


def learned(*shape: int) -> nn.Parameter:
    """A parameter of small normal initial values: a token, or an embedding."""
    return nn.Parameter(INITIAL_STD * torch.randn(*shape))


def clip_positions(steps: int, width: int, like: Tensor) -> Tensor:
    """Sinusoids (steps, width) in [-1, 1] of where in the clip each token lies.

    What counts is the share of the clip before a token's middle, so that tokens of the same moment have the same
    position in modalities with different numbers of them.

    Args:
        steps: tokens of the clip.
        width: of each position.
        like: whose dtype and device they have.
    """
    moments = (torch.arange(steps, device=like.device) + 0.5) * (CLIP_STEPS / max(steps, 1))
    return sinusoids(moments, width).to(like.dtype)


class Attention(nn.Module):
    """Tokens look at tokens: scaled dot products, several heads.

    Args:
        width: of all tokens; a multiple of heads.
        heads: of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = linear(width, width)
        self.kv = linear(width, 2 * width)
        self.proj = linear(width, width)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """From tokens x (B, T, D) that look at tokens source (B, S, D) to (B, T, D); no tokens give nothing but a bias.

        Written out: second derivatives exist.
        """
        key, value = self.kv(source).chunk(2, dim=2)
        return cast(Tensor, self.proj(attend(self.q(x), key, value, self.heads, written_out=True)))


class TransformerLayer(nn.Module):
    """Attention and a feed-forward network; each normalises what it reads, and is added to what came in.

    Args:
        config: width, heads, the feed-forward network's hidden layer, and dropout.
    """

    def __init__(self, config: TokensConfig) -> None:
        super().__init__()
        width, hidden = config.width, max(1, round(config.mlp_ratio * config.width))
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, config.heads)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = linear(width, hidden)
        self.fc2 = linear(hidden, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, source: Tensor | None = None) -> Tensor:
        """From tokens (B, T, D) to tokens (B, T, D); they look at source (B, S, D), or at one another if it is None."""
        queries = self.norm1(x)
        keys = queries if source is None else self.norm1(source)
        x = x + self.dropout(self.attention(queries, keys))
        return cast(Tensor, x + self.dropout(self.fc2(F.gelu(self.fc1(self.norm2(x))))))


class CommonTokens(nn.Module):
    """The tokens of all modalities, each normalised, mapped to one width and marked with its modality.

    Args:
        config: the width, and whether `clip_positions` are added.
        inputs: widths by modality.
    """

    def __init__(self, config: TokensConfig, inputs: Mapping[str, EncodedDims]) -> None:
        super().__init__()
        widths = token_widths(inputs)
        self.modalities = tuple(widths)
        self.positions = config.positions
        self.norms = nn.ModuleList(nn.LayerNorm(size) for size in widths.values())
        self.maps = nn.ModuleList(linear(size, config.width) for size in widths.values())
        self.modality_embedding = learned(len(widths), config.width)

    def forward(self, encoded: Mapping[str, Encoded]) -> dict[int, Tensor]:
        """The tokens (B, T, D) of the modalities that there are, by their position among the sorted modalities.

        Raises:
            KeyError: if there is none.
        """
        made = {}
        for position in positions_present(encoded, self.modalities):
            tokens = encoded[self.modalities[position]].tokens
            x = self.maps[position](self.norms[position](tokens)) + self.modality_embedding[position]
            made[position] = x + clip_positions(x.shape[1], x.shape[2], x) if self.positions else x
        return made
