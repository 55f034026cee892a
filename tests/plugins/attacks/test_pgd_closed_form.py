"""On linear models the best attack is known exactly: PGD, APGD and FGSM must reach it, whatever the norm."""

import pytest
import torch
from avrobust_attacks.gradient.apgd import apgd as _build_apgd
from avrobust_attacks.gradient.configs import ApgdConfig, FgsmConfig, MimConfig, PgdConfig
from avrobust_attacks.gradient.pgd import fgsm as _build_fgsm
from avrobust_attacks.gradient.pgd import mim as _build_mim
from avrobust_attacks.gradient.pgd import pgd as _build_pgd

from avrobust_core import Batch, Goal, ThreatModel

SHAPES = {
    2: {"audio": (24,), "video": (30,)},
    3: {"audio": (1, 24), "video": (5, 6)},
    4: {"audio": (1, 4, 6), "video": (3, 2, 5)},
    5: {"audio": (1, 2, 3, 4), "video": (3, 2, 2, 3)},
}
THREATS = {"audio": ("audio",), "video": ("video",), "both": ("audio", "video")}
ATTACKS = {"pgd": _build_pgd(PgdConfig(steps=20)), "apgd": _build_apgd(ApgdConfig(steps=40))}
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
BOUNDS = {"unit": (0.0, 1.0), "signed": (-1.0, 1.0), "none": None}


def make_batch(model, shapes, bounds, *, n=40, inside=1.0, seed=1):
    """Clips labelled as the model sees them, but for four."""
    generator = torch.Generator().manual_seed(seed)
    low, high = bounds or (-3.0, 3.0)
    middle, half = (low + high) / 2, (high - low) / 2 * inside
    inputs = {
        name: middle + half * (torch.rand(n, *shape, generator=generator) * 2 - 1) for name, shape in shapes.items()
    }
    targets = model(inputs).argmax(dim=1)
    targets[:4] = (targets[:4] + 1) % len(model.bias)
    return Batch(inputs=inputs, targets=targets, ids=tuple(f"c{i}" for i in range(n)))


def make_threat(names, norm, eps, **more):
    kind = more.pop("kind", "separate")
    return ThreatModel.model_validate({"kind": kind, **{name: {"norm": norm, "eps": eps, **more} for name in names}})


def balanced_threat(model, batch, names, norm, bounds, **more):
    """A threat under which the closed form finds an attack on about half of the clips, and none lies on the edge."""
    low, high = 0.0, 10.0
    for _ in range(60):
        eps = (low + high) / 2
        smallest = model.smallest_margin(batch, make_threat(names, norm, eps, **more), bounds)
        share = (smallest <= 0).float().mean()
        if 0.4 < share < 0.6 and smallest.abs().min() > 1e-3:
            return make_threat(names, norm, eps, **more)
        low, high = (eps, high) if share <= 0.5 else (low, eps)
    raise AssertionError("no such radius")


def counting_threat(model, batch, names, bounds):
    """As `balanced_threat`, for l0: each sample may move by so little that several must."""
    cap = 0.02
    while cap < 10:
        threat = make_threat(names, "l0", 5, cap=cap)
        smallest = model.smallest_margin(batch, threat, bounds)
        if 0.25 < (smallest <= 0).float().mean() < 0.75 and smallest.abs().min() > 1e-4:
            return threat
        cap *= 1.02
    raise AssertionError("no such cap")


def check(run_attack, attack, model, batch, threat, bounds, goal=None):
    expected = model.smallest_margin(batch, threat, bounds) <= 0
    found = run_attack(attack, model, batch, threat, bounds=dict.fromkeys(batch.inputs, bounds), goal=goal)
    assert torch.equal(found.result.success, expected)
    assert torch.equal(found.verdict.success, expected)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
@pytest.mark.parametrize("rank", SHAPES)
@pytest.mark.parametrize("names", THREATS.values(), ids=THREATS)
@pytest.mark.parametrize("bounds", BOUNDS.values(), ids=BOUNDS)
def test_the_closed_form_is_reached(run_attack, linear_model, norm, rank, names, bounds):
    """Clips right up to the bounds, a sixth of the samples at them; an untouched modality speaks along."""
    model = linear_model(SHAPES[rank], 2, seed=100 + rank)
    batch = make_batch(model, SHAPES[rank], bounds, inside=1.2)
    if bounds:
        inputs = {name: x.clamp(*bounds) for name, x in batch.inputs.items()}
        batch = Batch(inputs, model(inputs).argmax(dim=1), batch.ids)
    if norm == "l0":
        threat = counting_threat(model, batch, names, bounds)
    else:
        threat = balanced_threat(model, batch, names, norm, bounds)
    for attack in ATTACKS.values():
        check(run_attack, attack, model, batch, threat, bounds)


@every_attack
@pytest.mark.parametrize("bounds", [None, (-1.0, 1.0)], ids=["none", "signed"])
def test_the_closed_form_of_a_shared_ball_is_reached(run_attack, linear_model, attack, bounds):
    model = linear_model(SHAPES[3], 2, seed=110)
    batch = make_batch(model, SHAPES[3], bounds)
    threat = balanced_threat(model, batch, ("audio", "video"), "l2", bounds, kind="shared")
    check(run_attack, attack, model, batch, threat, bounds)


@every_attack
def test_a_shared_ball_is_split_by_its_radii(run_attack, linear_model, attack):
    model = linear_model(SHAPES[3], 2, seed=111)
    batch = make_batch(model, SHAPES[3], None)
    threat = ThreatModel.model_validate(
        {"kind": "shared", "audio": {"norm": "l2", "eps": 0.3}, "video": {"norm": "l2", "eps": 1.2}}
    )
    smallest = model.smallest_margin(batch, threat, None)
    assert 0.3 < (smallest <= 0).float().mean() < 0.7
    assert smallest.abs().min() > 1e-3
    check(run_attack, attack, model, batch, threat, None)


@every_attack
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_closed_form_is_reached_by_a_goal_that_is_a_class(run_attack, linear_model, attack, norm):
    """Of two classes, to get away from one is to get to the other."""
    bounds = (-1.0, 1.0)
    model = linear_model(SHAPES[3], 2, seed=112)
    batch = make_batch(model, SHAPES[3], bounds)
    threat = balanced_threat(model, batch, ("audio", "video"), norm, bounds)
    check(run_attack, attack, model, batch, threat, bounds, goal=Goal("least-likely"))


@every_attack
def test_only_the_class_aimed_at_counts(run_attack, linear_model, attack):
    """Towards class 2 of 3, where the third class takes no part: its logit is far below whatever is done."""
    model = linear_model(SHAPES[3], 3, seed=113)
    with torch.no_grad():
        model.bias[0] = -1e4
    batch = make_batch(model, SHAPES[3], None)
    batch = Batch(batch.inputs, model(batch.inputs).argmax(dim=1), batch.ids)
    threat = balanced_threat(model, batch, ("audio", "video"), "l2", None)
    broken = model.smallest_margin(batch, threat, None) <= 0
    there = batch.targets == 2
    expected = there | broken  # those that are not of class 2 get there if the margin falls below 0
    found = run_attack(attack, model, batch, threat, goal=Goal("class", 2))
    assert 3 < (expected & ~there).sum() < (~there).sum()
    assert torch.equal(found.result.success, expected)
    far = run_attack(attack, model, batch, threat, goal=Goal("class", 0))
    assert not far.result.success.any()


@every_attack
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_bounds_other_than_those_of_pictures_and_sound_are_kept_to(run_attack, linear_model, attack, norm):
    bounds = (-2.0, 5.0)
    model = linear_model(SHAPES[4], 2, seed=120)
    batch = make_batch(model, SHAPES[4], bounds)
    check(run_attack, attack, model, batch, balanced_threat(model, batch, ("audio", "video"), norm, bounds), bounds)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_pgd_reaches_it_from_the_clean_clip_too(run_attack, linear_model, norm):
    model = linear_model(SHAPES[3], 2, seed=121)
    batch = make_batch(model, SHAPES[3], (-1.0, 1.0))
    threat = balanced_threat(model, batch, ("audio", "video"), norm, (-1.0, 1.0))
    check(run_attack, _build_pgd(PgdConfig(steps=20, random_start=False)), model, batch, threat, (-1.0, 1.0))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("names", THREATS.values(), ids=THREATS)
def test_fgsm_reaches_the_closed_form(run_attack, linear_model, norm, names):
    model = linear_model(SHAPES[3], 2, seed=31)
    batch = make_batch(model, SHAPES[3], None)
    check(run_attack, _build_fgsm(FgsmConfig()), model, batch, balanced_threat(model, batch, names, norm, None), None)


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_five_classes_reach_the_closed_form_with_restarts(run_attack, linear_model, loss, norm):
    bounds = (-4.0, 4.0) if norm == "linf" else None
    model = linear_model(SHAPES[3], 5, seed=40)
    batch = make_batch(model, SHAPES[3], bounds, inside=0.8)
    threat = balanced_threat(model, batch, ("audio", "video"), norm, bounds)
    attack = _build_pgd(PgdConfig(steps=20, step_size=0.5, restarts=3, loss=loss))
    check(run_attack, attack, model, batch, threat, bounds)


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("scale", [1e-12, 1e3])
def test_the_scale_of_the_logits_does_not_matter(run_attack, linear_model, loss, scale):
    """At margins of hundreds the softmax saturates, at 1e-12 gradients are tiny: neither may weaken the attack."""
    model = linear_model(SHAPES[3], 2, seed=50)
    batch = make_batch(model, SHAPES[3], None)
    threat = balanced_threat(model, batch, ("audio", "video"), "l2", None)
    attack = _build_pgd(PgdConfig(steps=20, step_size=0.5, random_start=False, loss=loss))
    expected = model.smallest_margin(batch, threat, None) <= 0
    model.after = lambda logits: logits * scale
    assert torch.equal(run_attack(attack, model, batch, threat).result.success, expected)


def test_modalities_of_different_rank_and_norm_are_attacked_at_once(run_attack, linear_model):
    shapes = {"audio": (1, 24), "depth": (7,), "video": (3, 2, 2, 3)}
    model = linear_model(shapes, 2, seed=60)
    batch = make_batch(model, shapes, None)
    threat = ThreatModel.model_validate(
        {"audio": {"eps": 0.15}, "video": {"norm": "l2", "eps": 0.6}, "depth": {"norm": "l2", "eps": 0.5}}
    )
    expected = model.smallest_margin(batch, threat, None)
    assert 0.3 < (expected <= 0).float().mean() < 0.7
    assert expected.abs().min() > 1e-3
    check(run_attack, _build_pgd(PgdConfig(steps=20, step_size=0.5)), model, batch, threat, None)


FEW = {
    "pgd": lambda n: _build_pgd(PgdConfig(steps=n)),
    "pgd-clean-start": lambda n: _build_pgd(PgdConfig(steps=n, random_start=False)),
    "pgd-short-steps": lambda n: _build_pgd(PgdConfig(steps=n, step_size=0.1)),
    "pgd-targeted": lambda n: _build_pgd(PgdConfig(steps=n, loss="targeted")),
    "mim": lambda n: _build_mim(MimConfig(steps=n)),
    "apgd": lambda n: _build_apgd(ApgdConfig(steps=n)),
    "fgsm": lambda n: _build_fgsm(FgsmConfig()),
    "fgsm-random-start": lambda n: _build_fgsm(FgsmConfig(random_start=True)),
}


@pytest.mark.parametrize("build", FEW.values(), ids=FEW)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
@pytest.mark.parametrize("inside", [0.5, 1.0])
def test_the_closed_form_is_reached_in_any_number_of_steps(run_attack, linear_model, norm, build, inside):
    """From any start: the first step crosses the ball."""
    model = linear_model(SHAPES[3], 2, seed=103)
    bounds = (-1.0, 1.0)
    batch = make_batch(model, SHAPES[3], bounds, inside=inside)
    names = ("audio", "video")
    if norm == "l0":
        threat = counting_threat(model, batch, names, bounds)
    else:
        threat = balanced_threat(model, batch, names, norm, bounds)
    for steps in (1, 2, 3, 4, 6, 9):
        check(run_attack, build(steps), model, batch, threat, bounds)
        start = {name: x.clamp(*bounds) for name, x in scattered(batch).items()}
        found = run_attack(build(steps), model, batch, threat, bounds=dict.fromkeys(names, bounds), start=start)
        assert torch.equal(found.verdict.success, model.smallest_margin(batch, threat, bounds) <= 0)


def scattered(batch):
    """The clips somewhere else altogether, to be projected."""
    generator = torch.Generator().manual_seed(7)
    return {name: x + torch.randn(x.shape, generator=generator) for name, x in batch.inputs.items()}
