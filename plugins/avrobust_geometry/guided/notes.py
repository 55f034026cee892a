"""What training has seen in its own passes: embeddings and targets of clips, and where mixtures were misjudged."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]

BINS = 5
"""Bins of the heavier end's ratio, from 1/2 to 1."""


@dataclass(slots=True)
class Notes:
    """Embeddings of clips that went unmixed through the encoders, by id; a clip that comes again replaces its row.

    Attributes:
        rows: by id, the pooled embedding of each modality, float16, side by side.
        targets: by id, an int64 class index (), or (K,) float32 multi-hot.
        widths: of each modality's part of a row, in the order of `rows`.
    """

    rows: dict[str, Tensor] = field(default_factory=dict)
    targets: dict[str, Tensor] = field(default_factory=dict)
    widths: list[int] = field(default_factory=list)

    def add(self, ids: Iterable[str], pooled: Mapping[str, Tensor], targets: Tensor) -> None:
        """Note a batch: its pooled embeddings (B, E) by modality, and its targets."""
        parts = [pooled[name].detach() for name in sorted(pooled)]
        self.widths = [part.shape[1] for part in parts]
        joined = torch.cat(parts, dim=1).half().cpu()
        for clip_id, row, target in zip(ids, joined, targets.cpu(), strict=True):
            self.rows[clip_id] = row.clone()
            self.targets[clip_id] = target.clone()

    def merge(self, others: Iterable["Notes"]) -> None:
        """Take in what other processes have noted; afterwards the clips are in the order of their ids."""
        for other in others:
            self.rows |= other.rows
            self.targets |= other.targets
            self.widths = self.widths or other.widths
        self.rows = dict(sorted(self.rows.items()))
        self.targets = {clip_id: self.targets[clip_id] for clip_id in self.rows}

    def embeddings(self) -> NDArray[np.float32]:
        """All clips: (N, D) float32. Each modality is centred and has a mean squared norm of 1, so that none rules."""
        whole = torch.stack(list(self.rows.values())).float()
        parts = []
        for part in torch.split(whole, self.widths, dim=1):
            centred = part - part.mean(dim=0)
            parts.append(centred / centred.square().sum(dim=1).mean().sqrt().clamp_min(1e-12))
        return torch.cat(parts, dim=1).numpy()

    def labels(self) -> NDArray[Any]:
        """Targets of all clips: (N,) int64, or (N, K) float32."""
        return torch.stack(list(self.targets.values())).numpy()

    def state_dict(self) -> dict[str, Any]:
        """As tensors and lists."""
        if not self.rows:
            return {}
        return {
            "ids": list(self.rows),
            "rows": torch.stack(list(self.rows.values())),
            "targets": torch.stack(list(self.targets.values())),
            "widths": self.widths,
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Notes":
        """From a state."""
        if not state:
            return cls()
        ids = state["ids"]
        return cls(
            dict(zip(ids, state["rows"], strict=True)),
            dict(zip(ids, state["targets"], strict=True)),
            list(state["widths"]),
        )


class Tally:
    """How often a mixture was misjudged: by class of its heavier end, and by the heavier end's ratio.

    A mixture of two clips of one class fails where the model does not say that class: a failure of convexity. One of
    two classes fails where the model says neither. With several labels per clip, it fails where the model denies (logit
    below 0) a label that both ends have; where they share none it is not counted.

    Attributes:
        by_class: (K, 2) tries and fails.
        by_ratio: (BINS, 2) tries and fails.
    """

    def __init__(self, classes: int) -> None:
        self.by_class = np.zeros((classes, 2))
        self.by_ratio = np.zeros((BINS, 2))

    def add(self, logits: Tensor, ratio: Tensor, first: Tensor, second: Tensor) -> None:
        """Count a batch of mixtures.

        Args:
            logits: (B, K).
            ratio: (B,) of the first end.
            first: targets of that end.
            second: those of the other.
        """
        if first.is_floating_point():
            shared = (first > 0.5) & (second > 0.5)
            failed = (shared & (logits < 0)).any(dim=1)
            counted = shared.any(dim=1)
            members = shared.float()
        else:
            said = logits.argmax(dim=1)
            failed = (said != first) & (said != second)
            counted = torch.ones_like(failed)
            heavier = torch.where(ratio >= 0.5, first, second)
            members = torch.nn.functional.one_hot(heavier, len(self.by_class)).float()
        members = (members * counted[:, None]).cpu().double()
        fails = failed.cpu().double()
        self.by_class += np.stack([members.sum(dim=0).numpy(), (members * fails[:, None]).sum(dim=0).numpy()], axis=1)
        places = bin_of(np.maximum(ratio.cpu().numpy(), 1 - ratio.cpu().numpy()))
        counts = counted.cpu().double().numpy()
        for column, weights in enumerate((counts, counts * fails.numpy())):
            self.by_ratio[:, column] += np.bincount(places, weights=weights, minlength=BINS)

    def merge(self, others: Iterable["Tally"]) -> None:
        """The sum of all; this one included only if it is among them."""
        together = list(others)
        self.by_class = np.sum([other.by_class for other in together], axis=0)
        self.by_ratio = np.sum([other.by_ratio for other in together], axis=0)

    def class_budget(self) -> Floats:
        """(1 + fails) / (2 + tries) of each class: (K,)."""
        return _rate(self.by_class)

    def ratio_budget(self) -> Floats:
        """The same of each bin of the ratio: (BINS,)."""
        return _rate(self.by_ratio)

    def state_dict(self) -> dict[str, Any]:
        """As tensors."""
        return {"by_class": torch.from_numpy(self.by_class.copy()), "by_ratio": torch.from_numpy(self.by_ratio.copy())}

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> "Tally":
        """From a state."""
        tally = cls(len(state["by_class"]))
        tally.by_class, tally.by_ratio = state["by_class"].numpy().copy(), state["by_ratio"].numpy().copy()
        return tally


def bin_of(heavier: NDArray[Any]) -> NDArray[np.int64]:
    """The bin of a heavier end's ratio in [1/2, 1]."""
    return np.clip(((heavier - 0.5) * 2 * BINS).astype(np.int64), 0, BINS - 1)


def _rate(counts: Floats) -> Floats:
    return np.asarray((1 + counts[:, 1]) / (2 + counts[:, 0]))
