"""Optimiser steps: their gradient however a batch is shared out, their optimisers, their average, and their scale."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from avrobust_core import Augmentation, AugmentedStep
from avrobust_core.data.batches import Batch
from avrobust_core.data.loading import epoch_order, in_batches
from avrobust_core.errors import AvrobustError
from avrobust_core.models.model import compiled
from avrobust_core.training import fit as training
from avrobust_core.training.average import WeightAverage
from avrobust_core.training.optimization import parameter_groups, schedule
from avrobust_core.training.processes import in_parts

LAST = "last.safetensors"
SGD = {"optimizer": "sgd", "nesterov": True, "momentum": 0.8, "learning_rate": 0.1, "weight_decay": 0.05}


@pytest.fixture
def plain_model(new_model):
    """The small model without what depends on batch mates or chance."""

    def make():
        model = new_model()
        for encoder in model.encoders.values():
            encoder.net = nn.Sequential(
                *(part for part in encoder.net if not isinstance(part, nn.BatchNorm1d | nn.Dropout))
            )
        return model

    return make


def assert_same_weights(found: Path, wanted: Path, tolerance: float = 2e-6) -> None:
    ours, theirs = load_file(found / LAST), load_file(wanted / LAST)
    for name, value in theirs.items():
        torch.testing.assert_close(
            ours[name], value, atol=tolerance, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


class _Moved(Augmentation):
    """Losses weighted by clip, and clips moved along their gradient at each replay, with memories that are counted."""

    replays = 2

    def begin(self, batch: Batch, step):
        inputs = {name: x.clone().requires_grad_() for name, x in batch.inputs.items()}
        return _Moving(replace(batch, inputs=inputs), self, {})


class _Moving(AugmentedStep):
    def __init__(self, batch: Batch, owner: _Moved, moved) -> None:
        super().__init__(batch)
        self.owner, self.moved = owner, moved

    def loss(self, losses, forward):
        return losses * torch.tensor([1.0 + int(clip_id.rpartition("-")[2]) % 3 for clip_id in self.batch.ids])

    def after_backward(self) -> None:
        for name, x in self.batch.inputs.items():
            self.moved[name] = x.detach() + 0.1 * F.normalize(x.grad.flatten(1)).view_as(x)

    def again(self, batch: Batch, step):
        inputs = {name: x.requires_grad_() for name, x in self.moved.items()}
        return _Moving(replace(batch, inputs=inputs), self.owner, {})


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(tmp_path, new_fit, plain_model, parts: int) -> None:
    settings = SGD | {"epochs": 2, "select": "last"}
    whole = new_fit(tmp_path / "whole", model=plain_model(), augmentations=[_Moved()], **settings).run()
    record = new_fit(
        tmp_path / "parts", model=plain_model(), augmentations=[_Moved()], accumulate=parts, **settings
    ).run()
    assert_same_weights(tmp_path / "parts", tmp_path / "whole")
    assert record["clip_forwards"] == whole["clip_forwards"] == 2 * 2 * 48
    ours, theirs = (
        [json.loads(line)["loss"] for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        for name in ("parts", "whole")
    )
    assert ours == pytest.approx(theirs, abs=1e-5)


def test_unreadable_clips_leave_the_others_their_weight(tmp_path, new_fit, plain_model, blobs) -> None:
    dataset, settings = blobs(corrupt=["train-3", "train-7", "train-8"]), SGD | {"epochs": 1, "select": "last"}
    for parts in (1, 4):
        new_fit(tmp_path / str(parts), dataset, model=plain_model(), accumulate=parts, **settings).run()
    assert_same_weights(tmp_path / "4", tmp_path / "1")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_fit_takes_the_steps_of_a_loop_by_hand(tmp_path, new_fit, plain_model, optimizer: str) -> None:
    settings = SGD if optimizer == "sgd" else {"weight_decay": 0.05}
    fit = new_fit(tmp_path, model=plain_model(), epochs=1, select="last", gradient_clip=0.5, accumulate=2, **settings)
    model, dataset = plain_model(), fit.dataset
    groups = parameter_groups(model, 0.05)
    rate = fit.regime.learning_rate
    if optimizer == "sgd":
        by_hand: torch.optim.Optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.8, nesterov=True)
    else:
        by_hand = torch.optim.AdamW(groups, lr=rate)
    batches = in_batches(epoch_order(fit.train, fit.seed, 0), 8)
    for step, positions in enumerate(batches):
        batch = Batch.stack([dataset.read("train", i) for i in positions])
        by_hand.zero_grad()
        F.cross_entropy(model(batch.inputs), batch.targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group in by_hand.param_groups:
            group["lr"] = rate * schedule(step, len(batches), 0.1)
        by_hand.step()
    fit.run()
    for found, wanted in zip(fit.module.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-6, rtol=0)


class _Stopped(Exception):
    pass


@pytest.mark.parametrize("steps", [1, 6, 8])
def test_a_stopped_fit_with_parts_and_an_average_goes_on_to_the_same_weights(
    tmp_path, new_fit, monkeypatch, steps: int
) -> None:
    def fit(folder: str, report=None):
        return new_fit(tmp_path / folder, report=report, **SGD, accumulate=2, ema=0.9)

    def stop(done: int, total: int) -> None:
        if done == steps:
            raise _Stopped

    fit("whole").run()
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    with pytest.raises(_Stopped):
        fit("stopped", stop).run()
    fit("stopped").run()
    for name in (LAST, "model.safetensors"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_average_is_torchs_with_the_models_own_statistics(new_model) -> None:
    model = new_model()
    average = WeightAverage(model, 0.8)

    def mixed(old, new, n):
        decay = min(0.8, float(n) / (9 + float(n)))  # n counts from 1
        return decay * old + (1 - decay) * new

    reference = AveragedModel(model, avg_fn=mixed)
    reference.n_averaged.fill_(1)  # begin from the initial weights
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    inputs = {"left": torch.randn(6, 1, 8, generator=generator), "right": torch.randn(6, 2, 3, 3, generator=generator)}
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), torch.tensor([0, 1, 2, 0, 1, 2])).backward()
        optimizer.step()
        average.update()
        reference.update_parameters(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.eval()
    reference.eval()
    with average.in_place():
        torch.testing.assert_close(model(inputs), reference(inputs), atol=1e-5, rtol=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not torch.allclose(model(inputs), reference(inputs), atol=1e-3)


def test_a_fit_with_an_average_measures_and_keeps_it(tmp_path, new_fit) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    validated: list[torch.Tensor] = []

    def report(done: int, total: int) -> None:
        seen.append({name: value.clone() for name, value in fit.module.state_dict().items()})

    fit = new_fit(tmp_path, report=report, ema=0.7, epochs=2)
    fit.module.head.register_forward_hook(
        lambda module, args, out: None if module.training else validated.append(module.weight.clone())
    )
    initial = {name: value.clone() for name, value in fit.module.state_dict().items()}
    fit.run()
    for name, value in load_file(tmp_path / LAST).items():
        wanted = initial[name].double()
        for step, weights in enumerate(seen):
            decay = min(0.7, (1 + step) / (10 + step))
            wanted = decay * wanted + (1 - decay) * weights[name].double()
        if "running" in name or "num_batches" in name:
            wanted = seen[-1][name].double()
        torch.testing.assert_close(value.double(), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(validated[-1], load_file(tmp_path / LAST)["head.weight"], atol=0, rtol=0)


def test_a_scaled_loss_goes_on_with_its_scale(tmp_path, new_fit, monkeypatch) -> None:
    """In float16 the scale of the loss grows as steps succeed, and steps at too large a scale are left out."""

    def fit(folder: str, report=None):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=2)
        fabric = Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu", scaler))
        return new_fit(tmp_path / folder, report=report, launched=fabric, accumulate=2), scaler

    def stop(done: int, total: int) -> None:
        if done == 8:
            raise _Stopped

    whole, scaler = fit("whole")
    whole.run()
    assert scaler.get_scale() != 2.0**24
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    with pytest.raises(_Stopped):
        fit("stopped", stop)[0].run()
    fit("stopped")[0].run()
    assert (tmp_path / "stopped" / LAST).read_bytes() == (tmp_path / "whole" / LAST).read_bytes()


@pytest.mark.parametrize(
    ("clips", "parts", "asked", "sizes"),
    [
        (8, 4, 8, [2, 2, 2, 2]),
        (7, 4, 8, [2, 2, 3]),
        (8, 3, 8, [2, 3, 3]),
        (8, 8, 8, [1] * 8),
        (3, 1, 8, [3]),
        (1, 4, 8, [1]),
        (2, 4, 4, [1, 1]),
    ],
)
def test_no_part_has_a_single_clip_unless_that_was_asked_for(clips, parts, asked, sizes) -> None:
    whole = Batch({"x": torch.arange(float(clips))[:, None]}, torch.arange(clips), tuple(map(str, range(clips))))
    found = in_parts(whole, parts, asked)
    assert [len(part) for part in found] == sizes
    assert [clip_id for part in found for clip_id in part.ids] == list(whole.ids)
    assert torch.equal(torch.cat([part.inputs["x"] for part in found]), whole.inputs["x"])


def test_memory_that_does_not_hold_a_pass_is_a_sentence(tmp_path, new_fit) -> None:
    for size, said in ((4, "does not hold 4 clips while they are learned from: set accumulate: 4"), (1, "one clip")):
        fit = new_fit(tmp_path, batch_size=2 * size, accumulate=2)

        def full(module, args) -> None:
            raise torch.OutOfMemoryError("made to fail")

        fit.module.encoders["left"].register_forward_pre_hook(full)
        with pytest.raises(AvrobustError, match=said):
            fit.run()


@pytest.mark.slow
def test_processes_with_uneven_shares_take_the_step_of_one(tmp_path, new_fit, plain_model) -> None:
    settings = SGD | {"epochs": 2, "batch_size": 7, "select": "last"}
    new_fit(tmp_path / "one", model=plain_model(), **settings).run()

    def fit(fabric: Fabric) -> None:
        new_fit(tmp_path / "three", model=plain_model(), launched=fabric, accumulate=2, **settings).run()

    Fabric(accelerator="cpu", devices=3, strategy="ddp_fork").launch(fit)
    assert_same_weights(tmp_path / "three", tmp_path / "one", 1e-5)


def test_fewer_clips_than_processes_are_refused(tmp_path, new_fit, monkeypatch, fabric) -> None:
    monkeypatch.setattr(type(fabric), "world_size", 3)
    with pytest.raises(AvrobustError, match="batch_size 2 leaves some of 3 processes without a clip"):
        new_fit(tmp_path, batch_size=2)


@pytest.mark.slow
def test_compiled_encoders_learn_what_others_learn_and_keep_their_keys(tmp_path, new_fit, plain_model) -> None:
    settings = SGD | {"epochs": 1, "accumulate": 2}
    new_fit(tmp_path / "plain", model=plain_model(), augmentations=[_Moved()], **settings).run()
    fit = new_fit(tmp_path / "compiled", model=compiled(plain_model()), augmentations=[_Moved()], **settings)
    calls = [encoder._compiled_call_impl for encoder in fit.module.encoders.values()]
    assert all(calls)
    fit.run()
    assert_same_weights(tmp_path / "compiled", tmp_path / "plain", 1e-5)
