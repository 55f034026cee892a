"""Early and mid fusion without a bottleneck: one transformer over the tokens of all modalities.

Sources: Li, Qu, Li, Huang, Metze, ICASSP 2022 (arXiv 2203.12122), whose mid-fusion joins tokens after the convolutions;
Nagrani et al., "Attention Bottlenecks for Multimodal Fusion", NeurIPS 2021 (arXiv 2107.00135), its vanilla
self-attention. Both leave details open: widths, the embedding of modalities and positions are our own.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from avrobust_core import Encoded, EncodedDims, Fusion
from avrobust_fusion.configs import TransformerConfig
from avrobust_fusion.transformer import CommonTokens, TransformerLayer, learned


class JointTransformer(Fusion):
    """All tokens beside one another and a class token, through one transformer: each token sees every other.

    A modality that is missing has no tokens; the others are fused without it.

    Args:
        config: sizes, positions and pooling.
        inputs: widths by modality.
    """

    def __init__(self, config: TransformerConfig, inputs: Mapping[str, EncodedDims]) -> None:
        super().__init__()
        self.dim = config.width
        self.tokens = CommonTokens(config, inputs)
        self.modalities = self.tokens.modalities
        self.class_token = learned(config.width) if config.pool == "class" else None
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, encoded: Mapping[str, Encoded]) -> Tensor:
        """The fused embedding (B, width): the class token, or the mean over modalities of the mean of their tokens.

        Raises:
            KeyError: if every modality is missing.
        """
        parts = list(self.tokens(encoded).values())
        lengths = [part.shape[1] for part in parts]
        if self.class_token is not None:
            parts.append(self.class_token.expand(len(parts[0]), 1, -1))
        x = torch.cat(parts, dim=1)
        for layer in self.layers:
            x = layer(x)
        x = cast(Tensor, self.norm(x))
        if self.class_token is not None:
            return x[:, -1]
        return torch.stack([part.mean(dim=1) for part in torch.split(x, lengths, dim=1)]).mean(dim=0)
