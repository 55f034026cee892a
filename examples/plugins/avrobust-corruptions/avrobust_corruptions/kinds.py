"""The kinds of corruption by name, each with what it does to sound and what it does to pictures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from avrobust_corruptions import pictures, sounds
from avrobust_corruptions.configs import KindName
from avrobust_corruptions.scene import Scene


@dataclass(frozen=True, slots=True)
class Kind:
    """A corruption.

    Attributes:
        sound: from (B, C, T) in [-1, 1], the scene, and the share (B,) of T that is each clip's own, or None.
        picture: from (B, C, T, H, W) in [0, 1] and the scene.
    """

    sound: Callable[[Tensor, Scene, Tensor | None], Tensor]
    picture: Callable[[Tensor, Scene], Tensor]


KINDS: Mapping[KindName, Kind] = MappingProxyType(
    {
        "gaussian": Kind(sounds.gaussian, pictures.gaussian),
        "impulse": Kind(sounds.impulse, pictures.impulse),
        "shot": Kind(sounds.shot, pictures.shot),
        "speckle": Kind(sounds.speckle, pictures.speckle),
        "compression": Kind(sounds.compression, pictures.compression),
        "snow": Kind(sounds.snow, pictures.snow),
        "frost": Kind(sounds.frost, pictures.frost),
        "spatter": Kind(sounds.spatter, pictures.spatter),
        "wind": Kind(sounds.wind, pictures.wind),
        "rain": Kind(sounds.rain, pictures.rain),
        "underwater": Kind(sounds.underwater, pictures.underwater),
        "concert": Kind(sounds.concert, pictures.concert),
        "smoke": Kind(sounds.smoke, pictures.smoke),
        "crowd": Kind(sounds.crowd, pictures.crowd),
        "interference": Kind(sounds.interference, pictures.interference),
    }
)
"""All fifteen."""
