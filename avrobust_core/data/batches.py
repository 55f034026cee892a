"""The data on its way from a data set through encoders to logits: clips, batches, encodings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Clip:
    """One audio-visual sample.

    Attributes:
        id: unique in its data set; results are keyed by it.
        inputs: by modality, each of the shape that the modality's `MediaSpec` states; float32.
        target: 0-d int64 class index, or (K,) float32 multi-hot.
        padded: by modality, the share of its time, above 0, at the end, that is none of the clip's: its file was
            shorter, and silence or a held picture fills the rest. A run names such clips, and no attack may change it.
    """

    id: str
    inputs: dict[str, Tensor]
    target: Tensor
    padded: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Batch:
    """Clips stacked.

    Attributes:
        inputs: by modality, each (B, ...); float32. Audio (B, C, T), video (B, 3, T, H, W).
        targets: (B,) int64 class indices, or (B, K) float32: multi-hot, or soft targets after an augmentation.
        ids: the clips' ids, in order.
        padded: of each clip, as `Clip.padded` has it; empty where no clip is.
    """

    inputs: dict[str, Tensor]
    targets: Tensor
    ids: tuple[str, ...]
    padded: tuple[Mapping[str, float], ...] = ()

    @classmethod
    def stack(cls, clips: Sequence[Clip]) -> "Batch":
        """Stack clips of the same modalities and shapes.

        Raises:
            ValueError: if there is no clip.
        """
        if not clips:
            raise ValueError("cannot stack no clips")
        names = clips[0].inputs.keys()
        return cls(
            inputs={name: torch.stack([clip.inputs[name] for clip in clips]) for name in names},
            targets=torch.stack([clip.target for clip in clips]),
            ids=tuple(clip.id for clip in clips),
            padded=tuple(clip.padded for clip in clips),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, index: Tensor) -> "Batch":
        """The clips at `index` (int64 positions); with positions on the CPU no device is waited for."""
        chosen = index.tolist()
        ids = tuple(self.ids[i] for i in chosen)
        padded = tuple(self.padded[i] for i in chosen) if self.padded else ()
        index = index.to(self.targets.device, non_blocking=True)
        return Batch(select_inputs(self.inputs, index), self.targets.index_select(0, index), ids, padded)

    def between(self, start: int, stop: int) -> "Batch":
        """The clips from one position up to another, which share this batch's memory."""
        inputs = {name: x[start:stop] for name, x in self.inputs.items()}
        return Batch(inputs, self.targets[start:stop], self.ids[start:stop], self.padded[start:stop])

    def join(self, other: "Batch") -> "Batch":
        """The clips of both, in order."""
        return Batch(
            inputs={name: torch.cat((x, other.inputs[name])) for name, x in self.inputs.items()},
            targets=torch.cat((self.targets, other.targets)),
            ids=(*self.ids, *other.ids),
            padded=(*self._shares, *other._shares) if self.padded or other.padded else (),
        )

    def pinned(self) -> "Batch":
        """The same batch in memory that the system does not move, from where copies to a GPU need not be waited for."""
        inputs = {name: x.pin_memory() for name, x in self.inputs.items()}
        return Batch(inputs, self.targets.pin_memory(), self.ids, self.padded)

    def copied(self, device: torch.device | str) -> "Batch":
        """A copy of this batch on a device, even if it is there already: changes to either leave the other alone."""
        return self.to(device, copy=True)

    def to(self, device: torch.device | str, *, copy: bool = False) -> "Batch":
        """The same batch on a device; the copy overlaps with computation where memory is pinned.

        Args:
            device: the target; a batch that is there already is returned with its own tensors.
            copy: whether to copy even then.
        """
        return Batch(
            inputs={name: x.to(device, non_blocking=True, copy=copy) for name, x in self.inputs.items()},
            targets=self.targets.to(device, non_blocking=True, copy=copy),
            ids=self.ids,
            padded=self.padded,
        )

    def padding_of(self, modality: str) -> tuple[float, ...]:
        """Of each clip, the share of this modality that is padding; empty where no clip's is."""
        shares = tuple(clip.get(modality, 0.0) for clip in self.padded)
        return shares if any(shares) else ()

    @property
    def _shares(self) -> tuple[Mapping[str, float], ...]:
        return self.padded or tuple({} for _ in self.ids)


@dataclass(frozen=True, slots=True)
class Encoded:
    """The output of an encoder.

    Attributes:
        tokens: (B, T, D), one per step of time; T may differ between modalities.
        pooled: (B, E), the clip's embedding in this modality.
    """

    tokens: Tensor
    pooled: Tensor

    def select(self, index: Tensor) -> "Encoded":
        """The clips at `index` (int64 positions)."""
        return Encoded(self.tokens.index_select(0, index), self.pooled.index_select(0, index))


def select_inputs(inputs: Mapping[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    """The clips at `index` (int64 positions) of every modality."""
    return {name: x.index_select(0, index) for name, x in inputs.items()}
