"""TRADES: the loss by hand, the ascent of the divergence, and what both cost."""

import pytest
import torch
from avrobust_adversarial.trades import divergence
from torch.distributions import Bernoulli, Categorical, kl_divergence
from torch.nn import functional as F

from avrobust_core import ClipDraws, ThreatModel, Victim
from avrobust_core.training.learner import Learner

BOTH = {"audio": {"eps": 0.1}, "video": {"norm": "l2", "eps": 0.5}}


def test_the_divergence_is_that_of_the_distributions():
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 6, 4, generator=generator) * 5
    single = kl_divergence(Categorical(logits=p), Categorical(logits=q))
    torch.testing.assert_close(divergence(p, q, "single-label"), single)
    several = kl_divergence(Bernoulli(logits=p), Bernoulli(logits=q)).mean(dim=1)
    torch.testing.assert_close(divergence(p, q, "multi-label"), several, atol=1e-5, rtol=1e-4)
    extreme = divergence(p * 1000, q * 1000, "multi-label")
    assert extreme.isfinite().all()


def watch(model):
    """What goes through the head: rows, in which mode, with which gradients."""
    seen = []

    def forward(module, args, logits):
        entry = {"rows": len(logits), "training": module.training, "logits": logits, "back": 0}
        seen.append(entry)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: entry.update(back=len(gradient)))

    model.head.register_forward_hook(forward)
    return seen


@pytest.mark.parametrize("task", ["single-label", "multi-label"])
def test_the_loss_is_that_of_clean_clips_and_the_weighted_divergence(make, step_of, network, clips, task):
    model, batch = network(), clips(task=task)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    seen, step = watch(model), step_of(model, task=task)
    learned = Learner(model, [make("trades", threat=BOTH, beta=3.0, steps=4)]).learn(batch, step)
    assert step.cost.backwards == 40
    clean, attacked = seen[0]["logits"], seen[-1]["logits"]
    if task == "single-label":
        expected = F.cross_entropy(clean, batch.targets, reduction="none") + 3 * F.kl_div(
            attacked.log_softmax(1), clean.softmax(1), reduction="none"
        ).sum(1)
    else:
        p, q = clean.sigmoid(), attacked.sigmoid()
        bernoulli = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
        expected = F.binary_cross_entropy_with_logits(clean, batch.targets, reduction="none").mean(1)
        expected = expected + 3 * bernoulli.mean(1)
    torch.testing.assert_close(learned.losses, expected, atol=1e-5, rtol=1e-4)
    ways = [torch.autograd.grad(x.sum(), (clean, attacked), retain_graph=True) for x in (learned.losses, expected)]
    for found, wanted in zip(*ways, strict=True):  # both predictions are learned from
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    for entry in seen:
        entry["back"] = 0
    step.cost.backwards = 0
    learned.losses.mean().backward()
    # The loop counts its own pass; beside it: clean clips once in evaluation mode, 4 steps, and the last pass.
    assert step.cost.forwards == sum(entry["rows"] for entry in seen) - 10 == 60
    assert step.cost.backwards == sum(entry["back"] for entry in seen) - 10 == 10
    assert [entry["training"] for entry in seen] == [True, *[False] * 5, True]


def test_the_weights_learn_from_both_passes_though_frozen_in_between(make, step_of, network, clips):
    model = network()
    seen = watch(model)
    learned = Learner(model, [make("trades", threat=BOTH, steps=2)]).learn(clips(), step_of(model))
    learned.losses.mean().backward()
    assert all(p.requires_grad for p in model.parameters())
    assert all(p.grad is not None for p in model.parameters())
    assert seen[0]["back"] == seen[-1]["back"] == 10


def test_attacked_clips_lie_in_their_region_and_raise_the_divergence(make, step_of, network, clips):
    model, batch = network(), clips()
    shown = []
    handle = model.register_forward_pre_hook(lambda module, args: shown.append(args[0]))
    Learner(model, [make("trades", threat=BOTH)]).learn(batch, step_of(model))
    handle.remove()
    attacked = shown[-1]
    victim = Victim(model, media=step_of(model).media, task="single-label")
    with victim.frozen():
        region = victim.bind(batch, ThreatModel.model_validate(BOTH)).region
        assert (region.size({name: attacked[name] for name in BOTH}) <= 1 + 1e-6).all()
        assert (region.size({name: attacked[name] for name in BOTH}) > 0.99).all()
        clean = model(batch.inputs)
        random = region.sample(lambda name: ClipDraws(range(10)))
        reached = divergence(clean, model(attacked), "single-label")
        assert (reached > divergence(clean, model(random), "single-label")).all()


def test_the_start_of_a_clip_does_not_depend_on_the_batch(make, step_of, network, clips):
    model, batch = network(), clips()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.Dropout):
            module.eval()
    learner = Learner(model, [make("trades", threats=[BOTH, {"audio": {"eps": 0.2}}])])
    whole = learner.learn(batch, step_of(model)).losses
    order = torch.tensor([9, 4, 0])
    part = learner.learn(batch.select(order), step_of(model)).losses
    torch.testing.assert_close(part, whole[order], atol=1e-5, rtol=1e-4)


def test_without_a_radius_it_is_the_loss_of_before(make, step_of, network, clips):
    model, batch = network(), clips()
    model.eval()
    step = step_of(model)
    losses = Learner(model, [make("trades", threat=BOTH, warmup=3)]).learn(batch, step).losses
    torch.testing.assert_close(losses, F.cross_entropy(model(batch.inputs), batch.targets, reduction="none"))
    assert step.cost.forwards == 0
