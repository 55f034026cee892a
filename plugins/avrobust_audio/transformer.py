"""What token encoders share: positions, a transformer layer, attention pooling in class space.

Sources: Vaswani et al., "Attention Is All You Need", 2017 (arXiv 1706.03762), for the positions and the layer, which
here normalises before each part instead of after it; Wang, Li, Metze, "A Comparison of Five Multiple Instance Learning
Pooling Functions for Sound Event Detection with Weak Labeling", 2019 (arXiv 1810.09050), for attention pooling.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LONGEST_PERIOD = 10_000.0
"""Steps, over 2 pi, of the slowest sinusoid (section 3.5 of Vaswani et al.)."""


def sinusoids(steps: int, width: int, like: Tensor) -> Tensor:
    """Positions (steps, width) in [-1, 1], of any number of steps: sines, then cosines, of falling frequency.

    Args:
        steps: how many.
        width: of each.
        like: whose dtype and device they have.
    """
    half = (width + 1) // 2
    exponents = torch.arange(half, device=like.device, dtype=torch.float32) / half
    frequencies = torch.exp(-math.log(LONGEST_PERIOD) * exponents)
    angles = torch.arange(steps, device=like.device, dtype=torch.float32)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width].to(like.dtype)


class TransformerLayer(nn.Module):
    """Self-attention and a feed-forward network of four times the width, each added to what came in.

    Args:
        width: of the tokens; a multiple of heads.
        heads: of the attention.
        dropout: probability on what each part adds, in training only.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.qkv, self.proj, self.fc1, self.fc2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """From tokens (B, T, D) to tokens (B, T, D)."""
        batch, steps, width = x.shape
        heads = self.qkv(self.norm1(x)).view(batch, steps, 3, self.heads, width // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, steps, width)
        x = x + self.dropout(self.proj(attended))
        added: Tensor = self.dropout(self.fc2(F.gelu(self.fc1(self.norm2(x)))))
        return x + added


class AttentionPooling(nn.Module):
    """Logits from tokens: each class has a probability per step, and weights of its own over the steps.

    The probability of a class is sum_t softmax_t(att) sigmoid(prob); the logit is log p - log(1 - p), computed without
    leaving the logarithm, so that it is exact where p is next to 0 or 1.

    Args:
        width: D of the tokens.
        classes: K.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.prob = nn.Linear(width, classes)
        self.att = nn.Linear(width, classes)
        for linear in (self.prob, self.att):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """From tokens (B, T, D) to logits (B, K)."""
        steps = self.prob(tokens)
        weights = F.log_softmax(self.att(tokens), dim=1)
        present = torch.logsumexp(weights + F.logsigmoid(steps), dim=1)
        absent = torch.logsumexp(weights + F.logsigmoid(-steps), dim=1)
        return present - absent
