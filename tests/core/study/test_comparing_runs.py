"""Finished runs compared: which clips, which cells, which numbers, what is marked, and what is refused."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import binomtest

from avrobust_core.cli import main
from avrobust_core.errors import RunError
from avrobust_core.files import file_hash, write_json, write_record
from avrobust_core.spec.yaml_writer import write_yaml
from avrobust_core.study.comparing_runs import compare_runs
from avrobust_core.study.finished import FinishedRun, read_run

PGD = ("pgd", "both")
CLIPS = tuple(f"c{i}" for i in range(40))


def right(seed: int, clips: Sequence[str] = CLIPS) -> dict[Any, dict[str, bool]]:
    """Which clips a network gets right clean, and still under attack."""
    drawn = np.random.default_rng(seed).random((2, len(clips)))
    clean = dict(zip(clips, (drawn[0] < 0.8).tolist(), strict=True))
    kept = dict(zip(clips, (drawn[1] < 0.6).tolist(), strict=True))
    return {(None, None): clean, PGD: kept}


def write_run(
    folder: Path,
    cells: Mapping[tuple[str, str, int], Mapping[Any, Mapping[str, bool]]],
    *,
    version: int = 4,
    eps: float = 0.1,
    torch: str = "2.11",
    checksum: int = 7,
    label: str = "dog",
    groups: Mapping[str, str] | None = None,
) -> Path:
    """A run's folder with what `avrobust compare` reads of it."""
    results, locked = [], []
    made_with = {"torch": torch, "components": {"avrobust:pgd": "0.1.0"}}
    for number, ((model, training, seed), outcomes) in enumerate(cells.items()):
        names = {"id": f"cell{number}", "model": model, "training": training, "seed": seed}
        path = folder / "cells" / names["id"]
        write_json(path / "cell.json", names | {"identity": {"fusion": {"component": "avrobust:concat", "version": 1}}})
        threat = {"audio": {"eps": eps}} | ({} if model == "audio-only" else {"video": {"eps": 0.5}})
        attack = {"attack": {"component": "avrobust:pgd", "version": version}, "threat": threat}
        clips = list(outcomes[None, None])
        for name, identity in (("clean", {"split": "test"}), ("attacked", attack)):
            record = path / "evaluations" / name / "record.json"
            record.parent.mkdir(parents=True)
            table = {"id": clips, "checksum/audio": [checksum + len(clip) for clip in clips]}
            pq.write_table(pa.table(table), record.parent / "predictions.parquet")
            write_record(record, {"identity": identity}, [record.parent / "predictions.parquet"])
        rows = [
            {"id": clip, "attack": condition[0], "threat": condition[1], "group": (groups or {}).get(clip)}
            | {"labels": [label], "correct": own, "clean_correct": outcomes[None, None][clip]}
            for condition, found in outcomes.items()
            for clip, own in found.items()
        ]
        pq.write_table(pa.Table.from_pylist(rows), path / "samples.parquet")
        files = {"samples.parquet": file_hash(path / "samples.parquet")}
        robust = {"pgd": {"both": {"attacked": ["audio"], "bounded": True}}}
        results.append(names | {"files": files, "robust_accuracy": robust, "failures": [], "caveats": []})
        evaluations = {"clean": "clean", "pgd/both": "attacked"}
        locked.append(names | {"evaluations": evaluations, "made_with": [{"made_with": made_with, "records": ["fit"]}]})
    write_json(folder / "result.json", {"format": 1, "confidence": 0.95, "cells": results})
    write_json(folder / "lock.json", {"libraries": {"torch": torch}, "device": "cpu", "cells": locked})
    spec = {"threats": {"both": {"audio": {"eps": eps}}}, "evaluation": {"confidence": 0.95, "resamples": 100}}
    (folder / "resolved.yaml").write_text(write_yaml(spec))
    return folder


def one(*runs: Path | FinishedRun, pairs: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """The comparison of two runs."""
    read = [read_run(run) if isinstance(run, Path) else run for run in runs]
    (found,) = compare_runs(read, pairs)["comparisons"]
    return dict(found)


def test_cells_of_the_same_names_are_compared_on_the_clips_that_both_runs_have(tmp_path) -> None:
    first, second = right(1), right(2, [f"c{i}" for i in range(10, 60)])
    a = write_run(tmp_path / "a", {("concat", "plain", 0): first, ("sum", "plain", 0): right(3)})
    b = write_run(tmp_path / "b", {("concat", "plain", 0): second})
    found = one(a, b)
    assert found["clips"] == {"common": 30, "first": 40, "second": 50}
    assert found["cells"] == {"only_first": ["sum/plain"], "only_second": []}
    clean, attacked = found["differences"]
    common = [f"c{i}" for i in range(10, 40)]
    kept = [[run[None, None][clip] and run[PGD][clip] for clip in common] for run in (first, second)]
    assert (attacked["attack"], attacked["threat"], attacked["clips"]) == ("pgd", "both", 30)
    assert attacked["difference"]["value"] == pytest.approx(np.mean(kept[0]) - np.mean(kept[1]))
    only = [[clip for clip, x, y in zip(common, *sides, strict=True) if x and not y] for sides in (kept, kept[::-1])]
    assert attacked["flipped"] == {"only_first": only[0], "only_second": only[1]}
    assert attacked["p"] == pytest.approx(binomtest(len(only[0]), len(only[0]) + len(only[1])).pvalue)
    assert attacked["p_holm"] >= attacked["p"]
    assert clean["attack"] is None
    assert attacked["first"] == {"run": str(a), "model": "concat", "training": "plain", "seeds": [0]}


def test_several_seeds_give_both_kinds_of_interval_also_where_no_seed_is_in_both(tmp_path) -> None:
    a = write_run(tmp_path / "a", {("concat", "plain", seed): right(seed) for seed in (0, 1)})
    b = write_run(tmp_path / "b", {("concat", "plain", seed): right(seed) for seed in (2, 3)})
    attacked = one(a, b)["differences"][1]
    shares = [np.mean([r[None, None][c] and r[PGD][c] for c in CLIPS]) for r in map(right, range(4))]
    assert attacked["difference"]["value"] == pytest.approx(np.mean(shares[:2]) - np.mean(shares[2:]))
    assert attacked["across_fits"]["low"] < attacked["difference"]["low"]
    assert 0 < attacked["across_fits"]["p"] <= attacked["across_fits"]["p_holm"]
    assert (attacked["first"]["seeds"], attacked["second"]["seeds"]) == ([0, 1], [2, 3])


def test_intervals_are_over_the_groups_of_clips_that_the_runs_were_drawn_with(tmp_path) -> None:
    groups = {clip: f"speaker {i // 5}" for i, clip in enumerate(CLIPS)}
    runs = [write_run(tmp_path / str(i), {("concat", "plain", 0): right(i)}, groups=groups) for i in (0, 1)]
    assert one(*runs)["differences"][1]["difference"]["groups"] == 8


def test_attacks_that_are_not_alike_are_compared_and_marked_and_what_only_one_side_reads_is_not(
    tmp_path, capsys
) -> None:
    a = write_run(tmp_path / "a", {("concat", "plain", 0): right(0)})
    b = write_run(tmp_path / "b", {("audio-only", "plain", 0): right(1)}, version=5, eps=0.2, torch="2.12")
    found = one(a, b, pairs=[("concat", "audio-only")])
    clean, attacked = found["differences"]
    assert clean["not_alike"] == []
    assert attacked["not_alike"] == ["attack.version 4 -> 5", "threat.audio.eps 0.1 -> 0.2"]
    assert found["differs"]["spec"] == [{"path": "threats.both.audio.eps", "first": 0.1, "second": 0.2}]
    assert [(each["path"], each["first"], each["second"]) for each in found["differs"]["lock"]] == [
        ("components.avrobust:pgd", 4, 5),
        ("libraries.torch", "2.11", "2.12"),
        ("made_with.torch", "2.11", "2.12"),
    ]
    assert main(["compare", str(a), str(b), "--pair", "concat/plain=audio-only/plain"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "40 clips in common, of 40 in" in text
    assert "~ concat vs audio-only in plain, pgd under both: attacked otherwise: attack.version 4 -> 5;" in text
    assert f"pgd │ both │ ~ {100 * attacked['difference']['value']:+.1f} [" in text
    assert 'libraries.torch: "2.11" -> "2.12"' in text
    assert f"{len(attacked['flipped']['only_first'])} only concat/plain of {a} gets right (" in text


def test_of_three_runs_every_two_are_compared_and_json_is_all_that_is_printed(tmp_path, capsys) -> None:
    runs = [str(write_run(tmp_path / str(i), {("concat", "plain", 0): right(i)})) for i in range(3)]
    assert main(["compare", *runs, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["comparisons"]
    assert [(each["first"], each["second"]) for each in found] == [
        (runs[0], runs[1]), (runs[0], runs[2]), (runs[1], runs[2]),
    ]  # fmt: skip


def test_what_cannot_be_compared_is_refused_in_one_sentence(tmp_path) -> None:
    cells = {("concat", "plain", 0): right(0)}
    a = write_run(tmp_path / "a", cells)
    for name, others, why in (
        ("ids", {"cells": {("concat", "plain", 0): right(0, ["d1", "d2"])}}, "no clip was evaluated in both"),
        ("labels", {"label": "cat"}, r"40 of 40 common clips have other labels in .* \(clips c0, c1, .* 35 more\)"),
        ("inputs", {"checksum": 8}, "the audio of 40 of 40 common clips is not the same in"),
        ("names", {"cells": {("sum", "plain", 0): right(0)}}, "no cell of .* has the model and training of one of"),
    ):
        other = write_run(tmp_path / name, **({"cells": cells} | others))  # type: ignore[arg-type]
        with pytest.raises(RunError, match=why):
            one(a, other)
    with pytest.raises(RunError, match="has no cell 'concta'; did you mean 'concat'"):
        one(a, a, pairs=[("concat", "concta")])


def test_a_run_that_is_not_finished_or_damaged_is_named(tmp_path) -> None:
    a = write_run(tmp_path / "a", {("concat", "plain", 0): right(0)})
    with pytest.raises(RunError, match=r"holds no finished run: it has no lock.json"):
        read_run(tmp_path)
    samples = a / "cells" / "cell0" / "samples.parquet"
    whole = samples.read_bytes()
    samples.write_bytes(whole[:-1] + b"x")
    with pytest.raises(RunError, match=r"samples.parquet is missing, damaged, or not of this result.json"):
        read_run(a)
    samples.write_bytes(whole)
    lock = json.loads((a / "lock.json").read_text())
    write_json(a / "lock.json", lock | {"cells": [cell | {"id": "another"} for cell in lock["cells"]]})
    with pytest.raises(RunError, match=r"its result.json has other cells than its lock.json"):
        read_run(a)
    old = [{key: value for key, value in cell.items() if key != "evaluations"} for cell in lock["cells"]]
    write_json(a / "lock.json", lock | {"cells": old})
    with pytest.raises(RunError, match=r"cannot be read as a run of this version .*'evaluations'.*: run it again"):
        read_run(a)
