"""Padding under attack: bound with its clips, kept by the core's own check, carried wherever a batch goes."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from avrobust_core import (
    AttackResult,
    AVModel,
    Batch,
    DataError,
    Encoded,
    EncodedDims,
    Encoder,
    MediaSpec,
    Mixture,
    ThreatModel,
    Victim,
    mixed_padding,
    verify,
)
from avrobust_core.data.checking import as_batch
from avrobust_core.errors import AttackViolation
from avrobust_core.threats.balls import TimeConstraint

PADDED = ({}, {"audio": 0.5}, {"audio": 1.0})


class LooksAhead(nn.Module):
    """Features (B, 5, 2) of waveforms (B, 1, 16): each step sees 4 samples and the 4 after it; the last one nothing."""

    def forward(self, x):
        pieces = nn.functional.pad(x[:, 0], (0, 4)).unfold(1, 8, 4)
        found = torch.stack((pieces.sum(dim=2), pieces.square().sum(dim=2)), dim=2)
        return nn.functional.pad(found, (0, 0, 0, 1))


class Own(Encoder):
    def __init__(self, time_axis=0):
        super().__init__()
        self.dims = EncodedDims(token=2, embed=2)
        self.frontend = LooksAhead()
        self.time_axis = time_axis

    def encode(self, features):
        return Encoded(tokens=features, pooled=features.sum(dim=1))


def make_batch(padded=PADDED):
    x = torch.rand(3, 1, 16, generator=torch.Generator().manual_seed(0))
    for i, clip in enumerate(padded):
        x[i, :, round(16 * (1 - clip.get("audio", 0))) :] = 0
    return Batch({"audio": x}, torch.zeros(3, dtype=torch.int64), ("a", "b", "c"), padded)


def bind(batch, budget, encoder=None, **media):
    model = AVModel({"audio": encoder or Own()}, None, 2)
    spec = {"kind": "audio", "shape": (1, 16), "bounds": (-1.0, 1.0), "time_axis": 1} | media
    victim = Victim(model.eval(), media={"audio": MediaSpec(**spec)}, task="single-label")
    with torch.no_grad():
        return victim.bind(batch, ThreatModel.model_validate({"audio": budget}))


@pytest.mark.parametrize("bounded", [True, False])
def test_a_change_of_padding_is_caught_even_of_a_corruption(bounded):
    batch = make_batch()
    bound = bind(batch, {"eps": 0.1})
    x = batch.inputs["audio"] + 0.1 * (batch.inputs["audio"] > 0)
    result = AttackResult({"audio": bound.region.project({"audio": x})["audio"]}, torch.zeros(3, dtype=torch.bool))
    pristine = {"audio": batch.inputs["audio"].clone()}
    verify("short", batch, pristine, bound, result, bounded=bounded)
    result.inputs["audio"][1:, :, -1] += 1e-6
    with pytest.raises(AttackViolation, match=r"attack 'long' changed the padding of audio .*: b, c$"):
        verify("long", batch, pristine, bound, result, bounded=bounded)


def test_features_that_the_own_part_reaches_may_change_and_no_others():
    batch = make_batch()
    ball = bind(batch, {"eps": 0.1, "space": "features"}).balls["audio"]
    # Of the clip that is padded from sample 8 on, the steps that begin at samples 0 and 4 see some of its own.
    assert ball.time.own.tolist() == [5, 2, 0]
    assert not ball.overruns(ball.project(ball.center + 1)).any()
    free = bind(batch, {"eps": 0.1, "space": "features"}, Own(time_axis=None)).balls["audio"]
    assert free.time is None, "nothing says which axis of these features is time"


def test_without_padding_a_ball_has_no_constraint_and_an_axis_need_not_be_known():
    batch = make_batch(({}, {}, {}))
    assert bind(batch, {"eps": 0.1}, time_axis=None).balls["audio"].time is None
    with pytest.raises(DataError, match=r"clips are padded.*time_axis"):
        bind(make_batch(), {"eps": 0.1}, time_axis=None)


def test_a_batch_carries_its_padding_wherever_it_goes():
    batch = make_batch()
    bare = replace(make_batch(()), ids=("d", "e", "f"))
    assert batch.padding_of("audio") == (0, 0.5, 1)
    assert batch.padding_of("video") == bare.padding_of("audio") == ()
    assert batch.select(torch.tensor([2, 0])).padded == ({"audio": 1.0}, {})
    assert batch.join(bare).padded == (*PADDED, {}, {}, {})
    assert bare.join(batch).padding_of("audio") == (0, 0, 0, 0, 0.5, 1)
    assert bare.join(bare).padded == bare.select(torch.tensor([1])).padded == ()
    for other in (batch.to("cpu"), batch.copied("cpu"), as_batch(batch, 0, 0, "single-label")):
        assert other.padded == PADDED


def test_of_two_clips_that_are_mixed_only_what_both_lack_is_padding():
    padded = ({"audio": 0.5, "video": 0.25}, {"audio": 0.75}, {"audio": 0.25})
    mixture = Mixture(torch.tensor([0.6, 0.7, 1.0]), torch.tensor([1, 0, 0]))
    mixed = mixed_padding(padded, {"audio": mixture, "video": mixture})
    assert mixed == ({"audio": 0.5}, {"audio": 0.5}, {"audio": 0.25})
    assert mixed_padding(padded, {"audio": mixture})[0] == {"audio": 0.5, "video": 0.25}


def test_the_mean_over_time_counts_the_own_steps_only():
    time = TimeConstraint(1, 4, invariant=True, own=torch.tensor([4, 2, 0]))
    delta = torch.tensor([[1.0, 2, 3, 6]] * 3)
    assert time.confine(delta).tolist() == [[3, 3, 3, 3], [1.5, 1.5, 0, 0], [0, 0, 0, 0]]
