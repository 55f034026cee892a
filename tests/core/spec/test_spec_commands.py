"""`avrobust validate`, `explain` and `schema`, as a user calls them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from avrobust_core.cli import main

PLUGIN = """
    from pydantic import Field

    from avrobust_core import Component, Config, hookimpl


    class Empty(Config):
        "Nothing."


    class Dots(Config):
        "Dots."

        count: int = Field(default=5, ge=1)
        '''How many dots.'''
        colour: str = "red"
        '''Which colour.'''


    def build(config, *others):
        import torch

        raise RuntimeError("not to be built")


    def component(name, config=Empty):
        return Component(name=name, summary=f"The {name}.", config=config, build=build)


    @hookimpl
    def avrobust_datasets():
        yield component("fake-dots", Dots)


    @hookimpl
    def avrobust_encoders():
        yield component("fake-net")


    @hookimpl
    def avrobust_fusions():
        yield component("fake-join")


    @hookimpl
    def avrobust_attacks():
        yield component("fake-push")


    @hookimpl
    def avrobust_metrics():
        yield component("fake-score")
"""

SPEC = """\
version: 1
name: study
data: {use: fake-dots, with: {count: 4}}
encoders: {ear: fake-net, eye: fake-net}
models:
  ear: {encoders: [ear]}
  both: {encoders: [ear, eye], fusion: fake-join}
training:
  standard: {epochs: 2}
threats:
  e: {eye: {eps: 4/255}}
  both: {ear: {eps: 1e-3}, eye: {eps: 4/255}}
attacks: {push: fake-push}
metrics: [fake-score]
compare: [{models: [both, ear]}]
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def site(fake_distribution: Callable[..., Path]) -> Path:
    return fake_distribution("acme", "1.0", {"avrobust_v1": {"acme": "acme_plugin"}}, {"acme_plugin.py": PLUGIN})


@pytest.fixture
def command(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `avrobust` beside study.yaml: exit status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(SPEC)

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_validate_counts_the_cells_and_the_attack_runs_that_touch_the_model(command: Run) -> None:
    assert command("validate", "study.yaml") == (0, "study.yaml: OK, 2 cells, 3 attack runs\n", "")
    trimmed = ("--set", "include=[{model: ear}]", "--set", "attacks={}")
    assert command("validate", "study.yaml", *trimmed)[1] == "study.yaml: OK, 1 cell, 0 attack runs\n"


def test_validate_reports_four_different_mistakes_at_once(command: Run) -> None:
    text = SPEC.replace("fake-score", "fake-scroe").replace("epochs", "epoch").replace("count: 4", "count: x")
    Path("study.yaml").write_text(text.replace("[ear, eye]", "[ear, eys]"))
    status, out, err = command("validate", "study.yaml")
    assert (status, out) == (2, "")
    assert [line.split(": ")[0] for line in err.splitlines() if line.startswith("study.yaml:")] == [
        "study.yaml:3:38",
        "study.yaml:7:26",
        "study.yaml:9:14",
        "study.yaml:14:11",
    ]
    assert "  standard: {epoch: 2}\n                 ^\n    did you mean 'epochs'?" in err
    assert err.endswith("4 problems\n")


def test_validate_reports_wrong_overrides_and_missing_files(command: Run) -> None:
    status, _, err = command("validate", "study.yaml", "--set", "data.with.count=0")
    assert status == 2
    assert err.startswith("--set data.with.count=0:1:17: data.with.count: must be at least 1, found 0\n")
    status, _, err = command("validate", "stduy.yaml")
    assert status == 2
    assert err == "stduy.yaml: there is no such file\n    did you mean 'study.yaml'?\n1 problem\n"


def test_validate_names_threats_that_no_attack_uses(command: Run) -> None:
    status, out, _ = command("validate", "study.yaml", "--set", "attacks.push.threats=[e]")
    assert (status, out) == (0, "study.yaml: OK, 2 cells, 1 attack run\n    no attack is run under both\n")


@pytest.mark.parametrize("name", ["validate", "plan", "explain", "run"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("--set", "training.standard.epochs='6'"), "without quotes: 6"),
        (("--set", f"{'a.' * 5000}a=1"), "a path of 5001 keys"),
        (("--set", "threats.e.eye.eps='1e999999999'"), "a fraction like 8/255"),
        (("--set", 'name="a\\e[31m"'), "the control character U+001B"),
    ],
)
def test_every_command_that_takes_a_spec_refuses_a_wrong_one_in_words(
    name: str, changes: tuple[str, ...], message: str, command: Run
) -> None:
    status, out, err = command(name, "study.yaml", *changes)
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert max(map(len, err.splitlines())) <= 500


@pytest.mark.parametrize("name", ["validate", "plan", "explain", "run"])
def test_every_command_that_takes_a_spec_refuses_a_pipe(name: str, command: Run) -> None:
    os.mkfifo("pipe.yaml")
    assert command(name, "pipe.yaml")[0::2] == (
        2,
        "pipe.yaml: this is a pipe, not a file\n    write the spec into a file\n1 problem\n",
    )


def test_validate_does_not_see_a_plugin_that_is_disabled(command: Run) -> None:
    status, _, err = command("--no-plugin", "acme", "validate", "study.yaml")
    assert status == 2
    assert "no dataset is named 'fake-dots'" in err


def test_explain_says_what_a_value_is_and_where_it_comes_from(command: Run) -> None:
    status, out, _ = command("explain", "study.yaml", "training.standard.epochs")
    assert status == 0
    assert out.splitlines() == [
        "training.standard.epochs = 2",
        "  from     study.yaml:9:22",
        "  takes    a whole number at least 0 and at most 1000000",
        "  Passes over the training split; 0 leaves the initial weights.",
    ]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("data.with.colour", ['= "red"', "from     default of acme:fake-dots", "Which colour.", "takes    text"]),
        ("data.use", ['= "acme:fake-dots"', "study.yaml:3:13", "acme:fake-dots: The fake-dots.", "choices  "]),
        ("encoders.ear.use", ['= "acme:fake-net"', "study.yaml:4:17"]),
        ("encoders.ear.modality", ['= "ear"', "default: the entry's own name"]),
        ("attacks.push.threats", ["default: all of threats", "choices  e, both"]),
        ("threats.e.eye.eps", ["= 0.0156862745", "study.yaml:11:18", "a fraction like 8/255, or {snr_db: 30}"]),
        ("training.standard.select", ['= "best"', "from     default", "choices  best, robust, map, last"]),
        ("engine.devices", ['= "auto"', "takes    a whole number at least 1 and at most 1024, 'auto' or a list"]),
        ("models.both.encoders[1]", ['= "eye"', "study.yaml:7:26", "choices  ear, eye"]),
        ("metrics.0", ["acme:fake-score: The fake-score.", "study.yaml:14:11"]),
        ("compare.0.models.1", ['= "ear"', "study.yaml:15:27", "choices  ear, both"]),
        ("seed", ["= 5", "from     --set seed=5", "default  0"]),
        ("", ["the spec", "A study: data, encoders", "evaluation  {"]),
        ("data.with", ["count   9      base.yaml:1:22 (extended by derived.yaml)", '"red"  default of acme:fake-dots']),
    ],
)  # fmt: skip
def test_explain_knows_every_place(path: str, said: list[str], command: Run) -> None:
    file = "study.yaml"
    if path == "data.with":
        file = "derived.yaml"
        Path("base.yaml").write_text("data: {with: {count: 9}}\n")
        Path("derived.yaml").write_text("extends: [study.yaml, base.yaml]\n")
    status, out, err = command("explain", file, *([path] if path else []), "--set", "seed=5")
    assert (status, err) == (0, "")
    for part in said:
        assert part in out


def test_explain_takes_a_null_that_stands_for_a_default_as_one(command: Run) -> None:
    nulls = ("--set", "encoders.ear.modality=null", "--set", "attacks.push.threats=null")
    assert "default: the entry's own name" in command("explain", "study.yaml", "encoders.ear.modality", *nulls)[1]
    assert "default: all of threats" in command("explain", "study.yaml", "attacks.push.threats", *nulls)[1]
    given = ("--set", "encoders.ear.modality=sound", "--set", "threats=null", "--set", "attacks={}")
    assert command("explain", "study.yaml", "encoders.ear.modality", *given)[0] == 2
    given = ("--set", "encoders.ear.modality=ear")
    assert "--set encoders.ear" in command("explain", "study.yaml", "encoders.ear.modality", *given)[1]


def test_explain_refuses_a_place_that_is_not_there(command: Run) -> None:
    status, out, err = command("explain", "study.yaml", "trainig.standard")
    assert (status, out) == (2, "")
    assert "there is no 'trainig' in the spec\n    did you mean 'training'?" in err
    assert command("explain", "study.yaml", "seed.x")[0] == 2
    assert command("explain", "study.yaml", "metrics.1")[0] == 2
    assert command("explain", "study.yaml", "a..b")[0] == 2


def test_schema_writes_what_is_installed(command: Run) -> None:
    status, out, _ = command("schema")
    assert status == 0
    schema = json.loads(out)
    Draft202012Validator.check_schema(schema)
    assert "dataset:acme:fake-dots" in schema["$defs"]
    assert command("schema", "--out", "new/schema.json") == (0, "", "")
    assert json.loads(Path("new/schema.json").read_text()) == schema
    assert [path.name for path in Path("new").iterdir()] == ["schema.json"]
    status, _, err = command("schema", "--out", "study.yaml/schema.json")
    assert status == 1
    assert err.startswith("avrobust: error: study.yaml: File exists; something is in the way")


def test_looking_at_a_spec_does_not_import_torch(site: Path, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(SPEC)
    script = f"""
import sys
sys.path.insert(0, {str(site)!r})
from avrobust_core.cli import main
assert main(["validate", "study.yaml"]) == 0
assert main(["explain", "study.yaml", "data"]) == 0
assert main(["schema", "--out", "schema.json"]) == 0
assert not {{"torch", "av", "sklearn"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
