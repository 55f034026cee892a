"""A step of training goes on without a wait for its device, but for the one that looks at the clips' bounds."""

import pytest
import torch
from avrobust_geometry.configs import GuidedMixupConfig, GuidedWeightsConfig
from avrobust_geometry.guided.mixup import GuidedMixup
from avrobust_geometry.guided.weights import GuidedWeights

from avrobust_core.testing.elsewhere import ELSEWHERE, elsewhere
from avrobust_core.training.learner import Learner

THREAT = {"audio": {"eps": 0.1}, "video": {"norm": "l2", "eps": 0.5}}


@pytest.mark.parametrize(
    ("use", "bounds"),
    [
        ({"free-at": {"threat": THREAT, "replays": 1, "memory": True}}, 1),
        ({"vertex-mixup": {"threat": THREAT}}, 1),
        ({"fast-at": {"threat": THREAT}}, 1),
        ({"guided-weights": {"warmup": 1, "k": 2}}, 0),
        ({"guided-mixup": {"alpha": 0.1, "warmup": 1, "k": 2}}, 0),
    ],
    ids=lambda use: next(iter(use)) if isinstance(use, dict) else None,
)
def test_a_step_waits_for_nothing_that_it_does_not_need(make, step_of, network, clips, tmp_path, use, bounds) -> None:
    ((name, given),) = use.items()
    guided = {"guided-weights": (GuidedWeights, GuidedWeightsConfig), "guided-mixup": (GuidedMixup, GuidedMixupConfig)}
    if name in guided:
        kind, config = guided[name]
        augment = kind(config(**given))
    else:
        augment = make(name, **given)
    model, batch = network(), clips()
    with elsewhere() as waits:
        model.to(ELSEWHERE)
        learner = Learner(model, [augment])
        for epoch in range(3):
            step = step_of(model, epoch=epoch, scratch=tmp_path, clips=batch.ids)
            read = batch.select(torch.tensor(learner.order(list(range(10)), batch.ids, step))).to(ELSEWHERE)
            waits.clear()
            learned = learner.learn(read, step)
            (learned.losses.sum() / 10).backward()
            learned.after_backward()
            in_step = list(waits)
            learner.end_epoch(step, lambda mine: [mine])
    assert len(in_step) == bounds, in_step
    assert all("victim.py" in wait for wait in in_step)
