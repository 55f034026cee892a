"""`avrobust check-plugin`: what it finds at fault in each kind of component, what it prints, and its exit status."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from avrobust_core import Registry
from avrobust_core.cli import main
from avrobust_core.registry.hookspecs import ENTRY_POINT_GROUP as GROUP
from avrobust_core.testing import ATTACK_CHECKS, AUGMENTATION_CHECKS, COMPONENT_CHECKS, check_component
from avrobust_core.testing.component_checks import media_of

pytest_plugins = ["pytester"]

FakeDistribution = Callable[..., Path]

PLUGIN = '''
from avrobust_core import Component, Config, hookimpl

{top}

class Plain(Config):
    width: int = 4
    """Of everything."""

class Bare(Config):
    width: int = 4

def offer(name, make, config=Plain, **more):
    def build(config, *arguments):
        from {module}_parts import PARTS
        return PARTS[make](*arguments)
    return Component(**{{"name": name, "summary": "A fake.", "config": config, "build": build, **more}})

@hookimpl
def avrobust_{kind}s():
    {offers}
'''

PARTS = """
import random
import numpy as np
from dataclasses import replace
import torch
from scipy.sparse import csr_array
from torch import nn
from avrobust_core import (
    Attack, AttackResult, Augmentation, AugmentedStep, Batch, Clip, DataError, Dataset, Encoded, EncodedDims, Encoder,
    Estimate, Fusion, Measurement, MediaSpec, Metric, LatentRequest, Tracker,
)

class Enc(Encoder):
    def __init__(self, media):
        super().__init__()
        if media.kind != "audio":
            raise DataError("not audio")
        self.dims, self.frontend, self.layer = EncodedDims(3, 3), nn.Tanh(), nn.Linear(media.shape[-1], 3)

    def encode(self, features):
        tokens = self.layer(features)
        return Encoded(tokens, tokens.mean(1))

class EncWrongDims(Enc):
    def __init__(self, media):
        super().__init__(media)
        self.dims = EncodedDims(3, 9)

class EncDetached(Enc):
    def encode(self, features):
        return super().encode(features.detach())

class EncBatch(Enc):
    def encode(self, features):
        return super().encode(features - features.mean(0, keepdim=True))

class EncOtherPath(Enc):
    def forward(self, x):
        return self.encode(x)

class Fus(Fusion):
    def __init__(self, inputs):
        super().__init__()
        self.dim, self.names = sum(dims.embed for dims in inputs.values()), sorted(inputs)

    def forward(self, encoded):
        return torch.cat([encoded[name].pooled for name in self.names], 1)

class FusWrongDim(Fus):
    def __init__(self, inputs):
        super().__init__(inputs)
        self.dim += 1

    def make_head(self, classes):
        return nn.Linear(self.dim - 1, classes)

class FusDeaf(Fus):
    def forward(self, encoded):
        return torch.cat([e.pooled * (name != "audio") for name, e in encoded.items()], 1)

class FusBatch(Fus):
    def forward(self, encoded):
        fused = super().forward(encoded)
        return fused / fused.abs().amax()

class Data(Dataset):
    task, classes, splits = "single-label", ("a", "b"), ("train", "test")
    def __init__(self):
        self.media = {"audio": MediaSpec(kind="audio", shape=(1, 6), bounds=(-1.0, 1.0))}
    def ids(self, split):
        return [f"{split}-{i}" for i in range(3)]
    def read(self, split, index):
        x = torch.full((1, 6), 0.1 * index - 0.01 * len(split))
        return Clip(self.ids(split)[index], {"audio": x}, torch.tensor(index % 2))
    def label_matrix(self, split):
        return csr_array(torch.eye(2)[[0, 1, 0]].numpy())
    def fingerprint(self):
        return "f"

class DataNoTest(Data):
    splits = ("train", "val")

class DataSameIds(Data):
    def ids(self, split):
        return [f"clip-{i}" for i in range(3)]

class DataRandom(Data):
    def read(self, split, index):
        clip = super().read(split, index)
        return replace(clip, inputs={"audio": torch.full((1, 6), random.random())})

class DataLoud(Data):
    def read(self, split, index):
        clip = super().read(split, index)
        return replace(clip, inputs={"audio": clip.inputs["audio"] + 7})

class DataPadded(Data):
    def read(self, split, index):
        return replace(super().read(split, index), padded={"audio": 0.5})

class DataTarget(Data):
    def read(self, split, index):
        return replace(super().read(split, index), target=torch.tensor([1.0, 0.0]))

class DataPrint(Data):
    def fingerprint(self):
        return str(id(self))

class DataLabels(Data):
    def label_matrix(self, split):
        return csr_array(torch.eye(2)[[0, 1, 1]].numpy())

class DataOtherLabels(Data):
    def label_matrix(self, split):
        return csr_array(torch.eye(2)[[0, 1]].numpy())

class DataLearned(Data):
    def read_to_learn(self, split, index, draw):
        clip = super().read(split, index)
        return replace(clip, inputs={"audio": torch.full((1, 6), random.random())})

class DataRedrawn(Data):
    def read_to_learn(self, split, index, draw):
        clip = super().read(split, index)
        return replace(clip, inputs={name: x + draw for name, x in clip.inputs.items()})

class DataOtherLearned(Data):
    def read_to_learn(self, split, index, draw):
        return self.read("test", 0)

class DataAbsent(Data):
    def __init__(self):
        raise DataError("no files here")

class Met(Metric):
    def measure(self, subject):
        return Measurement({"top": Estimate(0.5, 0.4, 0.6, 24, "none")})

class MetLatent(Metric):
    predictions, probes = False, True
    latents = (LatentRequest(None, frozenset({"fused"})), LatentRequest("train", frozenset({"fused"})))
    def measure(self, subject):
        (layer, *_) = subject.latents["test"].layers.values()
        if subject.probe is not None:
            subject.probe.forward(subject.probe.read("test", [0, 1]))
        values = np.linalg.norm(layer, axis=1)
        whole = Estimate(float(values.mean()), 0, 1, len(values), "none")
        return Measurement({"norm": whole}, {"norm": {"a": 1.0}}, {"norm": values}, {"layers": 1})

class MetOrder(MetLatent):
    def measure(self, subject):
        found = super().measure(subject)
        return replace(found, per_clip={"norm": np.arange(len(subject.ids))})

class MetFirst(MetLatent):
    def measure(self, subject):
        (layer, *_) = subject.latents["test"].layers.values()
        return Measurement({"norm": Estimate(float(layer[0, 0]), 0, 1, 1, "none")})

class MetTrains(MetLatent):
    def measure(self, subject):
        if subject.probe is not None:
            subject.probe.model.train()
        return super().measure(subject)

class MetMoves(MetLatent):
    def measure(self, subject):
        if subject.probe is not None:
            with torch.no_grad():
                next(subject.probe.model.parameters()).add_(1)
        return super().measure(subject)

class MetShape(MetLatent):
    def measure(self, subject):
        return replace(super().measure(subject), per_clip={"norm": np.zeros(3)})

class MetClass(MetLatent):
    def measure(self, subject):
        return replace(super().measure(subject), per_class={"norm": {"owl": 1.0}})

class MetNotJson(MetLatent):
    def measure(self, subject):
        return replace(super().measure(subject), details={"found": float("nan")})

class MetNamedLayer(MetLatent):
    def measure(self, subject):
        subject.latents["test"].layers["fused"]
        return super().measure(subject)

class MetNeedsLogits(Met):
    predictions = False
    def measure(self, subject):
        return super().measure(subject) if subject.logits.size else Measurement({})

class MetClips(Met):
    def measure(self, subject):
        return Measurement({"top": Estimate(0.5, 0.4, 0.6, 24, "bootstrap")})

class MetWeighed(Met):
    def measure(self, subject):
        return Measurement({"top": Estimate(0.5 if subject.groups is None else 0.25, 0, 1, 24, "none")})

class MetRandom(Met):
    def measure(self, subject):
        return Measurement({"top": Estimate(random.random(), 0, 1, 24, "none")})

class Aug(Augmentation):
    def begin(self, batch, step):
        return AugmentedStep(Batch({n: x.flip(-1) for n, x in batch.inputs.items()}, batch.targets, batch.ids))

class AugLoud(Aug):
    def begin(self, batch, step):
        return AugmentedStep(Batch({n: x * 2 for n, x in batch.inputs.items()}, batch.targets, batch.ids))

class Trk(Tracker):
    def begin(self, run):
        self.file = run.folder / "told"
    def cell(self, cell):
        self.file.write_text(cell.label)
    def scalars(self, step, values):
        pass
    def result(self, values):
        pass

class TrkOnce(Trk):
    def begin(self, run):
        super().begin(run)
        self.file.touch(exist_ok=False)

class TrkLoud(Trk):
    def result(self, values):
        print(*values)

class TrkSeeds(Trk):
    def cell(self, cell):
        np.random.seed(0)

class Att(Attack):
    norms = frozenset({"linf"})
    def __call__(self, victim):
        return AttackResult(victim.clean, victim.fooled(victim(victim.clean)))

class AugShy(Aug):
    def begin(self, batch, step):
        raise DataError("never")

PARTS = {name: value for name, value in globals().items() if isinstance(value, type)}
PARTS["Raises"] = lambda *arguments: 1 / 0
PARTS["Other"] = lambda *arguments: "a string"
"""


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AVROBUST_DISABLE_PLUGINS", raising=False)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def install(fake_distribution: FakeDistribution) -> Callable[..., None]:
    """Install a distribution `fake` with one plugin, and offers as they would be written in its hook."""

    def install(kind: str, *offers: str, top: str = "") -> None:
        written = "\n    ".join(f"yield offer({offer})" for offer in offers)
        source = PLUGIN.format(kind=kind, offers=written, module="fake", top=top)
        fake_distribution(
            "fake", "1.0", {GROUP: {"mine": "fake_plugin"}}, {"fake_plugin.py": source, "fake_parts.py": PARTS}
        )

    return install


def outcomes(name: str) -> dict[str, tuple[str, str]]:
    (offer,) = Registry.discover().find(name)
    return {outcome.check: (outcome.status, outcome.reason) for outcome in check_component(offer)}


MAKE = """
def make(config):
    from fake_parts import PARTS
    return PARTS["MetLatent"]()
"""
FAULTY = [
    ("encoder", "EncWrongDims", "encodings", "dims says"),
    ("encoder", "EncOtherPath", "encodings", "encode(frontend(x))"),
    ("encoder", "EncDetached", "encoder_gradient", "gradient that reaches"),
    ("encoder", "EncBatch", "encoder_batch_mates", "batch"),
    ("fusion", "FusWrongDim", "fused", "dim ="),
    ("fusion", "FusDeaf", "fusion_gradient", "no gradient reaches audio"),
    ("fusion", "FusBatch", "fusion_batch_mates", "batch"),
    ("dataset", "DataNoTest", "ids", "no split test"),
    ("dataset", "DataSameIds", "ids", "'clip-0'"),
    ("dataset", "DataRandom", "clips", "read twice"),
    ("dataset", "DataLoud", "clips", "outside the bounds"),
    ("dataset", "DataPadded", "clips", "0.5 of audio is padding: name a modality whose MediaSpec states its time_axis"),
    ("dataset", "DataTarget", "clips", "target"),
    ("dataset", "DataPrint", "clips", "fingerprint"),
    ("dataset", "DataLabels", "label_matrix", "the target of clip 'train-2' is not its row"),
    ("dataset", "DataLearned", "clips", "read_to_learn differs for one and the same draw"),
    ("dataset", "DataRedrawn", "clips", "read_to_learn gives another part of it than read: say so (`redrawn = True`)"),
    ("dataset", "DataOtherLearned", "clips", "gives another clip, or another target, than read"),
    ("dataset", "DataOtherLabels", "label_matrix", "is (2, 2), not (3, 2)"),
    ("metric", "MetRandom", "measurement", "twice"),
    ("metric", "MetShape", "measurement", "(3,)"),
    ("metric", "MetClass", "measurement", "owl"),
    ("metric", "MetNotJson", "measurement", "JSON"),
    ("metric", "MetOrder", "clip_order", "another"),
    ("metric", "MetFirst", "clip_order", "in another order"),
    ("metric", "MetClips", "groups", "over clips"),
    ("metric", "MetWeighed", "groups", "0.25"),
    ("metric", "MetTrains", "model_unchanged", "training mode"),
    ("metric", "MetMoves", "model_unchanged", "weights"),
    ("metric", "MetNamedLayer", "bare_embeddings", "fused"),
    ("metric", "MetNeedsLogits", "bare_embeddings", "predictions"),
    ("tracker", "TrkOnce", "takes_a_run_again", "told of a run that it was told of before it raised FileExistsError"),
    ("tracker", "TrkLoud", "prints_nothing", "'clean accuracy"),
    ("tracker", "TrkSeeds", "leaves_the_random_states", "it changed numpy's global random state"),
    ("metric", "Raises", "build", "ZeroDivisionError"),
    ("metric", "Other", "build", "returned a str"),
]
PLANTED = {
    *("data_random_state", "splits_apart", "unreadable_clips"),
    *("encoded_again", "frontend", "ordinary_clips", "silence", "time_axis"),
    *("fused_again", "modality_order"),
    *("confidence", "intervals", "metric_random_state", "seed", "subject_unchanged"),
    "leaves_what_it_is_told",
}
"""Checks whose faults are planted in tests/contract/test_planted_component_faults.py."""
SOUND = {"encoder": "Enc", "fusion": "Fus", "dataset": "Data", "metric": "MetLatent", "tracker": "Trk"}


@pytest.mark.parametrize(("kind", "part", "check", "reason"), FAULTY, ids=[f"{f[1]}-{f[2]}" for f in FAULTY])
def test_a_faulty_component_fails_the_check_that_is_made_for_it(install, kind, part, check, reason):
    install(kind, f"'faulty', '{part}'")
    status, why = outcomes("fake:faulty")[check]
    assert status == "failed"
    assert reason in why


@pytest.mark.parametrize("kind", SOUND)
def test_a_sound_component_passes_every_check_of_its_kind(install, kind):
    install(kind, f"'sound', '{SOUND[kind]}'")
    found = outcomes("fake:sound")
    assert list(found) == [check.name for check in COMPONENT_CHECKS[kind]]
    assert {status for status, _ in found.values()} <= {"passed", "not applicable"}
    assert [status for status, _ in found.values()].count("passed") >= len(found) - 2


def test_an_augmentation_is_put_through_the_checks_of_augmentations(install):
    install("augmentation", "'sound', 'Aug'", "'loud', 'AugLoud'")
    found = outcomes("fake:sound")
    expected = [check.name for check in (*COMPONENT_CHECKS["augmentation"], *AUGMENTATION_CHECKS)]
    assert list(found) == expected
    assert {name for name, (status, _) in found.items() if status != "passed"} == {"order", "processes"}
    status, why = outcomes("fake:loud")["bounds"]
    assert status == "failed"
    assert "bounds" in why


def test_every_check_of_components_has_a_faulty_one_that_fails_it():
    named = {check.name for checks in COMPONENT_CHECKS.values() for check in checks}
    assert named == {check for _, _, check, _ in FAULTY} | {"described_fields", "example"} | PLANTED


def test_fields_without_description_and_examples_that_are_not_valid_are_found(install):
    install("metric", "'bare', 'Met', Bare", "'wrong', 'Met', example={'depth': 3}")
    status, why = outcomes("fake:bare")["described_fields"]
    assert (status, "Bare.width" in why) == ("failed", True)
    status, why = outcomes("fake:wrong")["example"]
    assert (status, "depth" in why) == ("failed", True)


def test_a_build_whose_name_leads_nowhere_fails_with_its_plugin(install):
    install(
        "metric", "'lost', 'Met', build='fake_parts:MetLatant'", "'named', 'Met', build='fake_plugin:make'", top=MAKE
    )
    assert outcomes("fake:lost")["build"] == (
        "failed",
        "metric 'lost' (plugin 'mine' of fake 1.0): build 'fake_parts:MetLatant': fake_parts has no class or function "
        "'MetLatant'; did you mean 'MetLatent'?",
    )
    assert {status for status, _ in outcomes("fake:named").values()} <= {"passed", "not applicable"}


def test_what_cannot_be_built_here_is_not_at_fault(install):
    install("dataset", "'absent', 'DataAbsent'")
    found = outcomes("fake:absent")
    status, why = found["build"]
    assert status == "not checked"
    assert why.startswith("it cannot be built from its example here: no files here. Give a configuration")
    assert {status for name, (status, _) in found.items() if name in ("ids", "clips")} == {"not applicable"}
    assert media_of(Registry.discover().find("fake:absent")) == ()


def test_a_component_is_checked_line_by_line_and_a_failure_sets_the_exit_status(install, capsys):
    install("dataset", "'sound', 'Data'", "'twice', 'DataSameIds'")
    assert main(["check-plugin", "fake:sound"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(
        "dataset fake:sound (version 1, plugin mine of fake 1.0)\n  passed          described_fields\n"
    )
    assert text.endswith("9 passed, 0 failed, 0 not applicable, 0 not checked\n")
    assert main(["check-plugin", "fake:twice"]) == 1
    assert "  failed          ids: the id 'clip-0' is in 'train' and in 'test'" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["mine", "fake:mine", "Fake"])
def test_a_plugin_or_a_distribution_means_all_that_it_offers(install, capsys, name):
    install("metric", "'first', 'Met'", "'second', 'Met'")
    assert main(["check-plugin", name, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [subject["name"] for subject in found["subjects"]] == ["fake:mine", "fake:first", "fake:second"]
    assert found["counts"] == {"passed": 19, "failed": 0, "not applicable": 8, "not checked": 0}
    assert found["not checked"] == []
    assert found["subjects"][0]["checks"] == [
        {
            "check": "imports_without_torch",
            "summary": "Importing the plugin's module does not import torch.",
            "faults": [],
            "status": "passed",
            "reason": "",
        }
    ]


def test_a_plugin_that_imports_torch_fails(install, capsys):
    install("metric", "'first', 'Met'", top="import torch")
    assert main(["check-plugin", "mine"]) == 1
    assert "imports torch" in capsys.readouterr().out


def test_a_broken_plugin_fails_with_its_error(fake_distribution, capsys):
    fake_distribution("fake", "1.0", {GROUP: {"mine": "fake_plugin"}}, {"fake_plugin.py": "import no_such_module\n"})
    assert main(["check-plugin", "fake:mine"]) == 1
    assert "No module named 'no_such_module'" in capsys.readouterr().out


def test_a_configuration_is_laid_over_the_example_and_must_be_of_one_component(install, capsys):
    install("metric", "'first', 'Met'", "'second', 'Met', example={'width': 2}")
    assert main(["check-plugin", "fake:second", "--with", "width=8", "--json"]) == 0
    assert main(["check-plugin", "fake:second", "--with", "width=wide"]) == 1
    assert "width: input should be a valid integer" in capsys.readouterr().err
    assert main(["check-plugin", "fake:second", "--with", "depth=8"]) == 1
    assert "depth: no such field" in capsys.readouterr().err
    assert main(["check-plugin", "fake", "--with", "width=8"]) == 2
    assert "means 2: metric fake:first, metric fake:second" in capsys.readouterr().err
    assert main(["check-plugin", "fake:second", "--with", "width"]) == 2
    assert "--with width: not of the form field=value" in capsys.readouterr().err


def test_the_configuration_given_is_the_one_that_is_checked(install):
    install("metric", "'sound', 'Met'")
    (offer,) = Registry.discover().find("fake:sound")
    found = {outcome.check: outcome for outcome in check_component(offer, given={"width": "wide"})}
    assert found["example"].status == "failed"
    assert "the configuration given, {'width': 'wide'}, is not valid" in found["example"].reason


def test_what_was_not_checked_is_no_success(install, fake_distribution, capsys):
    install("dataset", "'absent', 'DataAbsent'")
    assert main(["check-plugin", "fake:absent"]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "Not checked: dataset fake:absent: it cannot be built from its example here: no files here." in text
    assert text.endswith("2 passed, 0 failed, 6 not applicable, 1 not checked")
    assert main(["check-plugin", "fake", "--kind", "metric"]) == 1
    assert "Not checked: fake: it offers no component of kind 'metric'" in capsys.readouterr().out
    assert main(["check-plugin", "fake:absent", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["counts"]["not checked"] == len(found["not checked"]) == 1
    resolved = {name: found["subjects"][0][name] for name in ("distribution", "distribution_version", "plugin")}
    assert resolved == {"distribution": "fake", "distribution_version": "1.0", "plugin": "mine"}


def test_an_augmentation_that_refuses_all_that_it_is_tried_with_is_not_checked(install):
    install("augmentation", "'shy', 'AugShy'")
    found = outcomes("fake:shy")
    status, why = found.pop("something_said")
    assert {found[check.name][0] for check in AUGMENTATION_CHECKS} == {"not applicable"}
    assert status == "not checked"
    assert "it refuses all clips that it is tried with: never" in why


def test_an_unknown_name_says_what_there_is(install, capsys):
    install("metric", "'first', 'Met'")
    assert main(["check-plugin", "nothing-like-it"]) == 1
    error = capsys.readouterr().err
    assert "nothing-like-it" in error
    assert "fake:mine" in error


def test_an_attack_runs_through_the_whole_list(install, capsys):
    """One that never moves: it is honest, and of no use."""
    install("attack", "'idle', 'Att'")
    assert main(["check-plugin", "fake:idle", "--json"]) == 1
    (subject,) = json.loads(capsys.readouterr().out)["subjects"]
    found = {outcome["check"]: outcome for outcome in subject["checks"]}
    assert list(found) == ["described_fields", "example", "build", *(check.name for check in ATTACK_CHECKS)]
    assert [name for name, outcome in found.items() if outcome["status"] == "failed"] == ["easy_clips_fall"]
    assert found["shifted_logits"]["status"] == "not applicable"
    assert found["batch_mates"]["faults"] == [3, 11]


def test_a_check_that_does_not_apply_skips_its_test(pytester):
    pytester.makepyfile(
        """
        from avrobust_core.testing import Check, NotApplicable, CheckFailed, AttackSubject, parametrize_with_checks

        def check_one(subject):
            raise NotApplicable("no reason")

        def check_two(subject):
            raise CheckFailed("for a reason")

        def check_three(subject):
            pass

        SUBJECT = AttackSubject("mine", None)

        @parametrize_with_checks([SUBJECT], [Check(check_one), Check(check_two), Check(check_three)])
        def test_mine(subject, check):
            check(subject)
        """
    )
    result = pytester.runpytest("-v", "-p", "no:cacheprovider")
    result.assert_outcomes(skipped=1, failed=1, passed=1)
    result.stdout.fnmatch_lines(["*test_mine?mine-two? FAILED*"])
