"""A fusion against a single attacked source: which modality does not fit the others, and what do the others say?

Source: Yang, Lin, Barman, Condessa, Kolter, "Defending Multimodal Fusion Models against Single-Source Adversaries",
CVPR 2021 (arXiv 2206.12714), section 4: the odd-one-out network and the mixture of experts that leave one source out.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avrobust_core import AvrobustError, Encoded, EncodedDims, Fusion, linear
from avrobust_fusion.configs import OddOneOutConfig
from avrobust_fusion.modalities import embed_widths, missing_error, pooled_in_order


class OddOneOut(Fusion):
    """The mean of M + 1 experts, weighted by a network that tells which of M modalities is the odd one out, or none.

    Expert i fuses the embeddings of all modalities but the i-th, the last one those of all. With two modalities,
    leaving one out leaves the other alone.

    The source trains the odd-one-out network to tell which source was perturbed, on clips with one perturbed source and
    on clean ones, and the experts beside it. Here the classification loss alone trains all of it, end to end: on clean
    clips nothing makes it look for attacks. It learns that where training perturbs single modalities, or from a loss on
    `judge`. How the networks are built the source leaves to the task; each is one hidden layer here.

    With one modality missing, the expert that leaves it out decides alone.

    Args:
        config: widths of the networks.
        inputs: widths by modality.

    Raises:
        AvrobustError: if there are fewer than two modalities.
    """

    def __init__(self, config: OddOneOutConfig, inputs: Mapping[str, EncodedDims]) -> None:
        super().__init__()
        widths = embed_widths(inputs)
        if len(widths) < 2:
            raise AvrobustError(
                f"odd-one-out leaves one modality out, so it needs two or more; the model has only: {', '.join(widths)}"
            )
        total = sum(widths.values())
        self.modalities = tuple(widths)
        self.dim = config.dim
        self.fc1 = linear(total, config.hidden)
        self.fc2 = linear(config.hidden, len(widths) + 1)
        self.experts = nn.ModuleList(linear(total - left_out, config.dim) for left_out in (*widths.values(), 0))

    def judge(self, encoded: Mapping[str, Encoded]) -> Tensor:
        """Logits (B, M + 1): which of the M sorted modalities is the odd one out; the last: none of them.

        Raises:
            KeyError: if a modality is missing.
        """
        joined = torch.cat(pooled_in_order(encoded, self.modalities), dim=1)
        judged: Tensor = self.fc2(F.relu(self.fc1(joined)))
        return judged

    def forward(self, encoded: Mapping[str, Encoded]) -> Tensor:
        """The fused embedding (B, dim).

        Raises:
            KeyError: if more than one modality is missing.
        """
        missing = [name for name in self.modalities if name not in encoded]
        if len(missing) > 1:
            raise missing_error(self.modalities, missing, "; odd-one-out can do without one of them, not more")
        if missing:
            return self._expert(self.modalities.index(missing[0]), encoded)
        fused = torch.stack([self._expert(i, encoded) for i in range(len(self.experts))], dim=1)
        return (self.judge(encoded).softmax(dim=1)[:, :, None] * fused).sum(dim=1)

    def _expert(self, left_out: int, encoded: Mapping[str, Encoded]) -> Tensor:
        kept = [encoded[name].pooled for i, name in enumerate(self.modalities) if i != left_out]
        return F.relu(self.experts[left_out](torch.cat(kept, dim=1)))
