"""What reads lives as long as its loader; each clip is read by the same worker; a worker that dies is named."""

import gc
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from avrobust_core.data.loader import Loader
from avrobust_core.data.loading import Skipped, epoch_order, in_batches, select
from avrobust_core.deadline import limited
from avrobust_core.errors import BatchTimeout, RunError


@pytest.fixture
def noted(blobs, tmp_path: Path):
    """A data set that keeps what a process has read, and notes in a file which process read what for the first time."""

    class Noted(blobs):  # type: ignore[misc]
        file = tmp_path / "reads.txt"

        def __init__(self, *arguments, **named) -> None:
            super().__init__(*arguments, **named)
            self.kept: dict[tuple[str, int], object] = {}

        def read(self, split, index):
            if (split, index) not in self.kept:
                with self.file.open("a") as file:
                    file.write(f"{os.getpid()} {split}-{index}\n")
                self.kept[split, index] = super().read(split, index)
            return self.kept[split, index]

        def taken(self) -> list[tuple[int, str]]:
            """Process and clip of each reading since this was last asked."""
            lines = [line.split() for line in self.file.read_text().splitlines()] if self.file.exists() else []
            self.file.unlink(missing_ok=True)
            return [(int(process), clip) for process, clip in lines]

    return Noted


def _content(batches):
    return [None if b is None else (b.ids, b.targets.tolist(), {k: x.tolist() for k, x in b.inputs.items()}) for b in batches]  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_batches_are_the_same_whoever_reads_them(blobs, workers: int) -> None:
    dataset = blobs(corrupt=["train-3", "train-4", "train-20"])
    batches = [[5, 3, 9], [4], [40, 41, 2, 0], [7], [3, 20], [47], [46, 1, 1, 30]]
    wanted = Skipped(dataset)
    expected = _content(Loader(dataset).batches("train", batches, wanted))
    skipped = Skipped(dataset)
    with Loader(dataset, workers=workers) as loader:
        for _ in range(2):
            assert _content(loader.batches("train", batches, skipped)) == expected
            assert _content(loader.batches("test", [[2, 1]], skipped)) == _content(
                Loader(dataset).batches("test", [[2, 1]], skipped)
            )
    assert expected[1] is None
    assert skipped.to_json() == wanted.to_json()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_second_epoch_finds_every_clip_where_the_first_has_put_it(noted, workers: int) -> None:
    dataset = noted(train=50, test=21)
    train, skipped = select(dataset, "train"), Skipped(dataset)
    with Loader(dataset, workers=workers) as loader:
        for epoch in range(4):
            batches = in_batches(epoch_order(train, 0, epoch), 7)  # one clip is left over, another in each epoch
            read = [batch.ids for batch in loader.batches("train", batches, skipped) if batch]
            assert read == [tuple(f"train-{i}" for i in batch) for batch in batches]
            list(loader.batches("test", select(dataset, "test").chunks(4), skipped))
    taken = dataset.taken()
    assert max(Counter(clip for _, clip in taken).values()) == 1
    assert len(taken) == 50 + 21
    shares = Counter(process for process, _ in taken)
    assert len(shares) == workers
    assert os.getpid() not in shares
    assert max(shares.values()) - min(shares.values()) <= 2 * workers, "new clips are shared evenly"


def test_what_the_bundled_data_set_keeps_is_found_in_the_next_epoch(tmp_path: Path, monkeypatch) -> None:
    from avrobust_data.configs import ToyAVConfig
    from avrobust_data.toy import ToyAV

    generate, made = ToyAV._generate, tmp_path / "made.txt"

    def noting(self, split, index):
        with made.open("a") as file:
            file.write(f"{split}-{index}\n")
        return generate(self, split, index)

    monkeypatch.setattr(ToyAV, "_generate", noting)
    dataset = ToyAV(ToyAVConfig(classes=3, train=24, val=6, test=6, size=8, frames=2))
    skipped = Skipped(dataset)
    with Loader(dataset, workers=2) as loader:
        for epoch in range(3):
            batches = in_batches(epoch_order(select(dataset, "train"), 0, epoch), 8)
            list(loader.batches("train", batches, skipped))
    assert len(made.read_text().splitlines()) == 24


def test_a_fit_reads_with_the_same_processes_from_its_first_epoch_to_its_last(tmp_path, new_fit, noted) -> None:
    dataset = noted()
    with Loader(dataset, workers=2) as loader:
        new_fit(tmp_path / "workers", loader=loader, epochs=3).run()
        new_fit(tmp_path / "again", loader=loader, epochs=1).run()
    taken = dataset.taken()
    assert len(taken) <= 48
    assert len({process for process, _ in taken}) == 2
    new_fit(tmp_path / "alone", epochs=3).run()
    first, second = ((tmp_path / name / "last.safetensors").read_bytes() for name in ("workers", "alone"))
    assert first == second


def test_two_processes_with_workers_read_each_clip_once_per_epoch(tmp_path: Path, new_fit, noted) -> None:
    dataset = noted()

    def fit(fabric: Fabric) -> None:
        for epoch in range(2):  # a loader for each epoch, so that nothing is kept from the one before
            with Loader(dataset, workers=2) as loader:
                new_fit(tmp_path / str(epoch), loader=loader, launched=fabric, epochs=1, select="last").run()
            fabric.barrier()

    Fabric(accelerator="cpu", devices=2, strategy="ddp_fork").launch(fit)
    taken = dataset.taken()
    assert Counter(clip for _, clip in taken) == {f"train-{i}": 2 for i in range(48)}
    assert len({process for process, _ in taken}) == 8


def test_readings_that_overlap_do_not_disturb_each_other(blobs) -> None:
    dataset = blobs()
    skipped = Skipped(dataset)
    with Loader(dataset, workers=2) as loader:
        pairs = zip(
            loader.batches("train", [[i, i + 1] for i in range(0, 20, 2)], skipped),
            loader.batches("test", [[i] for i in range(10)], skipped),
            strict=True,
        )
        assert [(a.ids, b.ids) for a, b in pairs if a and b] == [
            ((f"train-{2 * i}", f"train-{2 * i + 1}"), (f"test-{i}",)) for i in range(10)
        ]


def test_a_reading_that_is_not_finished_leaves_nothing_to_the_next(blobs) -> None:
    dataset = blobs()
    skipped = Skipped(dataset)
    with Loader(dataset, workers=2) as loader:
        for first in range(4):
            reading = loader.batches("train", [[i] for i in range(first, 40)], skipped)
            assert next(reading).ids == (f"train-{first}",)
            del reading
            children = multiprocessing.active_children()
        assert len(children) == 2
        assert [batch.ids for batch in loader.batches("test", [[3], [1]], skipped)] == [("test-3",), ("test-1",)]
    gc.collect()
    assert not [child for child in children if child.is_alive()]


def _deadly(blobs, clip: str, once: Path, how) -> type:
    class Deadly(blobs):  # type: ignore[misc]
        def read(self, split, index):
            if f"{split}-{index}" == clip and not once.exists():
                once.touch()
                how()
            return super().read(split, index)

    return Deadly


def test_of_several_workers_the_one_that_dies_is_named_with_its_clip(blobs, tmp_path: Path) -> None:
    def die() -> None:
        time.sleep(0.2)  # the other is in the midst of a clip, too
        os.kill(os.getpid(), signal.SIGKILL)

    class Slow(_deadly(blobs, "test-5", tmp_path / "once", die)):  # type: ignore[misc]
        def read(self, split, index):
            time.sleep(0.1)
            return super().read(split, index)

    dataset = Slow()
    handler = signal.getsignal(signal.SIGCHLD)
    with Loader(dataset, workers=2) as loader:
        with pytest.raises(RunError, match=r"reads split 'test' died at clip test-5 \(.*lower engine.workers"):
            list(loader.batches("test", [[0, 1, 2], [3, 4, 5]], Skipped(dataset)))
        assert signal.getsignal(signal.SIGCHLD) is handler
        assert [batch.ids for batch in loader.batches("test", [[5, 4]], Skipped(dataset))] == [("test-5", "test-4")]


def test_workers_of_which_one_was_killed_between_readings_are_replaced(blobs) -> None:
    dataset = blobs()
    skipped = Skipped(dataset)
    with Loader(dataset, workers=2) as loader:
        list(loader.batches("test", [[0], [1]], skipped))
        victim = multiprocessing.active_children()[0]
        victim.kill()
        victim.join()
        assert [batch.ids for batch in loader.batches("test", [[2], [3]], skipped)] == [("test-2",), ("test-3",)]
        assert len(multiprocessing.active_children()) == 2


def test_a_worker_that_hangs_is_ended_when_the_time_for_its_batch_is_up(blobs, tmp_path: Path) -> None:
    dataset = _deadly(blobs, "test-1", tmp_path / "once", lambda: time.sleep(1000))()
    with Loader(dataset, workers=2) as loader:
        reading = loader.batches("test", [[0, 1], [2, 3]], Skipped(dataset))
        with pytest.raises(BatchTimeout, match="the first batch"), limited(1, lambda: "the first batch"):
            next(reading)
        del reading
        assert [batch.ids for batch in loader.batches("test", [[1, 0]], Skipped(dataset))] == [("test-1", "test-0")]
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()


def test_closing_waits_for_no_clip(blobs) -> None:
    class Hanging(blobs):  # type: ignore[misc]
        def read(self, split, index):
            if index > 3:
                time.sleep(1000)
            return super().read(split, index)

    dataset = Hanging()
    with Loader(dataset, workers=2) as loader:
        reading = loader.batches("test", [[i] for i in range(12)], Skipped(dataset))
        next(reading)
        time.sleep(0.5)
        children = multiprocessing.active_children()
        del reading
    deadline = time.monotonic() + 4  # torch alone would wait for 5 s
    while any(child.is_alive() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_global_random_states_are_not_touched_by_workers(blobs) -> None:
    before = (random.getstate(), torch.random.get_rng_state())
    dataset = blobs()
    with Loader(dataset, workers=1) as loader:
        for _ in range(2):
            list(loader.batches("test", [[0, 1]], Skipped(dataset)))
    assert random.getstate() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])
