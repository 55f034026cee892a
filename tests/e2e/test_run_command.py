import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.torch import load_file

from avrobust_core.cli import main


@pytest.fixture(scope="module")
def first(tiny: Path, tmp_path_factory: pytest.TempPathFactory, run_command):
    """The tiny study, run once, and its folder."""
    out = tmp_path_factory.mktemp("first") / "out"
    ran = run_command("run", tiny, "--out", out, "--json")
    assert ran.returncode == 0, ran.stderr
    return ran, out


@pytest.fixture
def done(first, tmp_path: Path):
    """What the first run printed; tmp_path / "out" is a copy of its folder."""
    ran, out = first
    shutil.copytree(out, tmp_path / "out")
    return ran


def test_a_study_runs_reports_and_is_reused(done, tiny, tmp_path, run_command, last_json, comparable) -> None:
    out = tmp_path / "out"
    result = json.loads(done.stdout)  # which holds nothing else
    assert Path(result.pop("report")) == Path(result["run"]) / "report.html"
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    assert "MiB, opens offline" in done.stderr
    assert result == json.loads((out / "result.json").read_text())
    assert Path(result["run"]).name == "out"
    assert result["reused"] == 0
    assert "0 of 2 cells reused" in done.stderr
    audio, concat = result["cells"]
    assert [audio["model"], concat["model"]] == ["audio-only", "concat"]
    for cell in result["cells"]:
        clean = cell["clean_accuracy"]
        assert clean["low"] <= clean["value"] <= clean["high"]
        assert clean["n"] == cell["clips"] == 24
        assert set(cell["robust_accuracy"]) == {"pgd", "fgsm"}
        for threats in cell["robust_accuracy"].values():
            for robust in threats.values():
                assert robust["low"] <= robust["value"] <= robust["high"]
                assert robust["value"] <= clean["value"]
        worst = min(threats["both"]["value"] for threats in cell["robust_accuracy"].values())
        assert cell["worst_case"]["both"]["value"] <= worst
    assert audio["robust_accuracy"]["pgd"]["video"]["attacked"] == []
    assert audio["robust_accuracy"]["pgd"]["video"]["value"] == audio["clean_accuracy"]["value"]
    assert concat["robust_accuracy"]["pgd"]["both"]["attacked"] == ["audio", "video"]
    measured = {(m["metric"], m["attack"], m["threat"]) for m in concat["metrics"]}
    assert {("accuracy", None, None), ("map", None, None), ("map", "pgd", "both")} <= measured

    again = run_command("run", tiny, "--out", out, "--json", "--quiet")
    assert again.returncode == 0
    assert last_json(again.stdout)["reused"] == 2
    assert "reused" not in again.stderr
    assert "report" not in again.stderr
    assert comparable(last_json(again.stdout)) == comparable(result)


def test_a_report_that_cannot_be_written_loses_nothing_and_nobody_has_to_have_one(
    done, tiny, tmp_path, capsys, last_json, monkeypatch
) -> None:
    report = tmp_path / "out" / "report.html"
    command = ["run", str(tiny), "--out", str(tmp_path / "out"), "--json", "--quiet"]
    report.unlink()
    assert main([*command, "--no-report"]) == 0
    assert last_json(capsys.readouterr().out)["report"] is None
    assert not report.exists()

    report.mkdir()
    assert main(command) == 1
    printed = capsys.readouterr()
    (said,) = [line for line in printed.err.splitlines() if "report" in line]
    assert said.startswith("the report was not written: ")
    assert said.endswith(f"the results are whole, and `avrobust report {tmp_path / 'out'}` tries it again")
    assert (last_json(printed.out)["reused"], last_json(printed.out)["report"]) == (2, None)

    report.rmdir()
    monkeypatch.setattr("avrobust_core.cli.run.is_first_process", lambda: False)
    assert main(command) == 0
    assert not report.exists(), "one process of a run writes it"


def test_the_run_folder_holds_what_was_asked_meant_and_found(done, tiny, tmp_path) -> None:
    out = tmp_path / "out"
    assert (out / "spec.yaml").read_text() == tiny.read_text()
    resolved = yaml.safe_load((out / "resolved.yaml").read_text())
    assert resolved["attacks"]["pgd"]["use"] == "avrobust:pgd"
    assert resolved["training"]["standard"]["learning_rate"] > 0
    lock = json.loads((out / "lock.json").read_text())
    assert lock["libraries"]["torch"]
    assert lock["plugins"]["avrobust:attacks"]["status"] == "ok"
    assert len(lock["cells"]) == 2
    for entry in lock["cells"]:
        cell = out / "cells" / entry["id"]
        for name in ("cell.json", "fit.json", "history.jsonl", "result.json", "samples.parquet"):
            assert (cell / name).exists(), name
        assert load_file(cell / "model.safetensors")
        assert not list(cell.rglob("part-*"))
        assert not (cell / "checkpoint.pt").exists()
        samples = pq.read_table(cell / "samples.parquet")
        assert samples.num_rows == 24 * 5
        for row in samples.to_pylist():
            if row["attack"] is None:
                assert row["norm/audio"] == 0
            elif row["threat"] == "video":
                assert row["norm/audio"] == 0, "a modality that the threat does not name is not touched"
                assert row["norm/video"] <= 4 / 255 * (1 + 1e-6)
            elif row["threat"] == "audio":
                assert row["norm/audio"] <= 0.01 * (1 + 1e-6)


@pytest.mark.slow
def test_names_engine_and_place_do_not_change_a_cell_but_what_changes_results_does(
    done, tiny, tmp_path, run_command
) -> None:
    out = tmp_path / "out"

    def states(*settings: str) -> list[str]:
        options = [option for setting in settings for option in ("--set", setting)]
        ran = run_command("plan", tiny, "--out", out, "--json", *options)
        assert ran.returncode == 0, ran.stderr
        return [cell["state"] for cell in json.loads(ran.stdout)["cells"]]

    assert states() == ["done", "done"]
    assert states("name=other", "engine.batch_size=3", "engine.workers=1") == ["done", "done"]
    assert states("attacks.pgd.with.steps=4") == ["fitted", "fitted"]
    assert states("threats.video.video.eps=2/255") == ["done", "fitted"]
    assert states("training.standard.epochs=3") == ["to fit", "to fit"]
    assert states("models.concat.fusion=sum") == ["done", "to fit"]
    why = run_command("plan", tiny, "--out", out, "--set", "training.standard.epochs=3")
    assert "changed: training.epochs 2 -> 3" in why.stdout


def test_a_cell_that_fails_is_recorded_and_the_others_go_on(done, tiny, tmp_path, run_command, last_json) -> None:
    out = tmp_path / "out"
    lock = json.loads((out / "lock.json").read_text())
    concat = next(cell["id"] for cell in lock["cells"] if cell["model"] == "concat")
    (out / "cells" / concat / "model.safetensors").write_bytes(b"damaged")
    shutil.rmtree(out / "cells" / concat / "evaluations")
    ran = run_command("run", tiny, "--out", out, "--json")
    assert ran.returncode == 1
    result = last_json(ran.stdout)
    assert result["failed"] == 1
    assert "error" not in result["cells"][0]
    assert "model.safetensors" in result["cells"][1]["error"]["message"]
    assert (out / "cells" / concat / "error.json").exists()
    assert "1 of 2 cells failed" in ran.stderr
    shutil.rmtree(out / "cells" / concat)
    mended = run_command("run", tiny, "--out", out, "--json")
    assert mended.returncode == 0
    assert not (out / "cells" / concat / "error.json").exists()


def test_an_attack_that_does_not_support_a_norm_is_refused_before_anything_is_fitted(
    tiny, tmp_path, run_command, fake_distribution
) -> None:
    fake = fake_distribution(
        "linf-only",
        "1.0",
        {"avrobust_v1": {"linf": "linf_only"}},
        {
            "linf_only.py": (
                "from avrobust_core import Component, Config, hookimpl\n"
                "class C(Config):\n    pass\n"
                "def build(config):\n"
                "    from avrobust_core import Attack\n"
                "    class Only(Attack):\n"
                "        norms = frozenset({'linf'})\n"
                "        def __call__(self, victim):\n"
                "            raise AssertionError('never called')\n"
                "    return Only()\n"
                "@hookimpl\n"
                "def avrobust_attacks():\n"
                "    yield Component(name='linf-only', summary='Only linf.', config=C, build=build)\n"
            )
        },
    )
    ran = run_command(
        "run", tiny, "--out", tmp_path / "out", "--set", "attacks.pgd={use: linf-only}", env={"PYTHONPATH": str(fake)}
    )
    assert ran.returncode == 1
    assert "cannot attack audio in l2 (threat 'both'); it supports: linf" in ran.stderr
    assert not (tmp_path / "out" / "cells").exists()


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_what_is_found_does_not_depend_on_the_batch_size(first, tiny, tmp_path, run_command, batch_size: int) -> None:
    _, before = first
    out = tmp_path / "out"
    shutil.copytree(before, out)
    for cell in (out / "cells").iterdir():
        shutil.rmtree(cell / "evaluations")
        shutil.rmtree(cell / "measurements")
    ran = run_command("run", tiny, "--out", out, "--set", f"engine.batch_size={batch_size}")
    assert ran.returncode == 0, ran.stderr
    for cell in (out / "cells").iterdir():
        again = pq.read_table(cell / "samples.parquet").to_pylist()
        expected = pq.read_table(before / "cells" / cell.name / "samples.parquet").to_pylist()
        assert [row["correct"] for row in again] == [row["correct"] for row in expected]
        gaps = [abs(row["margin"] - was["margin"]) for row, was in zip(again, expected, strict=True)]
        clean = [gap for gap, row in zip(gaps, again, strict=True) if row["attack"] is None]
        assert clean
        assert max(clean) < 1e-4
        # A gradient that is zero but for rounding, which differs with the batch, may have the other sign: then under
        # every attack, since all begin with the same step.
        moved = {row["id"] for gap, row in zip(gaps, again, strict=True) if gap > 1e-3}
        assert len(moved) <= len({row["id"] for row in again}) / 20
        assert max(gaps) < 0.05, "and by little: the same pixel's step to the other side"
