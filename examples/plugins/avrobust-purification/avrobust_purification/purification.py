"""A purification: steps one after the other, the real thing forwards, and a chosen derivative backwards.

Source of the derivative: Athalye, Carlini, Wagner, "Obfuscated Gradients Give a False Sense of Security", ICML 2018
(arXiv 1802.00420), section 4.1 (BPDA): where g(x) is close to x, the identity stands for g on the way back.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PurifyingStep(nn.Module):
    """A step from clips to clips of the same shape and bounds, each by itself.

    Attributes:
        smooth: whether its own derivative is of use; otherwise it is called without gradients.
    """

    smooth = False

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """From (B, ...) float32 to the same."""


class Purification(nn.Module):
    """Steps, one after the other.

    Args:
        steps: in order.
        exact: whether steps that are not smooth have their own derivative, 0, instead of the identity's.
    """

    def __init__(self, steps: Sequence[PurifyingStep], *, exact: bool = False) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.exact = exact

    def forward(self, x: Tensor) -> Tensor:
        """From clips (B, ...) to purified ones, float32 also under autocast."""
        with torch.autocast(x.device.type, enabled=False):
            x = x if x.dtype == torch.float64 else x.float()
            for step in self.steps:
                x = step(x) if isinstance(step, PurifyingStep) and step.smooth else self._passed_by(step, x)
            return x

    def _passed_by(self, step: nn.Module, x: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = step(x.detach()).to(x)
        # Both differences are exactly 0; the first has the derivative of the identity, the second 0.
        return found + (x - x.detach() if not self.exact else 0 * x)

    def extra_repr(self) -> str:
        return f"exact={self.exact}"
