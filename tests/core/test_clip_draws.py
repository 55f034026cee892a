"""Random numbers of many clips at once: as published, of their distributions, and each clip's own on any device."""

import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest, laplace, norm, uniform

from avrobust_core import ClipDraws
from avrobust_core import clip_draws as module
from avrobust_core.clip_draws import LEVELS, quantiles
from avrobust_core.randomness import derive_seed

UNIFORM = [[0.9874827265739441, 0.885054886341095], [0.9089757204055786, 0.5045040249824524]]
NUMBERS = {
    "uniform": [[-0.772796630859375, -0.13787841796875], [0.70147705078125, -0.47088623046875]],
    "gaussian": [[0.14042915403842926, -0.32720211148262024], [-0.17660647630691528, -0.32079294323921204]],
    "laplace": [[2.579380989074707, -1.584438681602478], [-0.744652509689331, 1.0793142318725586]],
}
"""The first numbers of clips "clip-1" and "ü" for seed 0 and purpose "start/0/audio", drawn one after the other."""

NOISE = {"uniform": uniform(-1, 2), "gaussian": norm, "laplace": laplace}


def words(draws, count):
    """The next words of each clip, as whole numbers: from what `uniform` makes of their halves."""
    halves = (draws.uniform(2 * count).double() * 2**24).long() - 2**23
    return halves.view(len(draws), count, 2)


def reference(seed, count):
    """SplitMix64 in Python's own numbers, one after the other."""
    state, found = seed, []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        word = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) % 2**64
        word = ((word ^ word >> 27) * 0x94D049BB133111EB) % 2**64
        found.append(word ^ word >> 31)
    return found


def signed(number, bits):
    return number - 2**bits if number >= 2 ** (bits - 1) else number


def at_once(monkeypatch):
    """From here on, numbers are made as on other devices than a CPU."""
    monkeypatch.setattr(ClipDraws, "_in_blocks", ClipDraws._at_once)


def test_words_are_those_of_splitmix64():
    """The first numbers of seed 1234567, as other implementations print them."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert reference(1234567, 4) == known
    expected = [[signed(word % 2**32, 32) >> 8, signed(word >> 32, 32) >> 8] for word in known]
    assert words(ClipDraws([1234567]), 4).tolist() == [expected]


@given(
    seeds=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4), used=st.integers(0, 9), count=st.integers(1, 9)
)
def test_every_number_is_that_of_its_clip_and_counter(seeds, used, count):
    draws = ClipDraws(seeds)
    draws.uniform(2 * used)
    found = (draws.noise((4 * count,), "uniform") * (LEVELS // 2)).long().tolist()
    for seed, row in zip(seeds, found, strict=True):
        expected = reference(seed, used + count)[used:]
        assert row == [signed(word >> 16 * part & 0xFFFF, 16) for word in expected for part in range(4)]


def test_draws_are_what_they_have_always_been():
    """Changing any of these changes every random start that was ever stored."""
    draws = ClipDraws.of(0, ["clip-1", "ü"], "start/0/audio")
    assert draws.uniform(2).tolist() == UNIFORM
    for distribution, expected in NUMBERS.items():
        assert draws.noise((2,), distribution).tolist() == expected


@pytest.mark.parametrize("distribution", NOISE)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 3, 37)])
def test_a_device_that_works_side_by_side_has_the_same_bits(shape, distribution, monkeypatch):
    seeds = [derive_seed(0, i) for i in range(37)]
    monkeypatch.setattr(module, "BLOCK", 16)  # several blocks of a clip, and several clips of a block
    ours = ClipDraws(seeds)
    found = [ours.noise(shape, distribution), ours.uniform(*shape), ours.noise(shape, distribution)]
    at_once(monkeypatch)
    other = ClipDraws(seeds)
    expected = [other.noise(shape, distribution), other.uniform(*shape), other.noise(shape, distribution)]
    assert found[0].shape == (37, *shape)
    assert all(map(torch.equal, found, expected))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_has_the_same_bits():
    here, there = (ClipDraws.of(3, [f"clip-{i}" for i in range(5)], "start", device) for device in ("cpu", "cuda"))
    for distribution in NOISE:
        found = there.noise((3, 4, 50, 51), distribution)
        assert found.is_cuda
        assert torch.equal(here.noise((3, 4, 50, 51), distribution), found.cpu())
    index = torch.tensor([4, 1])
    center, reach = torch.rand(5, 1001), torch.full((5,), 0.1)
    moved = there.around(center.cuda(), reach.cuda(), (0.0, 1.0)).cpu()
    torch.testing.assert_close(here.around(center, reach, (0.0, 1.0)), moved, rtol=0, atol=1e-7)
    assert torch.equal(here.select(index).uniform(1001), there.select(index.cuda()).uniform(1001).cpu())


def test_a_clip_s_numbers_do_not_depend_on_its_batch_nor_on_the_blocks(monkeypatch):
    ids = [f"clip-{i}" for i in range(9)]
    whole = ClipDraws.of(1, ids, "start").noise((3, 70), "gaussian")
    assert torch.equal(ClipDraws.of(1, ids[::-1], "start").noise((3, 70), "gaussian"), whole.flip(0))
    for block in (1, 8, 50, 128):
        monkeypatch.setattr(module, "BLOCK", block)
        assert torch.equal(ClipDraws.of(1, ids[2:5], "start").noise((3, 70), "gaussian"), whole[2:5])


def test_a_selection_goes_on_by_itself():
    whole, all_along = ClipDraws(range(5)), ClipDraws(range(5))
    whole.uniform(3), all_along.uniform(3)
    index = torch.tensor([3, 0])
    part = whole.select(index)
    expected = all_along.uniform(4)
    assert torch.equal(part.uniform(4), expected[index])
    assert torch.equal(whole.uniform(4), expected)  # what was drawn of the part was not drawn of the whole
    assert len(whole.select(torch.tensor([], dtype=torch.int64)).uniform(2)) == 0
    assert len(part) == 2


def test_another_seed_clip_or_purpose_has_other_numbers_and_so_has_the_next_draw():
    keys = [(0, "a", "x"), (1, "a", "x"), (0, "b", "x"), (0, "a", "y")]
    drawn = [ClipDraws.of(seed, [clip], purpose) for seed, clip, purpose in keys]
    found = {tuple(draws.uniform(4).flatten().tolist()) for draws in drawn for _ in range(3)}
    assert len(found) == 12


@pytest.mark.parametrize("blocks", ["_in_blocks", "_at_once"])
def test_nothing_is_drawn_of_no_clip_or_no_sample(blocks, monkeypatch):
    monkeypatch.setattr(ClipDraws, "_in_blocks", getattr(ClipDraws, blocks))
    assert ClipDraws([]).noise((3, 4), "uniform").shape == (0, 3, 4)
    draws = ClipDraws([1, 2])
    assert draws.uniform(0, 5).shape == (2, 0, 5)
    assert draws.around(torch.zeros(2, 0), torch.ones(2), (0.0, 1.0)).shape == (2, 0)
    assert torch.equal(draws.uniform(3), ClipDraws([1, 2]).uniform(3))


@pytest.mark.parametrize("block", [4, 16, 2**15])
@pytest.mark.parametrize("blocks", ["_in_blocks", "_at_once"])
def test_points_around_a_center_are_that_plus_noise_and_cut_at_the_limits(blocks, block, monkeypatch):
    center, reach = (
        torch.rand(5, 3, 7, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0, 0.1, 0.2, 0.4, 0.8]),
    )
    noise = ClipDraws(range(5)).noise((3, 7), "uniform")
    expected = (center + reach.view(-1, 1, 1) * noise).clamp(0.25, 0.75)
    monkeypatch.setattr(module, "BLOCK", block)
    monkeypatch.setattr(ClipDraws, "_in_blocks", getattr(ClipDraws, blocks))
    torch.testing.assert_close(ClipDraws(range(5)).around(center, reach, (0.25, 0.75)), expected, rtol=0, atol=1e-7)


def test_the_global_state_plays_no_part():
    before = torch.get_rng_state()
    first = ClipDraws([5]).noise((100,), "gaussian")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    assert torch.equal(ClipDraws([5]).noise((100,), "gaussian"), first)


def test_noise_is_looked_up_in_the_quantiles():
    middles = [(i + 0.5) / LEVELS for i in (0, 1, 1000, 40_000, LEVELS - 1)]
    for level, share in zip((0, 1, 1000, 40_000, LEVELS - 1), middles, strict=True):
        assert float(quantiles("gaussian")[level]) == pytest.approx(NormalDist().inv_cdf(share), rel=1e-6)
        expected = math.copysign(-math.log(1 - abs(2 * share - 1)), share - 0.5)
        assert float(quantiles("laplace")[level]) == pytest.approx(expected, rel=1e-6)
        assert float(quantiles("uniform")[level]) == 2 * (share - 0.5 / LEVELS) - 1
    for distribution in ("gaussian", "laplace"):
        assert torch.equal(quantiles(distribution), -quantiles(distribution).flip(0))
    draws, again = ClipDraws(range(3)), ClipDraws(range(3))
    rank = (draws.noise((50,), "uniform") * (LEVELS // 2)).long() + LEVELS // 2
    assert torch.equal(again.noise((50,), "gaussian"), quantiles("gaussian")[rank])


@pytest.mark.parametrize("distribution", NOISE)
def test_noise_has_its_distribution(distribution):
    x = ClipDraws.of(0, ["a", "b"], "noise").noise((200_000,), distribution).double()
    known = NOISE[distribution]
    for clip in x:
        assert kstest(clip.numpy(), known.cdf).pvalue > 1e-3
    spread, error = float(known.std()), 4 / x.numel() ** 0.5
    assert abs(x.mean()) < error * spread
    assert x.var() == pytest.approx(spread**2, rel=error * float(known.stats(moments="k") + 2) ** 0.5)
    assert (x**4).mean() / x.var() ** 2 == pytest.approx(float(known.stats(moments="k") + 3), rel=0.05)
    assert len(x.unique()) > 0.9 * LEVELS


def test_uniform_numbers_fill_the_interval_and_leave_out_its_end():
    x = ClipDraws([derive_seed("uniform")]).uniform(1_000_000).double().flatten()
    assert kstest(x.numpy(), "uniform").pvalue > 1e-3
    assert x.min() >= 0
    assert x.max() < 1
    assert torch.equal(x * 2**24, (x * 2**24).round())
    assert len(x.unique()) > 960_000  # of 2^24 values, 29,000 are expected to come again


def test_numbers_of_clips_purposes_and_counters_are_independent():
    """Between neighbours of every kind there is no correlation, linear or of sizes, and no place repeats another."""
    ids = [f"clip-{i}" for i in range(40)]
    drawn = torch.stack([ClipDraws.of(0, ids, purpose).noise((2500,), "gaussian") for purpose in ("x", "y", "y2")])
    rows = drawn.flatten(0, 1).double()
    for values in (rows, rows.square() - 1, (rows > 0).double() * 2 - 1):
        correlation = torch.corrcoef(values) - torch.eye(len(values))
        assert correlation.abs().max() < 5.5 / 50  # of 7,140 pairs; one of 50,000,000 is beyond
        assert correlation.square().mean() == pytest.approx(1 / 2500, rel=0.05)
    flat = drawn[0].flatten()
    for lag in (1, 2, 3, 4, 5, 8, 2500):
        assert abs(float((flat[:-lag] * flat[lag:]).mean())) < 5 / len(flat) ** 0.5


def test_seeds_that_follow_one_another_are_as_good_as_any():
    rows = ClipDraws(range(200)).noise((1000,), "uniform").double()
    correlation = torch.corrcoef(rows) - torch.eye(200)
    assert correlation.abs().max() < 5.5 / 1000**0.5
    bits = (ClipDraws(range(2000)).noise((64,), "uniform") * (LEVELS // 2)).long() + LEVELS // 2
    share = torch.stack([(bits >> bit & 1).double().mean(dim=0) for bit in range(16)])
    assert (share - 0.5).abs().max() < 5 * 0.5 / 2000**0.5
