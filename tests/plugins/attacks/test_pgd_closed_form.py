"""On linear models the best attack is known exactly: PGD and FGSM must reach it, whatever the rank, bounds and norm."""

import pytest
import torch
from avrobust_attacks.gradient.configs import FgsmConfig, PgdConfig
from avrobust_attacks.gradient.offers import build_fgsm as _build_fgsm
from avrobust_attacks.gradient.offers import build_pgd as _build_pgd

from avrobust_core import Batch, ThreatModel

SHAPES = {
    2: {"audio": (24,), "video": (30,)},
    3: {"audio": (1, 24), "video": (5, 6)},
    4: {"audio": (1, 4, 6), "video": (3, 2, 5)},
    5: {"audio": (1, 2, 3, 4), "video": (3, 2, 2, 3)},
}
THREATS = {"audio": ("audio",), "video": ("video",), "both": ("audio", "video")}
BOUNDS = {"unit": (0.0, 1.0), "signed": (-1.0, 1.0), "two": (-2.0, 2.0), "none": None}


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


def make_threat(names, norm, eps):
    return ThreatModel.model_validate({name: {"norm": norm, "eps": eps} for name in names})


def balanced_threat(model, batch, names, norm, bounds):
    """A threat under which the closed form finds an attack on about half of the clips, and none lies on the edge."""
    low, high = 0.0, 10.0
    for _ in range(60):
        eps = (low + high) / 2
        smallest = model.smallest_margin(batch, make_threat(names, norm, eps), bounds)
        share = (smallest <= 0).float().mean()
        if 0.4 < share < 0.6 and smallest.abs().min() > 1e-3:
            return make_threat(names, norm, eps)
        low, high = (eps, high) if share <= 0.5 else (low, eps)
    raise AssertionError("no such radius")


def check(run_attack, attack, model, batch, threat, bounds):
    expected = model.smallest_margin(batch, threat, bounds) <= 0
    found = run_attack(attack, model, batch, threat, bounds=dict.fromkeys(batch.inputs, bounds))
    assert torch.equal(found.result.success, expected)
    assert torch.equal(found.verdict.success, expected)


@pytest.mark.parametrize("rank", SHAPES)
@pytest.mark.parametrize("names", THREATS.values(), ids=THREATS)
@pytest.mark.parametrize("bounds", BOUNDS.values(), ids=BOUNDS)
def test_linf_reaches_the_closed_form_where_bounds_do_not_bind(run_attack, linear_model, rank, names, bounds):
    model = linear_model(SHAPES[rank], 2, seed=rank)
    batch = make_batch(model, SHAPES[rank], bounds, inside=0.5)
    threat = balanced_threat(model, batch, names, "linf", bounds)
    if bounds:
        assert threat[names[0]].eps < 0.25 * (bounds[1] - bounds[0])
    check(run_attack, _build_pgd(PgdConfig(steps=8)), model, batch, threat, bounds)


@pytest.mark.parametrize("rank", SHAPES)
@pytest.mark.parametrize("names", THREATS.values(), ids=THREATS)
@pytest.mark.parametrize("bounds", [b for b in BOUNDS.values() if b], ids=[k for k, b in BOUNDS.items() if b])
def test_linf_reaches_the_closed_form_where_bounds_bind(run_attack, linear_model, rank, names, bounds):
    model = linear_model(SHAPES[rank], 2, seed=10 + rank)
    batch = make_batch(model, SHAPES[rank], bounds, inside=1.2)
    inputs = {name: x.clamp(*bounds) for name, x in batch.inputs.items()}  # a sixth of the samples at the very bounds
    batch = Batch(inputs, model(inputs).argmax(dim=1), batch.ids)
    check(
        run_attack,
        _build_pgd(PgdConfig(steps=8)),
        model,
        batch,
        balanced_threat(model, batch, names, "linf", bounds),
        bounds,
    )


@pytest.mark.parametrize("rank", SHAPES)
@pytest.mark.parametrize("names", THREATS.values(), ids=THREATS)
@pytest.mark.parametrize("random_start", [False, True])
def test_l2_reaches_the_closed_form(run_attack, linear_model, rank, names, random_start):
    model = linear_model(SHAPES[rank], 2, seed=20 + rank)
    batch = make_batch(model, SHAPES[rank], None)
    threat = balanced_threat(model, batch, names, "l2", None)
    attack = _build_pgd(PgdConfig(steps=20, step_size=0.5, random_start=random_start))
    check(run_attack, attack, model, batch, threat, None)


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
