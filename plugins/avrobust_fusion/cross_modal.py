"""Cross-modal attention: each modality's tokens look at those of the others.

Source: Tsai et al., "Multimodal Transformer for Unaligned Multimodal Language Sequences", ACL 2019 (arXiv 1906.00295),
section 3. It differs in that the other modalities are looked at together instead of one by one, and that no
self-attention follows: each modality's tokens are pooled by their mean.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from avrobust_core import Encoded, EncodedDims, Fusion
from avrobust_fusion.configs import AttentionConfig
from avrobust_fusion.transformer import CommonTokens, TransformerLayer


class CrossModalAttention(Fusion):
    """Per modality, layers whose queries are its own tokens, and whose keys and values those of all the others.

    As in the source, every layer looks at the others' tokens as they were at first. Where a modality is missing,
    nothing looks at it, and its part of the fused embedding is 0.

    Args:
        config: sizes and positions.
        inputs: widths by modality.
    """

    def __init__(self, config: AttentionConfig, inputs: Mapping[str, EncodedDims]) -> None:
        super().__init__()
        self.tokens = CommonTokens(config, inputs)
        self.modalities = self.tokens.modalities
        self.width = config.width
        self.dim = config.width * len(self.modalities)
        self.layers = nn.ModuleList(
            nn.ModuleList(TransformerLayer(config) for _ in range(config.layers)) for _ in self.modalities
        )
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in self.modalities)

    def forward(self, encoded: Mapping[str, Encoded]) -> Tensor:
        """The fused embedding (B, modalities * width): the means of each modality's tokens side by side.

        Raises:
            KeyError: if every modality is missing.
        """
        tokens = self.tokens(encoded)
        any_tokens = next(iter(tokens.values()))
        nothing = any_tokens[:, :0]
        parts = []
        for i in range(len(self.modalities)):
            if i not in tokens:
                parts.append(any_tokens.new_zeros(len(any_tokens), self.width))
                continue
            x = tokens[i]
            others = torch.cat([nothing, *(other for j, other in tokens.items() if j != i)], dim=1)
            for layer in cast(nn.ModuleList, self.layers[i]):
                x = layer(x, others)
            parts.append(self.norms[i](x).mean(dim=1))
        return torch.cat(parts, dim=1)
