"""Layers of a model by their names: found with near names, looked at, and replaced for one pass."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from avrobust_core import ModelError, Probe


class Pair(nn.Module):
    """Two paths, (B * 3, 5) and (B, 15, 2)."""

    def forward(self, x):
        return x.cos(), torch.stack([x.sin(), x], dim=2).reshape(-1, 15, 2)


class Holder(nn.Module):
    def forward(self, x):
        return SimpleNamespace(inside=x)


class Net(nn.Module):
    """Frames (B, 3, 4) one by one; ReLU writes into what it reads, and `tied` and `drop` are called twice."""

    def __init__(self):
        super().__init__()
        self.frames = nn.Linear(4, 5)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout()
        self.tied = nn.Linear(5, 5)
        self.pair = Pair()
        self.holder = Holder()
        self.recurrent = nn.GRU(5, 5, batch_first=True)
        self.axes = nn.Identity()
        self.spare = nn.Linear(2, 2)
        self.out = nn.Linear(5, 2)

    def forward(self, inputs):
        x = self.relu(self.drop(self.frames(inputs["audio"].flatten(0, 1))))
        one, two = self.pair(torch.tanh(self.tied(torch.tanh(self.tied(x)))))
        x = self.drop(one.reshape(-1, 15) + two.mean(dim=2)).reshape(-1, 3, 5)
        x = self.axes(self.recurrent(self.holder(x).inside)[0].transpose(0, 1))
        return self.out(x[-1])


@pytest.fixture
def probe():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Probe(Net().eval(), lambda split, rows: {"audio": torch.zeros(len(rows), 3, 4)})


def clips(seed, count=4):
    return {"audio": torch.randn(count, 3, 4, generator=torch.Generator().manual_seed(seed))}


@pytest.mark.parametrize(
    ("layer", "width"), [("frames", 15), ("relu", 15), ("tied", 15), ("pair", 45), ("drop", 15), ("out", 2)]
)
def test_what_a_layer_returned_decides_the_logits_whatever_goes_in(probe, layer, width):
    inputs = clips(0)
    before = {name: x.clone() for name, x in inputs.items()}
    found = probe.outputs(inputs, [layer])
    assert found[layer].shape == (4, width)
    kept = found[layer].clone()
    again = probe.forward(clips(1), found)
    assert torch.equal(found[layer], kept)  # ReLU wrote into a copy
    assert torch.allclose(again, probe.forward(before), atol=1e-6)
    assert not torch.allclose(probe.forward(clips(1)), probe.forward(before), atol=1e-3)


def test_a_layer_that_is_called_twice_is_looked_at_the_second_time(probe):
    inputs = clips(0)
    once = torch.tanh(probe.model.tied(torch.relu(probe.model.frames(inputs["audio"]))))
    assert torch.allclose(probe.outputs(inputs, ["tied"])["tied"], probe.model.tied(once).reshape(4, -1), atol=1e-6)


def test_the_output_is_that_of_the_layer_itself_and_not_what_was_written_into_it_later(probe):
    inputs = clips(0)
    own = probe.model.frames(inputs["audio"]).flatten(1)
    assert torch.allclose(probe.outputs(inputs, ["frames"])["frames"], own, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("frame", r"no layer 'frame'; did you mean 'frames'\?"),
        ("frames.inner", r"no layer 'frames\.inner'; did you mean|no layer 'frames\.inner'; frames has: no layers"),
        ("zzz", "no layer 'zzz'; it has: frames, relu, drop, tied, pair, holder, recurrent, axes"),
        ("", "no layer ''"),
        ("spare", "does not call its layer 'spare'"),
        ("recurrent", r"returns shape \(1, 4, 5\) for 4 clips"),
        ("holder", "returns SimpleNamespace, not tensors of floats"),
        ("axes", r"returns shape \(3, 4, 5\) for 4 clips"),
    ],
)
def test_layers_that_will_not_do_are_refused_in_a_sentence(probe, layer, message):
    with pytest.raises(ModelError, match=message):
        probe.outputs(clips(0), [layer])


def test_no_hook_is_left_behind(probe):
    inputs = clips(0)
    plain = probe.forward(inputs)
    probe.forward(inputs, {"frames": torch.zeros(4, 15)})
    with pytest.raises(ModelError):
        probe.outputs(inputs, ["frames", "zzz"])
    with pytest.raises(ModelError):
        probe.forward(inputs, {"frames": torch.zeros(4, 15), "zzz": torch.zeros(4)})
    with pytest.raises(ModelError, match="fails on what it is given"):
        probe.forward({"audio": torch.zeros(4, 3, 9)}, {"frames": torch.zeros(4, 15)})
    assert torch.equal(probe.forward(inputs), plain)
    assert not any(module._forward_hooks for module in probe.model.modules())
