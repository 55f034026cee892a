"""`evaluate`: any module from a dict of modalities to logits is attacked, verified and summed up with intervals."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import avrobust_core
from avrobust_core import Attack, AttackResult, Batch, Metric, Preparation, ThreatModel
from avrobust_core.api.reading import rebatched
from avrobust_core.errors import ComponentError, DataError
from avrobust_core.metrics.metric import Measurement
from avrobust_core.statistics.intervals import share


class Plain(nn.Module):
    """No `AVModel`: a sum of linear maps, with batch normalisation and dropout to be left as they were."""

    def __init__(self):
        super().__init__()
        self.audio = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.video = nn.Sequential(nn.Flatten(), nn.Linear(24, 4))

    def forward(self, inputs):
        return self.audio(inputs["audio"]) + self.video(inputs["video"])


class Sign(Attack):
    """One step of the whole radius."""

    norms = frozenset({"linf"})

    def __call__(self, victim):
        x = {name: clean.clone().requires_grad_() for name, clean in victim.clean.items()}
        with torch.enable_grad():
            loss = victim.loss(victim(x)).sum()
        gradients = dict(zip(x, torch.autograd.grad(loss, list(x.values())), strict=True))
        moved = victim.region.project(victim.region.step(victim.clean, gradients, 1.0))
        fooled = victim.fooled(victim(moved))
        kept = {
            name: torch.where(fooled.view(-1, *[1] * (clean.dim() - 1)), moved[name], clean)
            for name, clean in victim.clean.items()
        }
        return AttackResult(kept, fooled)


class Counting(Sign):
    """Counts the clips that it is shown first."""

    preparation = Preparation()
    seen = 0

    def prepare(self, victims):
        prepared = Counting()
        prepared.preparation = None
        prepared.seen = sum(len(victim) for victim in victims())
        return prepared

    def __call__(self, victim):
        assert self.seen == 30
        return super().__call__(victim)


THREATS = {
    "audio": {"audio": {"eps": 0.1}},
    "both": ThreatModel.model_validate({"audio": {"eps": 0.1}, "video": {"eps": 0.05}}),
}
BOUNDS = {"audio": (-1.0, 1.0), "video": (0.0, 1.0)}


@pytest.fixture
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Plain()


@pytest.fixture
def data(model):
    generator = torch.Generator().manual_seed(1)
    audio = torch.rand(30, 1, 12, generator=generator) * 2 - 1
    video = torch.rand(30, 3, 2, 2, 2, generator=generator)
    with torch.no_grad():
        targets = model.eval()({"audio": audio, "video": video}).argmax(dim=1)
    model.train()
    return audio, video, targets


def pairs(data, size=8):
    audio, video, targets = data
    return [
        ({"audio": audio[i : i + size], "video": video[i : i + size]}, targets[i : i + size])
        for i in range(0, len(targets), size)
    ]


def run(model, loader, **options):
    settings = {"attacks": {"sign": Sign()}, "threats": THREATS, "bounds": BOUNDS} | options
    return avrobust_core.evaluate(model, loader, **settings)


def test_a_plain_module_is_attacked_and_left_as_it_was(model, data):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = run(model, pairs(data))
    assert found.summary["clean_accuracy"]["value"] == 1.0
    robust = found.summary["robust_accuracy"]["sign"]
    assert robust["both"]["value"] <= robust["audio"]["value"] < 1.0
    assert robust["both"]["low"] <= robust["both"]["value"] <= robust["both"]["high"]
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert "sign on both" in str(found)


def test_loaders_of_every_shape_give_the_same_results(model, data):
    audio, video, targets = data
    ids = [str(i) for i in range(30)]
    loaders = {
        "pairs": pairs(data, 7),
        "triples": [({"audio": audio, "video": video}, targets, ids)],
        "batches": [Batch({"audio": audio, "video": video}, targets, tuple(ids))],
        "torch": DataLoader(
            TensorDataset(audio, video, targets),
            batch_size=9,
            collate_fn=lambda rows: (
                {"audio": torch.stack([row[0] for row in rows]), "video": torch.stack([row[1] for row in rows])},
                torch.stack([row[2] for row in rows]),
            ),
        ),
    }
    found = {name: run(model, loader).summary for name, loader in loaders.items()}
    for name in loaders:
        assert (
            found[name]["robust_accuracy"]["sign"]["both"]["value"]
            == (found["pairs"]["robust_accuracy"]["sign"]["both"]["value"])
        ), name


def test_installed_attacks_are_named_or_configured_as_in_a_spec(model, data):
    attacks = {"quick": {"use": "pgd", "with": {"steps": 3}, "threats": ["both"], "curve": [0.5, 2]}, "fgsm": "fgsm"}
    summary = run(model, pairs(data), attacks=attacks).summary
    assert set(summary["robust_accuracy"]["quick"]) == {"both"}
    assert set(summary["robust_accuracy"]["fgsm"]) == {"audio", "both"}
    curve = [point["value"] for point in summary["curves"]["quick"]["both"]]
    assert curve == sorted(curve, reverse=True)
    assert [point["factor"] for point in summary["curves"]["quick"]["both"]] == [0.5, 1.0, 2.0]


def test_a_front_runs_from_each_modality_alone_to_the_other(model, data):
    attacks = {"small": {"use": "fmn", "with": {"steps": 20}, "threats": ["both"], "front": 3}}
    wide = {"both": {"audio": {"eps": 2.0}, "video": {"eps": 1.0}}}
    front = run(model, pairs(data), attacks=attacks, threats=wide).summary["fronts"]["small"]["both"]
    audio, mixed, video = (point["budget"] for point in front)
    assert audio["video"] == video["audio"] == 0
    assert 0 < mixed["audio"] < audio["audio"]
    assert 0 < mixed["video"] < video["video"]


def test_a_target_class_is_named_by_its_name(model, data):
    attacks = {"aimed": {"use": "pgd", "with": {"steps": 5}, "goal": "class", "target": "owl"}}
    wide = {"both": {"audio": {"eps": 2.0}, "video": {"eps": 1.0}}}
    found = run(model, pairs(data), attacks=attacks, threats=wide, classes=["cat", "dog", "owl", "bat"])
    assert found.summary["attack_success_rate"]["aimed"]["both"]["value"] > 0.9
    assert (found.outcomes[0].predictions.logits.argmax(axis=1) == 2).mean() > 0.9


def test_an_attack_that_must_see_the_clips_is_shown_all_of_them(model, data):
    assert run(model, pairs(data), attacks={"counting": Counting()}).outcomes[0].predictions.ids[-1] == "29"


def test_the_tutorial_shows_what_works(model, data, capsys):
    page = (Path(__file__).parents[3] / "docs" / "tutorial" / "your_model.md").read_text(encoding="utf-8")
    example = next(block for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "evaluate(" in block)
    exec(example, {"model": model, "loader": pairs(data)})
    shown = capsys.readouterr().out
    assert "pgd on both" in shown
    assert "fmn on both" in shown


@pytest.mark.parametrize("size", [1, 4, 7, 30, 100])
def test_clips_come_in_batches_of_the_size_asked_for(data, size):
    batches = [Batch(inputs, targets, tuple(map(str, range(len(targets))))) for inputs, targets in pairs(data, 8)]
    found = list(rebatched(batches, size))
    assert [len(batch) for batch in found] == [size] * (30 // size) + ([30 % size] if 30 % size else [])
    assert torch.equal(torch.cat([batch.inputs["audio"] for batch in found]), data[0])
    assert torch.equal(torch.cat([batch.targets for batch in found]), data[2])


class Right(Metric):
    under_attack = True

    def measure(self, subject):
        return Measurement({"right": share(subject.logits.argmax(axis=1) == subject.targets)})


def test_metrics_are_measured_clean_and_under_attack(model, data):
    found = run(model, pairs(data), metrics=[Right(), "accuracy"]).summary
    values = {
        (entry["metric"], entry["threat"]): entry["values"] for entry in found["metrics"] if entry["metric"] == "Right"
    }
    assert values["Right", None]["right"]["value"] == 1.0
    assert values["Right", "both"]["right"]["value"] == found["robust_accuracy"]["sign"]["both"]["value"]
    assert {entry["metric"] for entry in found["metrics"]} == {"Right", "accuracy"}


def test_intervals_are_over_groups_given_by_id_or_in_the_loaders_order(model, data):
    speakers = [f"speaker {i // 6}" for i in range(30)]
    by_id = {str(i): speaker for i, speaker in enumerate(speakers)}
    clips = run(model, pairs(data), metrics=["accuracy"], audit="off")
    in_order, named = (
        run(model, pairs(data), metrics=["accuracy"], audit="off", groups=each) for each in (speakers, by_id)
    )
    assert in_order.summary == named.summary
    robust, plain = (found.summary["robust_accuracy"]["sign"]["both"] for found in (in_order, clips))
    assert (robust["value"], robust["groups"], plain["groups"]) == (plain["value"], 5, None)
    assert robust["low"] < plain["low"]
    assert [entry["values"]["top-1"]["groups"] for entry in in_order.summary["metrics"]][:1] == [5]
    shown = str(in_order).splitlines()
    assert shown[0].startswith("clean: 100.0 [")
    assert "of 30 clips, intervals over 5 groups of clips" in shown[0]
    assert any(line.startswith("accuracy: top-1, sign on both: 0.") for line in shown), "metrics under attack, too"


@pytest.mark.parametrize(
    ("options", "loader", "error", "message"),
    [
        ({"groups": ["a", "b"]}, None, DataError, "2 are given, but the loader gives 30 clips"),
        ({"groups": {"0": "a"}}, None, DataError, "none is given for '1', and for 29 of 30"),
        (
            {"threats": {"l2": {"audio": {"norm": "l2", "eps": 1}}}},
            None,
            ComponentError,
            "cannot attack audio in l2",
        ),
        (
            {"threats": {"x": {"depth": {"eps": 1}}}},
            None,
            DataError,
            "attacks 'depth', but the batch has only",
        ),
        ({"attacks": {"no-such": "no-such"}}, None, ComponentError, "no-such"),
        ({"attacks": {"pgd": {"use": "pgd", "threats": ["dusk"]}}}, None, DataError, "there is no threat dusk"),
        ({"attacks": {"pgd": {"use": "pgd", "goal": "class", "target": "owl"}}}, None, DataError, "class 'owl'"),
        (
            {"attacks": {"u": {"use": "universal", "with": {"split": "train"}}}},
            None,
            DataError,
            "a loader has no splits",
        ),
        ({"attacks": {"p": {"use": "pgd", "front": 3}}}, None, ComponentError, "'p' asks for a front"),
        ({}, [], DataError, "the loader gives no batch"),
        ({}, [torch.zeros(3)], DataError, "the loader gives Tensor, not a Batch"),
        ({}, [({"audio": torch.zeros(1, 1, 12)}, [0])], DataError, "targets are list"),
    ],
)
def test_what_cannot_be_is_said_in_plain_words(model, data, options, loader, error, message):
    with pytest.raises(error, match=message):
        run(model, pairs(data) if loader is None else loader, **options)


def test_a_loader_that_can_be_read_once_only_is_refused(model, data):
    with pytest.raises(DataError, match="an iterator, which can be read only once: pass a list or a DataLoader"):
        run(model, iter(pairs(data, 30)))


def test_clips_outside_the_stated_bounds_are_named(model, data):
    with pytest.raises(DataError, match="video: clean clips outside the bounds"):
        run(model, pairs(data), bounds={"video": (0.0, 0.5)})
