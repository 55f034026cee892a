"""Several seeds in one study, and paired comparisons: what is reported, what is reused, what stays as it was."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from avrobust_core.cli import main
from avrobust_core.files import read_record, write_record
from avrobust_core.report.transfer_tables import print_transfer
from avrobust_core.study.comparing_runs import compare_runs
from avrobust_core.study.finished import read_run

ATTACKS = (
    "--set", "threats={video: {video: {eps: 4/255}}, audio: {audio: {eps: 0.01}}}",
    "--set", "attacks={pgd: {use: pgd, with: {steps: 2}}, fgsm: {use: fgsm, threats: [video]}}",
    "--set", "training.standard.epochs=1",
)  # fmt: skip
SEVERAL = (
    *ATTACKS,
    "--set", "seed=[0, 1]",
    "--set", "compare=[{models: [concat, audio-only]}]",
)  # fmt: skip


def kept(out: Path, cells: Iterable[str]) -> dict[Path, int]:
    """The files that hold what was computed, with the times at which they were written."""
    names = ("model.safetensors", "fit.json", "predictions.parquet", "record.json")
    files = [path for cell in cells for name in names for path in (out / "cells" / cell).rglob(name)]
    assert len(files) > 8
    return {path: path.stat().st_mtime_ns for path in files}


@pytest.fixture(scope="module")
def studies(tiny, tmp_path_factory, run_command):
    """One seed, then two in the same folder: the folder, the first result and its files, what the second run said."""
    out = tmp_path_factory.mktemp("comparisons") / "out"
    single = run_command("run", tiny, "--out", out, "--json", *ATTACKS)
    assert single.returncode == 0, single.stderr
    before = json.loads((out / "result.json").read_text())
    files = kept(out, [cell["id"] for cell in before["cells"]])
    several = run_command("run", tiny, "--out", out, "--json", *SEVERAL)
    assert several.returncode == 0, several.stderr
    return out, before, files, several


def test_a_second_seed_adds_cells_and_leaves_those_of_the_first_as_they_were(studies, comparable) -> None:
    out, before, files, several = studies
    result = json.loads((out / "result.json").read_text())
    assert result["seed"] == [0, 1]
    assert [(cell["model"], cell["seed"]) for cell in result["cells"]] == [
        ("audio-only", 0), ("audio-only", 1), ("concat", 0), ("concat", 1),
    ]  # fmt: skip
    assert result["reused"] == 2
    of_the_first = [cell for cell in result["cells"] if cell["seed"] == 0]
    assert comparable({"cells": of_the_first}) == comparable({"cells": before["cells"]})
    assert kept(out, [cell["id"] for cell in of_the_first]) == files
    assert before["pooled"] == before["comparisons"] == []
    assert "[4/4] concat/standard, seed 1: fitting (never run)" in several.stderr
    assert "seed 0: fitting" not in several.stderr


def test_the_table_has_one_row_per_model_with_the_mean_over_seeds(studies) -> None:
    out, _, _, several = studies
    result = json.loads((out / "result.json").read_text())
    audio, concat = result["pooled"]
    assert (concat["model"], concat["training"], concat["seeds"], concat["clips"]) == ("concat", "standard", [0, 1], 24)
    cells = [cell for cell in result["cells"] if cell["model"] == "concat"]
    for own, ours in [
        ([cell["clean_accuracy"] for cell in cells], concat["clean_accuracy"]),
        ([cell["robust_accuracy"]["pgd"]["video"] for cell in cells], concat["robust_accuracy"]["pgd"]["video"]),
        ([cell["worst_case"]["video"] for cell in cells], concat["worst_case"]["video"]),
    ]:
        assert ours["value"] == pytest.approx(sum(entry["value"] for entry in own) / 2)
        assert ours["low"] <= ours["value"] <= ours["high"]
        assert ours["standard_deviation"] == pytest.approx(abs(own[0]["value"] - own[1]["value"]) / 2**0.5)
    assert concat["cost"]["clip_forwards"] == sum(cell["fit"]["clip_forwards"] for cell in cells)
    assert audio["robust_accuracy"]["pgd"]["video"]["attacked"] == []
    assert "accuracy in %, mean over 2 seeds" in several.stderr
    table = several.stderr.split("differences in accuracy")[0]
    assert [table.count(f"│ {model} ") for model in ("audio-only", "concat")] == [1, 1]


def test_what_is_compared_is_what_the_tables_of_samples_hold(studies) -> None:
    out, _, _, several = studies
    result = json.loads((out / "result.json").read_text())
    found = {(item["attack"], item["threat"]): item for item in result["comparisons"]}
    assert list(found) == [
        (None, None), ("pgd", "video"), ("pgd", "audio"), ("fgsm", "video"), ("worst_case", "video"),
    ]  # fmt: skip
    right = {}
    for cell in result["cells"]:
        for row in pq.read_table(out / "cells" / cell["id"] / "samples.parquet").to_pylist():
            if (row["attack"], row["threat"]) == ("pgd", "video"):
                right[cell["model"], cell["seed"], row["id"]] = row["correct"] and row["clean_correct"]
    clips = sorted({clip for _, _, clip in right})
    pairs = [(right["concat", seed, clip], right["audio-only", seed, clip]) for seed in (0, 1) for clip in clips]
    item = found["pgd", "video"]
    assert (item["first"], item["second"]) == (
        {"model": "concat", "training": "standard"},
        {"model": "audio-only", "training": "standard"},
    )
    assert item["only_first"] == sum(a and not b for a, b in pairs)
    assert item["only_second"] == sum(b and not a for a, b in pairs)
    assert item["difference"]["value"] == pytest.approx((item["only_first"] - item["only_second"]) / len(pairs))
    assert item["difference"]["low"] <= item["difference"]["value"] <= item["difference"]["high"]
    assert 0 < item["p"] <= item["p_holm"] <= 1
    assert "concat vs audio-only" in several.stderr


def test_a_run_against_itself_says_what_its_own_comparisons_say(studies) -> None:
    run = read_run(studies[0])
    (found,) = compare_runs([run, run], [("concat", "audio-only")])["comparisons"]
    extra = {"flipped", "not_alike", "first", "second"}
    ours, theirs = (
        [{key: value for key, value in item.items() if key not in extra} for item in items]
        for items in (found["differences"], run.result["comparisons"])
    )
    assert ours == theirs
    assert "across_fits" in ours[0]
    assert all(item["not_alike"] == [] for item in found["differences"])
    assert set(run.checksums) == {"audio", "video", "targets"}
    assert found["differs"] == {"spec": [], "lock": []}


def test_what_one_modality_overturns_is_what_the_tables_of_samples_hold(studies) -> None:
    out, before, _, several = studies
    result = json.loads((out / "result.json").read_text())
    (item,) = result["overturned"]
    assert (item["fused"]["model"], item["own"]["model"], item["modality"]) == ("concat", "audio-only", "audio")
    assert (item["attack"], item["threat"], item["seeds"]) == ("pgd", "audio", [0, 1])
    rows = {}
    for cell in result["cells"]:
        for row in pq.read_table(out / "cells" / cell["id"] / "samples.parquet").to_pylist():
            if (row["attack"], row["threat"]) == ("pgd", "audio"):
                rows[cell["model"], cell["seed"], row["id"]] = row
    pairs = [(row, rows["audio-only", *key[1:]]) for key, row in rows.items() if key[0] == "concat"]
    both = [(a["correct"], b["correct"]) for a, b in pairs if a["clean_correct"] and b["clean_correct"]]
    assert item["both_right"] == len(both)
    for share, count in (
        ("only_fused", sum(own and not fused for fused, own in both)),
        ("only_own", sum(fused and not own for fused, own in both)),
    ):
        assert item[share]["value"] == (pytest.approx(count / len(both)) if both else None)
    assert [found["seeds"] for found in before["overturned"]] == [[0]], "with one seed, and nothing to compare, too"
    assert "Does one modality overturn the fusion" in several.stderr


@pytest.mark.slow
def test_clips_attacked_on_one_network_are_tried_on_all_others(studies, tmp_path, capsys) -> None:
    run = tmp_path / "run"
    shutil.copytree(studies[0], run)
    result = json.loads((run / "result.json").read_text())
    ours, twin = (run / "cells" / cell["id"] / "model.safetensors" for cell in result["cells"][2:])
    shutil.copy(ours, twin)
    fit = read_record(twin.parent / "fit.json", check=())
    kept = {name: value for name, value in fit.items() if name not in ("files", "hash")}
    write_record(twin.parent / "fit.json", kept, [twin.parent / name for name in fit["files"]])
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    arguments = ["transfer", str(run), "--attack", "pgd", "--threat", "video", "--quiet"]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert {path: content for path, content in after.items() if "transfers" not in path.parts} == before
    audio, concat = ([f"{model}/standard, seed {seed}" for seed in (0, 1)] for model in ("audio-only", "concat"))
    assert [cell["label"] for cell in found["cells"]] == [*audio, *concat]
    rates = {(each["source"], each["target"]): each for each in found["matrix"]}
    assert set(rates) == {(source, target) for source in concat for target in (*audio, *concat)}, "audio-only: no row"
    rate = result["cells"][2]["attack_success_rate"]["pgd"]["video"]
    assert rates[concat[0], concat[0]]["broken"] == rate, "on the diagonal stands the study's own attack"
    assert rate["value"] > 0
    assert rates[concat[0], concat[1]]["broken"] == rate, "the same weights, which the clips were not attacked on"
    for target in audio:
        assert rates[concat[0], target]["untouched"]
        assert rates[concat[0], target]["broken"]["value"] in (0, None)
    means = {each["target"]: each for each in found["ensembles"]}
    assert set(means) == {*audio, *concat}
    assert means[concat[0]]["sources"] == [*audio, concat[1]]
    assert means[concat[0]]["broken"]["n"] == rate["n"]
    print_transfer(found)
    text = capsys.readouterr().out
    assert f"no row of {audio[0]}: the threat touches nothing that it reads" in text
    assert "│ mean of all others" in text
    assert "= nothing was moved that this network reads" in text


def test_a_transfer_of_what_the_run_does_not_have_is_refused(studies, capsys) -> None:
    out = str(studies[0])
    for arguments, why in (
        (["--attack", "pdg"], "the run has no attack 'pdg'; did you mean 'pgd'?"),
        (["--set", "threats.audio.audio.space=features", "--threat", "audio"], "is on features of audio"),
        (["--set", "training.standard.epochs=7"], "has no fitted network of its spec as it is today"),
    ):
        assert main(["transfer", out, *arguments]) == 1
        assert why in capsys.readouterr().err
    assert main(["transfer", str(studies[0] / "cells")]) == 1
    assert "is no run: it holds no resolved.yaml" in capsys.readouterr().err


def test_resuming_and_asking_for_other_comparisons_computes_nothing_again(
    studies, tiny, run_command, comparable
) -> None:
    out, *_ = studies
    result = json.loads((out / "result.json").read_text())
    files = kept(out, [cell["id"] for cell in result["cells"]])
    again = run_command("run", tiny, "--out", out, *SEVERAL, "--set", "compare=[{models: [audio-only, concat]}]")
    assert again.returncode == 0, again.stderr
    assert "4 of 4 cells reused" in again.stdout
    other = json.loads((out / "result.json").read_text())
    assert comparable(other) | {"comparisons": None} == comparable(result) | {"comparisons": None}
    for there, back in zip(result["comparisons"], other["comparisons"], strict=True):
        assert there["difference"]["value"] == pytest.approx(-back["difference"]["value"])
        assert (there["only_first"], there["p"], there["p_holm"]) == (back["only_second"], back["p"], back["p_holm"])
    assert kept(out, [cell["id"] for cell in result["cells"]]) == files


def test_an_unknown_name_is_reported_where_it_stands(tiny, tmp_path, run_command) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(tiny.read_text() + "compare: [{models: [concat, audio-olny]}]\n")
    found = run_command("validate", file)
    assert found.returncode == 2
    assert f"{file}:22:29: compare.0.models: there is no 'audio-olny' in models" in found.stderr
    assert "did you mean 'audio-only'?" in found.stderr
