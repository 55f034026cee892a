"""Regions: balls side by side and one shared ball, against closed forms; perturbations that time limits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avrobust_core import ClipDraws, DataError
from avrobust_core.threats.budgets import Budget
from avrobust_core.threats.regions import Region, SharedRegion, make_ball

NAMES = ("audio", "depth", "video")
SHAPES = {"audio": (9,), "depth": (2, 3), "video": (2, 2, 1, 3)}
BOUNDS = {"audio": (-1.0, 1.0), "depth": None, "video": (0.0, 1.0)}


def draws(n, seed=0):
    return ClipDraws([seed * 1000 + i for i in range(n)])


def rand(seed, n, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(n, *shape, generator=generator) for name, shape in SHAPES.items()}


def cleans(seed, n):
    """A third of the samples at the very bounds."""
    return {name: x if BOUNDS[name] is None else (0.8 * x).clamp(*BOUNDS[name]) for name, x in rand(seed, n).items()}


def plus(x, y):
    return {name: x[name] + y[name] for name in x}


def shared(clean, eps, bounds=BOUNDS):
    """`eps`: by modality, a number or {"snr_db": ...}."""
    balls = {n: make_ball(clean[n], Budget.model_validate({"norm": "l2", "eps": eps[n]}), bounds[n]) for n in clean}
    return SharedRegion(balls)


def flat(x, i, scale=None):
    """One clip of all modalities laid end to end, each over its scale: float64."""
    scale = scale or dict.fromkeys(x, 1.0)
    return np.concatenate([x[name][i].double().flatten().numpy() / scale[name] for name in NAMES])


radii_of = st.fixed_dictionaries({name: st.sampled_from([0.0, 0.05, 0.3, 1.0, 4.0]) for name in NAMES})


@settings(max_examples=100)
@given(seed=st.integers(0, 10_000), eps=radii_of, spread=st.sampled_from([0.05, 1.0, 5.0]), bounded=st.booleans())
def test_the_shared_projection_is_that_of_one_ball_over_all_modalities_in_units_of_their_radii(
    seed, eps, spread, bounded
):
    bounds = BOUNDS if bounded else dict.fromkeys(NAMES)
    clean = cleans(seed, 2)
    x = plus(clean, rand(seed + 1, 2, spread))
    region = shared(clean, eps, bounds)
    found = region.project(x)
    assert (region.size(found) <= 1 + 1e-6).all()
    for name in NAMES:
        low, high = bounds[name] or (-np.inf, np.inf)
        assert not ((found[name] < low) | (found[name] > high)).any()
        if eps[name] == 0:
            assert torch.equal(found[name], clean[name])
    unit = {name: radius or 1e-12 for name, radius in eps.items()}  # a radius of 0: huge in its units, so it stays
    ends = [bounds[n] or (-np.inf, np.inf) for n in NAMES]
    low, high = (
        np.concatenate([np.full(clean[n][0].numel(), end[k] / unit[n]) for n, end in zip(NAMES, ends, strict=True)])
        for k in (0, 1)
    )
    free = np.concatenate([np.full(clean[n][0].numel(), eps[n] > 0) for n in NAMES])
    for i in range(2):
        center, point = flat(clean, i, unit), flat(x, i, unit)
        delta = np.where(free, point - center, 0)

        def held(share, center=center, delta=delta):
            return np.where(free, np.clip(share * delta, low - center, high - center), 0)

        lowest, highest = 0.0, 1.0
        if np.linalg.norm(held(1.0)) > 1:
            for _ in range(100):
                middle = (lowest + highest) / 2
                lowest, highest = (middle, highest) if np.linalg.norm(held(middle)) <= 1 else (lowest, middle)
        expected = held(highest)
        ours = np.where(free, flat(found, i, unit) - center, 0)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), eps=st.sampled_from([0.1, 1.0, 3.0]))
def test_with_equal_radii_the_shared_ball_is_the_l2_ball_of_all_laid_end_to_end(seed, eps):
    clean = {name: x.clamp(0, 1) for name, x in rand(seed, 3).items()}
    x, gradients = plus(clean, rand(seed + 1, 3)), rand(seed + 2, 3)
    region = shared(clean, dict.fromkeys(NAMES, eps), dict.fromkeys(NAMES, (0.0, 1.0)))

    def joined(parts):
        return torch.cat([parts[name].flatten(1) for name in NAMES], dim=1)

    ball = make_ball(joined(clean), Budget(norm="l2", eps=eps), (0.0, 1.0))
    torch.testing.assert_close(joined(region.project(x)), ball.project(joined(x)), rtol=0, atol=3e-6)
    torch.testing.assert_close(region.size(x), ball.measure(joined(x)) / eps)
    size = torch.tensor([0.1, 0.5, 2.0]).double()
    torch.testing.assert_close(joined(region.within(x, size)), ball.within(joined(x), eps * size), rtol=0, atol=3e-6)
    torch.testing.assert_close(
        joined(region.step(x, gradients, 0.4)), ball.step(joined(x), joined(gradients), 0.4), rtol=0, atol=3e-6
    )
    torch.testing.assert_close(region.gain(gradients), ball.gain(joined(gradients)))


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 1e25])
def test_a_shared_step_is_the_steepest_of_its_size(scale):
    eps = {"audio": 0.02, "depth": 0.7, "video": 3.0}
    clean = cleans(0, 3)
    region = shared(clean, eps, dict.fromkeys(NAMES))
    gradients = {name: scale * x for name, x in rand(1, 3).items()}
    lengths = torch.tensor([0.25, 1.0, 2.0])
    moved = region.step(clean, gradients, lengths)
    torch.testing.assert_close(region.size(moved), lengths.double(), rtol=1e-4, atol=0)

    def gain(x):
        return sum(((x[n] - clean[n]).double() * gradients[n]).flatten(1).sum(dim=1) for n in NAMES)

    torch.testing.assert_close(gain(moved), lengths * region.gain(gradients).double(), rtol=1e-4, atol=0)
    for seed in range(100):
        other = rand(2 + seed, 3)
        other = {n: other[n] * eps[n] for n in NAMES}
        size = region.size(plus(clean, other))
        share = (lengths / size).float()
        other = {n: clean[n] + other[n] * share.view(-1, *[1] * (other[n].dim() - 1)) for n in NAMES}
        assert (gain(other) <= gain(moved) * (1 + 1e-4)).all()


def test_a_shared_step_without_a_gradient_does_not_move():
    clean = cleans(0, 2)
    region = shared(clean, dict.fromkeys(NAMES, 1.0))
    gradients = {name: torch.zeros_like(x) for name, x in clean.items()}
    gradients["audio"][1] = 1e-30
    moved = region.step(clean, gradients, 1.0)
    assert torch.equal(moved["video"], clean["video"])
    assert torch.equal(moved["audio"][0], clean["audio"][0])
    assert region.size(moved)[1].item() == pytest.approx(1, rel=1e-5)


def test_a_shared_region_of_signal_to_noise_ratios_takes_each_clip_s_own_radii():
    clean = cleans(0, 3)
    clean["audio"][1] = 0  # silent: no radius, no change
    region = shared(clean, {"audio": {"snr_db": 20}, "depth": 0.3, "video": {"snr_db": 30}})
    found = region.project(plus(clean, rand(1, 3)))
    assert torch.equal(found["audio"][1], clean["audio"][1])
    size = region.size(found)
    assert ((size <= 1 + 1e-6) & (size > 0.99)).all()
    lengths = {n: (found[n] - clean[n]).double().flatten(1).norm(dim=1) for n in NAMES}
    radii = {n: clean[n].double().flatten(1).norm(dim=1) * 10 ** (-snr / 20) for n, snr in
             (("audio", 20), ("video", 30))}  # fmt: skip
    own = (lengths["depth"] / 0.3).square() + (lengths["video"] / radii["video"]).square()
    own = own + torch.where(radii["audio"] > 0, lengths["audio"] / radii["audio"], 0).square()
    torch.testing.assert_close(size, own.sqrt())


def test_a_size_is_infinite_where_a_modality_of_radius_0_was_changed():
    clean = cleans(0, 2)
    region = shared(clean, {"audio": 0.0, "depth": 1.0, "video": 1.0})
    moved = {name: x.clone() for name, x in clean.items()}
    assert region.size(moved).tolist() == [0, 0]
    moved["audio"][1, 0] += 0.1
    assert region.size(moved).tolist() == [0, float("inf")]
    assert Region(region.balls).size(moved).tolist() == [0, float("inf")]


def test_a_radius_that_rounding_fills_leaves_the_other_modalities_their_own():
    clean = cleans(0, 2)
    region = shared(clean, {"audio": 1e-9, "depth": 1.0, "video": 1.0})
    found = region.project(plus(clean, rand(1, 2)))
    assert torch.equal(found["audio"], clean["audio"])
    assert (region.size(found) > 0.99).all()


@pytest.mark.parametrize("kind", [SharedRegion, Region])
def test_radii_of_0_leave_the_clips_bit_for_bit(kind):
    clean = cleans(0, 2)
    region = kind(shared(clean, dict.fromkeys(NAMES, 0.0)).balls)
    gradients = rand(1, 2)
    for found in (
        region.project(plus(clean, gradients)),
        region.project(region.step(clean, gradients, 1.0)),
        region.within(plus(clean, gradients), torch.ones(2).double()),
        region.sample(lambda name: draws(2)),
    ):
        assert all(torch.equal(found[name], clean[name]) for name in NAMES)
    assert region.gain(gradients).tolist() == [0, 0]


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), spread=st.sampled_from([0.1, 2.0]))
def test_a_clip_s_region_is_the_same_alone_and_among_others(seed, spread):
    clean = cleans(seed, 3)
    x, gradients = plus(clean, rand(seed + 1, 3, spread)), rand(seed + 2, 3)
    whole = shared(clean, {"audio": 0.1, "depth": 0.5, "video": {"snr_db": 5}})
    sizes = torch.tensor([0.2, 0.9, 3.0]).double()

    def results(region, index):
        own, slopes = ({name: each[index] for name, each in parts.items()} for parts in (x, gradients))
        return (
            region.project(own),
            region.within(own, sizes[index]),
            region.step(own, slopes, 0.3),
            region.sample(lambda name: draws(3).select(index)),
        )

    together = results(whole, torch.arange(3))
    for i in range(3):
        index = torch.tensor([i])
        for alone, among in zip(results(whole.select(index), index), together, strict=True):
            assert all(torch.equal(alone[name], among[name][index]) for name in NAMES)


def test_draws_from_the_shared_ball_are_uniform():
    n = 4000
    clean = {"audio": torch.zeros(n, 2), "video": torch.zeros(n, 1, 3)}
    eps = {"audio": 0.1, "video": 2.0}
    region = shared(clean, eps, {"audio": None, "video": None})
    x = region.sample(lambda name: draws(n, seed=len(name) + (name == "video")))
    share = region.size(x) ** 5  # the volume inside: uniform on (0, 1)
    assert (share.sort().values - torch.linspace(0, 1, n)).abs().max() < 0.03
    part = (x["audio"] / 0.1).double().norm(dim=1).square().mean() / region.size(x).square().mean()
    assert part == pytest.approx(2 / 5, abs=0.02)  # each of the five dimensions has its share
    alone = shared(clean, {"audio": 0.1, "video": 0.0}, {"audio": None, "video": None})
    share = alone.size(alone.sample(lambda name: draws(n, seed=len(name) + (name == "video")))) ** 2
    assert (share.sort().values - torch.linspace(0, 1, n)).abs().max() < 0.03


def test_a_separate_region_s_size_is_the_largest_share_of_a_radius():
    clean = cleans(0, 3)
    budgets = {
        "audio": Budget(norm="linf", eps=0.1), "depth": Budget(norm="l2", eps=2), "video": Budget(norm="l1", eps=3)
    }  # fmt: skip
    region = Region({n: make_ball(clean[n], budgets[n], BOUNDS[n]) for n in NAMES})
    x = plus(clean, rand(1, 3))
    delta = {n: (x[n].double() - clean[n].double()).flatten(1) for n in NAMES}
    shares = [
        delta["audio"].abs().amax(dim=1) / 0.1, delta["depth"].norm(dim=1) / 2, delta["video"].abs().sum(dim=1) / 3
    ]  # fmt: skip
    torch.testing.assert_close(region.size(x), torch.stack(shares).amax(dim=0))
    size = torch.tensor([0.1, 0.5, 1.0]).double()
    assert (region.size(region.within(x, size)) <= size * (1 + 1e-4)).all()
    gradients = rand(2, 3)
    torch.testing.assert_close(region.gain(gradients), sum(b.gain(gradients[n]) for n, b in region.balls.items()))
    assert all(torch.equal(region.project(x)[n], ball.project(x[n])) for n, ball in region.balls.items())


def test_a_shared_region_is_made_of_l2_balls():
    with pytest.raises(TypeError, match="l2 balls only"):
        SharedRegion({"audio": make_ball(torch.zeros(1, 2), Budget(eps=1), None)})


# Time. A clip is (2, 5, 3), its time axis is 1.

INVARIANT = [(norm, frames) for norm in ("linf", "l2") for frames in (None, ((1, 3), (4, 5)))]
MASKED = [(norm, ((1, 3), (4, 5))) for norm in ("linf", "l2", "l1", "l0")]


def timed(norm, frames, invariant, bounds=(0.0, 1.0), eps=None, n=3):
    clean = torch.rand(n, 2, 5, 3, generator=torch.Generator().manual_seed(0)) * 1.4 - 0.2
    clean = clean.clamp(0, 1)
    eps = {"linf": 0.1, "l2": 0.4, "l1": 1.0, "l0": 4}[norm] if eps is None else eps
    budget = Budget(norm=norm, eps=eps, frames=frames, time_invariant=invariant, cap=0.5 if norm == "l0" else None)
    return make_ball(clean, budget, bounds, time_axis=1)


def free_steps(frames):
    steps = torch.zeros(5, dtype=torch.bool)
    for first, end in frames or ((0, 5),):
        steps[first:end] = True
    return steps


@pytest.mark.parametrize("bounds", [(0.0, 1.0), None])
@pytest.mark.parametrize(("norm", "frames"), MASKED)
def test_frames_keep_all_other_steps_of_time_bit_for_bit(norm, frames, bounds):
    ball = timed(norm, frames, invariant=False, bounds=bounds)
    steps, center = free_steps(frames), ball.center
    generator = torch.Generator().manual_seed(1)
    x, gradient = (
        center + torch.randn(center.shape, generator=generator),
        torch.randn(center.shape, generator=generator),
    )
    for found in (
        ball.project(x),
        ball.within(x, ball.radius),
        ball.step(center, gradient, 1.0),
        ball.sample(draws(3)),
        ball.confine(x),
        ball.project(torch.where(steps.view(1, 1, 5, 1), x, torch.inf)),
    ):
        assert torch.equal(found[:, :, ~steps], center[:, :, ~steps])
        assert (found[:, :, steps] != center[:, :, steps]).any()
    for found in (ball.project(x), ball.sample(draws(3))):
        assert not ball.strays(found).any()
        assert (ball.measure(found) <= ball.radius * (1 + 1e-6)).all()
    astray = ball.project(x)
    astray[1, 0, 0, 0] += 1e-6
    assert ball.strays(astray).tolist() == [False, True, False]
    part = make_ball(center[:, :, steps].contiguous(), Budget(norm=norm, eps=float(ball.radius[0]),
                     cap=0.5 if norm == "l0" else None), bounds)  # fmt: skip
    expected = part.project(x[:, :, steps].contiguous())
    torch.testing.assert_close(ball.project(x)[:, :, steps], expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(ball.gain(gradient), part.gain(gradient[:, :, steps].contiguous()))


@pytest.mark.parametrize("bounds", [(0.0, 1.0), None])
@pytest.mark.parametrize(("norm", "frames"), INVARIANT)
def test_a_time_invariant_perturbation_is_the_same_at_all_steps_that_may_change(norm, frames, bounds):
    ball = timed(norm, frames, invariant=True, bounds=bounds)
    steps, center = free_steps(frames), ball.center
    generator = torch.Generator().manual_seed(1)
    x, gradient = (
        center + torch.randn(center.shape, generator=generator),
        torch.randn(center.shape, generator=generator),
    )
    for found in (
        ball.project(x),
        ball.within(x, ball.radius),
        ball.step(center, gradient, 1.0),
        ball.sample(draws(3)),
        ball.confine(x),
    ):
        delta = found - center
        assert torch.equal(found[:, :, ~steps], center[:, :, ~steps])
        torch.testing.assert_close(
            delta[:, :, steps], delta[:, :, steps][:, :, :1].expand_as(delta[:, :, steps]), rtol=0, atol=3e-7
        )
        assert not ball.strays(found).any()
    for found in (ball.project(x), ball.sample(draws(3))):
        assert (ball.measure(found) <= ball.radius * (1 + 1e-6)).all()
        assert bounds is None or not ((found < 0) | (found > 1)).any()
    torch.testing.assert_close(ball.project(ball.project(x)), ball.project(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("norm", "frames"), INVARIANT)
def test_a_time_invariant_projection_is_the_nearest_of_them(norm, frames):
    """What one step of time needs, in float64: the mean over time, brought into the tightest bounds and the ball."""
    ball = timed(norm, frames, invariant=True)
    steps, center = free_steps(frames), ball.center
    x = center + torch.randn(center.shape, generator=torch.Generator().manual_seed(1))
    mean = (x - center).double()[:, :, steps].mean(dim=2)
    down = -center.double()[:, :, steps].amin(dim=2)
    up = 1 - center.double()[:, :, steps].amax(dim=2)
    found = (ball.project(x) - center)[:, :, steps].double()
    for i in range(len(x)):
        if norm == "linf":
            expected = mean[i].clamp(-0.1, 0.1).clamp(down[i], up[i])
        else:
            low, high = 0.0, 1.0
            for _ in range(60):
                middle = (low + high) / 2
                inside = (middle * mean[i]).clamp(down[i], up[i]).norm() * steps.sum() ** 0.5 <= 0.4
                low, high = (middle, high) if inside else (low, middle)
            expected = (low * mean[i]).clamp(down[i], up[i])
        torch.testing.assert_close(found[i], expected.unsqueeze(1).expand_as(found[i]), rtol=0, atol=2e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_time_invariant_gain_is_that_of_the_steepest_invariant_step(norm):
    ball = timed(norm, None, invariant=True, bounds=None)
    gradient = torch.randn(ball.center.shape, generator=torch.Generator().manual_seed(1))
    moved = (ball.step(ball.center, gradient, 1.0) - ball.center).double()
    torch.testing.assert_close((moved * gradient).sum(dim=(1, 2, 3)), ball.gain(gradient).double(), rtol=1e-5, atol=0)
    total = gradient.sum(dim=2)
    expected = 0.1 * total.abs().sum(dim=(1, 2)) if norm == "linf" else 0.4 * total.flatten(1).norm(dim=1) / 5**0.5
    torch.testing.assert_close(ball.gain(gradient), expected)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_perturbations_that_change_over_time_stray(norm):
    ball = timed(norm, None, invariant=True)
    x = ball.project(ball.center + 0.05)
    assert not ball.strays(x).any()
    x[2, 1, 3, 0] += 1e-5
    assert ball.strays(x).tolist() == [False, False, True]


def test_frames_that_may_not_change_are_held_to_the_last_bit_beside_an_invariant_perturbation():
    ball = timed("linf", ((1, 3),), invariant=True)
    x = ball.project(ball.center + 0.05)
    x[1, 0, 4, 0] = torch.nextafter(x[1, 0, 4, 0], torch.tensor(2.0))
    assert ball.strays(x).tolist() == [False, True, False]


def test_what_strays_in_a_quiet_clip_is_measured_by_that_clip():
    quiet = 1e-4 * torch.rand(1, 1, 6)
    ball = make_ball(quiet, Budget(eps=1e-5, time_invariant=True), (-1.0, 1.0), time_axis=1)
    x = ball.project(quiet + 5e-6)
    assert not ball.strays(x).any()
    x[0, 0, 2] += 1e-7
    assert ball.strays(x).all()


def test_draws_of_time_invariant_perturbations_fill_their_ball():
    clean = torch.zeros(3000, 2, 6)
    for frames, steps in ((None, 6), (((0, 2),), 2)):
        budget = Budget(norm="l2", eps=0.3, time_invariant=True, frames=frames)
        ball = make_ball(clean, budget, None, time_axis=1)
        share = (ball.measure(ball.sample(draws(3000))) / 0.3) ** 2  # two samples are free, however many steps
        assert (share.sort().values - torch.linspace(0, 1, 3000)).abs().max() < 0.035
        x = ball.sample(draws(3000))[:, :, :steps]
        torch.testing.assert_close(x, x[:, :, :1].expand_as(x), rtol=0, atol=1e-7)


@pytest.mark.parametrize(("norm", "frames"), INVARIANT)
def test_confining_is_differentiable(norm, frames):
    ball = timed(norm, frames, invariant=True)
    steps = free_steps(frames)
    x = (ball.center + 0.1).double().requires_grad_()
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((ball.confine(x) * weight).sum(), x)
    mean = (weight * steps.view(1, 1, 5, 1)).sum(dim=2, keepdim=True) / steps.sum()
    torch.testing.assert_close(gradient, (mean * steps.view(1, 1, 5, 1)).expand_as(gradient))


def test_a_shared_region_keeps_each_modality_s_frames():
    clean = {"audio": torch.rand(2, 1, 6), "video": torch.rand(2, 3, 4)}
    audio = Budget(norm="l2", eps=0.3, frames=((0, 2),))
    video = Budget(norm="l2", eps=0.3, time_invariant=True)
    region = SharedRegion(
        {n: make_ball(clean[n], b, (0.0, 1.0), time_axis=1) for n, b in (("audio", audio), ("video", video))}
    )
    found = region.project({name: x + torch.randn(x.shape) for name, x in clean.items()})
    drawn = region.sample(lambda name: draws(2))
    for x in (found, drawn):
        assert torch.equal(x["audio"][..., 2:], clean["audio"][..., 2:])
        assert not any(ball.strays(x[name]).any() for name, ball in region.balls.items())
        assert ((region.size(x) <= 1 + 1e-6) & (region.size(x) > 0)).all()


@pytest.mark.parametrize("axis", [1, -1])
def test_a_time_axis_may_count_from_the_end(axis):
    clean = torch.rand(2, 3, 6)
    ball = make_ball(clean, Budget(eps=0.1, frames=((0, 2),)), None, time_axis=axis)
    assert torch.equal(ball.project(clean + 1)[..., 2:], clean[..., 2:])


@pytest.mark.parametrize(
    ("budget", "axis", "message"),
    [
        ({"eps": 1, "frames": [[0, 2]]}, None, "the time axis is not known"),
        ({"eps": 1, "time_invariant": True}, None, "the time axis is not known"),
        ({"norm": "l0", "eps": 1, "per": "frame"}, None, "the time axis is not known"),
        ({"eps": 1, "frames": [[0, 2]]}, 2, r"time_axis 2 is none of the 2 axes of a clip of shape \(3, 6\)"),
        ({"eps": 1, "frames": [[0, 2], [5, 7]]}, 1, r"frames \[5, 7\] lie beyond the 6 steps"),
        ({"norm": "l0", "eps": 1}, 1, "needs `cap`"),
    ],
)
def test_budgets_that_do_not_fit_the_clips_are_refused(budget, axis, message):
    with pytest.raises(DataError, match=message):
        make_ball(torch.rand(2, 3, 6), Budget.model_validate(budget), None, time_axis=axis)
