"""`toy-av`: deterministic per index, bounded, balanced, and told apart by both modalities only."""

import pickle
import time

import numpy as np
import pytest
import torch
from avrobust_data.configs import ToyAVConfig
from avrobust_data.patterns import COUNT as PATTERNS
from avrobust_data.patterns import make_pattern, pattern_name
from avrobust_data.sounds import COUNT as SOUNDS
from avrobust_data.sounds import make_sound, sound_name
from avrobust_data.toy import ToyAV, sound_and_pattern
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from avrobust_core import DataError


def same(a, b) -> bool:
    return (
        a.id == b.id
        and torch.equal(a.target, b.target)
        and all(torch.equal(a.inputs[m], b.inputs[m]) for m in a.inputs)
    )


@settings(max_examples=25)
@given(
    classes=st.integers(2, 30),
    several=st.integers(1, 4),
    rate=st.sampled_from([1000, 4000, 8000, 16000]),
    seconds=st.sampled_from([0.1, 0.5, 1.0, 2.0]),
    frames=st.integers(1, 9),
    size=st.integers(8, 40),
    noise=st.sampled_from([0.0, 1.0, 10.0]),
    index=st.integers(0, 99),
)
def test_every_clip_fits_what_is_said_of_it(classes, several, rate, seconds, frames, size, noise, index) -> None:
    data = ToyAV(
        ToyAVConfig(
            classes=classes,
            labels_per_clip=min(several, classes),
            train=100,
            sample_rate=rate,
            seconds=seconds,
            frames=frames,
            size=size,
            noise=noise,
        )
    )
    clip = data.read("train", index)
    assert clip.inputs.keys() == data.media.keys() == {"audio", "video"}
    for modality, spec in data.media.items():
        x = clip.inputs[modality]
        assert x.shape == spec.shape
        assert x.dtype == torch.float32
        assert x.is_contiguous()
        low, high = spec.bounds
        assert low <= x.min() <= x.max() <= high
    assert data.media["video"].rate == pytest.approx(frames / seconds)
    if several == 1:
        assert clip.target.dtype == torch.int64
        assert clip.target.shape == ()
        assert clip.target == index % classes
    else:
        assert clip.target.dtype == torch.float32
        assert clip.target.shape == (classes,)
        assert 1 <= clip.target.sum() <= several
        assert clip.target[index % classes] == 1


@settings(max_examples=20)
@given(index=st.integers(0, 39), train=st.integers(40, 10_000), val=st.integers(0, 500), test=st.integers(1, 500))
def test_a_clip_does_not_depend_on_how_many_there_are(index, train, val, test) -> None:
    few = ToyAV(ToyAVConfig(train=40))
    many = ToyAV(ToyAVConfig(train=train, val=val, test=test, cache_mib=0))
    assert same(few.read("train", index), many.read("train", index))


def test_the_cache_and_the_order_of_reading_change_nothing() -> None:
    kept, fresh = ToyAV(ToyAVConfig()), ToyAV(ToyAVConfig(cache_mib=0))
    first = [kept.read("test", i) for i in range(12)]
    for i in reversed(range(12)):
        assert same(first[i], kept.read("test", i))
        assert same(first[i], fresh.read("test", i))


def test_changing_a_clip_that_was_read_does_not_change_the_next_reading() -> None:
    data = ToyAV(ToyAVConfig())
    for x in data.read("train", 0).inputs.values():
        x.fill_(7)
    assert same(data.read("train", 0), ToyAV(ToyAVConfig()).read("train", 0))


def test_seeds_splits_and_indices_give_different_clips() -> None:
    clips = [
        ToyAV(ToyAVConfig(seed=seed)).read(split, index)
        for seed in (0, 1)
        for split in ("train", "test")
        for index in (0, 10)
    ]
    for modality in ("audio", "video"):
        assert len({clip.inputs[modality].numpy().tobytes() for clip in clips}) == len(clips)


def test_ids_are_unique_over_all_splits_and_known_in_order() -> None:
    data = ToyAV(ToyAVConfig(train=30, val=20, test=10))
    assert data.splits == ("train", "val", "test")
    ids = [name for split in data.splits for name in data.ids(split)]
    assert len(set(ids)) == 60
    assert data.read("val", 7).id == data.ids("val")[7]
    assert ToyAV(ToyAVConfig(val=0)).splits == ("train", "test")


def test_the_classes_of_a_group_share_a_sound_or_a_pattern_and_no_two_share_both() -> None:
    pairs = [sound_and_pattern(label) for label in range(30)]
    assert len(set(pairs)) == 30
    for q in range(0, 30, 3):
        first, by_sound, by_pattern = pairs[q : q + 3]
        assert first[1] == by_sound[1]
        assert first[0] != by_sound[0]
        assert first[0] == by_pattern[0]
        assert first[1] != by_pattern[1]
    assert {sound for sound, _ in pairs} == set(range(SOUNDS))
    assert {pattern for _, pattern in pairs} == set(range(PATTERNS))
    assert len({sound_name(s) for s in range(SOUNDS)}) == SOUNDS
    assert len({pattern_name(s) for s in range(PATTERNS)}) == PATTERNS
    assert len(set(ToyAV(ToyAVConfig(classes=30)).classes)) == 30


@pytest.mark.parametrize("sound", range(SOUNDS))
def test_sounds_have_power_one_and_stay_below_the_nyquist_frequency(sound: int) -> None:
    for rate in (2000, 8000, 16000):
        wave = make_sound(sound, rate, rate, np.random.default_rng(sound))
        assert np.mean(wave**2) == pytest.approx(1, abs=1e-3)
        power = np.abs(np.fft.rfft(wave * np.hanning(rate))) ** 2
        hertz = np.arange(len(power))
        # four harmonics of at most 520 * 2 ** 0.9 Hz; what is gated or noisy spreads a little
        assert power[hertz > min(rate / 8000, 1) * 3950].sum() < 0.01 * power.sum()


def test_rising_sounds_rise_and_falling_ones_fall() -> None:
    def middle_pitch(wave: np.ndarray) -> float:
        power = np.abs(np.fft.rfft(wave)) ** 2
        return float((power * np.arange(len(power))).sum() / power.sum())

    for seed in range(10):
        for sound, sign in ((0, 1), (16, -1)):
            assert sound_name(sound) == ("rising-tone" if sign > 0 else "falling-tone")
            wave = make_sound(sound, 8000, 8000, np.random.default_rng(seed))
            assert sign * (middle_pitch(wave[5000:7000]) - middle_pitch(wave[1000:3000])) > 0


def test_patterns_move_as_they_are_named() -> None:
    times = (np.arange(32, dtype=np.float32) + 0.5) / 32
    for pattern in range(PATTERNS):
        cover = make_pattern(pattern, times, 64, np.random.default_rng(pattern))
        assert cover.min() >= 0
        assert cover.max() == pytest.approx(1, abs=0.1)
        mass = cover.sum((1, 2))
        spot = np.arange(64)
        x, y = (cover.sum(1) @ spot / mass).std(), (cover.sum(2) @ spot / mass).std()
        moved = {
            "sweeping": x > 3 and y < 1,
            "bobbing": y > 3 and x < 1,
            "orbiting": x > 3 and y > 3,
            "pulsing": x < 1 and y < 1 and mass.std() > 0.2 * mass.mean(),
        }
        assert moved.pop(pattern_name(pattern).split("-")[0])
        assert not any(moved.values())


def test_what_is_heard_is_seen_at_the_same_time() -> None:
    data = ToyAV(ToyAVConfig(noise=0, frames=50, seed=3))
    for index in range(40):
        clip = data.read("train", index)
        if "beeps" in data.classes[int(clip.target)] or "hiss" in data.classes[int(clip.target)]:
            continue  # they may fall silent before their event ends
        heard = clip.inputs["audio"][0].view(50, -1).abs().amax(1) > 1e-3
        video = clip.inputs["video"]
        seen = (video - video[:, :, :1, :1]).abs().amax((0, 2, 3)) > 0.02
        heard_at, seen_at = heard.nonzero(), seen.nonzero()
        assert abs(heard_at.min() - seen_at.min()) <= 3
        assert abs(heard_at.max() - seen_at.max()) <= 3


def test_several_labels_overlay_several_events() -> None:
    data = ToyAV(ToyAVConfig(labels_per_clip=3, noise=0))
    assert data.task == "multi-label"
    counts = [int(data.read("train", i).target.sum()) for i in range(150)]
    assert {counts.count(n) > 30 for n in (1, 2, 3)} == {True}
    assert data.labels("train", 4)[0] == 4
    assert set(data.labels("train", 4)) == set(data.read("train", 4).target.nonzero()[:, 0].tolist())


def test_the_fingerprint_follows_what_changes_the_clips_and_nothing_else() -> None:
    plain = ToyAV(ToyAVConfig()).fingerprint()
    assert plain == ToyAV(ToyAVConfig(cache_mib=0)).fingerprint()
    changed = [{"seed": 1}, {"noise": 0.5}, {"size": 16}, {"classes": 9}, {"labels_per_clip": 2}, {"train": 1201}]
    prints = {ToyAV(ToyAVConfig(**change)).fingerprint() for change in changed}
    assert len(prints) == len(changed)
    assert plain not in prints


def test_a_copy_for_another_process_is_small_and_gives_the_same_clips() -> None:
    data = ToyAV(ToyAVConfig())
    before = data.read("train", 5)
    packed = pickle.dumps(data)
    assert len(packed) < 10_000
    assert same(before, pickle.loads(packed).read("train", 5))


def test_a_full_cache_keeps_what_it_has() -> None:
    data = ToyAV(ToyAVConfig(cache_mib=1))
    for i in range(60):
        data.read("train", i)
    assert 10 < len(data._cache) < 60
    assert data._cache.bytes <= 2**20


def test_wrong_requests_are_errors_that_say_so() -> None:
    data = ToyAV(ToyAVConfig(val=0, test=3))
    with pytest.raises(DataError, match="no split 'val'; it has train, test"):
        data.ids("val")
    for index in (3, -1):
        with pytest.raises(IndexError, match="0 to 2"):
            data.read("test", index)
    with pytest.raises(ValidationError, match="only 4 classes"):
        ToyAVConfig(classes=4, labels_per_clip=5)
    with pytest.raises(ValidationError, match="no sample at all"):
        ToyAVConfig(seconds=1e-5)


def test_generation_is_fast() -> None:
    data = ToyAV(ToyAVConfig(cache_mib=0))
    data.read("train", 0)
    shortest = np.inf
    for i in range(40):
        start = time.perf_counter()
        data.read("train", i)
        shortest = min(shortest, time.perf_counter() - start)
    assert shortest < 0.005


def test_noise_free_sounds_are_told_apart_by_a_spectrogram_and_shared_ones_are_not() -> None:
    """Nearest-centroid on spectra: sounds of one class resemble each other; the pattern leaves no trace in them."""
    data = ToyAV(ToyAVConfig(classes=3, noise=0, train=240))
    clips = [data.read("train", i) for i in range(240)]
    window = torch.hann_window(512)
    sound = torch.stack([clip.inputs["audio"][0] for clip in clips])
    spectra = torch.stft(sound, 512, 256, window=window, return_complex=True).abs().mean(2)
    spectra = torch.log(spectra + 1e-3)
    labels = torch.tensor([int(clip.target) for clip in clips])

    def agreement(a: int, b: int) -> float:
        chosen = (labels == a) | (labels == b)
        x, y = spectra[chosen], labels[chosen]
        centres = torch.stack([x[: len(x) // 2][y[: len(x) // 2] == k].mean(0) for k in (a, b)])
        guess = torch.cdist(x[len(x) // 2 :], centres).argmin(1)
        return float((torch.tensor([a, b])[guess] == y[len(x) // 2 :]).float().mean())

    assert agreement(0, 1) > 0.9  # another sound
    assert agreement(0, 2) < 0.7  # the same sound
