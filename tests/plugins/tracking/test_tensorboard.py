"""Event files that TensorBoard itself reads: each epoch and result once, however often a run was begun."""

import builtins
import math
from pathlib import Path

import pytest
from avrobust_tracking.configs import TensorboardConfig
from avrobust_tracking.event_files import Tensorboard
from avrobust_tracking.flat import flat_settings

from avrobust_core import AvrobustError, Estimate, TrackedCell, TrackedRun

SETTINGS = {"seed": 0, "training": {"epochs": 2, "augment": ["mixup"], "gradient_clip": None}}
CELL = TrackedCell("0123456789abcdef", "concat", "standard", 0, SETTINGS)
RESULT = {
    "robust accuracy/pgd/both": Estimate(0.25, 0.125, 0.5, 20, "clopper-pearson"),
    "accuracy/hit@1": Estimate(0.5, math.nan, math.nan, 20, "none"),
}


def told(folder: Path, epochs: int, *, result: bool, config: TensorboardConfig | None = None) -> Tensorboard:
    """A command of a run, as far as it came; the loss of an epoch is one through its number."""
    tracker = Tensorboard(config or TensorboardConfig())
    tracker.begin(TrackedRun("study", folder, {}))
    tracker.cell(CELL)
    for epoch in range(1, epochs + 1):
        tracker.scalars(epoch, {"training/loss": 1 / epoch})
    if result:
        tracker.result(RESULT)
    return tracker


def test_each_epoch_and_result_stands_once_after_a_stop_and_a_repetition(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="tensorboard")
    told(tmp_path, 1, result=False)  # stopped: never closed
    for _ in range(2):
        told(tmp_path, 2, result=True).close()
    events = accumulator.EventAccumulator(
        str(tmp_path / "tensorboard" / "concat-standard-seed0-0123456789abcdef"), purge_orphaned_data=False
    ).Reload()
    losses = events.Scalars("training/loss")
    assert [(loss.step, loss.value) for loss in losses] == [(1, 1.0), (2, 0.5)]
    found = {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert found == {
        "training/loss": [(1, 1.0), (2, 0.5)],
        "robust accuracy/pgd/both": [(2, 0.25)],
        "robust accuracy/pgd/both low": [(2, 0.125)],
        "robust accuracy/pgd/both high": [(2, 0.5)],
        "accuracy/hit@1": [(2, 0.5)],
    }
    plugin = events.SummaryMetadata("_hparams_/session_start_info").plugin_data
    assert b"training.epochs" in plugin.content
    assert b"mixup" in plugin.content


def test_only_event_files_of_the_cell_are_replaced(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    config = TensorboardConfig(folder=tmp_path / "all")
    cell = tmp_path / "all" / "study" / "concat-standard-seed0-0123456789abcdef"
    cell.mkdir(parents=True)
    for kept in (cell / "notes.txt", cell.parent / "events.out.tfevents.1.other"):
        kept.write_text("mine")
    (cell / "events.out.tfevents.1.earlier").write_text("of an earlier command")
    told(tmp_path, 1, result=False, config=config).close()
    assert (cell / "notes.txt").is_file()
    assert (cell.parent / "events.out.tfevents.1.other").is_file()
    assert not (cell / "events.out.tfevents.1.earlier").exists()
    assert not (tmp_path / "tensorboard").exists()


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    given = builtins.__import__

    def missing(name: str, *more, **others):
        if name == "torch.utils.tensorboard":
            raise ImportError("No module named 'tensorboard'")
        return given(name, *more, **others)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(AvrobustError, match=r"pip install 'avrobust\[tensorboard\]'"):
        Tensorboard(TensorboardConfig())


def test_settings_are_flat_and_plain() -> None:
    assert flat_settings(SETTINGS | {"data": {}}) == {
        "seed": 0,
        "training.epochs": 2,
        "training.augment": '["mixup"]',
        "training.gradient_clip": "null",
        "data": "{}",
    }
