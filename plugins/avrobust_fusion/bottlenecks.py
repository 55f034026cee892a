"""Mid fusion through bottleneck tokens.

Source: Nagrani et al., "Attention Bottlenecks for Multimodal Fusion", NeurIPS 2021 (arXiv 2107.00135): the layers after
the fusion layer. The encoders stand for those before it.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from avrobust_core import Encoded, EncodedDims, Fusion
from avrobust_fusion.configs import MidConfig
from avrobust_fusion.joint import JointTransformer
from avrobust_fusion.transformer import CommonTokens, TransformerLayer, learned


def mid(config: MidConfig, inputs: Mapping[str, EncodedDims]) -> Fusion:
    """Make the fusion `mid`: without bottlenecks every token sees those of all modalities."""
    return BottleneckTransformer(config, inputs) if config.bottlenecks else JointTransformer(config, inputs)


class BottleneckTransformer(Fusion):
    """A transformer per modality; they exchange what a few shared tokens hold, and nothing else.

    In each layer a modality's tokens attend to one another and to the bottleneck tokens; each modality then has its own
    bottleneck tokens, whose mean goes into the next layer. A modality that is missing
    is left out of that mean, and of the fused embedding.

    Args:
        config: sizes, positions, pooling, and at least one bottleneck token.
        inputs: widths by modality.
    """

    def __init__(self, config: MidConfig, inputs: Mapping[str, EncodedDims]) -> None:
        super().__init__()
        self.dim = config.width
        self.tokens = CommonTokens(config, inputs)
        self.modalities = self.tokens.modalities
        self.bottlenecks = learned(config.bottlenecks, config.width)
        self.class_tokens = learned(len(self.modalities), config.width) if config.pool == "class" else None
        self.layers = nn.ModuleList(
            nn.ModuleList(TransformerLayer(config) for _ in self.modalities) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)

    def forward(self, encoded: Mapping[str, Encoded]) -> Tensor:
        """The fused embedding (B, width): the mean over modalities of their class tokens, or of their tokens' means.

        A linear head on the mean of the class tokens is the mean of the logits of each, as in the source.

        Raises:
            KeyError: if every modality is missing.
        """
        streams = self.tokens(encoded)
        if self.class_tokens is not None:
            for i, x in streams.items():
                streams[i] = torch.cat([self.class_tokens[i].expand(len(x), 1, -1), x], dim=1)
        shared = self.bottlenecks.expand(len(next(iter(streams.values()))), -1, -1)
        count = shared.shape[1]
        for layers in self.layers:
            written = []
            for i, x in streams.items():
                out = cast(nn.ModuleList, layers)[i](torch.cat([shared, x], dim=1))
                written.append(out[:, :count])
                streams[i] = out[:, count:]
            shared = torch.stack(written).mean(dim=0)
        last = [self.norm(x) for x in streams.values()]
        pooled = [x[:, 0] if self.class_tokens is not None else x.mean(dim=1) for x in last]
        return torch.stack(pooled).mean(dim=0)
