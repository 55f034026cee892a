"""Late fusions of pooled embeddings: concatenation and sum.

Both take the modalities in sorted order, so that the order in which a spec names them changes nothing. Source: Li, Qu,
Li, Huang, Metze, ICASSP 2022 (arXiv 2203.12122): Theorem 1 is about a linear head on a concatenation; its late fusion
is a sum of linear maps.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avrobust_core import Encoded, EncodedDims, Fusion
from avrobust_fusion.configs import ConcatConfig, SumConfig
from avrobust_fusion.modalities import embed_widths, pooled_in_order


class Concat(Fusion):
    """The pooled embeddings side by side.

    Args:
        config: width of a hidden layer; without one the head is linear in every embedding.
        inputs: widths by modality.
    """

    def __init__(self, config: ConcatConfig, inputs: Mapping[str, EncodedDims]) -> None:
        super().__init__()
        widths = embed_widths(inputs)
        total = sum(widths.values())
        self.modalities = tuple(widths)
        self.hidden = nn.Linear(total, config.hidden) if config.hidden else None
        self.dim = config.hidden or total

    def forward(self, encoded: Mapping[str, Encoded]) -> Tensor:
        """The fused embedding: (B, sum of the widths), or (B, hidden).

        Raises:
            KeyError: if a modality is missing.
        """
        joined = torch.cat(pooled_in_order(encoded, self.modalities), dim=1)
        return joined if self.hidden is None else F.relu(self.hidden(joined))


class Sum(Fusion):
    """The sum of a linear map of each pooled embedding.

    Args:
        config: width of the sum.
        inputs: widths by modality.
    """

    def __init__(self, config: SumConfig, inputs: Mapping[str, EncodedDims]) -> None:
        super().__init__()
        widths = embed_widths(inputs)
        self.modalities = tuple(widths)
        # A list in sorted order: a modality's name need not be fit for a module.
        self.maps = nn.ModuleList(nn.Linear(width, config.dim) for width in widths.values())
        self.dim = config.dim

    def forward(self, encoded: Mapping[str, Encoded]) -> Tensor:
        """The fused embedding: (B, dim).

        Raises:
            KeyError: if a modality is missing.
        """
        pooled = pooled_in_order(encoded, self.modalities)
        return torch.stack([mapped(x) for mapped, x in zip(self.maps, pooled, strict=True)]).sum(dim=0)
