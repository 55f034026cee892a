"""What spares an attack the question which norm it is in: the same calls for every ball and every kind of region."""

import pytest
import torch

from avrobust_core import Budget, make_ball, where_clips
from avrobust_core.threats.dense_norms import BALLS
from avrobust_core.threats.regions import Region, SharedRegion

NORMS = sorted(BALLS)
EPS = {"linf": 0.2, "l2": 0.7, "l1": 1.5, "l0": 3.0}
every_norm = pytest.mark.parametrize("norm", NORMS)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def ball_of(norm, eps=None, center=None, bounds=(-4.0, 4.0)):
    center = rand(3, 2, 5) if center is None else center
    return make_ball(center, Budget(norm=norm, eps=EPS[norm] if eps is None else eps), bounds)


def region_of(*norms, kind=Region):
    balls = {f"m{i}": ball_of(norm, center=rand(3, 4 + i, seed=i)) for i, norm in enumerate(norms)}
    return kind(balls)


@every_norm
@pytest.mark.parametrize("factor", [0.5, 2.5])
def test_a_scaled_ball_is_that_of_the_scaled_budget(norm, factor):
    budget = Budget(norm=norm, eps=EPS[norm], cap=0.6 if norm == "l0" else None)
    center = rand(3, 2, 5)
    ball, fresh = make_ball(center, budget, (-4, 4)).scaled(factor), make_ball(center, budget.scaled(factor), (-4, 4))
    x = center + rand(3, 2, 5, seed=1) - 0.5
    assert torch.equal(ball.radius, fresh.radius)
    assert torch.equal(ball.project(x), fresh.project(x))


@every_norm
def test_a_ball_around_another_center_keeps_norm_and_constraint_on_time(norm):
    if norm in ("l1", "l0"):
        budget = Budget(norm=norm, eps=2, frames=((1, 3),))
    else:
        budget = Budget(norm=norm, eps=2, frames=((1, 3),), time_invariant=True)
    ball = make_ball(rand(3, 2, 5), budget, (-4, 4), time_axis=1)
    other = ball.around(torch.zeros(1, 2, 5), torch.ones(1).double(), (-1.0, 1.0))
    moved = other.project(torch.full((1, 2, 5), 0.9))
    assert type(other) is type(ball)
    assert not moved[..., 0].any()
    assert not moved[..., 3:].any()
    assert moved[..., 1:3].any()
    assert float(other.measure(moved)) == pytest.approx(0.9 if norm == "linf" else 1, rel=1e-3)


@every_norm
def test_a_full_step_to_the_best_point_is_worth_the_gain_of_the_size(norm):
    center = torch.zeros(3, 2, 5)
    ball = ball_of(norm, center=center, eps=4 if norm == "l0" else None, bounds=(-1.0, 1.0) if norm == "l0" else None)
    gradient = rand(3, 2, 5, seed=2) - 0.5
    size = torch.tensor([0.25, 0.5, 1.0]).double()
    found = ball.approach(center, gradient, size, 1.0)
    rise = ((found - center) * gradient).flatten(1).sum(dim=1)
    gains = [ball.scaled(float(s)).gain(gradient)[i] for i, s in enumerate(size)]
    torch.testing.assert_close(rise, torch.stack(gains), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("norm", "length"), [("linf", 0.3), ("l2", 0.3), ("l1", 0.3)])
def test_a_short_step_to_the_best_point_goes_part_of_the_way(norm, length):
    ball = ball_of(norm, center=torch.zeros(3, 2, 5), bounds=None)
    gradient = rand(3, 2, 5, seed=2) - 0.5
    found = ball.approach(ball.center, gradient, torch.ones(3).double(), length)
    torch.testing.assert_close(ball.measure(found), length * ball.radius, rtol=1e-4, atol=0)


def test_a_vertex_is_approached_in_a_straight_line_and_in_l0_all_the_way():
    """Whatever has moved the furthest before: a projection would keep that, whatever it gains."""
    gradient = rand(3, 2, 5, seed=2) - 0.5
    for norm, length in (("l1", 0.3), ("l0", 1.0)):
        ball = ball_of(norm, center=torch.zeros(3, 2, 5), bounds=None if norm == "l1" else (-1.0, 1.0))
        vertex = ball.approach(ball.center, gradient, torch.ones(3).double(), 1.0)
        x = ball.project(torch.where(vertex == 0, 0.7, 0.0))
        found = ball.approach(x, gradient, torch.ones(3).double(), 0.3)
        torch.testing.assert_close(found, torch.lerp(x, vertex, length), rtol=1e-4, atol=1e-5)


def test_in_l0_nothing_is_longer_or_shorter():
    ball = ball_of("l0", center=torch.zeros(3, 2, 5), bounds=(-1.0, 1.0))
    x = torch.zeros(3, 2, 5)
    x[:, 0, 0] = 0.1
    assert torch.equal(ball.stretched(x, torch.ones(3).double()), x)


@every_norm
def test_noise_fills_a_ball_exactly_and_cannot_fill_a_count(norm):
    ball = ball_of(norm, bounds=None if norm != "l0" else (-4.0, 4.0))
    noise = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(3))
    if norm == "l0":
        with pytest.raises(TypeError, match="noise cannot fill a ball in l0"):
            ball.filled(noise)
        return
    delta = (ball.filled(noise) - ball.center).double().flatten(1)
    size = {"linf": delta.square().mean(dim=1).sqrt(), "l2": delta.norm(dim=1), "l1": delta.abs().sum(dim=1)}[norm]
    torch.testing.assert_close(size, ball.radius, rtol=1e-4, atol=0)


@every_norm
def test_values_are_pooled_over_the_samples_that_share_a_limit(norm):
    values = rand(3, 2, 5)
    found = ball_of(norm).pooled(values)
    if norm == "linf":
        assert torch.equal(found, values)
    else:
        torch.testing.assert_close(found, values.sum(dim=(1, 2), keepdim=True))


def test_only_counts_have_a_quantum_and_only_a_region_of_counts_does():
    assert ball_of("l0").quantum.tolist() == pytest.approx([1 / 3] * 3)
    assert not ball_of("l1").quantum.any()
    assert region_of("l0", "l0").quantum.tolist() == pytest.approx([1 / 3] * 3)
    assert not region_of("l0", "l2").quantum.any()


def test_a_region_tells_norms_smoothness_and_which_modalities_share_a_ball():
    separate, shared = region_of("l2", "linf"), region_of("l2", "l2", kind=SharedRegion)
    assert separate.norms == {"l2", "linf"}
    assert (separate.smooth, shared.smooth) == (False, True)
    assert separate.groups == (("m0",), ("m1",))
    assert shared.groups == (("m0", "m1"),)


def test_a_modality_that_is_replaced_is_projected_as_far_as_its_ball_reaches():
    separate, shared = region_of("l2", "l2"), region_of("l2", "l2", kind=SharedRegion)
    for region, others_move in ((separate, False), (shared, True)):
        # The other modality stands at the edge of its own ball.
        x = {"m0": region.clean["m0"].clone(), "m1": region.balls["m1"].project(region.clean["m1"] + 5)}
        found = region.replaced(x, "m0", region.clean["m0"] + 5)
        assert (region.size(found) <= 1 + 1e-6).all()
        assert torch.equal(found["m1"], x["m1"]) is not others_move


@pytest.mark.parametrize("norms", [("linf", "l2"), ("l1", "l0"), ("l2",)])
def test_levelling_lengthens_every_modality_that_can_be_and_costs_no_size(norms):
    region = region_of(*norms)
    x = region.within({n: clean + rand(*clean.shape, seed=9) - 0.5 for n, clean in region.clean.items()}, torch.ones(3))
    x["m0"] = region.balls["m0"].within(x["m0"], 0.3 * region.balls["m0"].radius)
    size = region.size(x)
    found = region.levelled(x, size)
    torch.testing.assert_close(region.size(found), size, rtol=1e-4, atol=0)
    share = region.balls["m0"].measure(found["m0"]) / region.balls["m0"].radius
    if norms[0] != "l0":
        torch.testing.assert_close(share, size, rtol=1e-4, atol=0)
    shared = region_of("l2", "l2", kind=SharedRegion)
    same = {name: clean + 0.01 for name, clean in shared.clean.items()}
    assert all(torch.equal(x, same[name]) for name, x in shared.levelled(same, torch.ones(3)).items())


@pytest.mark.parametrize("kind", [Region, SharedRegion])
def test_stretching_reaches_the_size_where_it_is_smaller_and_asked_for(kind):
    region = region_of("l2", "l2", kind=kind)
    x = {name: clean + 0.01 for name, clean in region.clean.items()}
    x["m0"][2] += 3.0  # beyond any size asked for
    x["m1"][1], x["m0"][1] = region.clean["m1"][1], region.clean["m0"][1]  # clean: no direction to stretch in
    before = region.size(x)
    found = region.size(region.stretched(x, torch.ones(3).double()))
    torch.testing.assert_close(found, torch.stack([torch.ones(()).double(), before[1], before[2]]), rtol=1e-4, atol=0)
    kept = region.stretched(x, torch.ones(3).double(), torch.tensor([False, True, True]))
    torch.testing.assert_close(region.size(kept), before, rtol=1e-4, atol=1e-6)


def test_the_slopes_of_a_size_are_those_of_its_smooth_square():
    """By differences: of the sum of squares where a ball is shared, else of the norm of exponent 8, squared."""
    for region, power in ((region_of("l2", "l2"), 8), (region_of("l2", "l2", kind=SharedRegion), 2)):
        x = {name: clean + rand(*clean.shape, seed=4) * 0.3 for name, clean in region.clean.items()}
        shares = torch.stack([ball.measure(x[name]) / ball.radius for name, ball in region.balls.items()])
        squares = shares.square().requires_grad_()
        whole = (squares ** (power / 2)).sum(dim=0) ** (2 / power)
        (slopes,) = torch.autograd.grad(whole.sum(), squares)
        torch.testing.assert_close(region.size_slopes(x), slopes, rtol=1e-6, atol=1e-9)
    assert torch.equal(region_of("linf").size_slopes({"m0": rand(3, 4, seed=5)}), torch.ones(1, 3).double())


def test_clips_are_chosen_by_their_flags_in_every_modality_of_any_rank():
    first = {"a": torch.ones(2, 3), "b": torch.ones(2, 1, 2, 2), "c": torch.ones(2)}
    second = {"a": torch.zeros(2, 3), "b": torch.zeros(2, 1, 2, 2)}
    found = where_clips(torch.tensor([True, False]), first, second)
    assert set(found) == {"a", "b"}
    assert all(x[0].all() and not x[1].any() for x in found.values())
