"""`avrobust bench`: every preset makes a valid study, a run's fits are attacked as they are, results are compared."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from avrobust_core.bench.comparing import side_by_side
from avrobust_core.bench.composing import Models, compose
from avrobust_core.bench.presets import preset, presets
from avrobust_core.bench.results import BenchResult, read_result
from avrobust_core.cli import main
from avrobust_core.errors import RunError
from avrobust_core.registry.registry import Registry
from avrobust_core.spec.loading import load_spec

ROOT = Path(__file__).parents[3]

SPEC = """\
version: 1
name: small
data: {use: toy-av, with: {classes: 3, train: 32, val: 8, test: 12, size: 16, frames: 4}}
encoders:
  audio: {use: cnn, with: {channels: [4, 8]}}
  video: slowfast-tiny
models:
  audio-only: {encoders: [audio]}
  concat: {encoders: [audio, video], fusion: concat}
training: {standard: {epochs: 1}}
threats: {other: {video: {eps: 0.5}}}
attacks: {old: {use: noise, threats: [other]}}
metrics: [accuracy]
exclude: [{attack: old, threat: other}]
evaluation: {clips: 5, resamples: 200}
"""


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spec") / "small.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture(scope="module")
def run(spec: Path) -> Path:
    folder = spec.parent / "run"
    assert main(["run", str(spec), "--out", str(folder), "--quiet", "--no-report", "--set", "audit=off"]) == 0
    return folder


@pytest.fixture(scope="module")
def result(run: Path) -> Path:
    out = run.parent / "crmt"
    assert main(["bench", "crmt-2024", "--model", str(run), "--out", str(out), "--quiet", "--set", "audit=off"]) == 0
    return out / "bench.json"


@pytest.mark.parametrize("name", presets())
def test_every_preset_makes_a_valid_study_of_which_nothing_old_is_left(name: str, spec: Path, tmp_path: Path) -> None:
    asked = preset(name)
    assert name == asked.full_name
    assert asked.sources
    models = Models.at(ROOT / "examples" / "features.yaml" if asked.name == "li-2022" else spec)
    compose(asked, models, [], tmp_path / "b.yaml")
    made = load_spec(tmp_path / "b.yaml", Registry.discover()).spec
    assert made.attacks.keys() == asked.spec["attacks"].keys()
    assert made.threats.keys() == asked.spec["threats"].keys()
    assert made.evaluation.clips is None, "the whole split"
    headline = asked.headline
    assert headline["threat"] in made.threats
    assert headline["attack"] is None or headline["attack"] in made.attacks
    assert made.evaluation.resamples == (200 if models.spec == spec else made.evaluation.resamples)


def test_the_newest_version_is_meant_by_a_bare_name() -> None:
    assert preset("standard") is preset("standard-v1")
    with pytest.raises(RunError, match=r"no bench is named 'standart'; did you mean 'standard-v1'\?"):
        preset("standart")


def test_a_runs_own_fits_are_attacked(run: Path, result: Path) -> None:
    for weights in run.glob("cells/*/model.safetensors"):
        assert weights.read_bytes() == (result.parent / weights.relative_to(run)).read_bytes()
    found = read_result(result)
    assert [(model.model, model.training) for model in found.models] == [
        ("audio-only", "standard"),
        ("concat", "standard"),
    ]
    audio, both = found.models
    assert "video" not in audio.robust["pgd"], "what is not touched is no number"
    assert {"shared", "audio", "video"} <= both.robust["pgd"].keys()
    assert found.headline(both) == both.robust["pgd"]["shared"]
    assert (found.data.clips, found.data.whole, found.data.component) == (12, True, "avrobust:toy-av")
    assert json.loads(result.read_text())["format"] == "avrobust-bench/1"


def test_a_fit_that_does_not_serve_is_not_made_anew(run: Path, tmp_path: Path, capsys) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    for fit in [*broken.glob("cells/*/fit.json")][:1]:
        fit.unlink()
    assert main(["bench", "crmt-2024", "--model", str(broken), "--out", str(tmp_path / "out"), "--quiet"]) == 1
    assert "has no fit that could be attacked" in capsys.readouterr().err
    assert not (tmp_path / "out" / "bench.json").exists()
    assert main(["bench", "crmt-2024", "--model", str(tmp_path), "--quiet"]) == 1
    assert "is no run: it holds no resolved.yaml" in capsys.readouterr().err


def test_a_quick_look_is_marked(spec: Path, tmp_path: Path, capsys) -> None:
    options = ["--cell", "audio-only", "--clips", "4", "--out", str(tmp_path / "out"), "--quiet", "--set", "audit=off"]
    assert main(["bench", "tian-xu-2021", "--model", str(spec), *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["data"]["whole"], found["data"]["clips"]) == (False, 4)
    assert [model["model"] for model in found["models"]] == ["audio-only"]
    assert found["models"][0]["audit"] == "off"


def changed(path: Path, where: Path, change: Callable[[dict], object]) -> Path:
    data = json.loads(path.read_text())
    change(data)
    where.write_text(json.dumps(data))
    return where


def test_results_are_put_side_by_side_with_what_stands_between_them(result: Path, tmp_path: Path, capsys) -> None:
    def other(data: dict) -> None:
        data["data"]["fingerprint"] = "0"
        number = {
            "value": 1,
            "low": 0.9,
            "high": 1,
            "n": 12,
            "method": "clopper-pearson",
            "doubts": ["pgd: <too weak>"],
        }
        data["models"][1]["robust"]["pgd"]["shared"] = number
        data["models"][1]["audit"] = "failed"

    better = changed(result, tmp_path / "better.json", other)
    page = tmp_path / "page.html"
    assert main(["bench", "--compare", str(result), str(better), "--out", str(page)]) == 0
    said = capsys.readouterr().out
    assert "100.0 [90.0, 100.0] ?" in said
    assert "are of different clips of avrobust:toy-av" in said
    assert "the audit says failed" in said
    text = page.read_text()
    assert "&lt;too weak&gt;" in text
    assert "http" not in text, "it opens offline"
    side = side_by_side([("a", read_result(result)), ("b", read_result(better))])
    assert [row.headline.value for row in side.rows if row.headline] == sorted(
        (row.headline.value for row in side.rows if row.headline), reverse=True
    )
    assert side.rows[0].source == "b"


def test_what_cannot_be_compared_is_refused(result: Path, tmp_path: Path, capsys) -> None:
    later = changed(result, tmp_path / "later.json", lambda data: data["bench"].update(version=2))
    assert main(["bench", "--compare", str(result), str(later)]) == 1
    assert "several benches, which cannot be compared: crmt-2024-v1, crmt-2024-v2" in capsys.readouterr().err
    wrong = changed(result, tmp_path / "wrong.json", lambda data: data["models"][0]["clean"].update(value=2))
    assert main(["bench", "--compare", str(wrong)]) == 1
    assert "models[0].clean.value" in capsys.readouterr().err
    assert main(["bench"]) == 2


def test_the_schema_says_what_a_file_holds(result: Path) -> None:
    import jsonschema

    jsonschema.validate(json.loads(result.read_text()), BenchResult.model_json_schema())


def test_listing_imports_no_torch() -> None:
    code = "import sys; from avrobust_core.cli import main; main(['bench', '--list']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert "standard-v1" in done.stdout


def test_the_documents_table_is_that_of_the_presets() -> None:
    rows = [f"| `{name}` | {each.title} | {each.summary} | {each.data} |" for name, each in presets().items()]
    text = (ROOT / "docs" / "bench.md").read_text()
    for row in rows:
        assert row in text
