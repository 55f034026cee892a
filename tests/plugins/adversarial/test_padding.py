"""Adversarial training of every kind leaves the padding of clips as it is, and moves the rest."""

from dataclasses import replace

import pytest

from avrobust_core.training.learner import Learner

BOTH = {"audio": {"eps": 0.1}, "video": {"norm": "l2", "eps": 0.5}}
PADDED = ({}, {"audio": 0.5}, {"audio": 0.25, "video": 0.5}, {"audio": 1.0, "video": 1.0}, {}, {})
EARLIER = ({"audio": 0.75}, {"audio": 0.75}, {"audio": 0.75, "video": 0.5}, {"audio": 1.0, "video": 1.0}, {}, {})


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("adversarial", {"steps": 2}),
        ("fast-at", {"variant": "rs"}),
        ("fast-at", {"variant": "n"}),
        ("free-at", {"replays": 2}),
        ("free-at", {"replays": 1, "memory": True}),
        ("trades", {"steps": 2}),
        ("vertex-mixup", {}),
    ],
)
def test_padding_is_learned_from_as_it_is(make, step_of, network, clips, name, given):
    model, seen = network(), []
    model.register_forward_pre_hook(lambda module, inputs: seen.append({k: x.detach() for k, x in inputs[0].items()}))
    learner = Learner(model, [make(name, threat=BOTH, **given)])
    for epoch, padded in enumerate((PADDED, EARLIER)):  # what is remembered was once no padding
        batch = replace(clips(6), padded=padded)
        learned = learner.learn(batch, step_of(model, epoch=epoch))
        learned.losses.mean().backward()
        learned.after_backward()
        assert learned.forward.batch.padded == padded
        for modality, x in seen[-1].items():
            by_step = (x != batch.inputs[modality]).transpose(1, 2).flatten(2).any(dim=2)
            for i, shares in enumerate(padded):
                own = round(by_step.shape[1] * (1 - shares.get(modality, 0)))
                assert not by_step[i, own:].any()
                assert by_step[i, :own].any() or not own
