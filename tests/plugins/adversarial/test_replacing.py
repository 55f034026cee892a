"""`adversarial` and `fast-at`: what they make of clips, what it costs, and what they leave alone."""

from collections import Counter

import pytest
import torch
from avrobust_adversarial.ascent import LastIterate
from avrobust_adversarial.configs import AdversarialConfig, FastAtConfig

from avrobust_core import (
    AttackResult,
    AvrobustError,
    Batch,
    ThreatModel,
    Victim,
    classification_loss,
    derive_seed,
    verify,
)
from avrobust_core.testing import make_problem

AUDIO = {"audio": {"eps": 0.1}}
VIDEO = {"video": {"eps": 0.2}}
BOTH = {**AUDIO, **VIDEO}
REGIMES = [
    ("adversarial", {}),
    ("adversarial", {"attack": {"use": "pgd", "with": {"steps": 3}}}),
    ("fast-at", {"variant": "rs"}),
    ("fast-at", {"variant": "n"}),
]
THREATS = [
    AUDIO,
    BOTH,
    {"audio": {"norm": "l2", "eps": 0.4}, "video": {"norm": "l1", "eps": 1.5}},
    {"audio": {"eps": {"snr_db": 15}}, "video": {"norm": "l0", "eps": 3}},
    {"kind": "shared", "audio": {"norm": "l2", "eps": 0.4}, "video": {"norm": "l2", "eps": 0.8}},
    {"audio": {"eps": 0.1, "frames": [[2, 5]], "time_invariant": True}},
]


def shuffled(batch):
    order = torch.tensor([3, 1, 7, 0, 9, 5, 2, 8, 6, 4])
    return batch.select(order), order


def passes(model):
    """Rows that go through the model's head, and gradients taken through them, counted from outside."""
    found = Counter()

    def forward(module, args, logits):
        found["forwards"] += len(logits)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: found.update(backwards=len(gradient)))

    model.head.register_forward_hook(forward)
    return found


@pytest.mark.parametrize("threat", THREATS)
@pytest.mark.parametrize(("name", "config"), REGIMES)
@pytest.mark.parametrize("task", ["single-label", "multi-label"])
def test_the_core_finds_attacked_clips_inside_their_region(make, step_of, network, clips, name, config, threat, task):
    model, batch = network(), clips(task=task)
    step = step_of(model, task=task)
    found = make(name, threat=threat, **config).begin(batch, step).batch
    victim = Victim(model, media=step.media, task=task)
    with victim.frozen():
        bound = victim.bind(batch, ThreatModel.model_validate(threat))
        outer = bound if config != {"variant": "n"} else bound.scaled(3)
        result = AttackResult({name: found.inputs[name] for name in bound.balls}, torch.zeros(10, dtype=torch.bool))
        verify(name, batch, {name: x.clone() for name, x in batch.inputs.items()}, outer, result)
    for modality, x in batch.inputs.items():
        assert torch.equal(found.inputs[modality], x) == (modality not in threat)
    assert found.targets is batch.targets
    assert found.ids == batch.ids


@pytest.mark.parametrize(
    ("name", "config", "each"),
    [("adversarial", {"steps": 5}, 5), ("fast-at", {"variant": "rs"}, 1), ("fast-at", {"variant": "n"}, 1)],
)
def test_each_step_costs_one_forward_and_one_backward_per_clip(make, step_of, network, clips, name, config, each):
    model, batch = network(), clips()
    step, counted = step_of(model), passes(model)
    make(name, threat=BOTH, **config).begin(batch, step)
    assert (step.cost.forwards, step.cost.backwards) == (each * 10, each * 10)
    assert counted == {"forwards": each * 10, "backwards": each * 10}


@pytest.mark.parametrize("use", ["pgd", "apgd", "square", "fgsm"])
def test_what_any_attack_spends_is_counted_to_the_clip(make, step_of, network, clips, use):
    settings = {"steps": 4} if use in ("pgd", "apgd") else {"queries": 20} if use == "square" else {}
    model = network()
    step, counted = step_of(model), passes(model)
    make("adversarial", threat=AUDIO, attack={"use": use, "with": settings}).begin(clips(), step)
    assert step.cost.forwards == counted["forwards"] > 0
    assert step.cost.backwards == counted["backwards"]


def test_pgd_reaches_the_closed_form_maximum_of_a_linear_model(make, step_of):
    problem = make_problem(classes=2, clips=10)
    threat = problem.threat(["audio", "video"], "linf", share=0.5)
    step = step_of(problem.oracle, classes=2, media=problem.media)
    found = make("adversarial", threat=threat).begin(problem.batch, step).batch
    logits = problem.oracle(found.inputs)
    own = logits.gather(1, problem.batch.targets.unsqueeze(1)).squeeze(1)
    margin = (own - logits.gather(1, 1 - problem.batch.targets.unsqueeze(1)).squeeze(1)).double()
    torch.testing.assert_close(margin, problem.smallest_margin(threat), atol=1e-5, rtol=1e-5)
    assert (margin < 0).any(), "clips are driven on after they are misclassified"
    moved = (found.inputs["audio"] - problem.batch.inputs["audio"]).abs()
    assert moved.max() == pytest.approx(threat["audio"].eps, rel=1e-6)


def test_the_step_of_rs_ends_where_the_paper_says(make, step_of):
    problem = make_problem(classes=2, clips=10, inside=0.3)
    step = step_of(problem.oracle, classes=2, media=problem.media)
    eps, batch = 0.125, problem.batch
    threat = {"audio": {"eps": eps}}
    found = make("fast-at", variant="rs", threat=threat).begin(batch, step).batch
    seed = derive_seed(step.seed, "fast-at", 0, 0)
    bound = Victim(problem.oracle, media=problem.media, task="single-label", seed=seed).bind(
        batch, ThreatModel.model_validate(threat)
    )
    start = bound.sample("start")["audio"] - batch.inputs["audio"]
    weight = problem.oracle.weight("audio").float()
    uphill = (weight[1 - batch.targets] - weight[batch.targets]).sign().view_as(start)
    expected = (start + 1.25 * eps * uphill).clamp(-eps, eps)
    torch.testing.assert_close(found.inputs["audio"] - batch.inputs["audio"], expected, atol=1e-6, rtol=0)
    assert start.abs().max() > 0.9 * eps


def test_the_step_of_n_is_not_projected_back(make, step_of):
    problem = make_problem(classes=2, clips=10, inside=0.3)
    step = step_of(problem.oracle, classes=2, media=problem.media)
    eps = 0.125
    found = make("fast-at", variant="n", threat={"audio": {"eps": eps}}).begin(problem.batch, step).batch
    weight = problem.oracle.weight("audio").float()
    uphill = (weight[1 - problem.batch.targets] - weight[problem.batch.targets]).sign()
    along = (found.inputs["audio"] - problem.batch.inputs["audio"]) * uphill.view(10, 1, 12) / eps
    assert along.min() < -0.8, "the noise, of up to 2, is all there"
    assert along.max() > 2.8
    assert along.mean() == pytest.approx(1, abs=0.35)


def test_the_inner_maximisation_raises_the_loss_where_the_model_is_sure(make, step_of, network, clips):
    model, batch = network(), clips()
    with torch.no_grad():
        model.head.weight *= 1000  # so that the cross-entropy's gradient rounds to 0
        targets = model.eval()(batch.inputs).argmax(dim=1)
    sure = Batch(batch.inputs, targets, batch.ids)

    def margins(inputs):
        logits = model.eval()(inputs)
        own = logits.gather(1, targets.unsqueeze(1)).squeeze(1)
        return own - logits.scatter(1, targets.unsqueeze(1), -torch.inf).amax(dim=1)

    found = make("adversarial", threat=BOTH).begin(sure, step_of(model.train())).batch
    assert (margins(found.inputs) < margins(batch.inputs)).all()
    assert (margins(batch.inputs) > 40).sum() > 3


@pytest.mark.parametrize("name", ["adversarial", "fast-at"])
def test_clips_with_several_labels_are_driven_off_all_of_them(make, step_of, network, clips, name):
    model, batch = network(), clips(task="multi-label")
    found = make(name, threat=BOTH).begin(batch, step_of(model, task="multi-label")).batch

    def losses(inputs):
        with torch.no_grad():
            return classification_loss(model.eval()(inputs), batch.targets, "multi-label")

    assert (losses(found.inputs) > losses(batch.inputs)).all()


def test_a_clip_that_an_attack_fails_on_is_learned_from_where_the_search_ended(make, step_of):
    problem = make_problem(classes=3, clips=10)
    threat = problem.threat(["audio"], "linf", share=0.5, slack=0.999)
    step = step_of(problem.oracle, media=problem.media)
    found = (
        make("adversarial", threat=threat, attack={"use": "pgd", "with": {"steps": 5}}).begin(problem.batch, step).batch
    )
    moved = (found.inputs["audio"] - problem.batch.inputs["audio"]).flatten(1).abs().amax(dim=1)
    assert (moved > 0).all()


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", ["adversarial", "fast-at"])
def test_crafting_leaves_the_model_and_the_global_random_state_alone(make, step_of, network, clips, name, mode):
    model, batch = network(), clips()
    next(model.parameters()).requires_grad_(False)
    model.encoders["audio"].net[4].eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    flags = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    inputs = {key: x.clone() for key, x in batch.inputs.items()}
    random = torch.get_rng_state()
    found = make(name, threat=BOTH, mode=mode).begin(batch, step_of(model)).batch
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert flags == ([m.training for m in model.modules()], [p.requires_grad for p in model.parameters()])
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(x, inputs[key]) for key, x in batch.inputs.items())
    assert not any(x.requires_grad for x in found.inputs.values())


def test_in_train_mode_the_attack_sees_the_batch_statistics(make, step_of, network, clips):
    model, batch = network(), clips()
    with torch.no_grad():
        for _, buffer in model.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.linspace(0.2, 3, buffer.numel()))
    seen = {
        mode: make("adversarial", threat=BOTH, mode=mode).begin(batch, step_of(model)).batch.inputs
        for mode in ("eval", "train")
    }
    assert not torch.equal(seen["eval"]["audio"], seen["train"]["audio"])

    def loss(inputs):
        model.train()
        model.encoders["audio"].net[4].eval()
        model.encoders["video"].net[4].eval()
        return torch.nn.functional.cross_entropy(model(inputs), batch.targets).item()

    assert loss(seen["train"]) > loss(seen["eval"]) > loss(batch.inputs)


@pytest.mark.parametrize(("name", "config"), REGIMES)
@pytest.mark.parametrize("threats", [(BOTH,), (AUDIO, VIDEO, BOTH)])
def test_neither_the_order_of_the_batch_nor_batch_mates_matter(make, step_of, network, clips, name, config, threats):
    model, batch = network(), clips()
    augment = make(name, threats=threats, share=0.7, **config)
    straight = augment.begin(batch, step_of(model)).batch
    moved, order = shuffled(batch)
    again = augment.begin(moved, step_of(model)).batch
    alone = augment.begin(batch.select(torch.tensor([4])), step_of(model)).batch
    for modality, x in straight.inputs.items():
        torch.testing.assert_close(again.inputs[modality], x[order], atol=1e-5, rtol=0)
        torch.testing.assert_close(alone.inputs[modality][0], x[4], atol=1e-5, rtol=0)


def test_draws_depend_on_seed_clip_epoch_and_replay(make, step_of, network, clips):
    model, batch = network(), clips()
    augment = make("fast-at", variant="rs", threat=AUDIO)
    first = augment.begin(batch, step_of(model)).batch.inputs["audio"]
    assert torch.equal(first, augment.begin(batch, step_of(model)).batch.inputs["audio"])
    renamed = Batch(batch.inputs, batch.targets, tuple(f"other-{i}" for i in range(10)))
    assert not torch.equal(first, augment.begin(renamed, step_of(model)).batch.inputs["audio"])
    for other in ({"epoch": 1}, {"seed": 8}, {"replay": 1}):
        assert not torch.equal(first, augment.begin(batch, step_of(model, **other)).batch.inputs["audio"])


def test_soft_targets_are_learned_from_and_the_attack_is_told_the_heavier_label(make, step_of, network, clips):
    model, batch = network(), clips()
    soft = torch.nn.functional.one_hot(batch.targets, 3) * 0.4 + 0.2
    augment = make("adversarial", threat=BOTH)
    hard = augment.begin(batch, step_of(model)).batch
    found = augment.begin(Batch(batch.inputs, soft, batch.ids), step_of(model)).batch
    assert found.targets is soft
    assert torch.equal(found.inputs["video"], hard.inputs["video"])


@pytest.mark.parametrize("first", ["mixup", "adversarial"])
def test_it_composes_with_mixup_either_way(make, step_of, network, clips, first):
    from avrobust_training.configs import MixupConfig
    from avrobust_training.mixup import Mixup

    model, batch = network(), clips()
    step = step_of(model)
    augments = [Mixup(MixupConfig(alpha=1)), make("adversarial", threat=BOTH)]
    for augment in augments if first == "mixup" else augments[::-1]:
        batch = augment.begin(batch, step).batch
    torch.testing.assert_close(batch.targets.sum(dim=1), torch.ones(10))
    assert all(x.abs().max() <= 1 for x in batch.inputs.values())
    assert step.cost.forwards == 70


class Corruption(LastIterate):
    norms = frozenset({"linf"})


def test_attacks_that_cannot_be_trained_against_are_refused_with_the_reason(make):
    for use, why in (("fmn", "smallest perturbation"), ("universal", "whole set of clips"), ("cw", "smallest")):
        with pytest.raises(AvrobustError, match=why):
            make("adversarial", threat={"audio": {"norm": "l2", "eps": 1}}, attack=use)
    with pytest.raises(AvrobustError, match="no attack is named 'pdg'"):
        make("adversarial", threat=AUDIO, attack="pdg")
    with pytest.raises(AvrobustError, match="steps"):
        make("adversarial", threat=AUDIO, attack={"use": "pgd", "with": {"steps": 0}})
    from avrobust_adversarial.replacing import refuse_unfit

    with pytest.raises(AvrobustError, match="cannot attack in l2; it supports: linf"):
        refuse_unfit("mine", Corruption(1, 1.0), [ThreatModel.model_validate({"audio": {"norm": "l2", "eps": 1}})])
    with pytest.raises(AvrobustError, match=r"no avrobust_core\.Attack"):
        refuse_unfit("mine", object(), [])


def test_a_model_that_ignores_what_is_attacked_is_an_error(make, step_of, clips):
    class Deaf(torch.nn.Module):
        def forward(self, inputs):
            return torch.zeros(len(inputs["audio"]), 3)

    with pytest.raises(AvrobustError, match="no gradient reaches audio"):
        make("adversarial", threat=AUDIO).begin(clips(), step_of(Deaf()))


def test_configurations_that_contradict_themselves_are_refused():
    for wrong, why in (
        ({}, "either `threat` or `threats`"),
        ({"threat": AUDIO, "threats": [AUDIO]}, "either `threat` or `threats`"),
        ({"threat": {"audio": {"eps": 0.1, "space": "features"}}}, "features cannot be attacked"),
        ({"threat": AUDIO, "mode": "train", "share": 0.5}, "whole batches"),
        ({"threats": [AUDIO, VIDEO], "mode": "train"}, "whole batches"),
        ({"threat": AUDIO, "share": 0}, "greater than 0"),
    ):
        for config in (AdversarialConfig, FastAtConfig):
            with pytest.raises(ValueError, match=why):
                config.model_validate(wrong)
    for wrong in ({"steps": 7}, {"step_size": 0.1}, {"random_start": False}, {"mode": "train"}):
        with pytest.raises(ValueError, match="attack"):
            AdversarialConfig.model_validate({"threat": AUDIO, "attack": "pgd", **wrong})
    with pytest.raises(ValueError, match="variant: n"):
        FastAtConfig.model_validate({"threat": AUDIO, "variant": "rs", "noise": 2})


def test_the_identity_holds_the_threat_and_the_attacks_version():
    own = AdversarialConfig.model_validate({"threat": BOTH}).identity()
    assert own["threat"]["video"]["eps"] == 0.2
    named = AdversarialConfig.model_validate({"threat": BOTH, "attack": "pgd"}).identity()
    assert named["attack"]["version"] >= 3
    assert named["attack"]["config"]["steps"] == 20
