"""Which clips are attacked, under which threat, and how large."""

import pytest
import torch
from avrobust_adversarial.threats import Threats

from avrobust_core import Batch, DataError, ThreatModel

AUDIO = ThreatModel.model_validate({"audio": {"eps": 0.1}})
VIDEO = ThreatModel.model_validate({"video": {"eps": 0.2}})
BOTH = ThreatModel.model_validate({"audio": {"eps": 0.1}, "video": {"eps": 0.2}})


def many(n=2000):
    inputs = {"audio": torch.zeros(n, 1, 12), "video": torch.zeros(n, 2, 2, 2, 2)}
    return Batch(inputs, torch.zeros(n, dtype=torch.int64), tuple(f"clip-{i}" for i in range(n)))


def test_clips_are_spread_evenly_over_the_threats_and_the_share_is_kept(step_of, network):
    threats = Threats([AUDIO, VIDEO, BOTH], purpose="p", share=0.6)
    found = threats.assigned(many(), step_of(network()))
    assert [threat for threat, _ in found] == [AUDIO, VIDEO, BOTH]
    sizes = [len(index) for _, index in found]
    assert all(340 < size < 460 for size in sizes)
    together = torch.cat([index for _, index in found])
    assert len(together.unique()) == len(together)
    other = Threats([AUDIO, VIDEO, BOTH], purpose="p", share=0.6).assigned(many(), step_of(network(), epoch=1))
    assert not torch.equal(other[0][1], found[0][1])


def test_a_threat_is_restricted_to_what_the_model_reads(step_of, network):
    deaf = step_of(network(("video",)))
    found = Threats([AUDIO, VIDEO, BOTH], purpose="p").assigned(many(), deaf)
    assert [threat for threat, _ in found] == [VIDEO, VIDEO]
    assert sum(len(index) for _, index in found) == 2000
    assert Threats([AUDIO], purpose="p").assigned(many(), deaf) == []


def test_a_modality_that_nobody_knows_is_an_error(step_of, network):
    typo = ThreatModel.model_validate({"vidoe": {"eps": 0.1}})
    with pytest.raises(DataError, match="attacks vidoe, but the data set has: audio, video"):
        Threats([typo], purpose="p").assigned(many(2), step_of(network()))


def test_radii_grow_from_nothing_over_the_epochs_of_the_warmup(step_of, network):
    threats = Threats([AUDIO], purpose="p", warmup=4)
    assert threats.assigned(many(2), step_of(network(), epoch=0)) == []
    found = [threats.assigned(many(2), step_of(network(), epoch=e))[0][0]["audio"].eps for e in range(1, 7)]
    assert found == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])


def test_nothing_is_spent_while_the_radius_is_zero(step_of, network, clips, make):
    for name in ("adversarial", "fast-at", "free-at"):
        step, batch = step_of(network()), clips()
        found = make(name, threat=AUDIO.model_dump(), warmup=2).begin(batch, step).batch
        assert all(torch.equal(x, batch.inputs[key]) for key, x in found.inputs.items())
        assert step.cost.forwards == step.cost.backwards == 0
