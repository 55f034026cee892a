"""`transfer` keeps what it finds of each source: a stopped call goes on, and nothing stale or damaged is taken."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from avrobust_core.cli import main
from avrobust_core.evaluation import shards
from avrobust_core.files import write_record
from avrobust_core.study import process, transferring
from avrobust_core.study.batch_sizes import BatchSize

BATCHES = 3 * (3 + 3)
"""Of 12 clips by 4, on each of three networks and on three means of two."""


@pytest.fixture
def moved(monkeypatch) -> list[tuple[str, ...]]:
    """The clips of each batch that was attacked."""
    batches: list[tuple[str, ...]] = []
    move = transferring.moved_by

    def counted(victim, batch, run):
        found = move(victim, batch, run)
        batches.append(batch.ids)
        return found

    monkeypatch.setattr(transferring, "moved_by", counted)
    monkeypatch.setattr(shards, "SHARD_SECONDS", -1.0)  # a killed process loses no more than its batch
    return batches


@pytest.fixture
def asked(request) -> str:
    """The size of batches that the spec asks for."""
    return getattr(request, "param", "4")


@pytest.fixture
def ask(study, tmp_path: Path, capsys, asked: str) -> Callable[..., dict[str, Any]]:
    """`transfer` on a run of three networks; what it prints, but for what tells calls apart."""
    study(
        "seed=[0, 1, 2]",
        "data.with={classes: 3, train: 12, val: 6, test: 12, size: 16, frames: 4, sample_rate: 4000}",
        "encoders.audio.with={channels: [4], n_mels: 16, hop_ms: 16}",
        "attacks={fgsm: fgsm}",
        "metrics=[]",
        "audit=off",
        f"engine.batch_size={asked}",
    )

    def run(*arguments: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["transfer", str(tmp_path / "out"), "--attack", "fgsm", "--json", *arguments]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return run


@pytest.mark.parametrize("asked", ["auto"], indirect=True)
def test_where_the_size_of_batches_is_found_the_network_that_needs_most_decides(asked, ask, moved, monkeypatch) -> None:
    sizes = iter([8, 3, 5])
    monkeypatch.setattr(process, "fitting_batch_size", lambda *_: BatchSize(next(sizes), 0, None))
    ask()
    assert {len(batch) for batch in moved} == {3}, "all three are held at one time"


def test_a_call_that_was_stopped_goes_on_to_the_same_figures(ask, moved, monkeypatch, tmp_path: Path) -> None:
    whole = ask("--out", str(tmp_path / "elsewhere"))
    assert len(moved) == BATCHES
    assert whole.pop("reused") == 0
    assert not (tmp_path / "out" / "transfers").exists()
    moved.clear()
    counted = transferring.moved_by

    def stopped(*arguments):
        if len(moved) == 7:
            raise KeyboardInterrupt
        return counted(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(transferring, "moved_by", stopped)
        with pytest.raises(KeyboardInterrupt):
            ask()
    moved.clear()
    found = ask()
    assert len(moved) == BATCHES - 7
    assert found.pop("reused") == 2
    assert found == whole
    moved.clear()
    again = ask()
    assert not moved
    assert (again.pop("reused"), again) == (6, whole)


def test_nothing_is_taken_again_of_another_spec_of_other_weights_or_damaged(ask, moved, tmp_path, capsys) -> None:
    whole = ask()
    for other in ("threats.audio.audio.eps=0.02", "evaluation.clips=4"):
        moved.clear()
        assert ask("--set", other)["reused"] == 0
        assert moved

    table = next((tmp_path / "out" / "transfers").glob("*/clips.parquet"))
    for content in (table.read_bytes()[:200], table.read_bytes()[:-9] + bytes(9)):
        table.write_bytes(content)
        assert ask()["matrix"] == whole["matrix"]
    moved.clear()
    assert ask()["reused"] == 6

    fit = next((tmp_path / "out" / "cells").glob("*/fit.json"))
    weights = fit.with_name("model.safetensors")
    save_file({name: x * 2 for name, x in load_file(weights).items()}, weights)
    moved.clear()
    assert main(["transfer", str(tmp_path / "out"), "--quiet"]) == 1
    assert f"{weights}: is damaged" in capsys.readouterr().err
    assert not moved
    write_record(fit, {k: v for k, v in json.loads(fit.read_text()).items() if k not in ("hash", "files")}, [weights])
    assert ask()["reused"] == 0
    assert len(moved) == BATCHES
