"""On linear models the smallest perturbation is known exactly: cw, ddn and fmn must come within 1 %, 2 % and 2 %."""

import pytest
import torch
from avrobust_attacks.minimal.configs import CwConfig, DdnConfig, FmnConfig
from avrobust_attacks.minimal.cw import CW
from avrobust_attacks.minimal.stepped import DDN, FMN

from avrobust_core import Batch, ThreatModel

SHAPES = {
    2: {"audio": (24,), "video": (30,)},
    3: {"audio": (1, 24), "video": (5, 6)},
    4: {"audio": (1, 4, 6), "video": (3, 2, 5)},
    5: {"audio": (1, 2, 3, 4), "video": (3, 2, 2, 3)},
}
EPS = {"audio": 6.0, "video": 3.0}
TOUCHED = {"audio": ("audio",), "video": ("video",), "both": ("audio", "video")}
CASES = [
    (2, TOUCHED["audio"]),
    (3, TOUCHED["video"]),
    pytest.param(4, TOUCHED["both"], marks=pytest.mark.slow),  # rank 4 is the shared ball's, too
    (5, TOUCHED["both"]),
]
BOUNDS = {"unit": (0.0, 1.0), "signed": (-1.0, 1.0), "none": None}
WITH_BOUNDS = [
    pytest.param(bounds, id=name, marks=pytest.mark.slow if name == "signed" else ()) for name, bounds in BOUNDS.items()
]
ATTACKS = {
    "cw": (CW(CwConfig()), 1.01),
    "ddn": (DDN(DdnConfig()), 1.02),
    "fmn": (FMN(FmnConfig()), 1.02),
}


def make_batch(model, shapes, bounds, *, n=12, seed=1, at_bounds=False):
    generator = torch.Generator().manual_seed(seed)
    low, high = bounds or (-1.0, 1.0)
    inputs = {}
    for name, shape in shapes.items():
        unit = torch.rand(n, *shape, generator=generator)
        inputs[name] = low + (high - low) * (unit.round() if at_bounds else unit)
    targets = model(inputs).argmax(dim=1)
    return Batch(inputs=inputs, targets=targets, ids=tuple(f"c{i}" for i in range(n)))


def make_threat(names, norm, kind="separate", scale=1.0):
    budgets = {name: {"norm": norm, "eps": EPS[name] * scale} for name in names}
    return ThreatModel.model_validate({"kind": kind, **budgets})


def reach(norm, w, down, up, radius):
    """The largest w . d with d of that norm at most `radius` (B,) and down <= d <= up: exact, float64."""
    room = torch.where(w > 0, up, -down)
    scale = w.abs().amax()
    return scale * _reach(norm, w.abs() / scale, room, radius)


def _reach(norm, size, room, radius):
    if norm == "linf":
        return (size * torch.minimum(room, radius[:, None])).sum(dim=1)
    if norm == "l1":
        order = size.argsort(dim=1, descending=True)
        size, room = size.gather(1, order), room.gather(1, order)
        before = room.nan_to_num(posinf=1e9).cumsum(dim=1) - room.nan_to_num(posinf=1e9)
        return (size * torch.minimum(room, (radius[:, None] - before).clamp(min=0))).sum(dim=1)
    if norm == "l0":
        gains = (size * room).sort(dim=1, descending=True).values.cumsum(dim=1)
        count = radius.long().clamp(max=gains.shape[1])
        return torch.where(count > 0, gains.gather(1, (count - 1).clamp(min=0)[:, None])[:, 0], 0)
    low, high = torch.full_like(radius, 1e-6), torch.full_like(radius, 1e6)
    for _ in range(40):  # d = min(level |w|, room): the level at which its length is the radius
        level = (low * high).sqrt()
        inside = torch.minimum(level[:, None] * size, room).norm(dim=1) <= radius
        low, high = torch.where(inside, level, low), torch.where(inside, high, level)
    return (size * torch.minimum(low[:, None] * size, room)).sum(dim=1)


def smallest_size(model, batch, threat, bounds):
    """The exact smallest size (B,) float64 at which some other class wins; infinite where the bounds forbid all."""
    own = batch.targets
    clean = model({name: x.double() for name, x in batch.inputs.items()})
    best = torch.full((len(own),), torch.inf, dtype=torch.float64)
    low, high = bounds or (-torch.inf, torch.inf)
    for other in range(clean.shape[1]):
        margin = clean[torch.arange(len(own)), own] - clean[:, other]
        parts = []
        for name, budget in threat.items():
            x = batch.inputs[name].flatten(1).double()
            w = (model.weights[name][other] - model.weights[name][own]).double()
            parts.append((budget.norm, budget.eps, w, low - x, high - x))
        if threat.kind == "shared":  # one ball, in units of each modality's radius
            joined = [
                torch.cat(p, dim=1) for p in zip(*((e * w, d / e, u / e) for _, e, w, d, u in parts), strict=True)
            ]
            parts = [("l2", 1.0, *joined)]

        def fall(size, parts=parts):
            return torch.stack([reach(n, w, d, u, e * size + 1e-9) for n, e, w, d, u in parts]).sum(dim=0)

        least, most = torch.zeros_like(best), torch.full_like(best, 2.0)
        for _ in range(40):
            middle = (least + most) / 2
            enough = fall(middle) >= margin
            least, most = torch.where(enough, least, middle), torch.where(enough, middle, most)
        best = torch.where((own != other) & (most < 1.99), torch.minimum(best, most), best)
    return best.detach()


def check(run_attack, name, model, batch, threat, bounds, *, after=None, tolerance=None):
    attack, usual = ATTACKS[name]
    expected = smallest_size(model.double(), batch, threat, bounds)
    assert expected.min() > 0
    model.float()
    model.after = after or model.after
    found = run_attack(attack, model, batch, threat, bounds=dict.fromkeys(batch.inputs, bounds))
    possible = expected < 0.98
    assert possible.sum() >= len(batch) // 2
    assert torch.equal(found.result.success | ~possible, torch.ones_like(possible))
    assert torch.equal(found.verdict.success, found.result.success)
    assert not (found.result.success & (expected > 1 + 1e-5)).any()
    ratio = found.verdict.size[possible] / expected[possible]
    assert ratio.min() > 1 - 1e-4
    assert ratio.max() < (tolerance or usual), f"{ratio.max():.4f}"


@pytest.mark.parametrize(("rank", "names"), CASES)
@pytest.mark.parametrize("bounds", WITH_BOUNDS)
@pytest.mark.parametrize("name", ATTACKS)
def test_l2_comes_to_the_closed_form(run_attack, linear_model, name, rank, names, bounds):
    model = linear_model(SHAPES[rank], 2, seed=rank)
    batch = make_batch(model, SHAPES[rank], bounds)
    check(run_attack, name, model, batch, make_threat(names, "l2"), bounds)


@pytest.mark.parametrize("bounds", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize("name", ATTACKS)
def test_a_shared_ball_comes_to_the_closed_form(run_attack, linear_model, name, bounds):
    model = linear_model(SHAPES[4], 2, seed=11)
    batch = make_batch(model, SHAPES[4], bounds)
    check(run_attack, name, model, batch, make_threat(("audio", "video"), "l2", "shared"), bounds)


@pytest.mark.parametrize(("rank", "names"), CASES)
@pytest.mark.parametrize("bounds", WITH_BOUNDS)
@pytest.mark.parametrize("name", ["cw", "fmn"])
def test_linf_comes_to_the_closed_form(run_attack, linear_model, name, rank, names, bounds):
    model = linear_model(SHAPES[rank], 2, seed=20 + rank)
    batch = make_batch(model, SHAPES[rank], bounds)
    check(run_attack, name, model, batch, make_threat(names, "linf", scale=0.3), bounds)


@pytest.mark.parametrize("names", TOUCHED.values(), ids=TOUCHED)
@pytest.mark.parametrize("bounds", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize("norm", ["l1", "l0"])
def test_fmn_comes_to_the_closed_form_in_l1_and_l0(run_attack, linear_model, norm, names, bounds):
    if norm == "l0" and bounds is None:
        pytest.skip("an l0 budget needs bounds or a cap")
    model = linear_model(SHAPES[3], 2, seed=31)
    batch = make_batch(model, SHAPES[3], bounds)
    check(run_attack, "fmn", model, batch, make_threat(names, norm, scale=4), bounds)


@pytest.mark.parametrize("name", ATTACKS)
def test_of_several_classes_the_nearest_is_found(run_attack, linear_model, name):
    model = linear_model(SHAPES[3], 5, seed=40)
    batch = make_batch(model, SHAPES[3], None, n=24)
    check(run_attack, name, model, batch, make_threat(("audio", "video"), "l2"), None)


@pytest.mark.parametrize("name", ATTACKS)
def test_samples_exactly_at_the_bounds_move_as_well_as_others(run_attack, linear_model, name):
    model = linear_model(SHAPES[3], 2, seed=50)
    batch = make_batch(model, SHAPES[3], (0.0, 1.0), at_bounds=True, n=24)
    check(run_attack, name, model, batch, make_threat(("audio", "video"), "l2"), (0.0, 1.0))


@pytest.mark.parametrize("scale", [1e-12, 1e3])
@pytest.mark.parametrize("name", ATTACKS)
def test_the_scale_of_the_logits_does_not_matter(run_attack, linear_model, name, scale):
    model = linear_model(SHAPES[3], 3, seed=60)
    batch = make_batch(model, SHAPES[3], None)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    check(run_attack, name, model, batch, make_threat(("audio", "video"), "l2"), None)


@pytest.mark.parametrize("name", ATTACKS)
def test_logits_that_saturate_leave_the_boundary_where_it_is(run_attack, linear_model, name):
    model = linear_model(SHAPES[3], 6, seed=70)
    batch = make_batch(model, SHAPES[3], None, n=32)

    def saturated(logits):  # in the order of the linear model's, so that the closed form holds but for rounding
        return 30 * (logits / 2).tanh()

    threat = make_threat(("audio", "video"), "l2")
    check(run_attack, name, model, batch, threat, None, after=saturated, tolerance=2.0)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("steep", [1.0, 2.0])
def test_flat_logits_leave_every_look_finite(run_attack, linear_model, name, steep):
    model = linear_model(SHAPES[3], 6, seed=70)
    batch = make_batch(model, SHAPES[3], None, n=32)
    looks = []

    def flat(logits):
        looks.append(bool(logits.isfinite().all()))
        return 30 * (steep * logits).tanh()

    model.after = flat
    run_attack(ATTACKS[name][0], model, batch, make_threat(("audio", "video"), "l2", scale=1e3), bounds={})
    assert all(looks)
