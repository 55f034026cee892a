"""Random numbers of many clips at once, counted from each clip's own seed: the same bits on every device."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from avrobust_core.randomness import derive_seed

Distribution = Literal["uniform", "gaussian", "laplace"]
"""Of noise: uniform in [-1, 1), standard normal, or of density exp(-|x|) / 2."""

STEP = 0x9E3779B97F4A7C15
"""The way from one state of SplitMix64 to the next, modulo 2^64."""

MIXING = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))
"""What makes a state a random word: three times it is combined with itself shifted, then multiplied."""

ALL_WORDS = 2**64

Fill = Callable[[Tensor, Tensor, slice, slice], None]
"""What fills drawn numbers (b, n) from words (b n / k,), given of which clips they are, and at which samples."""

LEVELS = 2**16
"""The different values of noise: a word holds four."""

BLOCK = 2**15
"""Words made at a time on CPU: with their noise, and what is needed on the way, they fit into a core's cache."""


class ClipDraws:
    """Random numbers of clips, each clip's from its own seed and a counter: whatever the batch, order and device.

    A clip's words of 64 bits are those of SplitMix64 started at its seed (Steele, Lea and Flood 2014, "Fast splittable
    pseudorandom number generators"). The state behind the n-th of them is seed + n `STEP`, so that all words of all
    clips are made at once. They are whole numbers, and what is made of them is exact in float32, or looked up in a
    table: so the bits are those of any other device. The global random state plays no part.

    Every call goes on where the one before it has ended, by as many words for all clips. All seeds lie on one circle of
    2^64 states: of two clips with n words each, some are the same with a probability of n / 2^63.

    Args:
        seeds: one per clip, from 0 to 2^63 - 1, as `derive_seed` gives them.
        device: of what is drawn.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self._seeds = torch.tensor(seeds, dtype=torch.int64).to(device, non_blocking=True)
        self._used = 0

    @classmethod
    def of(cls, seed: int, ids: Sequence[str], purpose: str, device: torch.device | str = "cpu") -> Self:
        """The draws of clips from (seed, clip id, purpose): the same wherever a clip comes again.

        Args:
            seed: of the study, or of a fit.
            ids: the clips' ids.
            purpose: sets these draws apart from others.
            device: of what is drawn.
        """
        return cls([derive_seed(seed, clip_id, purpose) for clip_id in ids], device)

    def __len__(self) -> int:
        return len(self._seeds)

    def select(self, index: Tensor) -> Self:
        """The draws of the clips at `index` (int64 positions), to go on by themselves from where these are."""
        found = type(self)((), self._seeds.device)
        found._seeds, found._used = self._seeds.index_select(0, index), self._used
        return found

    def uniform(self, *shape: int) -> Tensor:
        """Random numbers from [0, 1), multiples of 2^-24: (B, *shape) float32."""

        def fill(found: Tensor, words: Tensor, clips: slice, samples: slice) -> None:
            found.view(-1).copy_(words.view(torch.int32).bitwise_right_shift_(8)).mul_(2**-24).add_(0.5)

        return self._drawn(shape, 2, fill)

    def noise(self, shape: Sequence[int], distribution: Distribution) -> Tensor:
        """Random numbers spread about 0: (B, *shape) float32.

        Each is one of 2^16 values, all equally likely, which is fine enough for points in a ball, directions and noise:
        uniform ones are 2^-15 apart; others are the quantiles in the middle of as many equal shares, so that the normal
        ends at 4.3 standard deviations, beyond which one sample in 65,000 should lie.

        Args:
            shape: of each clip's.
            distribution: see `Distribution`.
        """
        table = None if distribution == "uniform" else _table(distribution, self._seeds.device)

        def fill(found: Tensor, words: Tensor, clips: slice, samples: slice) -> None:
            levels = words.view(torch.int16)
            if table is None:
                found.view(-1).copy_(levels).mul_(2 / LEVELS)
            else:
                torch.index_select(table, 0, levels.to(torch.int32).add_(LEVELS // 2), out=found.view(-1))

        return self._drawn(shape, 4, fill)

    def around(self, center: Tensor, reach: Tensor, limits: tuple[float, float]) -> Tensor:
        """The center plus reach times uniform noise, cut at the limits: (B, ...) float32, made in one go.

        Args:
            center: (B, ...) float32.
            reach: (B,).
            limits: the lowest and the highest value.
        """
        flat, scale = center.flatten(1), (reach * (2 / LEVELS)).to(center.dtype).unsqueeze(1)

        def fill(found: Tensor, words: Tensor, clips: slice, samples: slice) -> None:
            found.view(-1).copy_(words.view(torch.int16))
            own = found[:, : samples.stop - samples.start]
            torch.addcmul(flat[clips, samples], own, scale[clips], out=own).clamp_(*limits)

        return self._drawn(center.shape[1:], 4, fill)

    def _drawn(self, shape: Sequence[int], per_word: int, fill: Fill) -> Tensor:
        """(B, *shape) float32, filled part by part."""
        clips, samples, device = len(self), math.prod(shape), self._seeds.device
        words = -(-samples // per_word)
        size, on_cpu = clips * words * per_word, device.type == "cpu"
        # Numpy asks for large pages, torch does not: a video is filled in half the time.
        found = torch.from_numpy(np.empty(size, np.float32)) if on_cpu else torch.empty(size, device=device)
        found = found.view(clips, words * per_word)
        blocks = self._in_blocks if on_cpu else self._at_once
        for own, columns, made in blocks(words) if size else ():
            first, end = columns.start * per_word, columns.stop * per_word
            fill(found[own, first:end], made, own, slice(first, min(end, samples)))
        self._used += words
        return found[:, :samples].contiguous().view(clips, *shape)

    def _at_once(self, words: int) -> Iterator[tuple[slice, slice, Tensor]]:
        """Of which clips, which words, and these one clip after the other: int64, of the same bits."""
        numbers = torch.arange(self._used + 1, self._used + 1 + words, device=self._seeds.device)
        made = self._seeds.unsqueeze(1) + numbers * _signed(STEP)
        spare = torch.empty_like(made)
        for shift, factor in MIXING:
            # A signed number that is shifted fills up with its sign, which must not stay.
            torch.bitwise_right_shift(made, shift, out=spare).bitwise_and_(2 ** (64 - shift) - 1)
            made.bitwise_xor_(spare)
            if factor != 1:
                made.mul_(_signed(factor))
        yield slice(0, len(self)), slice(0, words), made.view(-1)

    def _in_blocks(self, words: int) -> Iterator[tuple[slice, slice, Tensor]]:
        """The same in blocks, each overwritten by the next: by numpy, whose unsigned numbers take half as long."""
        seeds = self._seeds.numpy().view(np.uint64)[:, np.newaxis]
        width = min(words, BLOCK)
        clips = min(BLOCK // width, len(seeds))
        steps = np.arange(width, dtype=np.uint64) * np.uint64(STEP)
        scratch, spare = np.empty((2, clips * width), np.uint64)
        for clip in range(0, len(seeds), clips):
            for word in range(0, words, width):
                own, part = seeds[clip : clip + clips], steps[: words - word]
                made = scratch[: len(own) * len(part)]
                shifted = spare[: len(made)]
                begin = np.uint64((self._used + 1 + word) * STEP % ALL_WORDS)
                np.add(own + begin, part, out=made.reshape(len(own), len(part)))
                for shift, factor in MIXING:
                    np.right_shift(made, np.uint64(shift), out=shifted)
                    np.bitwise_xor(made, shifted, out=made)
                    if factor != 1:
                        np.multiply(made, np.uint64(factor), out=made)
                yield slice(clip, clip + len(own)), slice(word, word + len(part)), torch.from_numpy(made.view(np.int64))


def quantiles(distribution: Distribution) -> Tensor:
    """The values of noise, in order: (2^16,) float32."""
    if distribution == "uniform":
        return torch.arange(-LEVELS // 2, LEVELS // 2) * (2 / LEVELS)
    below = (torch.arange(LEVELS // 2, dtype=torch.float64) + 0.5) / LEVELS
    half = torch.special.ndtri(below) if distribution == "gaussian" else (2 * below).log()
    return torch.cat((half, -half.flip(0))).float()


@cache
def _table(distribution: Distribution, device: torch.device) -> Tensor:
    return quantiles(distribution).to(device)


def _signed(word: int) -> int:
    """A word as the signed number of the same bits."""
    return word - ALL_WORDS if word >= ALL_WORDS // 2 else word
