"""What must hold of PGD, FGSM, MIM and APGD on any model: the faults of earlier libraries, one test each."""

import subprocess
import sys

import pytest
import torch
from avrobust_attacks.gradient.apgd import apgd as _build_apgd
from avrobust_attacks.gradient.configs import ApgdConfig, FgsmConfig, MimConfig, PgdConfig
from avrobust_attacks.gradient.pgd import fgsm as _build_fgsm
from avrobust_attacks.gradient.pgd import mim as _build_mim
from avrobust_attacks.gradient.pgd import pgd as _build_pgd
from avrobust_attacks.keepers import Keeper
from avrobust_attacks.losses import cross_entropy, negative_margin
from pydantic import ValidationError
from torch import nn

from avrobust_core import AvrobustError, Batch, BatchGoal, Goal, margin

BOUNDS = {"audio": (-1.0, 1.0), "video": (0.0, 1.0)}
BOTH = {"audio": {"norm": "linf", "eps": 0.12}, "video": {"norm": "l2", "eps": "16/255"}}
ATTACKS = {
    "fgsm": _build_fgsm(FgsmConfig()),
    "fgsm-random": _build_fgsm(FgsmConfig(random_start=True)),
    "pgd": _build_pgd(PgdConfig(steps=6)),
    "pgd-clean-start": _build_pgd(PgdConfig(steps=6, random_start=False)),
    "pgd-restarts": _build_pgd(PgdConfig(steps=3, restarts=3)),
    "pgd-margin": _build_pgd(PgdConfig(steps=6, loss="margin")),
    "mim": _build_mim(MimConfig(steps=6)),
    "apgd": _build_apgd(ApgdConfig(steps=12, restarts=2)),
    "apgd-targeted": _build_apgd(ApgdConfig(steps=8, loss="targeted")),
}
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)


def pick(batch, positions):
    index = torch.tensor(positions)
    inputs = {name: x[index] for name, x in batch.inputs.items()}
    return Batch(inputs=inputs, targets=batch.targets[index], ids=tuple(batch.ids[i] for i in positions))


def seen(model, batch):
    """The batch labelled as the model sees it, but for the first three clips."""
    model.eval()
    targets = model(batch.inputs).argmax(dim=1)
    targets[:3] = (targets[:3] + 1) % 3
    return Batch(batch.inputs, targets, batch.ids)


@pytest.fixture
def decided(av_model, av_batch):
    return seen(av_model, av_batch)


class Scalar(nn.Module):
    """Two classes; the logit of class 1 minus that of class 0 is any function of the one audio sample."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, inputs):
        odds = self.function(inputs["audio"].flatten(1)[:, 0])
        return torch.stack([torch.zeros_like(odds), odds], dim=1)


def scalars(values):
    x = torch.tensor(values).view(-1, 1, 1)
    return Batch({"audio": x}, torch.zeros(len(values), dtype=torch.int64), tuple(f"c{i}" for i in range(len(values))))


def test_the_threats_here_fool_some_clips_and_not_others(run_attack, av_model, decided):
    for attack in ATTACKS.values():
        success = run_attack(attack, av_model, decided, BOTH, bounds=BOUNDS).result.success
        assert 3 < success.sum() < len(success)


# Fault 2
@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("after", [lambda z: z - 100, lambda z: z.log_softmax(dim=1)], ids=["shifted", "log-softmax"])
def test_shifted_logits_change_nothing(run_attack, av_model, decided, loss, after):
    attack = _build_pgd(PgdConfig(steps=6, loss=loss))
    plain = run_attack(attack, av_model, decided, BOTH, bounds=BOUNDS)
    handle = av_model.head.register_forward_hook(lambda module, args, out: after(out))
    shifted = run_attack(attack, av_model, decided, BOTH, bounds=BOUNDS)
    handle.remove()
    assert torch.equal(plain.result.success, shifted.result.success)
    assert torch.equal(plain.bound.queries, shifted.bound.queries)


# Fault 3
@every_attack
def test_a_clip_does_not_depend_on_its_batch_mates(run_attack, av_model, decided, attack):
    whole = run_attack(attack, av_model, decided, BOTH, bounds=BOUNDS)
    for i in range(len(decided)):
        alone = run_attack(attack, av_model, pick(decided, [i]), BOTH, bounds=BOUNDS)
        assert alone.result.success[0] == whole.result.success[i]
        assert alone.bound.queries[0] == whole.bound.queries[i]
        torch.testing.assert_close(alone.result.trace[:, 0], whole.result.trace[:, i], equal_nan=True)
        for name, x in alone.result.inputs.items():
            torch.testing.assert_close(x[0], whole.result.inputs[name][i], rtol=1e-4, atol=1e-5)


@every_attack
def test_the_order_of_the_clips_does_not_matter(run_attack, av_model, decided, attack):
    order = [7, 2, 11, 0, 5, 9, 1, 10, 3, 8, 4, 6]
    straight = run_attack(attack, av_model, decided, BOTH, bounds=BOUNDS)
    shuffled = run_attack(attack, av_model, pick(decided, order), BOTH, bounds=BOUNDS)
    assert torch.equal(shuffled.result.success, straight.result.success[order])
    assert torch.equal(shuffled.bound.queries, straight.bound.queries[order])
    for name, x in shuffled.result.inputs.items():
        torch.testing.assert_close(x, straight.result.inputs[name][order], rtol=1e-4, atol=1e-5)


# Faults 4, 18 and 20
@every_attack
def test_nothing_but_the_result_is_changed(run_attack, av_model, decided, attack):
    av_model.train()
    av_model.encoders["audio"].layers[1].eval()
    for i, parameter in enumerate(av_model.parameters()):
        parameter.grad = torch.full_like(parameter, 7.0)
        parameter.requires_grad_(i % 2 == 0)
    before = {
        "state": {name: value.clone() for name, value in av_model.state_dict().items()},
        "flags": [parameter.requires_grad for parameter in av_model.parameters()],
        "modes": [module.training for module in av_model.modules()],
        "rng": torch.get_rng_state(),
        "inputs": {name: x.clone() for name, x in decided.inputs.items()},
    }
    found = run_attack(attack, av_model, decided, BOTH, bounds=BOUNDS)
    assert all(torch.equal(value, before["state"][name]) for name, value in av_model.state_dict().items())
    assert [parameter.requires_grad for parameter in av_model.parameters()] == before["flags"]
    assert all((parameter.grad == 7).all() for parameter in av_model.parameters())
    assert [module.training for module in av_model.modules()] == before["modes"]
    assert torch.equal(torch.get_rng_state(), before["rng"])
    for name, x in decided.inputs.items():
        assert torch.equal(x, before["inputs"][name])
        assert not x.requires_grad
    assert not any(x.requires_grad for x in found.result.inputs.values())
    assert torch.is_grad_enabled()


# Fault 4: half the work
def test_no_gradient_of_a_parameter_is_worked_out(run_attack, av_model, decided):
    asked = []
    for parameter in av_model.parameters():
        parameter.register_hook(lambda gradient: asked.append(gradient))
    run_attack(ATTACKS["pgd"], av_model, decided, BOTH, bounds=BOUNDS)
    assert not asked


# Fault 5
def test_a_success_in_passing_is_kept(run_attack):
    """The band [0.28, 0.32] is misclassified; the attack runs through it and on to the far side."""
    model = Scalar(lambda x: torch.where((x > 0.28) & (x < 0.32), x + 1, x - 5))
    attack = _build_pgd(PgdConfig(steps=10, step_size=0.1, random_start=False))
    found = run_attack(attack, model, scalars([0.0, 0.5]), {"audio": {"eps": 1.0}})
    assert found.result.success.tolist() == [True, False]
    torch.testing.assert_close(found.result.inputs["audio"][0].item(), 0.3, rtol=0, atol=1e-6)
    assert found.bound.queries.tolist() == [5, 12]  # one of them where the first gradient leaps to


def test_a_success_at_the_last_point_is_seen(run_attack):
    model = Scalar(lambda x: torch.where(x < 0.9999995, x - 0.95, -5))
    attack = _build_pgd(PgdConfig(steps=10, step_size=0.0975, random_start=False))
    found = run_attack(attack, model, scalars([0.0, -0.2]), {"audio": {"eps": 1.0}})
    assert found.result.success.tolist() == [True, False]
    assert found.bound.queries.tolist() == [12, 12]  # the second where the first gradient leaps to, at 1.0 and 0.8


@pytest.mark.parametrize("random_start", [False, True])
def test_success_anywhere_on_the_trace_is_success_of_what_is_returned(run_attack, av_model, decided, random_start):
    attack = _build_pgd(PgdConfig(steps=6, loss="margin", random_start=random_start))
    found = run_attack(attack, av_model, decided, BOTH, bounds=BOUNDS)
    on_the_trace = (found.result.trace >= 0).any(dim=0)
    on_the_trace[:3] = True  # wrong from the outset: with a random start they never enter the trace
    assert torch.equal(on_the_trace, found.result.success)
    assert torch.equal(found.result.success, found.verdict.success)


# Fault 6
@every_attack
def test_a_clip_that_is_not_fooled_is_returned_clean(run_attack, av_model, decided, attack):
    found = run_attack(attack, av_model, decided, BOTH, bounds=BOUNDS)
    failed = ~found.result.success
    assert failed.any()
    for name, x in found.result.inputs.items():
        assert torch.equal(x[failed], decided.inputs[name][failed])


@every_attack
def test_a_clip_that_is_wrong_from_the_outset_is_returned_clean_after_one_query(run_attack, av_model, decided, attack):
    found = run_attack(attack, av_model, decided, BOTH, bounds=BOUNDS)
    assert found.result.success[:3].all()
    assert found.bound.queries[:3].tolist() == [1, 1, 1]
    for name, x in found.result.inputs.items():
        assert torch.equal(x[:3], decided.inputs[name][:3])


# Fault 17
@pytest.mark.parametrize(("touched", "other"), [("audio", "video"), ("video", "audio")])
def test_only_the_modality_under_threat_is_touched(run_attack, av_model, decided, touched, other):
    found = run_attack(ATTACKS["pgd"], av_model, decided, {touched: {"norm": "l2", "eps": 2.0}}, bounds=BOUNDS)
    assert set(found.result.inputs) == {touched}
    won = found.result.success.clone()
    won[:3] = False
    assert won.any()
    assert (found.verdict.norms[touched][won] > 0).all()


def test_a_modality_that_is_not_attacked_is_encoded_once(run_attack, av_model, decided):
    run_attack(_build_pgd(PgdConfig(steps=6, restarts=2)), av_model, decided, {"audio": {"eps": 0.05}}, bounds=BOUNDS)
    # One of these is the core's own check, which encodes everything again; the fixture `decided` is another.
    assert av_model.encoders["video"].calls == 3
    assert av_model.encoders["audio"].calls > 10


# Few steps
@pytest.mark.parametrize("random_start", [True, False])
def test_a_modality_whose_gradient_is_zero_at_the_clean_clip_goes_on_from_a_random_point(run_attack, random_start):
    """As behind a frontend with a floor: silence has no gradient, anything beside it has."""
    model = Scalar(lambda x: torch.where(x.abs() < 1e-4, x.detach() + 0 * x, x) - 0.5)
    attack = _build_pgd(PgdConfig(steps=8, random_start=random_start))
    found = run_attack(attack, model, scalars([0.0] * 6), {"audio": {"eps": 0.7}})
    assert found.result.success.tolist() == [random_start] * 6


def test_no_number_of_steps_is_weaker_than_one_from_the_clean_clip(run_attack, av_model, decided):
    fast = run_attack(_build_fgsm(FgsmConfig()), av_model, decided, BOTH, bounds=BOUNDS).result.success
    assert 0 < fast[3:].sum() < len(fast) - 3
    for steps in (1, 2, 3, 5):
        for attack in (
            _build_pgd(PgdConfig(steps=steps)),
            _build_pgd(PgdConfig(steps=steps, random_start=False)),
            _build_pgd(PgdConfig(steps=steps, step_size=0.01)),
            _build_mim(MimConfig(steps=steps)),
            _build_apgd(ApgdConfig(steps=steps)),
        ):
            found = run_attack(attack, av_model, decided, BOTH, bounds=BOUNDS).result.success
            assert (fast <= found).all()


# Queries under compaction
def test_queries_count_what_each_clip_cost(run_attack):
    model = Scalar(lambda x: torch.where(x < 0.7, x - 0.35, -5))
    attack = _build_pgd(PgdConfig(steps=5, step_size=0.1, random_start=False))
    found = run_attack(attack, model, scalars([0.4, 0.3, 0.2, 0.1, -0.2]), {"audio": {"eps": 1.0}})
    assert found.result.success.tolist() == [True, True, True, True, False]
    # After the clean clip, each is looked at where the first gradient leaps to, which is none of the climb's points.
    assert found.bound.queries.tolist() == [1, 3, 4, 5, 7]
    assert (~found.result.trace.isnan()).sum(dim=0).tolist() == [1, 2, 3, 4, 6]


def test_a_failure_costs_every_step_of_every_restart(run_attack):
    found = run_attack(
        _build_pgd(PgdConfig(steps=5, restarts=3)),
        Scalar(lambda x: x - 5),
        scalars([0.0, 0.1]),
        {"audio": {"eps": 0.2}},
    )
    assert found.bound.queries.tolist() == [3 * 6] * 2  # the first begins at the clean clip


def test_restarts_only_add_successes(run_attack, av_model, decided):
    threat = {"audio": {"eps": 0.03}, "video": {"eps": 0.01}}
    one, many = (
        run_attack(_build_pgd(PgdConfig(steps=2, restarts=r)), av_model, decided, threat, bounds=BOUNDS) for r in (1, 6)
    )
    assert (one.result.success <= many.result.success).all()
    torch.testing.assert_close(one.result.trace, many.result.trace, equal_nan=True)


def test_restarts_reach_what_one_start_misses(run_attack):
    """Only starts near the end of the ball lie in the basin; the clean clip climbs to a bad local optimum at -0.9."""
    model = Scalar(lambda x: torch.where(x > 0.8, x, -3 - (x + 0.9) ** 2))
    batch = scalars([0.0] * 30)
    one, many = (
        run_attack(_build_pgd(PgdConfig(steps=3, restarts=r)), model, batch, {"audio": {"eps": 1.0}}) for r in (1, 30)
    )
    assert not one.result.success.any()
    assert many.result.success.sum() > 25
    assert (many.result.last["audio"][many.result.success] == 0).all()  # a search that ended elsewhere is forgotten


def test_going_by_flags_of_the_step_before_changes_no_result(run_attack, av_model, decided, monkeypatch):
    attack = _build_pgd(PgdConfig(steps=6, restarts=2))
    at_once = run_attack(attack, av_model, decided, BOTH, bounds=BOUNDS)
    monkeypatch.setattr(Keeper, "lags", True)
    later = run_attack(attack, av_model, decided, BOTH, bounds=BOUNDS)
    assert torch.equal(at_once.result.success, later.result.success)
    torch.testing.assert_close(at_once.result.trace, later.result.trace, equal_nan=True)
    for name, x in at_once.result.inputs.items():
        torch.testing.assert_close(x, later.result.inputs[name], rtol=1e-4, atol=1e-5)


@every_attack
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_radius_of_zero_returns_the_clean_clips_bit_for_bit(run_attack, av_model, decided, attack, norm):
    decided.inputs["audio"][4, 0, :5] = -0.0
    threat = {name: {"norm": norm, "eps": 0} for name in ("audio", "video")}
    found = run_attack(attack, av_model, decided, threat, bounds=BOUNDS)
    assert found.result.success.tolist() == [True] * 3 + [False] * 9
    for name, x in found.result.inputs.items():
        assert torch.equal(x.view(torch.int32), decided.inputs[name].view(torch.int32))


def test_random_starts_depend_on_seed_and_clip_alone(run_attack):
    batch = scalars([0.0] * 8)
    attack = _build_fgsm(FgsmConfig(random_start=True))
    model = Scalar(lambda x: x - 5)
    first, again, other = (
        run_attack(attack, model, batch, {"audio": {"eps": 1.0}}, seed=seed).result.trace[0] for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.isclose(first, other).any()
    assert len(first.unique()) == 8


def test_each_modality_starts_from_numbers_of_its_own(run_attack):
    seen = []

    class Recorder(Scalar):
        def forward(self, inputs):
            seen.append({name: x.detach().clone() for name, x in inputs.items()})
            return super().forward(inputs)

    batch = scalars([0.0] * 4)
    batch.inputs["video"] = batch.inputs["audio"].clone()
    model = Recorder(lambda x: x - 5)
    run_attack(_build_pgd(PgdConfig(steps=1)), model, batch, {"audio": {"eps": 1.0}, "video": {"eps": 1.0}})
    start = seen[1]  # after the clean clips
    assert not torch.isclose(start["audio"], start["video"]).any()


# What must not be silent
def test_a_loss_that_is_not_finite_names_the_clips(run_attack):
    model = Scalar(lambda x: torch.where(x > 0.5, x / 0.0 * 0.0, x - 5))
    with pytest.raises(AvrobustError, match="not finite for c1:"):
        run_attack(ATTACKS["pgd-clean-start"], model, scalars([0.0, 0.9, 0.2]), {"audio": {"eps": 0.1}})


class InfiniteSlope(torch.autograd.Function):
    """x - 5, whose gradient at 0 is what is asked for."""

    @staticmethod
    def forward(ctx, x, slope):
        ctx.save_for_backward(x)
        ctx.slope = slope
        return x - 5

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return torch.where(x == 0, ctx.slope, gradient), None


@pytest.mark.parametrize("lags", [False, True])
@pytest.mark.parametrize("slope", [float("inf"), -float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_names_the_clips(run_attack, monkeypatch, lags, slope):
    monkeypatch.setattr(Keeper, "lags", lags)
    model = Scalar(lambda x: InfiniteSlope.apply(x, slope))
    batch = scalars([0.3, 0.0, 0.2])
    batch = Batch(
        {"audio": batch.inputs["audio"].repeat(1, 1, 3)}, batch.targets, batch.ids
    )  # finite entries beside it
    with pytest.raises(AvrobustError, match="gradient is not finite for c1:"):
        run_attack(ATTACKS["pgd-clean-start"], model, batch, {"audio": {"eps": 0.05}})


def test_a_model_without_a_gradient_is_refused(run_attack):
    with pytest.raises(AvrobustError, match="no gradient reaches audio"):
        run_attack(ATTACKS["pgd"], Scalar(lambda x: x.detach() - 5), scalars([0.0]), {"audio": {"eps": 0.1}})


def test_a_modality_without_a_gradient_stays_inside_its_ball(run_attack, av_model, decided):
    handle = av_model.encoders["video"].register_forward_hook(
        lambda module, args, out: type(out)(out.tokens.detach(), out.pooled.detach())
    )
    attack = _build_pgd(PgdConfig(steps=4, random_start=False))
    found = run_attack(attack, av_model, decided, {"audio": {"eps": 0.2}, "video": {"eps": 0.2}}, bounds=BOUNDS)
    handle.remove()
    assert found.result.success[3:].any()
    assert torch.equal(found.result.inputs["video"], decided.inputs["video"])


# Several labels
@pytest.fixture
def multi(av_batch):
    targets = (torch.rand(12, 3, generator=torch.Generator().manual_seed(2)) < 0.5).float()
    targets[0], targets[1] = 0.0, 1.0
    return Batch(av_batch.inputs, targets, av_batch.ids)


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("random_start", [True, False])
def test_with_several_labels_the_highest_loss_is_kept(run_attack, av_model, multi, loss, random_start):
    attack = _build_pgd(PgdConfig(steps=6, loss=loss, random_start=random_start))
    found = run_attack(attack, av_model, multi, BOTH, bounds=BOUNDS, task="multi-label")
    with torch.no_grad():
        av_model.eval()
        clean, moved = av_model(multi.inputs), found.verdict.logits
    function = cross_entropy if loss == "ce" else negative_margin
    before, after = (function(z, BatchGoal(multi.targets, "multi-label")) for z in (clean, moved))
    torch.testing.assert_close(after, torch.maximum(before, found.result.trace.amax(dim=0)))
    assert (after >= before - 1e-6).all()
    assert (after > before + 1e-3).sum() >= 9
    assert torch.equal(found.result.success, margin(moved, multi.targets, "multi-label") <= 0)
    assert not found.result.trace.isnan().any()
    assert found.bound.queries.tolist() == [6 + 1] * 12


def test_a_clip_without_a_margin_stays_clean(run_attack, av_model, multi):
    attack = _build_pgd(PgdConfig(steps=4, loss="margin"))
    found = run_attack(attack, av_model, multi, BOTH, bounds=BOUNDS, task="multi-label")
    for name, x in found.result.inputs.items():
        assert torch.equal(x[:2], multi.inputs[name][:2])
    assert found.result.success[:2].tolist() == [True, False]


# Goals
@every_attack
def test_a_targeted_attack_ends_at_the_class_it_aims_at(run_attack, av_model, decided, attack):
    found = run_attack(attack, av_model, decided, BOTH, bounds=BOUNDS, goal=Goal("runner-up"))
    wanted = found.bound.goal.labels
    assert torch.equal(found.result.success, found.verdict.logits.argmax(dim=1) == wanted)
    assert 0 < found.result.success.sum() < len(decided)
    assert found.result.success[:3].tolist() == (av_model(decided.inputs).argmax(dim=1) == wanted)[:3].tolist()


# Warm starts
@pytest.mark.parametrize("name", ["pgd", "pgd-clean-start", "mim", "apgd"])
def test_the_first_restart_begins_where_an_earlier_search_ended(run_attack, name):
    """The basin beyond 0.8 is out of reach of a start at 0, whatever the steps: the slope leads the other way."""
    model = Scalar(lambda x: torch.where(x > 0.8, x - 0.85, -3 - x))
    batch = scalars([0.0, 0.1])
    cold = run_attack(ATTACKS[name], model, batch, {"audio": {"eps": 0.7}})
    assert not cold.result.success.any()
    batch = scalars([0.2, 0.05])  # the second reaches 0.75, from no random start either
    start = {"audio": torch.tensor([0.82, 0.5]).view(-1, 1, 1)}
    warm = run_attack(ATTACKS[name], model, batch, {"audio": {"eps": 0.7}}, start=start)
    assert warm.result.success.tolist() == [True, False]
    if warm.result.trace.shape[0] == 7:
        torch.testing.assert_close(warm.result.trace[0], torch.tensor([0.82 - 0.85, -3 - 0.5]))


def test_clips_that_are_right_clean_and_wrong_at_the_start_are_found_there(run_attack):
    start = {"audio": torch.tensor([0.5, 0.1]).view(-1, 1, 1)}
    model = Scalar(lambda x: x - 0.4)
    found = run_attack(ATTACKS["pgd"], model, scalars([0.0, 0.0]), {"audio": {"eps": 0.5}}, start=start)
    assert found.bound.queries[0] == 2
    assert found.result.inputs["audio"][0].item() == 0.5


@every_attack
def test_where_the_search_stood_is_kept_of_the_clips_that_were_not_broken(run_attack, av_model, decided, attack):
    found = run_attack(attack, av_model, decided, BOTH, bounds=BOUNDS)
    success, last = found.result.success, found.result.last
    assert (found.bound.region.size(last) <= 1 + 1e-6).all()
    with torch.no_grad():
        climbed, clean = (negative_margin(found.bound(x), found.bound.goal) for x in (last, decided.inputs))
    assert (climbed > clean)[~success].all()
    for name, x in last.items():
        assert torch.equal(x[success], decided.inputs[name][success])
        assert (x != decided.inputs[name]).flatten(1).any(dim=1)[~success].all()


def test_of_several_restarts_the_highest_end_is_kept(run_attack):
    """Two hills: from 0.3 down the slope leads to -0.9, from above to 0.9, which is higher; none of them succeeds."""
    model = Scalar(lambda x: torch.where(x > 0.3, -3 - (x - 0.9).abs(), -5 - (x + 0.9).abs()))
    attack = _build_pgd(PgdConfig(steps=12, step_size=0.1, restarts=30))  # a third of starts is on the higher hill
    found = run_attack(attack, model, scalars([0.0] * 12), {"audio": {"eps": 1.0}})
    torch.testing.assert_close(found.result.last["audio"].flatten(), torch.full((12,), 0.9), rtol=0, atol=0.11)


# Less than float32
class Coarse(Scalar):
    """As under autocast a model may be: off by 0.2 where it is asked in bf16."""

    def forward(self, inputs):
        logits = super().forward(inputs)
        return logits + torch.tensor([0.0, 0.2]) * torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("lags", [False, True])
def test_a_success_that_float32_does_not_confirm_is_none(run_attack, monkeypatch, lags):
    monkeypatch.setattr(Keeper, "lags", lags)
    attack = _build_pgd(PgdConfig(steps=15, step_size=0.1, random_start=False))
    model = Coarse(lambda x: x - 0.55)
    found = run_attack(attack, model, scalars([0.6, 0.0, -0.45]), {"audio": {"eps": 0.9}}, precision="bf16-mixed")
    assert found.result.success.tolist() == [True, True, False]
    assert found.result.inputs["audio"][1].item() > 0.55
    assert found.result.inputs["audio"][2].item() == torch.tensor(-0.45).item()
    assert torch.equal(found.verdict.success, found.result.success)


def test_with_several_labels_success_is_what_float32_says(run_attack):
    model = Coarse(lambda x: x - 0.55)
    batch = scalars([0.6, 0.0, -0.45])
    batch = Batch(batch.inputs, torch.tensor([[1.0, 0.0]] * 3), batch.ids)
    threat = {"audio": {"eps": 0.9}}
    found = run_attack(ATTACKS["pgd"], model, batch, threat, precision="bf16-mixed", task="multi-label")
    assert found.result.success.tolist() == [True, True, False]


# Randomness of the model's own
@every_attack
def test_each_look_at_a_random_model_counts_and_is_averaged(run_attack, av_model, decided, attack):
    """The mean of two passes whose noise cancels out is the model without it, gradients too."""
    plain = run_attack(attack, av_model, decided, BOTH, bounds=BOUNDS)
    signs = iter([1.0, -1.0] * 100_000)
    handle = av_model.head.register_forward_hook(lambda module, args, out: out + next(signs) * (1 + out.square()))
    noisy = run_attack(attack, av_model, decided, BOTH, bounds=BOUNDS, samples=2)
    handle.remove()
    assert (noisy.verdict.success == plain.verdict.success).float().mean() > 0.9  # ends, not best points
    assert len(noisy.bound.queries.unique()) == 1  # no clip is done before the others
    assert noisy.bound.queries[0] % 2 == 0
    assert noisy.bound.queries[0] >= 2 * plain.bound.queries.max()


@pytest.mark.parametrize("name", ["pgd", "mim", "apgd"])
def test_a_lucky_look_at_a_random_model_settles_nothing(run_attack, name):
    """The third and fourth passes happen to be wrong; what is returned is where the climb ends."""
    passes = iter([-1.0, -1.0, 9.0, 9.0] + [-1.0] * 10_000)
    model = Scalar(lambda x: x + next(passes))
    found = run_attack(ATTACKS[name], model, scalars([0.0, 0.1]), {"audio": {"eps": 0.5}}, samples=2)
    torch.testing.assert_close(found.result.inputs["audio"].flatten(), torch.tensor([0.5, 0.6]), rtol=1e-4, atol=1e-4)
    assert found.verdict.success.tolist() == [False, False]


def test_auto_pgd_does_not_go_back_to_a_point_that_one_look_found_lucky(run_attack):
    """The loss is by far the highest in the first look, at the clean clip; the climb ends at the end of the ball."""
    passes = iter([5.0] * 2 + [0.0] * 10_000)
    model = Scalar(lambda x: x - 20 + next(passes))
    attack = _build_apgd(ApgdConfig(steps=12, restarts=1))
    found = run_attack(attack, model, scalars([0.0, 0.1]), {"audio": {"eps": 0.5}}, samples=2)
    torch.testing.assert_close(found.result.inputs["audio"].flatten(), torch.tensor([0.5, 0.6]), rtol=1e-4, atol=1e-4)


def test_with_several_labels_a_goal_that_was_reached_comes_before_a_higher_loss(run_attack):
    """The cross-entropy is highest at the end of the ball, but the hit at rank one is only lost on the way there."""

    class Three(Scalar):
        def forward(self, inputs):
            x = inputs["audio"].flatten(1)[:, 0]
            own = torch.where((x > 0.28) & (x < 0.32), -0.5, 0.5) + (x - x.detach()) * 0
            return torch.stack([own, x * 0, 10 * x - 20], dim=1)

    batch = scalars([0.0])
    batch = Batch(batch.inputs, torch.tensor([[1.0, 0.0, 0.0]]), batch.ids)
    attack = _build_pgd(PgdConfig(steps=10, step_size=0.1, random_start=False, loss="ce"))
    found = run_attack(attack, Three(None), batch, {"audio": {"eps": 1.0}}, task="multi-label")
    assert found.verdict.success.tolist() == [True]
    torch.testing.assert_close(found.result.inputs["audio"].item(), 0.3, rtol=0, atol=1e-5)


# Other regions
@every_attack
@pytest.mark.parametrize(
    "threat",
    [
        {"kind": "shared", "audio": {"norm": "l2", "eps": 1.0}, "video": {"norm": "l2", "eps": 0.5}},
        {"audio": {"norm": "l1", "eps": 3.0}, "video": {"norm": "l0", "eps": 9, "frame_steps": 1}},
        {"audio": {"norm": "l0", "eps": 3, "per": "frame", "frame_steps": 2}},
        {"audio": {"norm": "linf", "eps": 0.5, "frames": [[2, 9]]}},
        {"audio": {"norm": "l2", "eps": 1.5, "time_invariant": True}},
        {"audio": {"norm": "l2", "eps": 1.5, "space": "features"}, "video": {"norm": "linf", "eps": 0.05}},
    ],
    ids=["shared", "l1-l0", "l0-frames", "frames", "invariant", "features"],
)
def test_every_region_is_kept_to_and_pays(run_attack, av_model, decided, attack, threat):
    av_model.encoders["audio"].time_axis = 1
    found = run_attack(attack, av_model, decided, threat, bounds=BOUNDS, time_axis=1)
    assert found.result.success.sum() > 3  # what is inside, the core has checked
    assert torch.equal(found.result.success, found.verdict.success)


# The plugin
def test_importing_the_plugin_imports_nothing_heavy():
    code = (
        "import sys, avrobust_attacks.plugin, avrobust_metrics.plugin, avrobust_training.plugin; "
        "print([m for m in ('torch', 'numpy', 'scipy', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_configurations_refuse_what_cannot_be():
    with pytest.raises(ValidationError, match="would repeat one attack"):
        PgdConfig(restarts=2, random_start=False)
    for wrong in ({"steps": 0}, {"step_size": 0}, {"restarts": 0}, {"loss": "mse"}, {"momentum": 0.9}):
        with pytest.raises(ValidationError):
            PgdConfig(**wrong)


def test_every_attack_offers_every_norm():
    for attack in ATTACKS.values():
        assert attack.norms == {"linf", "l2", "l1", "l0"}
