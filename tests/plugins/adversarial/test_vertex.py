"""Vertex mix-up: where a clip is learned from, what its target becomes, and where its vertex goes."""

import pytest
import torch
from avrobust_adversarial.vertex import softened
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn import functional as F

from avrobust_core import ThreatModel, Victim
from avrobust_core.testing import make_problem
from avrobust_core.training.learner import Learner

BOTH = {"audio": {"eps": 0.1}, "video": {"norm": "l2", "eps": 0.5}}


def passes(augment, batch, step_of, model, epochs, **given):
    """The pass of each epoch over one batch."""
    found = []
    for epoch in range(epochs):
        step = step_of(model, epoch=epoch, **given)
        learned = Learner(model, [augment]).learn(batch, step)
        learned.losses.mean().backward()
        learned.after_backward()
        found.append((learned, step))
    return found


@pytest.mark.parametrize("task", ["single-label", "multi-label"])
@pytest.mark.parametrize("threats", [(BOTH,), ({"audio": {"eps": 0.1}}, {"video": {"norm": "l2", "eps": 0.5}})])
@pytest.mark.parametrize("together", [True, False])
def test_clips_lie_between_themselves_and_their_vertices(make, step_of, network, clips, task, threats, together):
    model, batch = network(), clips(task=task)
    augment = make("vertex-mixup", threats=threats, ratio=(0.2, 0.6), together=together)
    bound = Victim(model, media=step_of(model).media, task=task).bind(batch, ThreatModel.model_validate(BOTH))
    for learned, step in passes(augment, batch, step_of, model, 3, task=task):
        found, vertices = learned.forward.batch, learned.augmented[0].vertices
        assert (bound.region.size({k: vertices[k] for k in BOTH}) <= 1 + 1e-6).all()
        drawn = augment.ratios(batch, step)
        assert together == torch.equal(drawn["audio"], drawn["video"])
        for name in BOTH:
            ratio = drawn[name].reshape(-1, *[1] * (vertices[name].ndim - 1))
            assert ((ratio >= 0.2) & (ratio <= 0.6)).all()
            wanted = torch.lerp(batch.inputs[name], vertices[name], ratio)
            torch.testing.assert_close(found.inputs[name].detach(), wanted)
        assert step.cost.forwards == step.cost.backwards == 0


def test_the_vertex_moves_by_the_gradient_at_the_mixed_clip(make, step_of):
    problem = make_problem(classes=2, clips=8, inside=0.3)
    batch, eps = problem.batch, 0.125
    augment = make("vertex-mixup", threat={"audio": {"eps": eps}}, step_size=0.5, bits=16)
    (first, _), (second, _) = passes(augment, batch, step_of, problem.oracle, 2, classes=2, media=problem.media)
    leaf = first.forward.batch.inputs["audio"].detach().requires_grad_()
    logits = problem.oracle({**first.forward.batch.inputs, "audio": leaf})
    F.cross_entropy(logits, first.forward.batch.targets).backward()
    clean = batch.inputs["audio"]
    delta = first.augmented[0].vertices["audio"] - clean
    wanted = (delta + 0.5 * eps * leaf.grad.sign()).clamp(-eps, eps)
    torch.testing.assert_close(second.augmented[0].vertices["audio"] - clean, wanted, atol=1e-4, rtol=0)


def test_targets_soften_with_the_ratio(make, step_of, network, clips):
    model, batch = network(), clips()
    augment = make("vertex-mixup", threat=BOTH, softening=0.4, together=False)
    ((learned, step),) = passes(augment, batch, step_of, model, 1)
    ratio = torch.stack(list(augment.ratios(batch, step).values())).mean(dim=0)
    targets = learned.forward.batch.targets
    torch.testing.assert_close(targets.gather(1, batch.targets[:, None])[:, 0], 1 - 0.4 * ratio)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(len(batch)))
    ((hard, _),) = passes(make("vertex-mixup", threat=BOTH, softening=0), batch, step_of, model, 1)
    assert torch.equal(hard.forward.batch.targets, F.one_hot(batch.targets, 3).float())


@given(st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=1, max_size=4), st.floats(0, 1))
def test_softened_targets_stay_targets(rows, share):
    targets = torch.tensor(rows)
    found = softened(targets, torch.full((len(rows),), share))
    assert ((found >= 0) & (found <= 1)).all()
    kept = targets.sum(dim=1) <= 2  # more labels than others leave no room for all that they lose
    torch.testing.assert_close(found.sum(dim=1)[kept], targets.sum(dim=1)[kept], atol=1e-4, rtol=1e-4)


def test_a_clip_that_has_every_label_or_none_is_finite():
    found = softened(torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.ones(2))
    assert found.isfinite().all()
    assert torch.equal(found[1], torch.zeros(2))


def test_steps_of_its_own_climb_from_the_remembered_vertex_and_are_counted(make, step_of, network, clips):
    model, batch = network().eval(), clips()
    plain, climbing = (make("vertex-mixup", threat=BOTH, steps=steps, step_size=0.25, bits=16) for steps in (0, 2))
    (before, _), (after, step) = (passes(each, batch, step_of, model, 1)[0] for each in (plain, climbing))
    assert step.cost.forwards == step.cost.backwards == 2 * len(batch)

    def loss(learned):
        inputs = {**batch.inputs, **learned.augmented[0].vertices}
        return F.cross_entropy(model(inputs), batch.targets)

    assert loss(after) > loss(before)


def test_a_ratio_the_wrong_way_round_is_refused(make):
    with pytest.raises(ValidationError, match="give the smaller one first"):
        make("vertex-mixup", threat=BOTH, ratio=(0.6, 0.2))
