"""Balls: nearest points, steepest steps, draws, and a measure in float64 that rounding to float32 does not exceed."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avrobust_core.balls import per_clip
from avrobust_core.budgets import Budget
from avrobust_core.norms import BALLS
from avrobust_core.regions import make_ball, radii

NORMS = sorted(BALLS)
SMALL_TO_LARGE = st.floats(-5, 0.5).map(lambda power: 10**power)
every_norm = pytest.mark.parametrize("norm", NORMS)


def generators(n, seed=0):
    return [torch.Generator().manual_seed(seed * 1000 + i) for i in range(n)]


def ball_of(center, norm, eps, bounds=None):
    return make_ball(center, Budget(norm=norm, eps=eps), bounds)


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


@settings(max_examples=150, deadline=None)
@given(drawn=clips(), norm=st.sampled_from(NORMS), eps=SMALL_TO_LARGE, reach=st.sampled_from([0.1, 1.0, 30.0]))
def test_what_is_projected_is_inside_in_float64_and_stays_there(drawn, norm, eps, reach):
    center, bounds, generator = drawn
    ball = ball_of(center, norm, eps, bounds)
    x = center + eps * reach * torch.randn(center.shape, generator=generator)
    inside = ball.project(x)
    assert inside.dtype == torch.float32
    assert (ball.measure(inside) <= eps * (1 if norm == "linf" else 1 + 1e-6)).all()
    torch.testing.assert_close(ball.measure(inside), independent_norm(inside, center, norm), rtol=1e-12, atol=0)
    if bounds is not None:
        assert not ((inside < bounds[0]) | (inside > bounds[1])).any()
    again = ball.project(inside)
    if norm == "linf":
        assert torch.equal(again, inside)
    else:
        torch.testing.assert_close(again, inside, rtol=0, atol=2**-22 * float(center.abs().max() + eps))
    for start in (ball.sample(generators(len(center))), ball.project(center)):
        assert (ball.measure(start) <= eps * (1 + 1e-6)).all()
        assert bounds is None or not ((start < bounds[0]) | (start > bounds[1])).any()


def independent_norm(x, center, norm):
    difference = (x.double() - center.double()).flatten(1)
    return difference.abs().amax(dim=1) if norm == "linf" else difference.square().sum(dim=1).sqrt()


@settings(max_examples=60, deadline=None)
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


@settings(max_examples=60, deadline=None)
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
    torch.testing.assert_close(ball_of(center, norm, 0.1).project(x), x, rtol=0, atol=1e-7)


@every_norm
def test_one_clip_outside_does_not_move_the_others(norm):
    center = torch.zeros(3, 1, 8)
    x = 0.01 * torch.randn(3, 1, 8, generator=torch.Generator().manual_seed(0))
    far = x.clone()
    far[1] = 1e4
    ball = ball_of(center, norm, 0.5)
    assert torch.equal(ball.project(far)[[0, 2]], ball.project(x)[[0, 2]])
    assert torch.equal(ball.steepest(far)[[0, 2]], ball.steepest(x)[[0, 2]])


@every_norm
@pytest.mark.parametrize("shape", [(6,), (1, 6), (2, 3, 2), (3, 2, 2, 2), (2, 2, 1, 3, 2)])
def test_no_other_step_of_unit_norm_gains_more_than_the_steepest(norm, shape):
    generator = torch.Generator().manual_seed(len(shape))
    gradient = torch.randn(4, *shape, generator=generator)
    ball = ball_of(torch.zeros(4, *shape), norm, 1.0)
    step = ball.steepest(gradient)
    gain = (step * gradient).flatten(1).sum(dim=1)
    torch.testing.assert_close(ball.measure(step), torch.ones(4, dtype=torch.float64))
    flat = gradient.flatten(1)
    torch.testing.assert_close(gain, flat.abs().sum(dim=1) if norm == "linf" else flat.norm(dim=1))
    for _ in range(300):
        other = torch.randn(4, *shape, generator=generator)
        other = other / per_clip(ball.measure(other), other).float()
        assert ((other * gradient).flatten(1).sum(dim=1) <= gain + 1e-5).all()


@every_norm
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e20, 1e35])
def test_the_size_of_a_gradient_does_not_matter(norm, scale):
    gradient = torch.randn(3, 4, 10, generator=torch.Generator().manual_seed(0))
    ball = ball_of(torch.zeros(3, 4, 10), norm, 1.0)
    torch.testing.assert_close(ball.steepest(gradient * scale), ball.steepest(gradient))
    torch.testing.assert_close(ball.measure(ball.steepest(gradient * scale)), torch.ones(3, dtype=torch.float64))


@every_norm
def test_a_gradient_of_zero_gives_no_step(norm):
    gradient = torch.zeros(2, 5)
    gradient[1, 0] = 1e-30
    step = ball_of(torch.zeros(2, 5), norm, 1.0).steepest(gradient)
    assert torch.equal(step, torch.tensor([[0.0] * 5, [1.0] + [0.0] * 4]))


def test_draws_from_the_linf_ball_are_uniform():
    ball = ball_of(torch.zeros(400, 50), "linf", 0.3)
    x = ball.sample(generators(400)) / 0.3
    assert abs(x.mean()) < 0.02
    assert abs(x.var() - 1 / 3) < 0.01
    assert abs((x.abs() < 0.5).float().mean() - 0.5) < 0.02


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_draws_from_the_l2_ball_are_uniform(dimension):
    ball = ball_of(torch.zeros(4000, dimension), "l2", 0.3)
    x = ball.sample(generators(4000)) / 0.3
    share = x.norm(dim=1) ** dimension  # the volume inside: uniform on (0, 1)
    expected = torch.linspace(0, 1, 4000)
    assert (share.sort().values - expected).abs().max() < 0.03  # Kolmogorov-Smirnov, about 1.9 of its scale
    assert (x / x.norm(dim=1, keepdim=True)).mean(dim=0).abs().max() < 0.05


@every_norm
def test_a_draw_depends_on_the_clips_own_generator_alone(norm):
    center = torch.rand(4, 3, 5)
    whole = ball_of(center, norm, 0.1).sample(generators(4))
    alone = ball_of(center[2:3], norm, 0.1).sample(generators(4)[2:3])
    torch.testing.assert_close(alone[0], whole[2], rtol=0, atol=1e-7)


@every_norm
@pytest.mark.parametrize("bounds", [None, (-1.0, 1.0)])
def test_a_radius_of_zero_leaves_the_clips_bit_for_bit(norm, bounds):
    center = torch.rand(3, 2, 7) * 2 - 1
    ball = ball_of(center, norm, 0.0, bounds)
    assert torch.equal(ball.project(center + torch.randn(3, 2, 7)), center)
    assert torch.equal(ball.sample(generators(3)), center)
    assert torch.equal(ball.measure(center), torch.zeros(3, dtype=torch.float64))


@every_norm
def test_selecting_gives_the_ball_of_the_selected_clips(norm):
    generator = torch.Generator().manual_seed(0)
    center = torch.rand(5, 2, 3, generator=generator)
    ball = make_ball(center, Budget(norm=norm, eps={"snr_db": 20}), (0.0, 1.0))
    index = torch.tensor([4, 1])
    selected, fresh = ball.select(index), make_ball(center[index], Budget(norm=norm, eps={"snr_db": 20}), (0.0, 1.0))
    x = center[index] + torch.randn(2, 2, 3, generator=generator)
    assert torch.equal(selected.project(x), fresh.project(x))
    assert torch.equal(selected.measure(x), fresh.measure(x))
    assert torch.equal(selected.sample(generators(2)), fresh.sample(generators(2)))
    assert torch.equal(selected.radius, fresh.radius)
    assert torch.equal(selected.step_radius, fresh.step_radius)
    assert selected.bounds == fresh.bounds
    assert len(ball.center) == 5
    assert len(ball.select(torch.tensor([], dtype=torch.int64)).center) == 0


@every_norm
@pytest.mark.parametrize("snr", [-3.0, 20.0, 35.5])
def test_a_perturbation_that_fills_an_snr_ball_has_that_ratio(norm, snr):
    generator = torch.Generator().manual_seed(1)
    clean = torch.randn(3, 1, 400, generator=generator) * torch.tensor([0.01, 0.3, 1.0]).view(3, 1, 1)
    ball = make_ball(clean, Budget(norm=norm, eps={"snr_db": snr}), None)
    noise = ball.steepest(torch.randn(clean.shape, generator=generator)).double() * per_clip(ball.radius, clean)
    ratio = 10 * torch.log10(clean.double().square().sum(dim=(1, 2)) / noise.square().sum(dim=(1, 2)))
    torch.testing.assert_close(ratio, torch.full((3,), snr, dtype=torch.float64), rtol=0, atol=1e-4)


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
    """65,535 samples near 1: half an ulp in each adds up to more than the smallest of these radii."""
    generator = torch.Generator().manual_seed(0)
    center = torch.rand(1, 65_535, generator=generator)
    ball = ball_of(center, "l2", eps)
    inside = ball.project(center + torch.randn(center.shape, generator=generator))
    assert ball.measure(inside).item() <= eps * (1 + 1e-6)
    if eps == 8 / 255:
        assert ball.measure(inside).item() > 0.99 * eps
