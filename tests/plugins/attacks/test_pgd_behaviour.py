"""What must hold of PGD and FGSM on any model: the faults of earlier libraries, one test each."""

import subprocess
import sys

import pytest
import torch
from avrobust_attacks import pgd as pgd_module
from avrobust_attacks.gradient.configs import FgsmConfig, PgdConfig
from avrobust_attacks.gradient.offers import build_fgsm as _build_fgsm
from avrobust_attacks.gradient.offers import build_pgd as _build_pgd
from avrobust_attacks.losses import cross_entropy, negative_margin
from pydantic import ValidationError
from torch import nn

from avrobust_core import AvrobustError, Batch, ThreatModel, classification_loss, margin

BOUNDS = {"audio": (-1.0, 1.0), "video": (0.0, 1.0)}
BOTH = {"audio": {"norm": "linf", "eps": 0.12}, "video": {"norm": "l2", "eps": "16/255"}}
ATTACKS = {
    "fgsm": _build_fgsm(FgsmConfig()),
    "fgsm-random": _build_fgsm(FgsmConfig(random_start=True)),
    "pgd": _build_pgd(PgdConfig(steps=6)),
    "pgd-clean-start": _build_pgd(PgdConfig(steps=6, random_start=False)),
    "pgd-restarts": _build_pgd(PgdConfig(steps=3, restarts=3)),
    "pgd-margin": _build_pgd(PgdConfig(steps=6, loss="margin")),
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
    assert found.bound.queries.tolist() == [4, 11]


def test_a_success_at_the_last_point_is_seen(run_attack):
    model = Scalar(lambda x: x - 0.95)
    attack = _build_pgd(PgdConfig(steps=10, step_size=0.1, random_start=False))
    found = run_attack(attack, model, scalars([0.0, -0.2]), {"audio": {"eps": 1.0}})
    assert found.result.success.tolist() == [True, False]
    assert found.bound.queries.tolist() == [11, 11]


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


# Queries under compaction
def test_queries_count_what_each_clip_cost(run_attack):
    model = Scalar(lambda x: x - 0.35)
    attack = _build_pgd(PgdConfig(steps=5, step_size=0.1, random_start=False))
    found = run_attack(attack, model, scalars([0.4, 0.3, 0.2, 0.1, -0.3]), {"audio": {"eps": 1.0}})
    assert found.result.success.tolist() == [True, True, True, True, False]
    assert found.bound.queries.tolist() == [1, 2, 3, 4, 6]
    assert (~found.result.trace.isnan()).sum(dim=0).tolist() == [1, 2, 3, 4, 6]


def test_a_failure_costs_every_step_of_every_restart(run_attack):
    found = run_attack(
        _build_pgd(PgdConfig(steps=5, restarts=3)),
        Scalar(lambda x: x - 5),
        scalars([0.0, 0.1]),
        {"audio": {"eps": 0.2}},
    )
    assert found.bound.queries.tolist() == [1 + 3 * 6] * 2


def test_restarts_only_add_successes(run_attack, av_model, decided):
    threat = {"audio": {"eps": 0.03}, "video": {"eps": 0.01}}
    one, many = (
        run_attack(_build_pgd(PgdConfig(steps=2, restarts=r)), av_model, decided, threat, bounds=BOUNDS) for r in (1, 6)
    )
    assert (one.result.success <= many.result.success).all()
    torch.testing.assert_close(one.result.trace, many.result.trace, equal_nan=True)


def test_restarts_reach_what_one_start_misses(run_attack):
    """Only starts near the end of the ball lie in the basin; the others climb to a bad local optimum at -0.9."""
    model = Scalar(lambda x: torch.where(x > 0.8, x, -3 - (x + 0.9) ** 2))
    batch = scalars([0.0] * 30)
    one, many = (
        run_attack(_build_pgd(PgdConfig(steps=3, restarts=r)), model, batch, {"audio": {"eps": 1.0}}) for r in (1, 30)
    )
    assert 0 < one.result.success.sum() < 15
    assert many.result.success.sum() > 25


@pytest.mark.parametrize("every", [2, 3, 50])
def test_waiting_less_often_for_the_device_changes_no_result(run_attack, av_model, decided, monkeypatch, every):
    attack = _build_pgd(PgdConfig(steps=6, restarts=2))
    often = run_attack(attack, av_model, decided, BOTH, bounds=BOUNDS)
    monkeypatch.setitem(pgd_module.STEPS_BETWEEN_WAITS, "cpu", every)
    seldom = run_attack(attack, av_model, decided, BOTH, bounds=BOUNDS)
    assert torch.equal(often.result.success, seldom.result.success)
    torch.testing.assert_close(often.result.trace, seldom.result.trace, equal_nan=True)
    for name, x in often.result.inputs.items():
        torch.testing.assert_close(x, seldom.result.inputs[name], rtol=1e-4, atol=1e-5)


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
    attack = _build_pgd(PgdConfig(steps=1))
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


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("slope", [float("inf"), -float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_names_the_clips(run_attack, monkeypatch, every, slope):
    monkeypatch.setitem(pgd_module.STEPS_BETWEEN_WAITS, "cpu", every)
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
    before, after = (function(z, multi.targets, "multi-label") for z in (clean, moved))
    torch.testing.assert_close(after, torch.maximum(before, found.result.trace.amax(dim=0)))
    assert (after >= before - 1e-6).all()
    assert (after > before + 1e-3).sum() >= 9
    assert torch.equal(found.result.success, margin(moved, multi.targets, "multi-label") <= 0)
    assert not found.result.trace.isnan().any()
    assert found.bound.queries.tolist() == [6 + 1 + int(random_start)] * 12


def test_a_clip_without_a_margin_stays_clean(run_attack, av_model, multi):
    attack = _build_pgd(PgdConfig(steps=4, loss="margin"))
    found = run_attack(attack, av_model, multi, BOTH, bounds=BOUNDS, task="multi-label")
    for name, x in found.result.inputs.items():
        assert torch.equal(x[:2], multi.inputs[name][:2])
    assert found.result.success[:2].tolist() == [True, False]


# Losses
def test_cross_entropy_is_a_rising_function_of_the_core_loss():
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(50, 4, generator=generator) * 3).requires_grad_()
    targets = torch.randint(4, (50,), generator=generator)
    ours, core = cross_entropy(logits, targets, "single-label"), classification_loss(logits, targets, "single-label")
    torch.testing.assert_close(torch.nn.functional.softplus(ours), core)
    (mine,), (theirs,) = (torch.autograd.grad(loss.sum(), logits) for loss in (ours, core))
    torch.testing.assert_close(torch.cosine_similarity(mine, theirs), torch.ones(50))
    several = (torch.rand(50, 4, generator=generator) < 0.5).float()
    torch.testing.assert_close(
        cross_entropy(logits, several, "multi-label"), classification_loss(logits, several, "multi-label")
    )


@pytest.mark.parametrize("task", ["single-label", "multi-label"])
def test_cross_entropy_keeps_its_gradient_where_the_model_is_sure(task):
    logits = torch.tensor([[60.0, -20.0, 0.0]], requires_grad=True)
    targets = torch.tensor([0]) if task == "single-label" else torch.tensor([[1.0, 0.0, 0.0]])
    (gradient,) = torch.autograd.grad(cross_entropy(logits, targets, task).sum(), logits)
    assert gradient[0, 0] < 0
    (saturated,) = torch.autograd.grad(classification_loss(logits, targets, task).sum(), logits)
    assert saturated[0, 0] == 0  # why there is a form of our own


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
    for wrong in ({"steps": 0}, {"step_size": 0}, {"restarts": 0}, {"loss": "dlr"}, {"momentum": 0.9}):
        with pytest.raises(ValidationError):
            PgdConfig(**wrong)


def test_both_attacks_offer_both_norms():
    assert ThreatModel.model_validate(BOTH)
    for attack in ATTACKS.values():
        assert attack.norms == {"linf", "l2"}
