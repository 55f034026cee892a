"""What encoders of tokens share: positions, a transformer layer, attention pooling in class space."""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avrobust_video.convolution import checked

SLOWEST: Final = 10_000.0
"""Steps per radian of the slowest wave (section 3.5 of Vaswani et al., arXiv 1706.03762)."""


def sinusoids(steps: int, width: int, like: Tensor) -> Tensor:
    """Positions (steps, width) in [-1, 1] of any number of steps: sines, then cosines, from fast to slow.

    Args:
        steps: how many.
        width: of each; 0 gives none.
        like: whose dtype and device they have.
    """
    waves = -(-width // 2)
    rates = SLOWEST ** -(torch.arange(waves, device=like.device, dtype=torch.float32) / max(waves, 1))
    angles = torch.outer(torch.arange(steps, device=like.device, dtype=torch.float32), rates)
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width].to(like.dtype)


def grid_positions(shape: tuple[int, int, int], width: int, like: Tensor) -> Tensor:
    """Positions (T, H, W, width) of a grid: a third of the width each tells height and width, the rest time."""
    space = width // 3
    time, height, breadth = (
        sinusoids(steps, part, like) for steps, part in zip(shape, (width - 2 * space, space, space), strict=True)
    )
    parts = (time[:, None, None], height[None, :, None], breadth[None, None])
    return torch.cat([part.expand(*shape, part.shape[-1]) for part in parts], dim=-1)


class TransformerLayer(nn.Module):
    """Self-attention and a feed-forward network of four times the width; each normalises what it reads, and adds.

    Source: Vaswani et al., 2017 (arXiv 1706.03762), with the normalisation before each part.

    Args:
        width: of the tokens; a multiple of heads.
        heads: of the attention.
        dropout: probability on what each part adds, in training only.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = linear(width, 3 * width), linear(width, width)
        self.fc1, self.fc2 = linear(width, 4 * width), linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """From tokens (B, T, D) to tokens (B, T, D)."""
        clips, steps, width = x.shape
        query, key, value = (
            part.reshape(clips, steps, self.heads, width // self.heads).transpose(1, 2)
            for part in checked(self.qkv(self.norm1(x))).chunk(3, dim=2)
        )
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + checked(self.dropout(self.proj(attended)))
        return x + checked(self.dropout(self.fc2(F.gelu(self.fc1(self.norm2(x))))))


class AttentionPooling(nn.Module):
    """From tokens to logits: each class has a probability at each step, and its own weights over the steps.

    The probability of a class is sum_t softmax_t(att) sigmoid(prob), and the logit log p - log (1 - p). Both
    logarithms are sums in the logarithm, so that the logit is finite and exact where p is next to 0 or 1.

    Source: Li, Qu, Li, Huang, Metze, ICASSP 2022 (arXiv 2203.12122), after Wang, Li, Metze, 2019 (arXiv 1810.09050).

    Args:
        width: D of the tokens.
        classes: K.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.prob, self.att = linear(width, classes), linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """From tokens (B, T, D) to logits (B, K), in float32 also under autocast."""
        prob, att = checked(self.prob(tokens)), checked(self.att(tokens))
        if prob.dtype != torch.float64:
            prob, att = prob.float(), att.float()
        weights = att.log_softmax(dim=1)
        present = torch.logsumexp(weights + F.logsigmoid(prob), dim=1)
        return present - torch.logsumexp(weights + F.logsigmoid(-prob), dim=1)


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear map with Glorot's initial weights and no initial bias."""
    made = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(made.weight)
    nn.init.zeros_(made.bias)
    return made
