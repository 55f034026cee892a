"""Guided weights: losses by density, and nothing else."""

import numpy as np
import pytest
import torch
from avrobust_geometry.configs import GuidedMixupConfig, GuidedWeightsConfig
from avrobust_geometry.guided.mixup import GuidedMixup
from avrobust_geometry.guided.weights import GuidedWeights
from scipy.stats import spearmanr

from avrobust_core import AVModel, Batch, Encoded, EncodedDims, Encoder, TrainingStep
from avrobust_core.training.learner import Learner

CLIPS = [f"{i:02d}" for i in range(40)]


class Plain(Encoder):
    """Two numbers in, two out."""

    def __init__(self) -> None:
        super().__init__()
        self.frontend = torch.nn.Identity()
        self.dims = EncodedDims(2, 2)

    def encode(self, features):
        return Encoded(features[:, None], features)


@pytest.fixture
def model() -> AVModel:
    torch.manual_seed(0)
    return AVModel({"audio": Plain()}, None, 2)


def batch_of(ids: list[str]) -> Batch:
    """Two classes that overlap along the first axis."""
    rows = []
    for name in ids:
        generator = torch.Generator().manual_seed(int(name))
        rows.append(torch.randn(2, generator=generator) + torch.tensor([2.0 * (int(name) % 2), 0.0]))
    return Batch({"audio": torch.stack(rows)}, torch.tensor([int(name) % 2 for name in ids]), tuple(ids))


def train(augment, model, epochs, task="single-label"):
    """The losses of the last epoch over the unweighted ones, by clip."""
    ratios = {}
    for epoch in range(epochs):
        step = TrainingStep(epoch=epoch, seed=3, model=model, classes=2, task=task, epochs=epochs)
        learner = Learner(model, [augment])
        order = learner.order(range(40), CLIPS, step)
        assert order == list(range(40)), "the order stays as it is"
        for start in range(0, 40, 8):
            batch = batch_of([CLIPS[i] for i in order[start : start + 8]])
            if task == "multi-label":
                batch = Batch(batch.inputs, torch.nn.functional.one_hot(batch.targets, 2).float(), batch.ids)
            with torch.no_grad():
                found = learner.learn(batch, step)
                plain = Learner(model, []).learn(batch, step)
            assert all(torch.equal(found.forward.batch.inputs[k], batch.inputs[k]) for k in batch.inputs)
            assert torch.equal(found.forward.batch.targets, batch.targets)
            ratios |= dict(zip(batch.ids, (found.losses / plain.losses).tolist(), strict=True))
        learner.end_epoch(step, lambda mine: [mine])
    return np.array([ratios[name] for name in CLIPS])


@pytest.mark.parametrize("task", ["single-label", "multi-label"])
def test_clips_deep_among_their_own_weigh_more_and_weights_are_1_in_the_mean(model, task):
    weights = train(GuidedWeights(GuidedWeightsConfig(warmup=1, k=5)), model, 3, task)
    batch = batch_of(CLIPS)
    side = torch.where(batch.targets == 0, -1, 1)
    depth = (batch.inputs["audio"][:, 0] - 1) * side
    assert spearmanr(weights, depth.numpy()).statistic > 0.7
    assert weights.mean() == pytest.approx(1, abs=1e-5)


def test_nothing_is_weighted_before_there_is_a_guide(model):
    np.testing.assert_allclose(train(GuidedWeights(GuidedWeightsConfig(warmup=3)), model, 3), 1, rtol=1e-5)


def test_permuted_weights_are_the_same_ones_within_each_class_and_inverted_ones_their_opposite(model):
    plain, permuted, inverted = (
        train(GuidedWeights(GuidedWeightsConfig(warmup=1, k=5, control=control)), model, 2)
        for control in ("none", "permuted", "inverted")
    )
    for odd in (0, 1):
        np.testing.assert_allclose(sorted(permuted[odd::2]), sorted(plain[odd::2]), rtol=1e-5)
    assert not np.allclose(permuted, plain)
    assert spearmanr(plain, inverted).statistic == pytest.approx(-1)


def test_the_weights_are_those_of_guided_mixup(model):
    mixing, weighing = GuidedMixup(GuidedMixupConfig(warmup=1)), GuidedWeights(GuidedWeightsConfig(warmup=1))
    found = train(weighing, model, 2)
    step = TrainingStep(epoch=0, seed=3, model=model, classes=2, task="single-label", epochs=2)
    for start in range(0, 40, 8):
        with torch.no_grad():
            Learner(model, [mixing]).learn(batch_of(CLIPS[start : start + 8]), step)
    mixing.end_epoch(step, lambda mine: [mine])
    later = TrainingStep(epoch=1, seed=3, model=model, classes=2, task="single-label", epochs=2)
    mixing.order(CLIPS, later)
    np.testing.assert_allclose(found, [mixing.plan.weights[name] for name in CLIPS], rtol=1e-5)
