"""Pairs of clips, and the point to look at between them, drawn independently of the order of the clips."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avrobust_core import derive_seed
from avrobust_geometry.inputs import Floats, Ints


class Identities:
    """The clips' ids, which tell them apart wherever they stand in a batch or a set.

    Args:
        ids: N names, each once.
        seed: of all that is drawn.

    Attributes:
        order: (N,) the clips by their ids' order.
        rank: (N,) each clip's place in that order.
        seed: as given.
    """

    def __init__(self, ids: Sequence[str], seed: int) -> None:
        self.seed = seed
        self.order: Ints = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
        self.rank: Ints = np.empty_like(self.order)
        self.rank[self.order] = np.arange(len(ids))
        self._keys = np.fromiter((derive_seed(seed, "convexity", name) for name in ids), np.uint64, len(ids))

    def sort(self, clips: Ints) -> Ints:
        """The same clips in the order of their ids."""
        return clips[np.argsort(self.rank[clips])]

    def generator(self, purpose: str, name: str = "") -> np.random.Generator:
        """Random numbers for one purpose and one class."""
        return np.random.default_rng(derive_seed(self.seed, f"convexity/{purpose}", name))

    def ratios(self, first: Ints, second: Ints, name: str) -> Floats:
        """A number for each ordered pair in one class, uniform in (0, 1), from both ids and the class alone: (P,).

        Two models are looked at in the same places wherever both have the same pair.
        """
        state = _scrambled(self._keys[first] ^ np.uint64(derive_seed(self.seed, "convexity/ratio", name)))
        bits = _scrambled(state + self._keys[second])
        return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


@dataclass(frozen=True, slots=True)
class Segments:
    """Segments between clips.

    Attributes:
        first: (P,) clips at one end.
        second: (P,) clips at the other.
        cls: (P,) the class that both ends have; or the first alone, of segments between classes.
        ratio: (P,) in (0, 1), the share of `first` in the point that is looked at.
    """

    first: Ints
    second: Ints
    cls: Ints
    ratio: Floats

    def __len__(self) -> int:
        return len(self.first)

    def at(self, rows: NDArray[Any]) -> "Segments":
        """Some of them, by their places or a mask."""
        return Segments(self.first[rows], self.second[rows], self.cls[rows], self.ratio[rows])


def draw_segments(
    members: Sequence[Ints], classes: Sequence[str], identities: Identities, count: int, *, truncated: bool = False
) -> Segments:
    """Pairs of each class's clips, at most `count` a class, with a ratio each.

    Args:
        members: for each class, its clips.
        classes: K names.
        identities: of the clips.
        count: pairs per class: drawn uniformly from all unordered pairs, without replacement; all where there are no
            more. The clip whose id comes first is `first`.
        truncated: instead the first `count` ordered pairs in the order of the ids, (1, 2), (1, 3), ...: nearly all
            begin at the first few clips, as the reference's did.
    """
    none = np.zeros(0, dtype=np.int64)
    parts: list[tuple[Ints, Ints, Ints, Floats]] = [(none, none, none, np.zeros(0))]
    for c, (name, unsorted) in enumerate(zip(classes, members, strict=True)):
        clips = identities.sort(unsorted)
        n = len(clips)
        if n < 2:
            continue
        if truncated:
            a, rest = np.divmod(np.arange(min(count, n * (n - 1))), n - 1)
            b = rest + (rest >= a)
        else:
            total = n * (n - 1) // 2
            drawn = np.arange(total)
            if total > count:
                generator = identities.generator("pairs", name)
                drawn = np.sort(generator.choice(total, count, replace=False, shuffle=False))
            a, b = unrank_pairs(drawn, n)
        first, second = clips[a], clips[b]
        parts.append((first, second, np.full(len(a), c), identities.ratios(first, second, name)))
    first, second, cls, ratio = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Segments(first, second, cls, ratio)


def draw_between(members: Sequence[Ints], classes: Sequence[str], identities: Identities, count: int) -> Segments:
    """Pairs of a clip of each class and one of another class, at most `count` a class, with a ratio each.

    Args:
        members: for each class, its clips; no clip in two classes.
        classes: K names.
        identities: of the clips.
        count: pairs per class, drawn uniformly from all such pairs, without replacement; all where there are no more.

    Returns:
        Segments whose first clip is of the class, and whose second is not.
    """
    none = np.zeros(0, dtype=np.int64)
    parts: list[tuple[Ints, Ints, Ints, Floats]] = [(none, none, none, np.zeros(0))]
    for c, (name, own) in enumerate(zip(classes, members, strict=True)):
        others = np.concatenate([none, *(clips for other, clips in enumerate(members) if other != c)])
        total = len(own) * len(others)
        drawn = np.arange(total)
        if total > count:
            generator = identities.generator("between", name)
            drawn = np.sort(generator.choice(total, count, replace=False, shuffle=False))
        if len(drawn):
            a, b = np.divmod(drawn, len(others))
            first, second = identities.sort(own)[a], identities.sort(others)[b]
            parts.append((first, second, np.full(len(a), c), identities.ratios(first, second, name)))
    first, second, cls, ratio = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Segments(first, second, cls, ratio)


def unrank_pairs(numbers: Ints, n: int) -> tuple[Ints, Ints]:
    """The pairs i < j of n things that have these numbers in the order (0, 1), (0, 2), ..., (1, 2), ...

    Args:
        numbers: (P,) from 0 to n (n - 1) / 2 - 1.
        n: how many things; at most 2**27, up to where the square root in float64 is exact enough.
    """
    back = n * (n - 1) // 2 - 1 - np.asarray(numbers, dtype=np.int64)
    row = ((np.sqrt(8.0 * back + 1) - 1) / 2).astype(np.int64)
    return n - 2 - row, n - 1 - (back - row * (row + 1) // 2)


def _scrambled(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of 64-bit words after which neighbours have nothing in common.

    Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
    """
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
