"""Theorem 1 of Li et al. (ICASSP 2022): where the modalities disagree, one of them flips the fused model for less.

A binary model f = a'g(x_A) + b'h(x_V), linear throughout; the audio part says one class (a'g = -s < 0), the video part
the other (b'h = t > 0). To flip the fused model, the modality that it sides with needs to lose t - s (or s - t) only,
where its own model needs to lose t (or s). So the smallest budget on that modality which flips the fused model is at
most the one that flips the modality's own model; where the modalities agree, it is at least that. This is the theorem
where it says something: the clip is of the class that its attacked modality tells, and s >= t. With s < t the fused
model is wrong without any attack.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avrobust_core import AttackRun, Batch, Registry, Victim, attack_batch
from avrobust_core.registry.choices import configure
from avrobust_core.testing import LinearOracle, LinearProblem, make_threat

SHAPES = st.sampled_from(
    [
        {"audio": (9,), "video": (2, 2, 3)},
        {"audio": (1, 8), "video": (2, 2, 2, 2)},
        {"audio": (1, 2, 5), "video": (3, 4)},
    ]
)
NORMS = st.sampled_from(["linf", "l2", "l1"])
BOUNDS = st.sampled_from([None, (-1.0, 1.0), (-2.0, 2.0)])


def parts(oracle, batch):
    """What each modality adds to f = logit 1 - logit 0: (B,) float64 by modality."""
    return {
        name: x.double().flatten(1) @ (oracle.weight(name)[1] - oracle.weight(name)[0])
        for name, x in batch.inputs.items()
    }


def problems(shapes, bounds, seed, *, disagree):
    """The fused problem, each modality's own, and which modality each clip's fused answer sides with."""
    oracle = LinearOracle.random(shapes, classes=2, seed=seed, bias=0.0)
    generator = torch.Generator().manual_seed(seed)
    inputs = {name: torch.rand(60, *shape, generator=generator) * 2 - 1 for name, shape in shapes.items()}
    whole = Batch(inputs, torch.zeros(60, dtype=torch.int64), tuple(map(str, range(60))))
    s = parts(oracle, whole)
    chosen = ((s["audio"] * s["video"] < 0) == disagree) & ((s["audio"] + s["video"]).abs() > 1e-3)
    batch = whole.select(chosen.nonzero().squeeze(1))
    s = parts(oracle, batch)
    fused = LinearProblem(oracle, Batch(batch.inputs, (s["audio"] + s["video"] > 0).long(), batch.ids), bounds)
    alone = {
        name: LinearProblem(
            oracle.alone(name), Batch({name: batch.inputs[name]}, (s[name] > 0).long(), batch.ids), bounds
        )
        for name in shapes
    }
    sides = {name: (s[name] > 0) == (fused.batch.targets == 1) for name in shapes}
    return fused, alone, sides


@settings(max_examples=40)
@given(shapes=SHAPES, norm=NORMS, bounds=BOUNDS, seed=st.integers(0, 10_000))
def test_the_modality_that_the_fusion_sides_with_flips_it_below_its_own_threshold(shapes, norm, bounds, seed):
    fused, alone, sides = problems(shapes, bounds, seed, disagree=True)
    for name in shapes:
        threat = make_threat((name,), norm, 1.0)
        joint, own = fused.smallest_size(threat), alone[name].smallest_size(threat)
        winning = sides[name] & own.isfinite()
        assert (joint[winning] < own[winning]).all()
    assert torch.equal(sides["audio"], ~sides["video"])


@settings(max_examples=20)
@given(shapes=SHAPES, norm=NORMS, bounds=BOUNDS, seed=st.integers(0, 10_000))
def test_where_the_modalities_agree_the_fusion_needs_at_least_as_much(shapes, norm, bounds, seed):
    fused, alone, _ = problems(shapes, bounds, seed, disagree=False)
    for name in shapes:
        threat = make_threat((name,), norm, 1.0)
        assert (fused.smallest_size(threat) >= alone[name].smallest_size(threat)).all()


@settings(max_examples=20)
@given(shapes=SHAPES, seed=st.integers(0, 10_000))
def test_in_l2_without_bounds_the_fused_threshold_is_the_own_one_times_the_lead_over_what_it_leads(shapes, seed):
    fused, alone, sides = problems(shapes, None, seed, disagree=True)
    s = parts(fused.oracle, fused.batch)
    for name, other in (("audio", "video"), ("video", "audio")):
        threat = make_threat((name,), "l2", 1.0)
        ratio = (s[name].abs() - s[other].abs()) / s[name].abs()  # (s - t) / s
        expected = ratio * alone[name].smallest_size(threat)
        winning = sides[name]
        assert torch.allclose(fused.smallest_size(threat)[winning], expected[winning], rtol=1e-3, atol=1e-6)


def of_the_class_that(name, fused, alone):
    """The fused problem with clips of the class that one modality tells."""
    batch = Batch(fused.batch.inputs, alone[name].batch.targets, fused.batch.ids)
    return LinearProblem(fused.oracle, batch, fused.bounds)


@settings(max_examples=20)
@given(shapes=SHAPES, norm=NORMS, bounds=BOUNDS, seed=st.integers(0, 10_000))
def test_where_the_other_modality_says_more_the_fusion_is_wrong_without_an_attack(shapes, norm, bounds, seed):
    fused, alone, sides = problems(shapes, bounds, seed, disagree=True)
    s = parts(fused.oracle, fused.batch)
    for name in shapes:
        threat = make_threat((name,), norm, 1.0)
        assert torch.equal(of_the_class_that(name, fused, alone).smallest_size(threat) > 0, sides[name])
        assert (alone[name].smallest_size(threat)[s[name].abs() > 1e-3] > 0).all()


def attacked_by(attack, problem, name, norm, eps):
    victim = Victim(problem.oracle, media=problem.media, task="single-label")
    with victim.frozen():
        return attack_batch(victim, problem.batch, AttackRun("attack", attack, make_threat((name,), norm, eps)))


@pytest.mark.parametrize("use", ["ddn", "fmn"])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_suites_minimal_attacks_flip_the_fusion_below_the_modalitys_own_threshold(use, seed):
    attack = configure(Registry.discover(), "attack", use, {"steps": 60}).build()
    fused, alone, sides = problems({"audio": (1, 8), "video": (2, 2, 2, 2)}, None, seed, disagree=True)
    for name in ("audio", "video"):
        threat = make_threat((name,), "l2", 8.0)
        found = attacked_by(attack, of_the_class_that(name, fused, alone), name, "l2", 8.0)
        best, own = fused.smallest_size(threat), alone[name].smallest_size(threat)
        winning = sides[name]
        assert winning.any()
        assert not winning.all()
        assert (found.factor[winning] < own[winning]).all(), "no perturbation of this size flips the modality's own"
        assert torch.allclose(found.factor[winning], best[winning], rtol=0.05, atol=1e-3)
        assert (found.factor[~winning] == 0).all(), "wrong as it is: the theorem is empty there"
        assert all((norms[~winning] == 0).all() for norms in found.norms.values())
        at_own = attacked_by(attack, alone[name], name, "l2", 8.0)
        assert (at_own.factor >= own * (1 - 1e-3)).all()


def smallest_flip(attack, problem, name, norm, rounds=14):
    """Each clip's smallest radius at which the attack flips it, by bisection over radii that all clips share.

    Clip by clip the bracket is kept apart: the attack is run at every clip's own radius.
    """
    low, high = torch.zeros(len(problem.batch)), torch.full((len(problem.batch),), 4.0)
    for _ in range(rounds):
        middle = (low + high) / 2
        for i in range(len(problem.batch)):
            one = problem.select(torch.tensor([i]))
            hit = bool(attacked_by(attack, one, name, norm, float(middle[i])).success)
            low[i], high[i] = (low[i], middle[i]) if hit else (middle[i], high[i])
    return high


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("seed", [1, 2])
def test_an_attack_of_the_suite_finds_what_the_theorem_says(norm, seed):
    registry = Registry.discover()
    attack = configure(registry, "attack", "pgd", {"steps": 4, "step_size": 0.5, "random_start": False}).build()
    fused, alone, sides = problems({"audio": (1, 8), "video": (2, 2, 2, 2)}, None, seed, disagree=True)
    for name in ("audio", "video"):
        index = sides[name].nonzero().squeeze(1)[:3]
        found = smallest_flip(attack, fused.select(index), name, norm)
        own = smallest_flip(attack, alone[name].select(index), name, norm)
        best = fused.select(index).smallest_size(make_threat((name,), norm, 1.0))
        assert (found < own).all()
        assert torch.allclose(found.double(), best, rtol=1e-2, atol=1e-3)
