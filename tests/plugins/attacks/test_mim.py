"""The momentum iterative method: the sum that it steps along, and the ball that it keeps to."""

import itertools

import pytest
import torch
from avrobust_attacks.gradient.configs import MimConfig, PgdConfig
from avrobust_attacks.gradient.pgd import mim as _build_mim
from avrobust_attacks.gradient.pgd import pgd as _build_pgd
from torch import nn

from avrobust_core import Batch


class Bowl(nn.Module):
    """Two classes, the second out of reach: its logit falls with a square, so that gradients change along the way."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, inputs):
        self.seen.append({name: x.detach().clone() for name, x in inputs.items()})
        flat = torch.cat([x.flatten(1) for x in inputs.values()], dim=1)
        scale = torch.linspace(0.5, 3, flat.shape[1])
        odds = -50 - (scale * (flat - 0.4).square()).sum(dim=1)
        return torch.stack([torch.zeros_like(odds), odds], dim=1)


def make_batch(n=5):
    generator = torch.Generator().manual_seed(4)
    inputs = {"audio": torch.rand(n, 1, 6, generator=generator), "video": torch.rand(n, 3, 2, 2, generator=generator)}
    return Batch(inputs, torch.zeros(n, dtype=torch.int64), tuple(f"c{i}" for i in range(n)))


THREAT = {"audio": {"eps": 0.3}, "video": {"norm": "l2", "eps": 0.5}}


def slopes(x):
    leaf = {name: value.clone().requires_grad_() for name, value in x.items()}
    logits = Bowl()(leaf)
    return dict(zip(leaf, torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), tuple(leaf.values())), strict=True))


def mean_size(gradient):
    return gradient.flatten(1).abs().mean(dim=1).view(-1, *[1] * (gradient.dim() - 1))


@pytest.mark.parametrize("decay", [0.0, 1.0, 0.5])
@pytest.mark.parametrize("kind", ["separate", "shared"])
def test_each_step_follows_the_sum_of_normalised_gradients(run_attack, decay, kind):
    threat = THREAT
    if kind == "shared":
        threat = {"kind": kind, "audio": {"norm": "l2", "eps": 0.3}, "video": {"norm": "l2", "eps": 0.5}}
    model, batch = Bowl(), make_batch()
    found = run_attack(_build_mim(MimConfig(steps=5, step_size=0.3, decay=decay)), model, batch, threat)
    seen = [model.seen[0], *model.seen[2:7]]  # without the point that the first gradient leaps to
    region = found.bound.region
    momentum = {name: torch.zeros_like(x) for name, x in batch.inputs.items()}
    for now, then in itertools.pairwise(seen):
        gradients = slopes(now)
        size = {name: mean_size(gradient) for name, gradient in gradients.items()}
        if kind == "shared":
            both = torch.cat([gradient.flatten(1) for gradient in gradients.values()], dim=1).abs().mean(dim=1)
            size = {"audio": both.view(-1, 1, 1), "video": both.view(-1, 1, 1, 1)}
        momentum = {name: decay * momentum[name] + gradients[name] / size[name] for name in momentum}
        expected = region.project(region.step(now, momentum, 0.3))
        for name, x in then.items():
            torch.testing.assert_close(x, expected[name], rtol=1e-4, atol=1e-5)


def test_without_decay_it_is_pgd_from_the_clean_clip(run_attack):
    momentum, plain = Bowl(), Bowl()
    run_attack(_build_mim(MimConfig(steps=5, step_size=0.3, decay=0)), momentum, make_batch(), THREAT)
    attack = _build_pgd(PgdConfig(steps=5, step_size=0.3, random_start=False))
    run_attack(attack, plain, make_batch(), THREAT)
    for ours, theirs in zip(momentum.seen, plain.seen, strict=True):
        for name, x in ours.items():
            torch.testing.assert_close(x, theirs[name], rtol=1e-4, atol=1e-5)


# Fault 15
def test_the_ball_is_around_the_clean_clip(run_attack):
    """Steps that go on in one direction end at the edge of the ball, however many they are."""
    model, batch = Bowl(), make_batch()
    batch.inputs["audio"] += 5
    found = run_attack(_build_mim(MimConfig(steps=30, step_size=0.5)), model, batch, THREAT)
    moved = (found.result.last["audio"] - batch.inputs["audio"]).abs().flatten(1).amax(dim=1)
    torch.testing.assert_close(moved, torch.full_like(moved, 0.3), rtol=1e-5, atol=1e-6)
    assert (found.bound.region.size(found.result.last) <= 1 + 1e-6).all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_size_of_the_gradient_does_not_matter(run_attack, scale):
    class Scaled(Bowl):
        def forward(self, inputs):
            return super().forward(inputs) * scale

    plain, scaled = Bowl(), Scaled()
    for model in (plain, scaled):
        run_attack(_build_mim(MimConfig(steps=4, step_size=0.3, loss="margin")), model, make_batch(), THREAT)
    for ours, theirs in zip(plain.seen, scaled.seen, strict=True):
        for name, x in ours.items():
            torch.testing.assert_close(x, theirs[name], rtol=1e-3, atol=1e-4)


def test_by_default_a_third_of_the_steps_reaches_the_edge(run_attack):
    model, batch = Bowl(), make_batch()
    batch.inputs["audio"] += 5
    run_attack(_build_mim(MimConfig(steps=10)), model, batch, {"audio": {"eps": 0.3}})
    moved = [(seen["audio"] - batch.inputs["audio"]).abs().max().item() for seen in [model.seen[0], *model.seen[2:12]]]
    assert moved == pytest.approx([min(0.09 * step, 0.3) for step in range(11)], abs=1e-5)
