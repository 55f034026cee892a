"""What vision transformers are made of: patches, attention, the layer that normalises before each part.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021 (arXiv 2010.11929), section 3.1. The parameters have
the names of timm's checkpoints, which AST and CAV-MAE share.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avrobust_vit.configs import PATCH


class PatchEmbed(nn.Module):
    """A linear map of each patch of 16 by 16.

    Args:
        channels: of the map that is cut into patches.
        width: of the tokens.
        stride: between patches, down and across.
    """

    def __init__(self, channels: int, width: int, stride: tuple[int, int] = (PATCH, PATCH)) -> None:
        super().__init__()
        self.stride = stride
        self.proj = nn.Conv2d(channels, width, PATCH, stride=stride)
        nn.init.xavier_uniform_(self.proj.weight.view(width, -1))
        if self.proj.bias is not None:
            nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """From maps (B, C, H, W) to tokens (B, N, D), row by row."""
        # The same as the convolution, whose gradient of overlapping patches takes six times as long on a CPU.
        patches = x.unfold(2, PATCH, self.stride[0]).unfold(3, PATCH, self.stride[1])
        patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class Attention(nn.Module):
    """Self-attention.

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
        clips, steps, width = x.shape
        parts = cast(Tensor, self.qkv(x)).view(clips, steps, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return cast(Tensor, self.proj(attended))


class Mlp(nn.Module):
    """Two linear maps with GELU between them, of four times the width.

    Args:
        width: of the tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = linear(width, 4 * width)
        self.fc2 = linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """From tokens (B, T, D) to what is added to them (B, T, D)."""
        return cast(Tensor, self.fc2(F.gelu(self.fc1(x))))


class Block(nn.Module):
    """A transformer layer: attention and two linear maps, each of which reads normalised tokens and adds.

    Args:
        width: of the tokens; a multiple of heads.
        heads: of the attention.
        eps: of the norms.
    """

    def __init__(self, width: int, heads: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """From tokens (B, T, D) to tokens (B, T, D)."""
        x = x + cast(Tensor, self.attn(self.norm1(x)))
        return x + cast(Tensor, self.mlp(self.norm2(x)))


def make_classifier(width: int, classes: int) -> nn.Sequential:
    """The classifier that AST and CAV-MAE call `mlp_head`: a norm and a linear map, (B, D) to logits (B, classes)."""
    return nn.Sequential(nn.LayerNorm(width), linear(width, classes))


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear map with Glorot's initial weights and no initial bias."""
    made = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(made.weight)
    nn.init.zeros_(made.bias)
    return made


def grid_positions(rows: int, columns: int, width: int) -> Tensor:
    """Positions (rows * columns, width) of a grid, row by row: half of the width tells the column, half the row.

    Each half is sines, then cosines, of falling frequency (Vaswani et al., 2017, arXiv 1706.03762, section 3.5), as
    in He et al., "Masked Autoencoders Are Scalable Vision Learners", 2022 (arXiv 2111.06377).

    Args:
        rows: of the grid.
        columns: of the grid.
        width: a multiple of 4.
    """
    rates = 10_000.0 ** -torch.linspace(0, 1, width // 4 + 1)[:-1]

    def waves(steps: int) -> Tensor:
        angles = torch.outer(torch.arange(steps, dtype=torch.float32), rates)
        return torch.cat((angles.sin(), angles.cos()), dim=1)

    down = waves(rows)[:, None].expand(-1, columns, -1)
    across = waves(columns)[None].expand(rows, -1, -1)
    return torch.cat((across, down), dim=2).flatten(0, 1)
