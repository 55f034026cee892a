"""The scene of a corruption: its severity, its course over the clip, which sound and picture share, its draws."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor
from torch.nn import functional as F

from avrobust_core import ClipDraws

DEFAULT_RATE: Final = 16_000.0
"""Samples per second of sound whose data set states none."""

MOMENTS: Final = 24
"""Of a course: enough for gusts, beats and waves of a crowd in a clip of ten seconds."""


BEATS: Final = 10.0
"""Of a concert, over a clip of any length: of its sound and its lights alike."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What decides a corruption, beside the clip.

    Attributes:
        severity: from 1 to 5.
        course: (B, n) in [0, 1]: how strong it is as the clip goes on. The same for sound and picture, so that a gust
            is heard when it shakes the camera.
        draws: from a purpose to random numbers of the clips, for one modality.
        rate: samples per second of sound; unused for pictures.
    """

    severity: int
    course: Tensor
    draws: Callable[[str], ClipDraws]
    rate: float

    def pick(self, values: Sequence[float]) -> float:
        """The value of this severity, of five."""
        return values[self.severity - 1]

    def at(self, steps: int) -> Tensor:
        """The course at so many evenly spaced moments: (B, steps)."""
        return F.interpolate(self.course.unsqueeze(1), size=steps, mode="linear", align_corners=True).squeeze(1)

    def beat(self, steps: int, beats: float) -> Tensor:
        """Pulses that jump to 1 and die away, so many over the clip: (B, steps) in [0, 1]; clips begin at 0."""
        place = self.course.new_tensor([(step + 0.5) / steps * beats % 1 for step in range(steps)])
        return (1 - place).square().expand(len(self.course), -1)
