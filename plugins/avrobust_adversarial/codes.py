"""Perturbations in few bits: integers, three levels, or signs."""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from avrobust_adversarial.configs import Bits

ROUNDING = 1 + 2.0**-21
"""Keeps a value that float32 arithmetic puts just below a whole number from falling to the next one."""


@dataclass(frozen=True, slots=True)
class Code:
    """Perturbations of one modality as bytes, one row and one scale per clip.

    16 and 8 bits are integers, rounded towards 0 so that a perturbation does not grow in any norm; 2 are three levels
    (-1, 0, 1), 1 is the sign: with these it may. All are times the clip's scale: the largest absolute value, or for
    signs the mean one, which is the nearest in the mean square.

    Attributes:
        bits: per value.
        shape: of one clip's perturbation.
    """

    bits: Bits
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes per clip."""
        return -(-prod(self.shape) * self.bits // 8)

    @property
    def shrinks(self) -> bool:
        """Tell if what is unpacked is nowhere larger than what was packed."""
        return self.bits >= 8

    def pack(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (n, size) uint8 and scales (n,) float32 of perturbations (n, *shape), on their device."""
        flat = delta.detach().flatten(1).float()
        scale = flat.abs().mean(dim=1) if self.bits == 1 else torch.maximum(flat.amax(dim=1), -flat.amin(dim=1))
        top = 2 ** (self.bits - 1) - 1 if self.shrinks else 1
        unit = flat * (top / torch.where(scale > 0, scale, 1))[:, None]
        if self.shrinks:
            whole = unit.mul_(ROUNDING).to(torch.int8 if self.bits == 8 else torch.int16)  # drops the fraction
            return whole.view(torch.uint8), scale
        levels = (unit >= 0).to(torch.uint8) if self.bits == 1 else (unit.round() + 1).to(torch.uint8)
        return _joined(levels, self.bits), scale

    def unpack(self, rows: Tensor, scale: Tensor) -> Tensor:
        """The perturbations (n, *shape) float32 of what `pack` gave."""
        if self.shrinks:
            flat = rows.view(torch.int8 if self.bits == 8 else torch.int16).float()
            scale = scale / (2 ** (self.bits - 1) - 1)
        else:
            levels = _split(rows, self.bits)[:, : prod(self.shape)].float()
            flat = 2 * levels - 1 if self.bits == 1 else levels - 1
        return flat.mul_(scale[:, None]).reshape(-1, *self.shape)


def _joined(levels: Tensor, bits: int) -> Tensor:
    """Levels (n, m) uint8 below 2**bits, several to a byte."""
    each = 8 // bits
    levels = F.pad(levels, (0, -levels.shape[1] % each))
    shifted = levels.reshape(len(levels), -1, each) << _shifts(levels, bits)
    return shifted.sum(dim=2, dtype=torch.uint8)


def _split(rows: Tensor, bits: int) -> Tensor:
    """What `_joined` joined, and the padding."""
    shifted = rows.unsqueeze(2) >> _shifts(rows, bits)
    return shifted.bitwise_and(2**bits - 1).flatten(1)


def _shifts(like: Tensor, bits: int) -> Tensor:
    return torch.arange(0, 8, bits, dtype=torch.uint8, device=like.device)
