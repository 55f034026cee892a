"""The sights of `toy-av`: twenty, each a shape in a motion."""

from typing import Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

SHAPES: Final = ("disc", "ring", "square", "cross", "bars")
MOTIONS: Final = ("sweeping", "bobbing", "orbiting", "pulsing")
COUNT: Final = len(SHAPES) * len(MOTIONS)


def sight_name(sight: int) -> str:
    """E.g. "sweeping-disc". 5 and 4 share no factor, so that each of the 20 sights has its own pair."""
    return f"{MOTIONS[sight % len(MOTIONS)]}-{SHAPES[sight % len(SHAPES)]}"


def make_sight(sight: int, times: NDArray[np.float32], size: int, rng: Generator) -> NDArray[np.float32]:
    """One moving shape of random place, size, pace and direction.

    Args:
        sight: from 0 to `COUNT` - 1.
        times: (F,) of the pictures, as a share of the clip.
        size: height and width S of a picture in pixels.
        rng: what its variation is drawn from.

    Returns:
        (F, S, S) float32 in [0, 1], the shape's coverage of each pixel.
    """
    angle = 2 * np.pi * (rng.choice((-1.0, 1.0)) * rng.uniform(0.8, 1.4) * times + rng.random())
    swing = rng.uniform(0.16, 0.26)
    radius = rng.uniform(0.13, 0.19)
    middle = rng.uniform(0.4, 0.6, 2)
    across, along, grow = _motion(MOTIONS[sight % len(MOTIONS)], angle)
    x = middle[0] + swing * across
    y = middle[1] + swing * along
    return cover(SHAPES[sight % len(SHAPES)], x, y, radius * grow, size)


def cover(
    shape: str, x: NDArray[np.floating], y: NDArray[np.floating], radius: NDArray[np.floating], size: int
) -> NDArray[np.float32]:
    """Draw a shape with soft edges.

    Args:
        shape: one of `SHAPES`.
        x: of its middle, from the left, per picture: (F,), as a share of the picture's side.
        y: of its middle, from the top, likewise.
        radius: likewise.
        size: S.

    Returns:
        (F, S, S) float32 in [0, 1].
    """
    centres = (np.arange(size, dtype=np.float32) + 0.5) / size
    scale = radius.astype(np.float32)[:, None, None]
    u = np.abs(centres[None, None, :] - x.astype(np.float32)[:, None, None]) / scale
    v = np.abs(centres[None, :, None] - y.astype(np.float32)[:, None, None]) / scale
    match shape:  # the distance to the edge in radii, negative inside
        case "ring":
            distance = np.abs(np.hypot(u, v) - 0.8) - 0.25
        case "square":
            distance = np.maximum(u, v) - 0.85
        case "cross":
            distance = np.minimum(np.maximum(u - 0.3, v - 1.1), np.maximum(u - 1.1, v - 0.3))
        case "bars":
            distance = np.maximum(u - 1.0, np.abs(v - 0.65) - 0.3)
        case _:
            distance = np.hypot(u, v) - 1.0
    covered: NDArray[np.float32] = np.clip(0.5 - distance * scale * size, 0, 1)
    return covered


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
