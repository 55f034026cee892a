"""The closed forms of the linear oracles agree with solvers, and the oracles with themselves."""

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from avrobust_core import Budget, ThreatModel, Victim
from avrobust_core.testing import LinearOracle, make_problem, make_threat
from avrobust_core.testing.closed_forms import FALLS, smallest_size

BOUNDS = (None, (0.0, 1.0), (-1.0, 1.0), (-2.0, 2.0))
RANKS = (
    {"audio": (6,), "video": (8,)},
    {"audio": (1, 6), "video": (2, 2, 2)},
    {"audio": (1, 2, 3), "video": (1, 2, 2, 2)},
)


def solved(norm, slope, room, radius):
    """The largest fall, by a solver of another kind."""
    n = len(slope)
    room = np.where(np.isfinite(room), room, None)
    if norm == "linf":
        upper = [radius if r is None else min(r, radius) for r in room]
        return -linprog(-slope, bounds=[(0, u) for u in upper]).fun
    if norm == "l1":
        return -linprog(-slope, A_ub=np.ones((1, n)), b_ub=[radius], bounds=[(0, r) for r in room]).fun
    if norm == "l2":
        ball = {"type": "ineq", "fun": lambda d: radius**2 - (d**2).sum(), "jac": lambda d: -2 * d}
        start = np.minimum([np.inf if r is None else r for r in room], radius / n)
        found = minimize(
            lambda d: -slope @ d,
            start,
            jac=lambda d: -slope,
            bounds=[(0, r) for r in room],
            constraints=[ball],
            tol=1e-12,
        )
        return -found.fun
    return max(sum(slope[i] * room[i] for i in chosen) for chosen in combinations(range(n), int(radius)))


@pytest.mark.parametrize("norm", FALLS)
@pytest.mark.parametrize("bounded", [True, False])
def test_the_largest_fall_is_what_a_solver_finds(norm, bounded):
    if norm == "l0" and not bounded:
        pytest.skip("without bounds one sample falls without end")
    rng = np.random.default_rng(3)
    for radius in (1.0, 2.0, 5.0):
        slope, room = rng.random((4, 7)), rng.random((4, 7)) if bounded else np.full((4, 7), np.inf)
        slope[0, :2] = 0
        room[1, 3] = 0
        found = FALLS[norm](torch.tensor(slope), torch.tensor(room), torch.full((4,), radius, dtype=torch.float64))
        expected = [solved(norm, slope[i], room[i], radius) for i in range(4)]
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-9)


def test_smallest_size_is_where_the_fall_first_reaches_the_height():
    height = torch.tensor([-1.0, 0.0, 3.0, 500.0, 7.0], dtype=torch.float64)
    ceiling = torch.tensor([1e9, 1e9, 1e9, 1e9, 6.0], dtype=torch.float64)
    found = smallest_size(lambda size: torch.minimum(2 * size, ceiling), height)
    assert torch.allclose(found[:4], torch.tensor([0.0, 0.0, 1.5, 250.0], dtype=torch.float64))
    assert found[4] == torch.inf


@pytest.mark.parametrize("shapes", RANKS)
@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize(
    ("norm", "kind"), [("linf", "separate"), ("l2", "separate"), ("l1", "separate"), ("l2", "shared")]
)
def test_margin_and_size_agree_and_no_random_point_is_better(shapes, bounds, norm, kind):
    problem = make_problem(shapes, clips=5, bounds=bounds, seed=4)
    budgets = {"audio": Budget(norm=norm, eps=0.3), "video": Budget(norm=norm, eps=0.5)}
    threat = ThreatModel.of(budgets, kind)
    size = problem.smallest_size(threat)
    for i in range(5):
        one = problem.select(torch.tensor([i]))
        assert one.smallest_margin(threat.scaled(float(size[i]) * (1 + 1e-6))) <= 0
        assert one.smallest_margin(threat.scaled(float(size[i]) * (1 - 1e-6))) > 0
    region = Victim(problem.oracle, media=problem.media, task="single-label").bind(problem.batch, threat).region
    lowest = problem.smallest_margin(threat)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        x = {n: c + torch.randn(c.shape, generator=generator) for n, c in problem.batch.inputs.items()}
        logits = problem.oracle(region.project(x)).double()
        own = logits.gather(1, problem.batch.targets.unsqueeze(1))
        others = logits.scatter(1, problem.batch.targets.unsqueeze(1), -torch.inf).amax(dim=1, keepdim=True)
        assert ((own - others).squeeze(1) >= lowest - 1e-5).all()


def test_l0_counts_samples():
    problem = make_problem(clips=6, bounds=(-1.0, 1.0), seed=5)
    size = problem.smallest_size(make_threat(("audio", "video"), "l0", 1.0))
    assert torch.equal(size, size.round())
    for i, count in enumerate(size.tolist()):
        one = problem.select(torch.tensor([i]))
        assert one.smallest_margin(make_threat(("audio", "video"), "l0", count)) <= 0
        if count > 1:
            assert one.smallest_margin(make_threat(("audio", "video"), "l0", count - 1)) > 0


def test_margins_are_those_of_the_forward_pass():
    problem = make_problem(classes=4, seed=6)
    logits = problem.oracle(problem.batch.inputs).double()
    own = logits.gather(1, problem.batch.targets.unsqueeze(1))
    expected = (own - logits).scatter(1, problem.batch.targets.unsqueeze(1), torch.inf)
    assert torch.allclose(problem.margins(), expected, atol=1e-5)
    assert (problem.margins() > 0).all()


@pytest.mark.parametrize(("scale", "shift"), [(2.0, -1.0), (4.0, 0.5)])
def test_a_problem_in_other_units_has_the_same_answer(scale, shift):
    problem = make_problem(bounds=(0.0, 1.0), seed=7)
    moved = problem.moved(scale, shift)
    assert moved.bounds == (shift, scale + shift)
    here = problem.smallest_size(make_threat(("audio", "video"), "l2", 0.1))
    there = moved.smallest_size(make_threat(("audio", "video"), "l2", 0.1 * scale))
    assert torch.allclose(here, there, rtol=1e-4)


def test_a_modality_alone_has_its_part_of_the_logits():
    oracle = LinearOracle.random(seed=8, bias=0.0)
    x = {"audio": torch.rand(3, 1, 12), "video": torch.rand(3, 2, 2, 2, 2)}
    parts = sum(oracle.alone(name)({name: value}) for name, value in x.items())
    assert torch.allclose(parts, oracle(x), atol=1e-5)


def test_logits_of_a_clip_do_not_depend_on_its_batch_mates_by_one_bit():
    problem = make_problem(clips=9, seed=9)
    whole = problem.oracle(problem.batch.inputs)
    for i in range(9):
        assert torch.equal(problem.oracle({n: x[i : i + 1] for n, x in problem.batch.inputs.items()})[0], whole[i])


def test_budgets_that_speak_of_time_are_refused():
    problem = make_problem(seed=10)
    with pytest.raises(ValueError, match="closed forms are of budgets on the whole raw input"):
        problem.smallest_size(ThreatModel.of({"audio": Budget(eps=0.1, frames=((0, 2),))}))
