"""Nearest points, steps and draws of each norm, compared with solvers that know nothing of our formulas."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from avrobust_core.clip_draws import ClipDraws
from avrobust_core.threats import l2_projection as euclidean
from avrobust_core.threats import sparse_norms
from avrobust_core.threats.budgets import Budget
from avrobust_core.threats.clips import per_clip
from avrobust_core.threats.regions import make_ball
from avrobust_core.threats.sparse_norms import L1Ball

BOUNDS = [(0.0, 1.0), (-1.0, 1.0), (-2.0, 2.0), None]


def draws(n):
    return ClipDraws(range(n))


@st.composite
def problems(draw, most=3, rank=5):
    """A batch of clips of rank 1 to 5, a quarter of its samples at the very bounds, a point near by, and bounds."""
    bounds = draw(st.sampled_from(BOUNDS))
    shape = draw(st.lists(st.integers(1, most), min_size=1, max_size=rank))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    low, high = bounds or (-2.0, 2.0)
    center = torch.rand(2, *shape, generator=generator) * (high - low) * 1.5 + low - 0.25 * (high - low)
    center = center.clamp(low, high)
    spread = draw(st.sampled_from([0.05, 0.5, 3.0]))
    heavy = torch.randn(center.shape, generator=generator) * torch.rand(center.shape, generator=generator) ** 2
    return center, center + spread * heavy, bounds


def room_of(center, bounds):
    low, high = bounds or (-np.inf, np.inf)
    return low - center, high - center


def solve(delta, room, reach, norm):
    """The nearest point of ball and box to `delta`, by sequential quadratic programming in float64."""
    down, up = room
    n = len(delta)
    if norm == "l2":
        ball = {"type": "ineq", "fun": lambda y: reach**2 - y @ y, "jac": lambda y: -2 * y}
        start = np.clip(delta, down, up)
        start = start * min(1.0, 0.9 * reach / max(np.linalg.norm(start), 1e-12))
        found = minimize(
            lambda y: 0.5 * ((y - delta) ** 2).sum(), start, jac=lambda y: y - delta, method="SLSQP",
            bounds=list(zip(down, up, strict=True)), constraints=[ball], options={"ftol": 1e-15, "maxiter": 500},
        )  # fmt: skip
        return found.x
    # l1: what goes up and what goes down, each not negative, sum to the reach at most.
    limits = [(0, each) for each in up] + [(0, -each) for each in down]
    ball = {"type": "ineq", "fun": lambda z: reach - z.sum(), "jac": lambda z: -np.ones(2 * n)}
    found = minimize(
        lambda z: 0.5 * ((z[:n] - z[n:] - delta) ** 2).sum(), np.zeros(2 * n),
        jac=lambda z: np.concatenate((z[:n] - z[n:] - delta, -(z[:n] - z[n:] - delta))), method="SLSQP",
        bounds=limits, constraints=[ball], options={"ftol": 1e-15, "maxiter": 500},
    )  # fmt: skip
    return found.x[:n] - found.x[n:]


@settings(max_examples=60)
@given(drawn=problems(most=2, rank=4), norm=st.sampled_from(["l2", "l1"]), eps=st.sampled_from([0.03, 0.3, 1.0, 4.0]))
def test_projections_agree_with_quadratic_programming(drawn, norm, eps):
    center, x, bounds = drawn
    found = make_ball(center, Budget(norm=norm, eps=eps), bounds).project(x)
    for clip, point, ours in zip(*(each.double().flatten(1).numpy() for each in (center, x, found)), strict=True):
        theirs = solve(point - clip, room_of(clip, bounds), eps, norm)
        np.testing.assert_allclose(ours - clip, theirs, rtol=0, atol=3e-5)


@settings(max_examples=100)
@given(drawn=problems(), eps=st.floats(1e-3, 8))
def test_the_l2_projection_is_the_point_that_a_bisection_ends_on(drawn, eps):
    """All shapes: a share of the perturbation, clamped, whose length is the radius."""
    center, x, bounds = drawn
    ball = make_ball(center, Budget(norm="l2", eps=eps), bounds)
    found = (ball.project(x).double() - center.double()).flatten(1).numpy()
    loose = (ball.within(x, ball.radius).double() - center.double()).flatten(1).numpy()
    for i, (clip, point) in enumerate(zip(*(each.double().flatten(1).numpy() for each in (center, x)), strict=True)):
        room = room_of(clip, bounds)
        low, high = 0.0, 1.0
        while high - low > 1e-15 * high:
            middle = (low + high) / 2
            if middle in (low, high):
                break
            held = np.linalg.norm(np.clip(middle * (point - clip), *room)) <= eps
            low, high = (middle, high) if held else (low, middle)
        expected = np.clip((1.0 if high == 1 else low) * (point - clip), *room)
        np.testing.assert_allclose(found[i], expected, rtol=1e-5, atol=1e-5 * eps + 1e-6)
        np.testing.assert_allclose(loose[i], expected, rtol=1e-5, atol=3e-6 * eps + 5e-7)


@settings(max_examples=100)
@given(drawn=problems(), eps=st.floats(1e-3, 8))
def test_the_l1_projection_is_the_point_that_a_bisection_ends_on(drawn, eps):
    center, x, bounds = drawn
    found = make_ball(center, Budget(norm="l1", eps=eps), bounds).project(x)
    rows = zip(*(each.double().flatten(1).numpy() for each in (center, x, found)), strict=True)
    for clip, point, ours in rows:
        down, up = room_of(clip, bounds)
        delta = point - clip

        def lowered(threshold, delta=delta, down=down, up=up):
            return np.clip(np.sign(delta) * np.maximum(np.abs(delta) - threshold, 0), down, up)

        low, high = 0.0, np.abs(delta).max()
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if np.abs(lowered(middle)).sum() > eps else (low, middle)
        expected = lowered(0.0) if np.abs(lowered(0.0)).sum() <= eps else lowered(high)
        grain = 1e-6 * max(1, np.abs(delta).max())  # the threshold is about as large as the largest change, in float32
        np.testing.assert_allclose(ours - clip, expected, rtol=0, atol=1e-5 * eps + grain)


@settings(max_examples=60)
@given(
    drawn=problems(most=2, rank=3),
    count=st.integers(0, 5),
    cap=st.sampled_from([None, 0.2]),
    frame_steps=st.sampled_from([None, 1, 2, 3]),
)
def test_the_l0_projection_is_the_best_of_all_subsets(drawn, count, cap, frame_steps):
    center, x, bounds = drawn
    if bounds is None and cap is None:
        cap = 0.7
    budget = Budget(norm="l0", eps=count, cap=cap)
    groups = [[i] for i in range(center[0].numel())]
    if frame_steps is not None:  # time is the last axis of a clip
        budget = Budget(norm="l0", eps=count, cap=cap, per="frame", frame_steps=frame_steps)
        step = torch.arange(center[0].numel()) % center.shape[-1] // frame_steps
        groups = [np.flatnonzero(step.numpy() == k).tolist() for k in range(int(step.max()) + 1)]
    ball = make_ball(center, budget, bounds, time_axis=center.dim() - 2)
    found = ball.project(x)
    assert not ball.strays(found).any()
    assert (ball.measure(found) <= count).all()
    limit = np.inf if cap is None else cap
    for clip, point, ours in zip(*(each.double().flatten(1).numpy() for each in (center, x, found)), strict=True):
        down, up = room_of(clip, bounds)
        cut = clip + np.clip(point - clip, np.maximum(down, -limit), np.minimum(up, limit))
        best = np.inf
        for chosen in combinations(groups, min(count, len(groups))):
            candidate = clip.copy()
            for group in chosen:
                candidate[group] = cut[group]
            best = min(best, ((candidate - point) ** 2).sum())
        assert ((ours - point) ** 2).sum() <= best + 1e-6 * (1 + best)


@settings(max_examples=80)
@given(drawn=problems(), length=st.floats(0.01, 6))
def test_an_l1_step_is_the_best_point_of_box_and_ball(drawn, length):
    center, x, bounds = drawn
    if bounds is not None:
        x = x.clamp(*bounds)
    gradient = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) + 0.01
    ball = make_ball(center, Budget(norm="l1", eps=2 * length), bounds)
    there = ball.step(x, gradient, 0.5)
    there = there if bounds is None else there.clamp(*bounds)
    moved = (there.double() - x.double()).flatten(1).numpy()
    for start, slope, move in zip(*(e.double().flatten(1).numpy() for e in (x, gradient)), moved, strict=True):
        down, up = room_of(start, bounds)
        n = len(start)
        best = linprog(
            np.concatenate((-slope, slope)), A_ub=np.ones((1, 2 * n)), b_ub=[length],
            bounds=[(0, None if np.isinf(u) else u) for u in up] + [(0, None if np.isinf(d) else -d) for d in down],
        )  # fmt: skip
        assert np.abs(move).sum() <= length * (1 + 1e-5) + 1e-5
        assert move @ slope == pytest.approx(-best.fun, rel=1e-4, abs=1e-5)


def test_an_l1_step_that_needs_most_of_a_long_clip_is_exact_for_each_clip():
    """The first few hundred samples are sorted first, and more only for the clips that need them."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 9000, generator=generator)
    gradient = torch.randn(3, 9000, generator=generator)
    radius = torch.tensor([1.0, 700.0, 1e5], dtype=torch.float64)
    moved = L1Ball(x, radius, (0.0, 1.0)).step(x, gradient, 1.0).clamp(0, 1) - x
    for i in range(3):
        room = torch.where(gradient[i] > 0, 1 - x[i], x[i]).double()
        order = gradient[i].abs().argsort(descending=True)
        before = room[order].cumsum(0) - room[order]
        best = (gradient[i].abs()[order] * torch.minimum(room[order], (radius[i] - before).clamp(min=0))).sum()
        assert float((moved[i].double() * gradient[i]).sum()) == pytest.approx(float(best), rel=1e-4)


@pytest.mark.parametrize("per", ["sample", "frame"])
def test_an_l0_step_of_length_1_from_the_clean_clip_gains_what_no_other_point_of_the_ball_does(per):
    generator = torch.Generator().manual_seed(0)
    center = torch.rand(4, 2, 5, generator=generator)
    gradient = torch.randn(4, 2, 5, generator=generator)
    ball = make_ball(center, Budget(norm="l0", eps=2, per=per, cap=0.6), (0.0, 1.0), time_axis=1)
    moved = ball.step(center, gradient, 1.0) - center
    gain = (moved * gradient).sum(dim=(1, 2))
    torch.testing.assert_close(gain, ball.gain(gradient))
    best = gradient * torch.where(gradient > 0, (1 - center).clamp(max=0.6), (-center).clamp(min=-0.6))
    groups = best.sum(dim=1) if per == "frame" else best.flatten(1)
    torch.testing.assert_close(gain, groups.topk(2, dim=1).values.sum(dim=1))
    assert torch.equal(ball.project(center + moved), center + moved)


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("per", ["sample", "frame"])
def test_l0_steps_on_a_linear_function_end_at_its_best_point(per, random_start):
    """From any start: samples chosen at first give way to better ones."""
    generator = torch.Generator().manual_seed(0)
    center = torch.rand(3, 2, 40, generator=generator)
    gradient = torch.randn(3, 2, 40, generator=generator)
    ball = make_ball(center, Budget(norm="l0", eps=5, per=per), (0.0, 1.0), time_axis=1)
    x = ball.sample(draws(3)) if random_start else center
    for _ in range(20):
        x = ball.project(ball.step(x, gradient, 0.125))
    torch.testing.assert_close(((x - center) * gradient).sum(dim=(1, 2)), ball.gain(gradient))


def test_l0_keeps_what_is_dearest_to_undo_also_where_bounds_cut_it():
    """Not what moves furthest: of what is cut at a bound, more is lost if the sample goes back to where it was."""
    generator = torch.Generator().manual_seed(0)
    center = torch.rand(200, 6, generator=generator)
    x = center + torch.randn(200, 6, generator=generator)
    found = make_ball(center, Budget(norm="l0", eps=2), (0.0, 1.0)).project(x)
    errors = [
        (torch.where(torch.tensor([i in pair for i in range(6)]), x.clamp(0, 1), center) - x).square().sum(dim=1)
        for pair in combinations(range(6), 2)
    ]
    torch.testing.assert_close((found - x).square().sum(dim=1), torch.stack(errors).amin(dim=0))


def test_of_equal_changes_l0_keeps_the_first_whatever_other_clips_keep():
    center = torch.zeros(2, 6)
    ball = make_ball(center, Budget(norm="l0", eps=5), (0.0, 1.0))
    x = torch.ones(2, 6)
    assert ball.within(x, torch.tensor([2.0, 5.0]).double())[0].tolist() == [1, 1, 0, 0, 0, 0]
    assert ball.within(x, torch.tensor([2.0, 1.0]).double())[0].tolist() == [1, 1, 0, 0, 0, 0]


def test_an_l0_size_below_a_count_by_rounding_alone_is_that_count():
    center = torch.zeros(1, 100)
    ball = make_ball(center, Budget(norm="l0", eps=22), (0.0, 1.0))
    x = torch.zeros(1, 100)
    x[0, :15] = 1  # 15 / 22 * 22 is below 15 in float64
    assert torch.equal(ball.within(x, ball.radius * (ball.measure(x) / ball.radius)), x)


def test_draws_from_the_l1_ball_are_uniform():
    ball = make_ball(torch.zeros(4000, 3), Budget(norm="l1", eps=0.3), None)
    x = ball.sample(draws(4000)) / 0.3
    share = x.abs().sum(dim=1) ** 3  # the volume inside: uniform on (0, 1)
    assert (share.sort().values - torch.linspace(0, 1, 4000)).abs().max() < 0.03
    assert x.mean(dim=0).abs().max() < 0.03
    # Uniform on the ball: a coordinate's size is below 1/2 but for the corner beyond, of volume (1/2)^3.
    assert abs((x[:, 0].abs() > 0.5).float().mean() - 0.125) < 0.02


@pytest.mark.parametrize("per", ["sample", "frame"])
def test_draws_from_an_l0_ball_choose_all_places_alike(per):
    center = torch.full((2000, 2, 5), 0.25)
    ball = make_ball(center, Budget(norm="l0", eps=1, per=per, frame_steps=2 if per == "frame" else 1), (0.0, 1.0), 1)
    x = ball.sample(draws(2000))
    assert (ball.measure(x) == 1).all()
    chosen = (x != center).float()
    where = chosen.amax(dim=1)[:, ::2] if per == "frame" else chosen.flatten(1)
    torch.testing.assert_close(where.mean(dim=0), torch.full((where.shape[1],), 1 / where.shape[1]), rtol=0, atol=0.035)
    moved = (x - center)[x != center]
    assert abs(moved.mean() - 0.25) < 0.03  # uniform from -0.25 to 0.75
    assert moved.min() >= -0.25
    assert moved.max() <= 0.75


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_no_gradient_flows_through_a_projection(norm):
    x = torch.rand(2, 6, requires_grad=True)
    ball = make_ball(torch.zeros(2, 6), Budget(norm=norm, eps=1), (0.0, 1.0))
    assert not ball.project(x).requires_grad
    assert not ball.within(x, ball.radius).requires_grad


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_what_is_given_is_not_changed(norm):
    generator = torch.Generator().manual_seed(0)
    center, x, gradient = (torch.rand(2, 3, 4, generator=generator) for _ in range(3))
    given = [each.clone() for each in (center, x, gradient)]
    ball = make_ball(center, Budget(norm=norm, eps=1), (0.0, 1.0))
    ball.project(x), ball.within(x, ball.radius), ball.step(x, gradient, 0.5)
    ball.gain(gradient), ball.measure(x), ball.sample(draws(2)), ball.strays(x), ball.confine(x)
    ball.step(x, gradient, per_clip(torch.ones(2), x))
    assert all(map(torch.equal, (center, x, gradient), given))


@pytest.mark.parametrize(("norm", "eps", "most"), [("l2", 2.0, 5), ("l1", 60.0, 7)])
def test_a_projection_from_a_step_away_takes_few_rounds(norm, eps, most, monkeypatch):
    """Where the host does not wait for the device the rounds are counted out, and must be enough."""
    rounds = []
    for module in (euclidean, sparse_norms):
        monkeypatch.setattr(module, "settled", lambda flags: rounds.append(1) or bool(flags.all()))
    generator = torch.Generator().manual_seed(0)
    center = (torch.rand(1, 20_000, generator=generator) * 1.4 - 0.2).clamp(0, 1)
    gradient = torch.randn(1, 20_000, generator=generator)
    ball = make_ball(center, Budget(norm=norm, eps=eps), (0.0, 1.0))
    x = center
    for _ in range(8):
        x = ball.step(x, gradient + 0.5 * torch.randn(1, 20_000, generator=generator), 0.25)
        rounds.clear()
        x = ball.project(x)
        assert len(rounds) <= most * (2 if norm == "l2" else 1)  # l2 asks twice a round
    assert ball.measure(x) > 0.999 * eps
    rounds.clear()
    wide = make_ball(center, Budget(norm=norm, eps=25 * eps), (0.0, 1.0))
    far = wide.project(center + torch.randn(1, 20_000, generator=generator))  # much of it beyond the bounds
    assert len(rounds) <= 12
    assert wide.measure(far) > 0.999 * 25 * eps
