"""Attacks in bfloat16 cast weights once, not in each pass, and compute what autocast does; folded ones are kept."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from avrobust_core import AVModel, Batch, MediaSpec, Registry, ThreatModel, Victim
from avrobust_core.models.constant import StandIns, constant_weights, made_once
from avrobust_core.registry.choices import configure

MEDIA = {
    "audio": MediaSpec(kind="audio", shape=(1, 1600), rate=8000, bounds=(-1, 1), time_axis=1),
    "video": MediaSpec(kind="video", shape=(3, 4, 16, 16), rate=8, bounds=(0, 1), time_axis=1),
}
ENCODERS = {
    "audio": ("cnn", {"channels": [4, 8], "n_mels": 16, "hop_ms": 16}),
    "video": ("slowfast", {"size": "tiny"}),
}
THREAT = ThreatModel.model_validate({"audio": {"eps": 0.01}, "video": {"eps": 0.01}})


class Casts(TorchDispatchMode):
    """Counts casts of weights, by shape, to bfloat16."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.found: Counter[tuple[int, ...]] = Counter()
        self._shapes = {tuple(weight.shape) for weight in model.parameters() if weight.dim() > 1}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name == "aten::_to_copy" and (kwargs or {}).get("dtype") == torch.bfloat16:
            self.found[tuple(args[0].shape)] += tuple(args[0].shape) in self._shapes
        return func(*args, **(kwargs or {}))


@pytest.fixture
def victim() -> Victim:
    registry = Registry.discover()
    torch.manual_seed(0)
    encoders = {
        name: configure(registry, "encoder", used, fields).build(MEDIA[name])
        for name, (used, fields) in ENCODERS.items()
    }
    fusion = configure(registry, "fusion", "concat", {}).build({name: each.dims for name, each in encoders.items()})
    model = AVModel(encoders, fusion, 5).eval()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return Victim(model, media=MEDIA, task="single-label", precision="bf16-mixed")


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    inputs = {name: torch.rand(3, *spec.shape, generator=generator) for name, spec in MEDIA.items()}
    return Batch(inputs, torch.tensor([0, 1, 2]), ("a", "b", "c"))


def test_weights_are_cast_in_the_first_pass_of_an_attack_only(victim: Victim, batch: Batch) -> None:
    with victim.frozen():
        bound = victim.bind(batch, THREAT)
        with Casts(victim.model) as first:
            bound(bound.clean)
        with Casts(victim.model) as later:
            bound(bound.clean)
    assert sum(first.found.values()) >= sum(isinstance(m, (nn.Conv2d, nn.Conv3d)) for m in victim.model.modules())
    assert not sum(later.found.values())


def test_logits_are_those_of_autocast_bit_for_bit(victim: Victim, batch: Batch) -> None:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        victim.model.requires_grad_(False)
        plain = victim.model(batch.inputs).float()
    with victim.frozen():
        bound = victim.bind(batch, THREAT)
        assert torch.equal(bound(bound.clean), plain)
        exact = bound.confirm(bound.clean)
    assert exact.dtype == torch.float32
    assert not torch.equal(exact, plain)
    assert torch.equal(exact, victim.model(batch.inputs))
    assert all(isinstance(p, nn.Parameter) and p.dtype == torch.float32 for p in victim.model.parameters())


def test_weights_come_back_when_a_pass_fails() -> None:
    model = nn.Sequential(nn.Linear(2, 2)).requires_grad_(False)
    before = model[0].weight
    with pytest.raises(RuntimeError), StandIns(model, torch.bfloat16).in_place():
        model(torch.ones(3, 5))  # five features where there are two
    assert model[0].weight is before
    with StandIns(model, torch.bfloat16).in_place():
        assert model[0].weight.dtype == torch.bfloat16
    assert model[0].weight is before


def test_a_weight_that_was_written_into_is_cast_anew() -> None:
    model = nn.Sequential(nn.Linear(2, 2)).requires_grad_(False)
    made = StandIns(model, torch.bfloat16)
    assert made.fits()
    model[0].weight.mul_(2)
    assert not made.fits()


def test_what_is_worked_out_is_kept_while_weights_are_constant_and_no_longer() -> None:
    weight = torch.ones(2)
    calls = []

    def make() -> tuple[torch.Tensor]:
        calls.append(None)
        return (weight * 2,)

    made_once((weight,), make), made_once((weight,), make)
    assert len(calls) == 2
    with constant_weights():
        made_once((weight,), make), made_once((weight,), make)
        assert len(calls) == 3
        weight.add_(1)
        assert torch.equal(made_once((weight,), make)[0], torch.full((2,), 4.0))
        weight.requires_grad_()
        made_once((weight,), make), made_once((weight,), make)
        assert len(calls) == 6
