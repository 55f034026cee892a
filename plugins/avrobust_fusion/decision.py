"""Fusion of decisions: a classifier per modality, whose logits or probabilities are averaged with weights.

Source: Kittler, Hatef, Duin, Matas, "On Combining Classifiers", IEEE TPAMI 1998 (doi 10.1109/34.667881): the sum rule
for probabilities, and, for logits, the product rule of their weighted powers.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avrobust_core import AvrobustError, Encoded, EncodedDims, Fusion
from avrobust_fusion.configs import DecisionConfig, Space
from avrobust_fusion.modalities import embed_widths, positions_present


class Decision(Fusion):
    """The pooled embeddings side by side, for a head with a classifier per modality.

    After the embeddings stands, for each modality, 1 if it is there and 0 if it is missing (its embedding is then 0,
    too): the head gives the weights of those that are missing to the others, in proportion.

    Args:
        config: weights and space.
        inputs: widths by modality.

    Raises:
        AvrobustError: if weights are given for other modalities than these.
    """

    def __init__(self, config: DecisionConfig, inputs: Mapping[str, EncodedDims]) -> None:
        super().__init__()
        self.widths = embed_widths(inputs)
        self.modalities = tuple(self.widths)
        self.dim = sum(self.widths.values()) + len(self.widths)
        self.space = config.space
        self.weights = _weights(config, self.modalities)

    def forward(self, encoded: Mapping[str, Encoded]) -> Tensor:
        """The fused embedding (B, sum of the widths + number of modalities).

        Raises:
            KeyError: if every modality is missing.
        """
        present = positions_present(encoded, self.modalities)
        like = encoded[self.modalities[present[0]]].pooled
        parts = [
            encoded[name].pooled if name in encoded else like.new_zeros(len(like), width)
            for name, width in self.widths.items()
        ]
        flags = like.new_tensor([float(i in present) for i in range(len(self.modalities))])
        return torch.cat([*parts, flags.expand(len(like), -1)], dim=1)

    def make_head(self, classes: int) -> "DecisionHead":
        """A linear classifier per modality, and the weights."""
        return DecisionHead(tuple(self.widths.values()), classes, self.weights, self.space)


class DecisionHead(nn.Module):
    """One linear classifier per modality; one decision.

    Args:
        widths: of the pooled embeddings, in the order in which they stand.
        classes: K.
        weights: of the modalities, all above 0; None to learn them, from equal ones.
        space: where the classifiers are averaged.
    """

    weight_scores: Tensor

    def __init__(self, widths: tuple[int, ...], classes: int, weights: tuple[float, ...] | None, space: Space) -> None:
        super().__init__()
        self.widths = widths
        self.space = space
        self.classifiers = nn.ModuleList(nn.Linear(width, classes) for width in widths)
        if weights is None:
            self.weight_scores = nn.Parameter(torch.zeros(len(widths)))
        else:
            self.register_buffer("weight_scores", torch.tensor(weights).log(), persistent=False)

    def forward(self, fused: Tensor) -> Tensor:
        """From the fused embedding (B, F) to logits (B, K).

        With probabilities these are their logarithms (softmax) or log-odds (sigmoid), computed without leaving the
        logarithm, so that they are exact where a probability is next to 0 or 1.
        """
        *parts, flags = torch.split(fused, [*self.widths, len(self.widths)], dim=1)
        logits = torch.stack([one(part) for one, part in zip(self.classifiers, parts, strict=True)], dim=1)
        scores = self.weight_scores.expand_as(flags).masked_fill(flags < 0.5, -torch.inf)
        if self.space == "logits":
            return (scores.softmax(dim=1)[:, :, None] * logits).sum(dim=1)
        weights = scores.log_softmax(dim=1)[:, :, None]
        if self.space == "softmax":
            return torch.logsumexp(weights + logits.log_softmax(dim=2), dim=1)
        present = torch.logsumexp(weights + F.logsigmoid(logits), dim=1)
        return present - torch.logsumexp(weights + F.logsigmoid(-logits), dim=1)


def _weights(config: DecisionConfig, modalities: tuple[str, ...]) -> tuple[float, ...] | None:
    given = config.weights
    if given == "learned":
        return None
    if given == "equal":
        return (1.0,) * len(modalities)
    if set(given) != set(modalities):
        raise AvrobustError(
            f"decision: weights are given for {', '.join(sorted(given))}, but the model fuses "
            f"{', '.join(modalities)}: give one weight for each of these"
        )
    return tuple(given[name] for name in modalities)
