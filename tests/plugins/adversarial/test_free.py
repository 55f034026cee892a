"""Free adversarial training: as many optimiser steps as replays, no pass beside, perturbations inside their balls."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from avrobust_core import AvrobustError, Batch, ThreatModel, Victim
from avrobust_core.testing import make_problem
from avrobust_core.training.learner import Learner

BOTH = {"audio": {"eps": 0.1}, "video": {"norm": "l2", "eps": 0.5}}


def replayed(augments, batch, step_of, model, replays, **given):
    """The batches that are learned from in so many replays."""
    learner = Learner(model, augments)
    found = []
    learned = None
    for replay in range(replays):
        step = step_of(model, replay=replay, **given)
        learned = learner.learn(batch, step, learned)
        learned.losses.mean().backward()
        learned.after_backward()
        found.append(Batch({k: x.detach() for k, x in learned.forward.batch.inputs.items()}, batch.targets, batch.ids))
        assert step.cost.forwards == step.cost.backwards == 0
    return found


@pytest.mark.parametrize("task", ["single-label", "multi-label"])
@pytest.mark.parametrize("threats", [(BOTH,), ({"audio": {"eps": 0.1}}, {"video": {"norm": "l2", "eps": 0.5}})])
def test_every_replay_stays_inside_the_ball_and_moves_on(make, step_of, network, clips, threats, task):
    model, batch = network(), clips(task=task)
    found = replayed([make("free-at", threats=threats, replays=4)], batch, step_of, model, 4, task=task)
    bound = Victim(model, media=step_of(model).media, task=task).bind(batch, ThreatModel.model_validate(BOTH))
    for one in found:
        assert (bound.region.size({k: one.inputs[k] for k in BOTH}) <= 1 + 1e-6).all()
    if len(threats) == 1:
        for earlier, later in pairwise(found):
            assert all(not torch.equal(earlier.inputs[k], later.inputs[k]) for k in BOTH)


def test_the_perturbation_moves_by_the_gradient_of_the_pass_itself(make, step_of):
    problem = make_problem(classes=2, clips=8, inside=0.3)
    batch, eps = problem.batch, 0.125
    augment = make("free-at", threat={"audio": {"eps": eps}}, replays=2, step_size=0.5)
    found = replayed([augment], batch, step_of, problem.oracle, 2, classes=2, media=problem.media)
    first, second = (one.inputs["audio"] - batch.inputs["audio"] for one in found)
    leaf = found[0].inputs["audio"].clone().requires_grad_()
    F.cross_entropy(problem.oracle({**found[0].inputs, "audio": leaf}), batch.targets).backward()
    torch.testing.assert_close(second, (first + 0.5 * eps * leaf.grad.sign()).clamp(-eps, eps), atol=1e-6, rtol=0)


def test_a_batch_begins_anew_whatever_came_before_it(make, step_of, network, clips):
    model, batch = network().eval(), clips()
    augment = make("free-at", threat=BOTH, replays=2)
    first = replayed([augment], batch, step_of, model, 2)
    part = batch.select(torch.tensor([8, 2]))
    again = replayed([augment], part, step_of, model, 2)
    for one, other in zip(first, again, strict=True):
        torch.testing.assert_close(other.inputs["video"], one.inputs["video"][[8, 2]], atol=1e-5, rtol=0)
    assert not torch.equal(
        replayed([augment], batch, step_of, model, 1, epoch=1)[0].inputs["audio"], first[0].inputs["audio"]
    )


def test_no_encoder_is_run_beside_the_training_pass(make, step_of, network, clips):
    model, runs = network(), []
    for encoder in model.encoders.values():
        encoder.register_forward_hook(lambda *seen: runs.append(seen))
    make("free-at", threat={"audio": {"eps": 0.1}}).begin(clips(), step_of(model))
    assert not runs


def test_it_composes_with_mixup_either_way(make, step_of, network, clips):
    from avrobust_training.configs import MixupConfig
    from avrobust_training.mixup import Mixup

    for order in ([0, 1], [1, 0]):
        augments = [Mixup(MixupConfig(alpha=1)), make("free-at", threat=BOTH, replays=3)]
        found = replayed([augments[i] for i in order], clips(), step_of, network(), 3)
        assert not torch.equal(found[1].inputs["audio"], found[2].inputs["audio"])


def test_an_augmentation_that_cuts_the_gradient_off_is_named(make, step_of, network, clips):
    augments = [make("free-at", threat=BOTH), make("adversarial", threat=BOTH)]
    with pytest.raises(AvrobustError, match="list free-at last"):
        replayed(augments, clips(), step_of, network(), 1)


def test_a_gradient_that_overflows_does_not_move_its_clip(make, step_of, network, clips):
    model, batch = network(), clips()
    begun = make("free-at", threat=BOTH).begin(batch, step_of(model))
    first = begun.batch.inputs
    for leaf in (first["audio"], first["video"]):
        leaf.grad = torch.ones_like(leaf)
        leaf.grad[3] = torch.inf
    begun.after_backward()
    second = begun.again(batch, step_of(model, replay=1)).batch.inputs
    for name in first:
        torch.testing.assert_close(second[name][3], first[name][3], atol=1e-6, rtol=0)
        assert not torch.equal(second[name][2], first[name][2])


def test_gradients_of_the_weights_are_those_of_the_perturbed_clips(make, step_of, clips):
    problem = make_problem(classes=3, clips=8)
    batch, model = problem.batch, problem.oracle
    model.zero_grad()
    (found,) = replayed([make("free-at", threat=BOTH, replays=1)], batch, step_of, model, 1, media=problem.media)
    through = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    F.cross_entropy(model(found.inputs), batch.targets).backward()
    assert all(torch.allclose(p.grad, g, atol=1e-6) for p, g in zip(model.parameters(), through, strict=True))
    model.zero_grad(set_to_none=True)


def kept(augment, batch, epoch, position):
    """What an epoch starts a clip from, by modality."""
    read = {name: augment.memory.read(name, [batch.ids[position]], batch.inputs[name][:1], epoch) for name in BOTH}
    return {name: delta[0] for name, (delta, places) in read.items() if places}


def test_with_a_memory_a_clip_goes_on_where_it_was_whatever_its_batch(make, step_of, network, clips):
    model, batch = network().eval(), clips()
    augment = make("free-at", threat=BOTH, replays=2, memory=True)
    first = replayed([augment], batch, step_of, model, 2, epoch=0)
    of_third = kept(augment, batch, 1, 2)
    assert of_third.keys() == BOTH.keys()
    assert all(delta.abs().max() > 0 for delta in of_third.values())
    part = batch.select(torch.tensor([8, 2]))
    again = replayed([augment], part, step_of, model, 1, epoch=1)[0]
    for name, delta in of_third.items():
        torch.testing.assert_close(again.inputs[name][1], batch.inputs[name][2] + delta, atol=1e-6, rtol=0)
        assert not torch.equal(first[0].inputs[name][2], again.inputs[name][1])


def test_a_memory_keeps_what_the_threat_of_another_epoch_does_not_touch(make, step_of, network, clips):
    model, batch = network().eval(), clips()
    augment = make("free-at", threats=({"audio": {"eps": 0.1}}, {"video": {"norm": "l2", "eps": 0.5}}), memory=True)
    for epoch in range(8):
        replayed([augment], batch, step_of, model, 1, epoch=epoch)
    found = [kept(augment, batch, 8, position) for position in range(len(batch))]
    both = [deltas for deltas in found if len(deltas) == 2]
    assert both, "of eight epochs some have attacked another modality of the clip"
    assert all(delta.abs().max() > 0 for deltas in both for delta in deltas.values())


def test_a_memory_is_taken_up_and_shared_between_processes(make, step_of, network, clips):
    model, batch = network().eval(), clips()
    augment, again, other = (make("free-at", threat=BOTH, replays=1, memory=True) for _ in range(3))
    replayed([augment], batch, step_of, model, 1, epoch=0)
    again.load_state_dict(augment.state_dict())
    other.end_epoch(step_of(model), lambda mine: [mine, augment.state_dict()])
    wanted = replayed([augment], batch, step_of, model, 1, epoch=1)[0]
    for one in (again, other):
        found = replayed([one], batch, step_of, model, 1, epoch=1)[0]
        assert all(torch.equal(found.inputs[name], wanted.inputs[name]) for name in BOTH)
    assert make("free-at", threat=BOTH).state_dict() == {}
