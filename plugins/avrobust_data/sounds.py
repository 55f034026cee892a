"""The sounds of `toy-av`: twenty, each a pitch contour in a timbre."""

from typing import Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

CONTOURS: Final = ("rising", "falling", "steady", "wobbling", "stepping")
TIMBRES: Final = ("tone", "buzz", "beeps", "hiss")
COUNT: Final = len(CONTOURS) * len(TIMBRES)

_TAU = np.float32(2 * np.pi)
_FULL_RATE = 8000
"""Sample rate from which the pitches are as stated; below it they are lowered in proportion."""


def sound_name(sound: int) -> str:
    """E.g. "rising-tone". 5 and 4 share no factor, so that each of the 20 sounds has its own pair."""
    return f"{CONTOURS[sound % len(CONTOURS)]}-{TIMBRES[sound % len(TIMBRES)]}"


def make_sound(sound: int, samples: int, rate: int, rng: Generator) -> NDArray[np.float32]:
    """One sound of random pitch, pace, phase and depth, faded in and out.

    Args:
        sound: from 0 to `COUNT` - 1.
        samples: its length N.
        rate: samples per second.
        rng: what its variation is drawn from.

    Returns:
        (N,) float32 with a mean square of 1.
    """
    scale = min(1.0, rate / _FULL_RATE)
    place = np.linspace(0, 1, samples, endpoint=False, dtype=np.float32)
    pitch = scale * 520 * 2 ** rng.uniform(-0.3, 0.3) * _contour(CONTOURS[sound % len(CONTOURS)], place, rng)
    phase = np.cumsum(pitch, dtype=np.float64) / rate + rng.random()
    turns = (phase % 1).astype(np.float32) * _TAU
    wave = _timbre(TIMBRES[sound % len(TIMBRES)], turns, place, rng) * _fade(place)
    power = float(np.mean(np.square(wave)))
    return (wave / np.float32(max(power, 1e-12) ** 0.5)).astype(np.float32, copy=False)


def _contour(contour: str, place: NDArray[np.float32], rng: Generator) -> NDArray[np.float32]:
    """Pitch along the sound, relative to its middle: (N,)."""
    octaves = rng.uniform(0.8, 1.2)
    match contour:
        case "rising":
            exponent = octaves * (place - 0.5)
        case "falling":
            exponent = octaves * (0.5 - place)
        case "wobbling":
            exponent = 0.3 * octaves * np.sin(_TAU * (rng.uniform(3.5, 5.5) * place + rng.random()))
        case "stepping":
            exponent = octaves * (np.floor(rng.uniform(3.2, 4.8) * place + rng.random()) % 2 - 0.5)
        case _:
            exponent = np.zeros_like(place)
    pitch: NDArray[np.float32] = np.exp2(exponent).astype(np.float32, copy=False)
    return pitch


def _timbre(timbre: str, turns: NDArray[np.float32], place: NDArray[np.float32], rng: Generator) -> NDArray[np.float32]:
    """The wave at phases `turns`: (N,)."""
    wave: NDArray[np.floating] = np.sin(turns)
    match timbre:
        case "buzz":
            wave = wave + 0.8 * np.sin(2 * turns) + 0.6 * np.sin(3 * turns) + 0.4 * np.sin(4 * turns)
        case "beeps":
            gate = np.sin(_TAU * (rng.uniform(6, 9) * place + rng.random()))
            wave = wave * np.clip(4 * gate + 0.5, 0, 1)
        case "hiss":  # a narrow band of noise around the pitch: the tone times slow noise
            knots = rng.standard_normal(96, dtype=np.float32)
            wave = wave * np.interp(place, np.linspace(0, 1, len(knots)), knots)
    return wave.astype(np.float32, copy=False)


def _fade(place: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rises over the first 4 % and falls over the last 4 %: (N,)."""
    return np.clip(np.minimum(place, 1 - place) / np.float32(0.04), 0, 1)
