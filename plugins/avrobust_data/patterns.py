"""The moving patterns of `toy-av`: twenty, each a patch of a texture in a motion."""

from typing import Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

TEXTURES: Final = ("disc", "stripes", "bars", "checks", "rings")
MOTIONS: Final = ("sweeping", "bobbing", "orbiting", "pulsing")
COUNT: Final = len(TEXTURES) * len(MOTIONS)


def pattern_name(pattern: int) -> str:
    """E.g. "sweeping-disc". 5 and 4 share no factor, so that each of the 20 patterns has its own pair."""
    return f"{MOTIONS[pattern % len(MOTIONS)]}-{TEXTURES[pattern % len(TEXTURES)]}"


def make_pattern(pattern: int, times: NDArray[np.float32], size: int, rng: Generator) -> NDArray[np.float32]:
    """One moving patch of random place, size, grain, pace and direction.

    Args:
        pattern: from 0 to `COUNT` - 1.
        times: (F,) of the pictures, as a share of the clip.
        size: height and width S of a picture in pixels.
        rng: what its variation is drawn from.

    Returns:
        (F, S, S) float32 in [0, 1]: how strongly the patch colours each pixel.
    """
    angle = 2 * np.pi * (rng.choice((-1.0, 1.0)) * rng.uniform(0.8, 1.4) * times + rng.random())
    swing = rng.uniform(0.14, 0.22)
    radius = rng.uniform(0.24, 0.32)
    middle = rng.uniform(0.43, 0.57, 2)
    across, along, grow = _motion(MOTIONS[pattern % len(MOTIONS)], angle)
    x = middle[0] + swing * across
    y = middle[1] + swing * along
    period = rng.uniform(0.42, 0.62) * radius * 2
    return draw(TEXTURES[pattern % len(TEXTURES)], x, y, radius * grow, size, period)


def draw(
    texture: str,
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    radius: NDArray[np.floating],
    size: int,
    period: float = 1.0,
) -> NDArray[np.float32]:
    """Draw a round patch with a soft edge; the texture moves with it.

    Args:
        texture: one of `TEXTURES`.
        x: of its middle, from the left, per picture: (F,), as a share of the picture's side.
        y: of its middle, from the top, likewise.
        radius: likewise.
        size: S.
        period: of the texture, as a share of the picture's side.

    Returns:
        (F, S, S) float32 in [0, 1].
    """
    centres = (np.arange(size, dtype=np.float32) + 0.5) / size
    u = centres[None, None, :] - x.astype(np.float32)[:, None, None]
    v = centres[None, :, None] - y.astype(np.float32)[:, None, None]
    distance = np.hypot(u, v)
    patch: NDArray[np.float32] = np.clip((radius.astype(np.float32)[:, None, None] - distance) * size + 0.5, 0, 1)
    turn = np.float32(2 * np.pi / period)
    match texture:
        case "stripes":
            wave = np.cos(turn * u)
        case "bars":
            wave = np.cos(turn * v)
        case "checks":
            wave = np.cos(turn * u) * np.cos(turn * v)
        case "rings":
            wave = np.cos(turn * distance)
        case _:
            return patch
    textured: NDArray[np.float32] = (patch * (0.5 + 0.5 * wave)).astype(np.float32, copy=False)
    return textured


def _motion(
    motion: str, angle: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    """Offset to the right, offset downwards, and size, at each phase: (F,) each."""
    still = np.zeros_like(angle)
    same = np.ones_like(angle)
    match motion:
        case "sweeping":
            return np.sin(angle), still, same
        case "bobbing":
            return still, np.sin(angle), same
        case "orbiting":
            return np.cos(angle), np.sin(angle), same
        case _:
            return still, still, 1 + 0.45 * np.sin(angle)
