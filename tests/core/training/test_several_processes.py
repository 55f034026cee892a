"""A fit in several processes: shares of batches, when it is saved, and going on with another number of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import nn
from torch.multiprocessing.spawn import ProcessRaisedException

from avrobust_core.training import fit as training
from avrobust_core.training import pauses
from avrobust_core.training.pauses import Pauses
from avrobust_core.training.processes import share_of


@pytest.mark.parametrize("world", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("clips", [8, 15, 16, 31, 32])
def test_shares_are_even_and_leave_pairs_together(clips: int, world: int) -> None:
    shares = [share_of(range(clips), rank, world) for rank in range(world)]
    assert [clip for share in shares for clip in share] == list(range(clips))
    sizes = [len(share) for share in shares]
    paired = clips % 2 == 0 and clips >= 2 * world
    assert max(sizes) - min(sizes) <= (2 if paired else 1)
    if paired:
        assert all(share[0] % 2 == 0 for share in shares)


class _Pair:
    """Two processes in step, whose clocks differ."""

    world_size = 2

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float, pace: Callable[[int], float]) -> None:
        self.now = [0.0, 500.0]
        self.exchanges = 0
        self.told = 0.0
        self.pace = pace
        monkeypatch.setattr(pauses, "gathered", lambda rank, mine: rank.exchange(mine))
        self.both = [Pauses(_Rank(self, rank), seconds, lambda rank=rank: self.now[rank]) for rank in range(2)]  # type: ignore[arg-type]

    def steps(self, count: int) -> list[float]:
        """The first one's times at which both were saved."""
        saved = []
        for step in range(count):
            self.now[0] += self.pace(step)
            self.now[1] += 3 * self.pace(step)
            first, second = (each.due() for each in self.both)
            assert first == second, "both save, or neither"
            if first:
                saved.append(self.now[0])
        return saved


class _Rank:
    world_size = 2

    def __init__(self, pair: _Pair, rank: int) -> None:
        self.pair, self.rank = pair, rank

    def exchange(self, mine: float) -> list[float]:
        if self.rank == 0:
            self.pair.exchanges += 1
            self.pair.told = mine
        return [self.pair.told, mine]


@pytest.mark.parametrize("pace", [lambda step: 0.1, lambda step: 7.0, lambda step: 0.1 if step < 1000 else 2.0])
def test_processes_are_saved_together_about_a_minute_apart_and_seldom_ask(pace: Any, monkeypatch) -> None:
    pair = _Pair(monkeypatch, 60.0, pace)
    saved = pair.steps(3000)
    apart = [after - before for before, after in zip([0.0, *saved], saved, strict=False)]
    assert min(apart) > 60
    assert sorted(apart)[-2] <= 3 * 60, "but for the once that the pace changes"
    assert len(saved) >= 4
    assert pair.exchanges < 3000 * (0.7 if pace(0) > 1 else 0.1)


class _Stopped(Exception):
    pass


def _plain(model: nn.Module) -> nn.Module:
    """The same without what depends on a process's share of a batch: its statistics, and dropout."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, (nn.BatchNorm1d, nn.Dropout)):
                setattr(module, name, nn.Identity())
    return model


@pytest.mark.slow
def test_a_fit_goes_on_with_any_number_of_processes_to_the_same_weights(
    tmp_path: Path, new_fit, new_model, monkeypatch
) -> None:
    def fit(folder: Path, processes: int, stop: int | None = None) -> None:
        def report(done: int, total: int) -> None:
            if done == stop:
                raise _Stopped

        def run(fabric: Fabric) -> None:
            new_fit(folder, launched=fabric, model=_plain(new_model()), report=report).run()

        if processes == 1:
            run(Fabric(accelerator="cpu", devices=1))
        else:
            Fabric(accelerator="cpu", devices=processes, strategy="ddp_fork").launch(run)

    fit(tmp_path / "whole", 1)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    for processes, stop in ((2, 4), (3, 8), (5, 12)):
        with pytest.raises(ProcessRaisedException, match="_Stopped"):
            fit(tmp_path / "parts", processes, stop)
    fit(tmp_path / "parts", 1)
    for name, expected in load_file(tmp_path / "whole" / "last.safetensors").items():
        torch.testing.assert_close(
            load_file(tmp_path / "parts" / "last.safetensors")[name], expected, rtol=0, atol=1e-6
        )
    whole, parts = (
        [json.loads(line) for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    )
    for one, other in zip(whole, parts, strict=True):
        for key in ("epoch", "clips", "learning_rate", "accuracy"):
            assert one[key] == other[key]
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
    records = [json.loads((tmp_path / name / "fit.json").read_text()) for name in ("whole", "parts")]
    for key in ("clip_forwards", "clip_backwards", "skipped"):
        assert records[0][key] == records[1][key], key
