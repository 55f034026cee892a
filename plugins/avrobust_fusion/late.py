"""Late fusions of pooled embeddings: concatenation and sum.

Both take the modalities in sorted order, so that the order in which a spec names them changes nothing. Source: Li, Qu,
Li, Huang, Metze, ICASSP 2022 (arXiv 2203.12122): Theorem 1 is about a linear head on a concatenation; its late fusion
is a sum of linear maps.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avrobust_core import Encoded, Fusion
from avrobust_fusion.modalities import pooled_in_order, sorted_widths


class Concat(Fusion):
    """The pooled embeddings side by side.

    Args:
        widths: of the pooled embedding, by modality.
        hidden: width of a linear layer and ReLU after it; 0 for none, so that the head is linear in every embedding.
    """

    def __init__(self, widths: Mapping[str, int], hidden: int = 0) -> None:
        super().__init__()
        widths = sorted_widths(widths)
        total = sum(widths.values())
        self.modalities = tuple(widths)
        self.hidden = nn.Linear(total, hidden) if hidden else None
        self.dim = hidden or total

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
        widths: of the pooled embedding, by modality.
        dim: of the sum.
    """

    def __init__(self, widths: Mapping[str, int], dim: int) -> None:
        super().__init__()
        widths = sorted_widths(widths)
        self.modalities = tuple(widths)
        self.maps = nn.ModuleList(nn.Linear(width, dim) for width in widths.values())  # sorted: any name is allowed
        self.dim = dim

    def forward(self, encoded: Mapping[str, Encoded]) -> Tensor:
        """The fused embedding: (B, dim).

        Raises:
            KeyError: if a modality is missing.
        """
        pooled = pooled_in_order(encoded, self.modalities)
        return torch.stack([mapped(x) for mapped, x in zip(self.maps, pooled, strict=True)]).sum(dim=0)
