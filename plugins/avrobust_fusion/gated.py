"""Gated late fusion: how much each modality counts is decided clip by clip.

Source: Arevalo, Solorio, Montes-y-Gomez, Gonzalez, "Gated Multimodal Units for Information Fusion", 2017 (arXiv
1702.01992), section 3.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from avrobust_core import Encoded, EncodedDims, Fusion, linear
from avrobust_fusion.configs import GatedConfig
from avrobust_fusion.modalities import embed_widths, positions_present


class Gated(Fusion):
    """The sum over modalities of gate * tanh(map(pooled)), where the gates see the embeddings of all modalities.

    The gates of a clip sum to 1 over modalities: for two they are z and 1 - z with z a sigmoid, the source's bimodal
    unit. For three or more the source has independent sigmoids, which nothing would renormalise. A modality that is
    missing adds nothing to the gates' scores, and the gates of the others sum to 1 without it.

    Args:
        config: width, and one gate per dimension or per modality.
        inputs: widths by modality.
    """

    def __init__(self, config: GatedConfig, inputs: Mapping[str, EncodedDims]) -> None:
        super().__init__()
        widths = embed_widths(inputs)
        self.modalities = tuple(widths)
        self.dim = config.dim
        self.per_modality = config.dim if config.gate == "dimension" else 1
        self.maps = nn.ModuleList(linear(width, config.dim) for width in widths.values())
        scores = len(widths) * self.per_modality
        # One map per modality: their sum is one map of the concatenation, and can do without any of them.
        self.gates = nn.ModuleList(linear(width, scores, bias=False) for width in widths.values())

    def gate(self, encoded: Mapping[str, Encoded]) -> Tensor:
        """Return the gates (B, M, dim) or (B, M, 1) in [0, 1] of the M modalities that there are, in sorted order.

        Raises:
            KeyError: if every modality is missing.
        """
        present = positions_present(encoded, self.modalities)
        scores = torch.stack([self.gates[i](encoded[self.modalities[i]].pooled) for i in present]).sum(dim=0)
        return scores.view(len(scores), len(self.modalities), self.per_modality)[:, present].softmax(dim=1)

    def forward(self, encoded: Mapping[str, Encoded]) -> Tensor:
        """The fused embedding (B, dim), in [-1, 1].

        Raises:
            KeyError: if every modality is missing.
        """
        present = positions_present(encoded, self.modalities)
        hidden = torch.stack([self.maps[i](encoded[self.modalities[i]].pooled) for i in present], dim=1).tanh()
        return (self.gate(encoded) * hidden).sum(dim=1)
