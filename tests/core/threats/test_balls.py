"""Balls: nearest points, steepest steps, draws, and a measure in float64 that rounding to float32 does not exceed."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avrobust_core.clip_draws import ClipDraws
from avrobust_core.threats.budgets import Budget
from avrobust_core.threats.clips import clip_norm, per_clip
from avrobust_core.threats.dense_norms import BALLS
from avrobust_core.threats.regions import make_ball, radii

NORMS = sorted(BALLS)
SMALL_TO_LARGE = st.floats(-5, 0.5).map(lambda power: 10**power)
every_norm = pytest.mark.parametrize("norm", NORMS)


def draws(n, seed=0):
    return ClipDraws([seed * 1000 + i for i in range(n)])


def ball_of(center, norm, eps, bounds=None):
    cap = 5.0 if norm == "l0" and bounds is None else None
    return make_ball(center, Budget(norm=norm, eps=eps, cap=cap), bounds)


def draw_eps(norm, eps, generator):
    """A radius for any norm: l0 counts."""
    return float(torch.randint(0, 6, (), generator=generator)) if norm == "l0" else eps


@st.composite
def clips(draw):
    """A batch of 1 to 4 clips of rank 1 to 5 (of the clip), in bounds, some of it at the very bounds."""
    bounds = draw(st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (-2.0, 2.0), (-0.51, 1.51), None]))
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    seed = draw(st.integers(0, 10_000))
    generator = torch.Generator().manual_seed(seed)
    low, high = bounds or (-5.0, 5.0)
    x = torch.rand(draw(st.integers(1, 4)), *shape, generator=generator) * (high - low) * 1.2 + low - 0.1 * (high - low)
    return x.clamp(low, high), bounds, generator


@settings(max_examples=100)
@given(drawn=clips(), norm=st.sampled_from(NORMS), eps=SMALL_TO_LARGE, reach=st.sampled_from([0.1, 1.0, 30.0]))
def test_what_is_projected_is_inside_in_float64_and_stays_there(drawn, norm, eps, reach):
    center, bounds, generator = drawn
    eps = draw_eps(norm, eps, generator)
    ball = ball_of(center, norm, eps, bounds)
    x = center + eps * reach * torch.randn(center.shape, generator=generator)
    inside = ball.project(x)
    assert inside.dtype == torch.float32
    assert (ball.measure(inside) <= eps * (1 if norm in ("linf", "l0") else 1 + 1e-6)).all()
    assert not ball.strays(inside).any()
    torch.testing.assert_close(ball.measure(inside), independent_norm(inside, center, norm), rtol=1e-12, atol=0)
    if bounds is not None:
        assert not ((inside < bounds[0]) | (inside > bounds[1])).any()
    again = ball.project(inside)
    if norm == "linf":
        assert torch.equal(again, inside)
    else:
        torch.testing.assert_close(again, inside, rtol=0, atol=2**-22 * float(center.abs().max() + eps) + 3e-6 * eps)
    for start in (ball.sample(draws(len(center))), ball.project(center)):
        assert (ball.measure(start) <= eps * (1 + 1e-6)).all()
        assert bounds is None or not ((start < bounds[0]) | (start > bounds[1])).any()


def independent_norm(x, center, norm):
    difference = (x.double() - center.double()).flatten(1)
    return {
        "linf": difference.abs().amax(dim=1),
        "l2": difference.square().sum(dim=1).sqrt(),
        "l1": difference.abs().sum(dim=1),
        "l0": (difference != 0).sum(dim=1).double(),
    }[norm]


@settings(max_examples=60)
@given(drawn=clips(), eps=st.floats(1e-3, 3))
def test_linf_projection_is_the_nearest_point(drawn, eps):
    center, bounds, generator = drawn
    x = center + 2 * eps * torch.randn(center.shape, generator=generator)
    nearest = torch.maximum(torch.minimum(x.double(), center.double() + eps), center.double() - eps)
    if bounds is not None:
        nearest = nearest.clamp(*bounds)
    torch.testing.assert_close(
        ball_of(center, "linf", eps, bounds).project(x).double(), nearest, rtol=0, atol=2e-6 * max(1, eps)
    )


@settings(max_examples=60)
@given(drawn=clips(), eps=st.floats(1e-2, 3))
def test_l2_projection_is_the_nearest_point_of_the_ball(drawn, eps):
    center, _, generator = drawn
    x = center + eps * torch.randn(center.shape, generator=generator)
    delta = (x.double() - center.double()).flatten(1)
    share = (eps / delta.norm(dim=1, keepdim=True)).clamp(max=1)
    nearest = (center.double().flatten(1) + delta * share).view_as(x)
    ball = ball_of(center, "l2", eps)
    torch.testing.assert_close(ball.project(x).double(), nearest, rtol=0, atol=1e-4 * eps + 2e-6)


@every_norm
def test_a_point_inside_stays(norm):
    center = torch.rand(3, 2, 5)
    x = center + 0.001 * torch.rand(3, 2, 5)
    torch.testing.assert_close(ball_of(center, norm, 10 if norm == "l0" else 0.1).project(x), x, rtol=0, atol=1e-7)


@every_norm
def test_one_clip_outside_does_not_move_the_others(norm):
    center = torch.zeros(3, 1, 8)
    x = 0.01 * torch.randn(3, 1, 8, generator=torch.Generator().manual_seed(0))
    far = x.clone()
    far[1] = 1e4
    for bounds in (None, (-1.0, 1.0)):
        ball = ball_of(center, norm, 2.0 if norm == "l0" else 0.015, bounds)
        assert not torch.equal(ball.project(x), x)
        assert torch.equal(ball.project(far)[[0, 2]], ball.project(x)[[0, 2]])
        assert torch.equal(ball.step(x, far, 0.5)[[0, 2]], ball.step(x, x, 0.5)[[0, 2]])
        sizes, others = torch.tensor([0.5, 1.0, 0.7]).double(), torch.tensor([0.5, 0.1, 0.7]).double()
        assert torch.equal(ball.within(far, ball.radius * sizes)[[0, 2]], ball.within(x, ball.radius * others)[[0, 2]])


@settings(max_examples=60)
@given(drawn=clips(), norm=st.sampled_from(NORMS), eps=SMALL_TO_LARGE)
def test_a_clip_s_results_are_the_same_alone_and_among_others(drawn, norm, eps):
    center, bounds, generator = drawn
    eps = draw_eps(norm, eps, generator)
    ball = ball_of(center, norm, eps, bounds)
    x = center + eps * torch.randn(center.shape, generator=generator)
    gradient = torch.randn(center.shape, generator=generator)
    sizes = torch.rand(len(x), generator=generator, dtype=torch.float64) * 2
    for i in range(len(x)):
        own = slice(i, i + 1)
        alone = ball_of(center[own], norm, eps, bounds)
        assert torch.equal(alone.project(x[own]), ball.project(x)[own])
        assert torch.equal(alone.step(x[own], gradient[own], 0.3), ball.step(x, gradient, 0.3)[own])
        assert torch.equal(alone.within(x[own], alone.radius * sizes[own]), ball.within(x, ball.radius * sizes)[own])
        torch.testing.assert_close(alone.gain(gradient[own]), ball.gain(gradient)[own])


every_rank = pytest.mark.parametrize("shape", [(6,), (1, 6), (2, 3, 2), (3, 2, 2, 2), (2, 2, 1, 3, 2)])


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@every_rank
def test_no_other_step_of_unit_norm_gains_more_than_the_steepest(norm, shape):
    generator = torch.Generator().manual_seed(len(shape))
    gradient = torch.randn(4, *shape, generator=generator)
    ball = ball_of(torch.zeros(4, *shape), norm, 1.0)
    step = ball.step(ball.center, gradient, 1.0)
    gain = (step * gradient).flatten(1).sum(dim=1)
    torch.testing.assert_close(ball.measure(step), torch.ones(4, dtype=torch.float64))
    flat = gradient.flatten(1)
    expected = {"linf": flat.abs().sum(dim=1), "l2": flat.norm(dim=1), "l1": flat.abs().amax(dim=1)}[norm]
    torch.testing.assert_close(gain, expected)
    torch.testing.assert_close(ball.gain(gradient), expected)
    for _ in range(300):
        other = torch.randn(4, *shape, generator=generator)
        other = other / per_clip(ball.measure(other), other).float()
        assert ((other * gradient).flatten(1).sum(dim=1) <= gain + 1e-5).all()


@every_norm
@every_rank
def test_the_length_of_a_step_is_a_number_or_one_of_each_clip(norm, shape):
    generator = torch.Generator().manual_seed(len(shape))
    center = torch.rand(3, *shape, generator=generator)
    gradient = torch.randn(3, *shape, generator=generator)
    ball = make_ball(center, Budget(norm=norm, eps=4 if norm == "l0" else 0.3), (0.0, 1.0))
    x = ball.sample(draws(3))
    lengths = torch.tensor([0.0, 0.25, 1.0])
    together = ball.step(x, gradient, per_clip(lengths, x))
    for i, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(together[i], ball.step(x, gradient, length)[i], rtol=0, atol=1e-6)
    if norm != "l0":
        assert torch.equal(together[0], x[0])
        torch.testing.assert_close(
            ball_of(x, norm, 1.0).measure(ball_of(x, norm, 0.3).step(x, gradient, per_clip(lengths, x))),
            0.3 * lengths.double(), rtol=0, atol=1e-6,
        )  # fmt: skip


@every_norm
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e20, 1e35])
def test_the_size_of_a_gradient_does_not_matter(norm, scale):
    gradient = torch.randn(3, 4, 10, generator=torch.Generator().manual_seed(0))
    ball = ball_of(torch.zeros(3, 4, 10), norm, 1.0)
    step = ball.step(ball.center, gradient * scale, 1.0)
    torch.testing.assert_close(step, ball.step(ball.center, gradient, 1.0))
    torch.testing.assert_close(ball.measure(step), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(ball.gain(gradient * scale) / scale, ball.gain(gradient))


@every_norm
def test_a_gradient_of_zero_gives_no_step(norm):
    gradient = torch.zeros(2, 5)
    gradient[1, 0] = 1e-30
    ball = ball_of(torch.zeros(2, 5), norm, 1.0)
    edge = 5.0 if norm == "l0" else 1.0
    assert torch.equal(ball.step(ball.center, gradient, 1.0), torch.tensor([[0.0] * 5, [edge] + [0.0] * 4]))
    x = torch.tensor([[0.1, 0, 0, -0.3, 0]]).repeat(2, 1)
    assert torch.equal(ball.step(x, torch.zeros(2, 5), 1.0), x)


def test_draws_from_the_linf_ball_are_uniform():
    ball = ball_of(torch.zeros(400, 50), "linf", 0.3)
    x = ball.sample(draws(400)) / 0.3
    assert abs(x.mean()) < 0.02
    assert abs(x.var() - 1 / 3) < 0.01
    assert abs((x.abs() < 0.5).float().mean() - 0.5) < 0.02


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_draws_from_the_l2_ball_are_uniform(dimension):
    ball = ball_of(torch.zeros(4000, dimension), "l2", 0.3)
    x = ball.sample(draws(4000)) / 0.3
    share = x.norm(dim=1) ** dimension  # the volume inside: uniform on (0, 1)
    expected = torch.linspace(0, 1, 4000)
    assert (share.sort().values - expected).abs().max() < 0.03  # Kolmogorov-Smirnov, about 1.9 of its scale
    assert (x / x.norm(dim=1, keepdim=True)).mean(dim=0).abs().max() < 0.05


@pytest.mark.parametrize("bounds", [None, (-1.0, 1.0)])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 1e-6), ("linf", 0.3), ("l2", 2e-5), ("l2", 3.0)])
def test_draws_from_balls_of_many_samples_come_near_the_edge_and_stay_inside(norm, eps, bounds):
    """Rounding to float32, a good part of the smallest radii, leads out of no ball."""
    center = 1.8 * torch.rand(32, 20_000, generator=torch.Generator().manual_seed(0)) - 0.9
    ball = ball_of(center, norm, eps, bounds)
    size = ball.measure(ball.sample(draws(32))) / eps
    assert (size <= 1).all()
    assert (size > (0.999 if eps > 0.1 else 0.6)).all()


@every_norm
def test_a_draw_depends_on_the_clip_s_own_seed_alone(norm):
    center = torch.rand(4, 3, 5)
    eps = 3.0 if norm == "l0" else 0.1
    whole = ball_of(center, norm, eps).sample(draws(4))
    alone = ball_of(center[2:3], norm, eps).sample(draws(4).select(torch.tensor([2])))
    assert not torch.equal(whole[2], center[2])
    torch.testing.assert_close(alone[0], whole[2], rtol=0, atol=1e-7)


@every_norm
@pytest.mark.parametrize("bounds", [None, (-1.0, 1.0)])
def test_a_radius_of_zero_leaves_the_clips_bit_for_bit(norm, bounds):
    center = torch.rand(3, 2, 7) * 2 - 1
    ball = ball_of(center, norm, 0.0, bounds)
    gradient = torch.randn(3, 2, 7)
    assert torch.equal(ball.project(center + gradient), center)
    assert torch.equal(ball.project(ball.step(center, gradient, 1.0)), center)
    assert torch.equal(ball.within(center + gradient, ball.radius), center)
    assert torch.equal(ball.sample(draws(3)), center)
    assert torch.equal(ball.gain(gradient), torch.zeros(3))
    assert torch.equal(ball.measure(center), torch.zeros(3, dtype=torch.float64))


@every_norm
def test_selecting_gives_the_ball_of_the_selected_clips(norm):
    generator = torch.Generator().manual_seed(0)
    center = torch.rand(5, 2, 3, generator=generator)
    budget = Budget(norm=norm, eps=3 if norm == "l0" else {"snr_db": 20})
    ball = make_ball(center, budget, (0.0, 1.0))
    ball.project(center)
    index = torch.tensor([4, 1])
    selected, fresh = ball.select(index), make_ball(center[index], budget, (0.0, 1.0))
    x = center[index] + torch.randn(2, 2, 3, generator=generator)
    assert torch.equal(selected.project(x), fresh.project(x))
    assert torch.equal(selected.measure(x), fresh.measure(x))
    assert torch.equal(selected.sample(draws(2)), fresh.sample(draws(2)))
    assert torch.equal(selected.radius, fresh.radius)
    assert torch.equal(selected.step_radius, fresh.step_radius)
    assert selected.bounds == fresh.bounds
    assert len(ball.center) == 5
    assert len(ball.select(torch.tensor([], dtype=torch.int64)).center) == 0


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("snr", [-3.0, 20.0, 35.5])
def test_a_perturbation_that_fills_an_snr_ball_has_that_ratio(norm, snr):
    generator = torch.Generator().manual_seed(1)
    clean = torch.randn(3, 1, 400, generator=generator) * torch.tensor([0.01, 0.3, 1.0]).view(3, 1, 1)
    ball = make_ball(clean, Budget(norm=norm, eps={"snr_db": snr}), None)
    origin = torch.zeros_like(clean)
    noise = ball.step(origin, torch.randn(clean.shape, generator=generator), 1.0).double()
    ratio = 10 * torch.log10(clean.double().square().sum(dim=(1, 2)) / noise.square().sum(dim=(1, 2)))
    torch.testing.assert_close(ratio, torch.full((3,), snr, dtype=torch.float64), rtol=0, atol=1e-4)


def test_an_l1_snr_ball_is_filled_by_a_perturbation_spread_evenly():
    clean = torch.randn(3, 1, 400, generator=torch.Generator().manual_seed(1))
    found = radii(clean, Budget(norm="l1", eps={"snr_db": 20}))
    noise = (found / 400).view(3, 1, 1).expand_as(clean)
    ratio = 10 * torch.log10(clean.double().square().sum(dim=(1, 2)) / noise.square().sum(dim=(1, 2)))
    torch.testing.assert_close(ratio, torch.full((3,), 20.0, dtype=torch.float64))


def test_a_silent_clip_has_no_snr_ball():
    clean = torch.zeros(2, 1, 10)
    clean[1] = 1
    found = radii(clean, Budget(norm="l2", eps={"snr_db": 0}))
    torch.testing.assert_close(found, torch.tensor([0.0, math.sqrt(10)], dtype=torch.float64))


def test_a_budget_s_own_bounds_go_before_the_media_s():
    center = torch.zeros(1, 4)
    assert make_ball(center, Budget(eps=1, bounds=(-0.5, 0.5)), (-1.0, 1.0)).bounds == (-0.5, 0.5)
    assert make_ball(center, Budget(eps=1), (-1.0, 1.0)).bounds == (-1.0, 1.0)


@pytest.mark.parametrize("eps", [1e-5, 1e-3, 8 / 255])
def test_a_real_size_clip_stays_inside_an_l2_ball(eps):
    """65,535 samples near 1: half an ulp in each adds up to about the smallest of these radii."""
    generator = torch.Generator().manual_seed(0)
    center = torch.rand(1, 65_535, generator=generator)
    ball = ball_of(center, "l2", eps)
    inside = ball.project(center + torch.randn(center.shape, generator=generator))
    assert ball.measure(inside).item() <= eps * (1 + 1e-6)
    if eps > 1e-4:
        assert ball.measure(inside).item() > 0.98 * eps


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("change", [0.1, 1 / 3])
@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
def test_sums_over_a_whole_video_are_right(norm, change, bounds):
    """Equal changes are the worst case: summed one by one in float32 their squares are off by thousandths."""
    center = torch.full((1, 3, 16, 112, 112), 0.5)
    eps = 30.0 if norm == "l2" else 3000.0  # so much that rounding, of each changed sample, does not count
    ball = ball_of(center, norm, eps, bounds)
    inside = ball.project(center + change)
    assert eps * (1 - 1e-4) < ball.measure(inside).item() <= eps * (1 + 1e-6)
    if norm == "l2":
        step = ball.step(center, torch.full_like(center, change), 1.0)
        assert ball.measure(step).item() == pytest.approx(eps, rel=1e-5)
        gain = ball.gain(torch.full_like(center, change)).item()
        assert gain == pytest.approx(eps * change * center.numel() ** 0.5, rel=1e-6)


def test_a_radius_below_the_last_bit_of_a_sample_leaves_it():
    """Just below 1 the next sample up is further away than the next one down."""
    center = torch.nextafter(torch.tensor([[1.0, -1.0]]), torch.zeros(1, 2))
    ball = ball_of(center, "linf", 0.7 * 2.0**-24)
    assert torch.equal(ball.project(center + torch.tensor([[1.0, -1.0]])), center)
    assert torch.equal(ball.project(center - torch.tensor([[1.0, -1.0]])), center)


@pytest.mark.parametrize("values", [512, 700, 1, 511])
def test_a_clip_s_norm_is_that_of_float64(values):
    x = torch.randn(3, 7, values, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(clip_norm(x), x.double().flatten(1).norm(dim=1), rtol=1e-6, atol=0)


@every_norm
@pytest.mark.parametrize("power", [-12, 12])
def test_huge_and_tiny_clips_are_projected_like_any_others(norm, power):
    scale = 2.0 ** (4 * power)
    generator = torch.Generator().manual_seed(0)
    center, noise = torch.randn(2, 3, 4, generator=generator), torch.randn(2, 3, 4, generator=generator)
    budget = Budget(norm=norm, eps=2 if norm == "l0" else 0.3, cap=5.0 if norm == "l0" else None)
    scaled = budget.model_copy(update={"cap": 5.0 * scale} if norm == "l0" else {"eps": 0.3 * scale})
    usual = make_ball(center, budget, None).project(center + noise)
    found = make_ball(center * scale, scaled, None).project((center + noise) * scale)
    torch.testing.assert_close(found / scale, usual)
    assert not torch.equal(usual, center)


@every_norm
def test_clips_changed_in_place_are_noticed(norm):
    center = torch.rand(3, 5, 7)
    ball = ball_of(center, norm, 1.0, (0.0, 1.0))
    assert ball.altered().tolist() == [False] * 3
    center.data[1, 2, 3] += 1e-3
    assert ball.altered().tolist() == [False, True, False]
    assert ball.select(torch.tensor([1, 2])).altered().tolist() == [True, False]
