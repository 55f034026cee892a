"""Layers that encoders and fusions share: positions, attention, transformer layers, attention pooling.

Sources: Vaswani et al., "Attention Is All You Need", 2017 (arXiv 1706.03762), with the normalisation before each part
instead of after it; Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021 (arXiv 2010.11929), section 3.1; Wang,
Li, Metze, "A Comparison of Five Multiple Instance Learning Pooling Functions for Sound Event Detection with Weak
Labeling", 2019 (arXiv 1810.09050).
"""

import math
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LONGEST_PERIOD: Final = 10_000.0
"""Steps, over 2 pi, of the slowest sinusoid (section 3.5 of Vaswani et al.)."""


def linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """A linear map with Glorot's initial weights and no initial bias."""
    made = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(made.weight)
    if bias:
        nn.init.zeros_(made.bias)
    return made


def scale_and_shift(norm: nn.BatchNorm2d | nn.BatchNorm3d) -> tuple[Tensor, Tensor]:
    """The scale and the shift (C,) that a batch normalisation with running statistics comes to in evaluation mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Sines, then cosines, of falling frequency at each position: (n,) numbers to (n, width) in [-1, 1], float32."""
    half = (width + 1) // 2
    rates = LONGEST_PERIOD ** -(torch.arange(half, device=positions.device, dtype=torch.float32) / half)
    angles = torch.outer(positions.float(), rates)
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, *, written_out: bool = False) -> Tensor:
    """Attention: weigh values by scaled dot products of queries with keys, in several heads.

    Scores and their softmax are computed in float32 at least, also under autocast.

    Args:
        query: (B, T, D), D a multiple of heads.
        key: (B, S, D).
        value: (B, S, D).
        heads: how many.
        written_out: without a fused kernel, for second derivatives, which torch 2.11 lacks for its fused attention on
            the CPU; memory then grows with T * S.

    Returns:
        (B, T, D), of the values' dtype; 0 where S is 0.
    """
    q, k, v = (x.reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 2) for x in (query, key, value))
    if written_out:
        with torch.autocast(query.device.type, enabled=False):
            q, k, v = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (q, k, v))
            found = ((q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).softmax(dim=3) @ v).to(value.dtype)
    else:
        found = F.scaled_dot_product_attention(q, k, v)
    return found.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Tokens that look at one another; the parameters have the names of timm's checkpoints.

    Args:
        width: of the tokens; a multiple of heads.
        heads: of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = linear(width, 3 * width)
        self.proj = linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """From tokens (B, T, D) to what is added to them (B, T, D)."""
        query, key, value = cast(Tensor, self.qkv(x)).chunk(3, dim=2)
        return cast(Tensor, self.proj(attend(query, key, value, self.heads)))


class TransformerLayer(SelfAttention):
    """Self-attention and a feed-forward network of four times the width; each normalises what it reads, and adds.

    Args:
        width: of the tokens; a multiple of heads.
        heads: of the attention.
        dropout: probability on what each part adds, in training only.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__(width, heads)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.fc1, self.fc2 = linear(width, 4 * width), linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """From tokens (B, T, D) to tokens (B, T, D)."""
        x = x + cast(Tensor, self.dropout(super().forward(self.norm1(x))))
        return x + cast(Tensor, self.dropout(self.fc2(F.gelu(self.fc1(self.norm2(x))))))


class Mlp(nn.Module):
    """Two linear maps with GELU between them, of four times the width.

    Args:
        width: of the tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = linear(width, 4 * width), linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """From tokens (B, T, D) to what is added to them (B, T, D)."""
        return cast(Tensor, self.fc2(F.gelu(self.fc1(x))))


class VitLayer(nn.Module):
    """A transformer layer whose parameters have the names of timm's vision transformers.

    Args:
        width: of the tokens; a multiple of heads.
        heads: of the attention.
        eps: of the norms.
    """

    def __init__(self, width: int, heads: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.attn = SelfAttention(width, heads)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """From tokens (B, T, D) to tokens (B, T, D)."""
        x = x + cast(Tensor, self.attn(self.norm1(x)))
        return x + cast(Tensor, self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """A linear map of each square patch of a map; the parameters have the names of timm's checkpoints.

    Args:
        channels: of the map.
        width: of the tokens.
        side: of a patch.
        stride: between patches, down and across; patches may overlap.
    """

    def __init__(self, channels: int, width: int, side: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.side = side
        self.stride = stride
        self.proj = nn.Conv2d(channels, width, side, stride=stride)
        nn.init.xavier_uniform_(self.proj.weight.view(width, -1))
        if self.proj.bias is not None:
            nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """From maps (B, C, H, W) to tokens (B, N, D), row by row."""
        # The same as the convolution, whose gradient of overlapping patches takes six times as long on a CPU.
        patches = x.unfold(2, self.side, self.stride[0]).unfold(3, self.side, self.stride[1])
        patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class AttentionPooling(nn.Module):
    """Logits from tokens: each class has a probability per step, and weights of its own over the steps.

    The probability of a class is sum_t softmax_t(att) sigmoid(prob), and its logit log p - log(1 - p). Both logarithms
    are sums in the logarithm, so that the logit is finite and exact where p is next to 0 or 1.

    Args:
        width: D of the tokens.
        classes: K.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.prob, self.att = linear(width, classes), linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """From tokens (B, T, D) to logits (B, K), in float32 at least, also under autocast."""
        prob, att = cast(Tensor, self.prob(tokens)), cast(Tensor, self.att(tokens))
        wide = torch.promote_types(prob.dtype, torch.float32)
        prob, weights = prob.to(wide), att.to(wide).log_softmax(dim=1)
        present = torch.logsumexp(weights + F.logsigmoid(prob), dim=1)
        return present - torch.logsumexp(weights + F.logsigmoid(-prob), dim=1)
