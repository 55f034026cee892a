"""`toy-av`: audio-visual events made from a seed, an index and nothing else."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.sparse import csr_array

from avrobust_core import Clip, DataError, Dataset, MediaSpec, derive_seed
from avrobust_data.cache import ClipCache, Media, to_tensors
from avrobust_data.configs import ToyAVConfig
from avrobust_data.media import media_specs, target_of
from avrobust_data.patterns import draw, make_pattern, pattern_name
from avrobust_data.sounds import make_sound, sound_name

FAINT: Final = 0.12
"""Share of the clips whose sound is all but lost in the background, and, independently, whose pattern is."""

GENERATOR_VERSION: Final = 1
"""Raised when the same index gives another clip."""


def sound_and_pattern(label: int) -> tuple[int, int]:
    """The sound and the pattern of a class: in each group of three, two classes share either."""
    group, place = divmod(label, 3)
    return 2 * group + (place == 1), 2 * group + (place == 2)


class ToyAV(Dataset):
    """Events that are heard and seen at the same time, over background noise and with distractors.

    Clip i of a split is of class i mod K (its first event, if it has several), and depends on the seed, the split,
    i, K and the media's sizes only: never on how many clips there are.

    Args:
        config: what to generate.
    """

    def __init__(self, config: ToyAVConfig) -> None:
        self.config = config
        self.samples = round(config.seconds * config.sample_rate)
        self.media: Mapping[str, MediaSpec] = media_specs(config)
        pairs = [sound_and_pattern(label) for label in range(config.classes)]
        self.classes = tuple(f"{sound_name(sound)}+{pattern_name(pattern)}" for sound, pattern in pairs)
        self.task = "single-label" if config.labels_per_clip == 1 else "multi-label"
        sizes = {"train": config.train, "val": config.val, "test": config.test}
        self._sizes = {split: size for split, size in sizes.items() if size > 0}
        self._cache = ClipCache(config.cache_mib * 2**20)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._sizes)

    def ids(self, split: str) -> Sequence[str]:
        return [_clip_id(split, index) for index in range(self._size(split))]

    def read(self, split: str, index: int) -> Clip:
        """Generate one clip, or take it from memory.

        Returns:
            audio (1, T) float32 in [-1, 1]; video (3, F, S, S) float32 in [0, 1], on the grid of 8-bit pictures.

        Raises:
            DataError: if there is no such split.
            IndexError: if the split has no such clip.
        """
        size = self._size(split)
        if not 0 <= index < size:
            raise IndexError(f"{split} has the clips 0 to {size - 1}; asked for {index}")
        media = self._cache.get((split, index), lambda: self._generate(split, index))
        target = target_of(self.labels(split, index), self.config.classes, self.task)
        return Clip(id=_clip_id(split, index), inputs=to_tensors(media), target=target)

    def fingerprint(self) -> str:
        content = {"generator": GENERATOR_VERSION, "classes": self.classes, **self.config.identity()}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def label_matrix(self, split: str) -> csr_array:
        """From `labels` of each clip."""
        pairs = [(i, label) for i in range(self._size(split)) for label in self.labels(split, i)]
        rows, labels = np.array(pairs).T
        shape = (self._size(split), self.config.classes)
        return csr_array((np.ones(len(pairs), np.float32), (rows, labels)), shape=shape)

    def labels(self, split: str, index: int) -> tuple[int, ...]:
        """The classes of a clip's events, in the order in which they are drawn."""
        first = index % self.config.classes
        if self.config.labels_per_clip == 1:
            return (first,)
        rng = self._rng(split, index, "labels")
        others = np.delete(np.arange(self.config.classes), first)
        count = int(rng.integers(self.config.labels_per_clip))
        return (first, *(int(label) for label in rng.permutation(others)[:count]))

    def _size(self, split: str) -> int:
        if split not in self._sizes:
            raise DataError(f"toy-av has no split {split!r}; it has {', '.join(self._sizes)}")
        return self._sizes[split]

    def _rng(self, split: str, index: int, purpose: str) -> Generator:
        return np.random.default_rng(derive_seed(self.config.seed, "toy-av", split, index, purpose))

    def _generate(self, split: str, index: int) -> Media:
        events = [sound_and_pattern(label) for label in self.labels(split, index)]
        when = self._rng(split, index, "when")
        # several events need room to differ in time, or nothing would say which sound belongs to which pattern
        durations = when.uniform(*((0.85, 1.0) if len(events) == 1 else (0.4, 0.8)), len(events))
        onsets = when.random(len(events)) * (1 - durations)
        spans = list(zip(onsets.tolist(), durations.tolist(), strict=True))
        sounds = [sound for sound, _ in events]
        patterns = [pattern for _, pattern in events]
        return Media(
            audio=self._sound_track(sounds, spans, self._rng(split, index, "audio")),
            video=self._pictures(patterns, spans, self._rng(split, index, "video")),
        )

    def _sound_track(
        self, sounds: Sequence[int], spans: Sequence[tuple[float, float]], rng: Generator
    ) -> NDArray[np.float32]:
        """The sounds over noise and a short stray tone: (1, T) float32 in [-1, 1]."""
        config, samples = self.config, self.samples
        track = np.zeros(samples, np.float32)
        for sound, span in zip(sounds, spans, strict=True):
            start, stop = _positions(span, samples)
            loudness = np.float32(10 ** (rng.uniform(-3, 3) / 20))
            track[start:stop] += loudness * make_sound(sound, stop - start, config.sample_rate, rng)
        if config.noise > 0:
            decibels = rng.uniform(-30, -16) if rng.random() < FAINT else rng.uniform(-2, 16)
            noise = np.float32(config.noise * 10 ** (-decibels / 20))
            track += noise * rng.standard_normal(samples, dtype=np.float32)
            length = rng.uniform(0.1, 0.25)
            start, stop = _positions((rng.uniform(0, 1 - length), length), samples)
            turns = min(config.sample_rate / 8000, 1.0) * rng.uniform(250, 1500) / config.sample_rate
            stray = np.sin(np.float32(2 * np.pi * turns) * np.arange(stop - start, dtype=np.float32))
            track[start:stop] += np.float32(config.noise * rng.uniform(0.3, 1.2)) * stray
        level = max(float(np.mean(np.square(track))), 1e-12) ** 0.5
        track *= np.float32(rng.uniform(0.05, 0.2) / level)
        return np.clip(track, -1, 1)[None]

    def _pictures(
        self, patterns: Sequence[int], spans: Sequence[tuple[float, float]], rng: Generator
    ) -> NDArray[np.uint8]:
        """The patches over a smooth ground with grain and a drifting spot: (3, F, S, S) uint8."""
        config = self.config
        times = ((np.arange(config.frames) + 0.5) / config.frames).astype(np.float32)
        ground = rng.uniform(0.2, 0.5, 3).astype(np.float32)
        video = np.empty((3, config.frames, config.size, config.size), np.float32)
        video[:] = ground[:, None, None, None]
        if config.noise > 0:
            video += _smooth(config.size, config.noise * 0.05, rng)[:, None]
            spot = _spot(times, config.size, rng)
            video += _tint(rng, config.noise * 0.2)[:, None, None, None] * spot
        faint = rng.random() < FAINT * min(config.noise, 1)
        for pattern, (onset, duration) in zip(patterns, spans, strict=True):
            # a patch is seen while its sound is heard: it fades in and out with its sound, over a twentieth of the clip
            shown = np.clip(np.minimum(times - onset, onset + duration - times) / 0.05 + 0.5, 0, 1)
            mask = make_pattern(pattern, times, config.size, rng) * shown.astype(np.float32)[:, None, None]
            video += _tint(rng, 0.03 if faint else rng.uniform(0.25, 0.5))[:, None, None, None] * mask
        if config.noise > 0:
            grain = np.float32(config.noise * rng.uniform(0.02, 0.1))
            video += grain * rng.standard_normal(video.shape, dtype=np.float32)
        return np.rint(np.clip(video, 0, 1) * 255).astype(np.uint8)


def _clip_id(split: str, index: int) -> str:
    return f"{split}-{index:06d}"


def _positions(span: tuple[float, float], samples: int) -> tuple[int, int]:
    """The start and stop of a span (onset and duration as shares of the clip) in samples; one sample at least."""
    start = min(round(span[0] * samples), samples - 1)
    return start, min(max(start + round(span[1] * samples), start + 1), samples)


def _tint(rng: Generator, strength: float) -> NDArray[np.float32]:
    """A brighter colour, by this much (root mean square) over red, green and blue: (3,)."""
    direction = rng.uniform(0.3, 1, 3)
    tint: NDArray[np.float32] = (strength * direction / np.sqrt(np.mean(direction**2))).astype(np.float32)
    return tint


def _smooth(size: int, strength: float, rng: Generator) -> NDArray[np.float32]:
    """A slowly varying ground: (3, S, S), interpolated from 4 x 4 random values."""
    knots = rng.standard_normal((3, 4, 4), dtype=np.float32) * np.float32(strength)
    place = np.linspace(0, 3, size, dtype=np.float32)
    weights = np.clip(1 - np.abs(place[:, None] - np.arange(4, dtype=np.float32)), 0, 1)
    ground: NDArray[np.float32] = weights @ knots @ weights.T
    return ground


def _spot(times: NDArray[np.float32], size: int, rng: Generator) -> NDArray[np.float32]:
    """A small disc that drifts in a straight line: coverage (F, S, S)."""
    start = rng.uniform(0.1, 0.9, 2)
    drift = rng.uniform(-0.5, 0.5, 2)
    radius = np.full(len(times), rng.uniform(0.05, 0.09))
    return draw("disc", start[0] + drift[0] * times, start[1] + drift[1] * times, radius, size)
