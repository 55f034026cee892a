"""Balls around padded clips: they are those of the clips without their padding, and leave it as it is."""

import pytest
import torch

from avrobust_core import Budget, ClipDraws, Region, make_ball
from avrobust_core.threats.regions import SharedRegion, own_steps, radii

OWN = (8, 4, 0, 6)
"""Steps of 8 that are each clip's own."""

PADDED = tuple(1 - own / 8 for own in OWN)

BUDGETS = {
    "linf": {"norm": "linf", "eps": 0.1},
    "l2": {"norm": "l2", "eps": 0.4},
    "l1": {"norm": "l1", "eps": 1.0},
    "l0": {"norm": "l0", "eps": 5},
    "l0-frames": {"norm": "l0", "eps": 2, "per": "frame", "frame_steps": 3},
    "linf-invariant": {"norm": "linf", "eps": 0.1, "time_invariant": True},
    "l2-invariant": {"norm": "l2", "eps": 0.4, "time_invariant": True},
    "l2-of-frames": {"norm": "l2", "eps": 0.4, "frames": [[0, 2], [3, 7]]},
    "linf-invariant-of-frames": {"norm": "linf", "eps": 0.1, "frames": [[1, 6]], "time_invariant": True},
    "linf-of-noise": {"norm": "linf", "eps": {"snr_db": 20}},
    "l1-of-noise": {"norm": "l1", "eps": {"snr_db": 20}},
}


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def ball_of(budget, center, padded=(), bounds=(0.0, 1.0)):
    return make_ball(center, Budget.model_validate(budget), bounds, time_axis=1, padded=padded)


def draws(clips):
    return ClipDraws([7 + i for i in clips])


def moved(ball, gradient, clips):
    """Points that an attack may come to, by how."""
    x = ball.project(ball.center + gradient)
    size = torch.full((len(clips),), 0.7, dtype=torch.float64)
    found = {
        "project": x,
        "within": ball.within(ball.center + gradient, ball.radius * 0.5),
        "step": ball.step(x, gradient, 0.5),
        "approach": ball.approach(x, gradient, size, 0.5),
        "stretched": ball.stretched(x, size),
        "sample": ball.sample(draws(clips)),
        "scaled": ball.scaled(1.5).project(ball.center + gradient),
        "confine": ball.confine(ball.center + gradient),
    }
    if ball.norm != "l0":
        found["filled"] = ball.filled(gradient)
    return found


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
def test_padding_stays_as_it_is_and_a_clip_is_as_it_is_by_itself(budget):
    center, gradient = rand(4, 2, 8, 3), rand(4, 2, 8, 3, seed=1) - 0.5
    ball = ball_of(budget, center, PADDED)
    whole = moved(ball, gradient, range(4))
    for i, own in enumerate(OWN):
        alone = ball_of(budget, center[i : i + 1], PADDED[i : i + 1])
        part = ball.select(torch.tensor([i]))
        assert (alone.time is None or alone.time.own is None) == (own == 8)
        by_itself = moved(alone, gradient[i : i + 1], [i])
        for how, x in moved(part, gradient[i : i + 1], [i]).items():
            assert torch.equal(x[:, :, own:], center[i : i + 1, :, own:]), how
            torch.testing.assert_close(x[0], whole[how][i], rtol=1e-5, atol=1e-6, msg=how)
            torch.testing.assert_close(x, by_itself[how], rtol=1e-5, atol=1e-6, msg=how)
        torch.testing.assert_close(ball.gain(gradient)[i : i + 1], alone.gain(gradient[i : i + 1]))
    assert not (ball.overruns(whole["project"]) | ball.strays(whole["project"])).any()
    beyond = whole["project"].clone()
    beyond[:, :, 6] += 0.01
    assert ball.overruns(beyond).tolist() == [False, True, True, True]
    assert ball.strays(beyond)[1:].all()


@pytest.mark.parametrize(
    "budget", ["linf", "l2", "l1", "l0", "linf-invariant", "l2-invariant", "linf-of-noise", "l1-of-noise"]
)
def test_the_own_part_of_a_clip_is_moved_as_the_clip_that_was_cut_there(budget):
    center, far = rand(4, 2, 8, 3), 2 * rand(4, 2, 8, 3, seed=2) - 0.5
    padded, cut = ball_of(BUDGETS[budget], center, PADDED), ball_of(BUDGETS[budget], center[:, :, :4].contiguous())
    torch.testing.assert_close(padded.project(far)[1, :, :4], cut.project(far[:, :, :4])[1], rtol=1e-5, atol=1e-6)
    assert padded.radius[1] == pytest.approx(float(cut.radius[1]))


def test_a_shared_ball_leaves_padding_alone_and_samples_the_dimensions_that_are_left():
    center, far = rand(4, 2, 8, 3), rand(4, 2, 8, 3, seed=2) - 0.5
    balls = {"a": ball_of(BUDGETS["l2"], center, PADDED), "b": ball_of(BUDGETS["l2-invariant"], center, PADDED[::-1])}
    region = SharedRegion(balls)
    for x in (region.project(dict.fromkeys(balls, center + far)), region.sample(lambda name: draws(range(4)))):
        assert not any(ball.overruns(x[name]).any() for name, ball in balls.items())
    alone = region.select(torch.tensor([1])).sample(lambda name: draws([1]))
    torch.testing.assert_close(alone["a"][0], x["a"][1])
    assert balls["a"].samples.tolist() == [48, 24, 0, 36]
    assert balls["b"].samples.tolist() == [6, 0, 6, 6]


def test_nothing_is_made_of_clips_that_are_not_padded():
    center = rand(3, 2, 8, 3)
    assert ball_of(BUDGETS["linf"], center, (0.0, 0.0, 0.0)).time is None
    assert ball_of(BUDGETS["l2-of-frames"], center, (0.0, 0.0, 0.0)).time.own is None
    other = Region({"a": ball_of(BUDGETS["l1"], center, (0.5, 0.0, 0.0))}).balls["a"]
    assert other.around(center, other.radius, None).time is None  # for other clips
    assert other.select(torch.tensor([2, 0])).time.own.tolist() == [8, 4]


def test_a_step_that_is_a_clip_s_own_in_part_may_change():
    assert own_steps((0.0, 0.5, 0.49, 1.0, 1 / 3), 10) == [10, 5, 6, 0, 7]
    rates = [(steps, own) for steps in (3, 16_000, 480_000) for own in (1, steps // 3, steps - 1)]
    for steps, own in rates:
        share = 1 - own / steps
        assert own_steps((share, float(torch.tensor(share))), steps) == [own, own]


def test_the_noise_that_a_ratio_allows_is_that_of_the_own_part():
    clip = torch.cat((torch.full((1, 1, 6), 0.5), torch.zeros(1, 1, 6)), dim=2)
    ball = ball_of({"norm": "linf", "eps": {"snr_db": 20}}, clip, (0.5,), None)
    assert ball.radius.tolist() == pytest.approx([0.05])
    assert radii(clip, Budget.model_validate({"eps": {"snr_db": 20}})).tolist() == pytest.approx([0.05 / 2**0.5])
