"""What the engine leaves to measuring, in a run: what was found and chosen is said, and kept with the results."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from avrobust_core.study import process


def test_what_is_chosen_by_measuring_is_said_and_kept_with_the_results(
    study: Any, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(torch, "compile", lambda forward: forward)
    chosen = ("engine.channels_last=auto", "engine.attack_compile=auto", "engine.cudnn_benchmark=auto")
    study(*chosen, "attacks={fgsm: fgsm}", "audit=off")
    said = capsys.readouterr().err
    assert "channels_last of audio: " in said
    assert "compile of audio: " in said
    assert "cudnn" not in said, "there is no GPU here"
    assert not torch.backends.cudnn.benchmark
    records = [json.loads(path.read_text()) for path in tmp_path.glob("out/cells/*/evaluations/*/record.json")]
    assert len(records) == 2
    for record in records:
        assert set(record["tuned"]) == {"channels_last", "compile"}
        for by_name in record["tuned"].values():
            (choice,) = by_name.values()
            assert choice["taken"] == (choice["time_ratio"] <= 0.97)


def test_compiled_encoders_attack_and_others_judge(study: Any, tmp_path: Path, monkeypatch: Any) -> None:
    passes = {"compiled": 0, "forms": 0}

    def compile_(forward: Any) -> Any:
        passes["forms"] += 1

        def form(x: Any) -> Any:
            passes["compiled"] += 1
            return forward(x)

        return form

    whole = study("attacks={pgd: {use: pgd, with: {steps: 3}}}", out=tmp_path / "whole")
    monkeypatch.setattr(torch, "compile", compile_)
    found = study(
        "attacks={pgd: {use: pgd, with: {steps: 3}}}", "engine.attack_compile=true", out=tmp_path / "compiled"
    )
    assert passes["forms"] == len(found["cells"]), "each model's encoder is compiled once, not for each evaluation"
    assert passes["compiled"]
    assert [cell["robust_accuracy"] for cell in found["cells"]] == [cell["robust_accuracy"] for cell in whole["cells"]]


@pytest.mark.parametrize("held", [2, 7, 10**6])
def test_a_batch_holds_what_the_free_memory_does(
    study: Any, tmp_path: Path, capsys: Any, monkeypatch: Any, held
) -> None:
    each = 2**20
    measured: list[int] = []

    def found(victim: Any, batch: Any, device: Any, processes: int) -> process.BatchSize:
        measured.append(len(batch))
        return process.BatchSize(min(held, 32), each, held * each)

    whole = study("attacks={fgsm: fgsm}", out=tmp_path / "whole")
    sizes: list[int] = []
    real = process.shards.carry_out

    def carry_out(*args: Any, batch_size: int, **kwargs: Any) -> None:
        sizes.append(batch_size)
        real(*args, batch_size=batch_size, **kwargs)

    monkeypatch.setattr(process, "fitting_batch_size", found)
    monkeypatch.setattr(process.shards, "carry_out", carry_out)
    result = study("engine.batch_size=auto", "attacks={fgsm: fgsm}", out=tmp_path / "auto")
    assert set(sizes) == {min(held, 32)}
    assert measured == [4] * len(result["cells"]), "once for each model"
    assert f"{min(held, 32)} clips at a time; each takes 1 MiB of " in capsys.readouterr().err
    assert [cell["robust_accuracy"] for cell in result["cells"]] == [cell["robust_accuracy"] for cell in whole["cells"]]
    records = [json.loads(path.read_text()) for path in tmp_path.glob("auto/cells/*/evaluations/*/record.json")]
    assert {record["batch_size"] for record in records} == {min(held, 32)}


def test_the_size_of_a_batch_is_found_with_the_first_clips_that_can_be_read(study: Any, monkeypatch: Any) -> None:
    seen: list[tuple[str, ...]] = []
    read = process.Process.read

    def without_the_first(self: Any, split: str, batches: Any, skipped: Any) -> Any:
        found = list(read(self, split, batches, skipped))
        if [len(each) for each in batches] == [4] and not seen:  # as if none of the first four could be read
            seen.append(())
            return iter([None])
        return iter(found)

    def found(victim: Any, batch: Any, device: Any, processes: int) -> process.BatchSize:
        seen.append(batch.ids)
        return process.BatchSize(8, 0, None)

    monkeypatch.setattr(process.Process, "read", without_the_first)
    monkeypatch.setattr(process, "fitting_batch_size", found)
    study("engine.batch_size=auto", "attacks={}", "audit=off", "metrics=[]")
    assert seen[0] == ()
    assert len(seen[1]) == 4
