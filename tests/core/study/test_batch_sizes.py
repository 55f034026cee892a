"""How many clips memory holds: what a clip takes is measured, what is free is the machine's or the container's."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from avrobust_core import Batch, MediaSpec, Victim
from avrobust_core.study import batch_sizes
from avrobust_core.study.batch_sizes import COPIES, MEASURED, fitting_batch_size, free_on_host
from avrobust_core.study.peak import Peak

CPU, GPU = torch.device("cpu"), torch.device("cuda")
GIB, MIB = 2**30, 2**20
SAMPLES = MIB // 4
"""Of a clip of 1 MiB."""


class Grown(nn.Module):
    """Holds `kept` MiB for the backward pass of a clip of 1 MiB."""

    def __init__(self, kept: int) -> None:
        super().__init__()
        self.kept = kept

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        x = inputs["sound"]
        for _ in range(self.kept):
            x = x.sin()  # keeps its input
        return torch.stack([x.mean(dim=1), -x.mean(dim=1)], dim=1)


def victim_of(model: nn.Module, samples: int = 1) -> Victim:
    media = {"sound": MediaSpec(kind="audio", shape=(SAMPLES,), bounds=(-1.0, 1.0))}
    return Victim(model, media=media, task="single-label", samples=samples)


def clips(count: int) -> Batch:
    x = torch.rand(count, SAMPLES, generator=torch.Generator().manual_seed(0))
    return Batch({"sound": x}, torch.zeros(count, dtype=torch.int64), tuple(map(str, range(count))))


@pytest.mark.parametrize("count", [1, MEASURED])
@pytest.mark.parametrize(("kept", "samples"), [(40, 1), (20, 2)])
def test_what_a_clip_takes_is_measured(monkeypatch, count: int, kept: int, samples: int) -> None:
    monkeypatch.setattr(batch_sizes, "free_on_host", lambda: 10 * GIB)
    found = fitting_batch_size(victim_of(Grown(kept), samples), clips(count), CPU, processes=1)
    each = (found.each / MIB) - COPIES
    assert kept * samples * 0.8 < each < kept * samples * 1.5
    assert (found.clips, found.free) == (32, 10 * GIB)


def test_memory_that_is_shared_holds_fewer_clips_and_one_at_least(monkeypatch) -> None:
    victim, batch = victim_of(Grown(40)), clips(2)
    found = {}
    for free, processes in ((2 * GIB, 1), (2 * GIB, 2), (GIB // 100, 1)):
        monkeypatch.setattr(batch_sizes, "free_on_host", lambda free=free: free)
        found[free, processes] = fitting_batch_size(victim, batch, CPU, processes).clips
    assert 12 <= found[2 * GIB, 1] <= 24, "half of 2 GiB, 51 MiB a clip"
    assert found[2 * GIB, 2] == pytest.approx(found[2 * GIB, 1] / 2, abs=1.5)
    assert found[GIB // 100, 1] == 1


def test_a_pass_that_does_not_fit_at_all_leaves_one_clip(monkeypatch) -> None:
    class Full(nn.Module):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            raise torch.OutOfMemoryError("no memory")

    assert fitting_batch_size(victim_of(Full()), clips(1), CPU, processes=1).clips == 1


def test_of_a_gpu_its_own_memory_counts_and_main_memory_for_reading(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (4 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 3 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2 * GIB)
    peaks = iter([Peak(0, GIB), Peak(9, GIB + 100 * MIB), Peak(0, GIB), Peak(9, GIB + 220 * MIB)])

    @contextmanager
    def peak_memory(_: torch.device) -> Iterator[Peak]:
        yield next(peaks)

    batch = clips(1)
    monkeypatch.setattr(batch_sizes, "peak_memory", peak_memory)
    monkeypatch.setattr(batch_sizes, "free_on_host", lambda: 100 * GIB)
    monkeypatch.setattr(Victim, "lowered", lambda *_: nullcontext())
    found = fitting_batch_size(victim_of(Grown(1)), batch, GPU, processes=1)
    assert found.each == 40 * MIB + COPIES * MIB
    assert found.free == 5 * GIB
    assert found.clips == int(0.8 * 5 * GIB) // (48 * MIB)
    peaks = iter([Peak(), Peak(), Peak(), Peak(0, 300)])
    monkeypatch.setattr(batch_sizes, "free_on_host", lambda: 60 * MIB)
    assert fitting_batch_size(victim_of(Grown(1)), batch, GPU, processes=1).clips == 10, "3 MiB to read each, of 30"


def test_of_a_processor_a_clip_counts_with_what_reading_it_takes(monkeypatch) -> None:
    peaks = iter([Peak(GIB), Peak(GIB + 10 * MIB), Peak(GIB), Peak(GIB + 40 * MIB)])

    @contextmanager
    def peak_memory(_: torch.device) -> Iterator[Peak]:
        yield next(peaks)

    monkeypatch.setattr(batch_sizes, "peak_memory", peak_memory)
    monkeypatch.setattr(batch_sizes, "free_on_host", lambda: 420 * MIB)
    found = fitting_batch_size(victim_of(Grown(1)), clips(1), CPU, processes=1)
    assert found.each == 10 * MIB + COPIES * MIB
    assert found.clips == 10, "210 MiB, 18 for a clip and 3 for reading it"


def group(folder: Path, limit: str, taken: int, cached: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{taken}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")


def test_free_is_what_machine_and_container_both_leave(tmp_path: Path) -> None:
    memory, own, root = tmp_path / "meminfo", tmp_path / "own", tmp_path / "groups"
    memory.write_text("MemTotal: 2000 kB\nMemAvailable:     1000 kB\n")
    own.write_text("0::/outer/inner\n")
    assert free_on_host(memory, root, own) == 1_024_000
    group(root / "outer/inner", "max", 7, 0)
    group(root / "outer", "500000", 300_000, 100_000)
    assert free_on_host(memory, root, own) == 300_000
    group(root / "outer/inner", "400000", 390_000, 0)
    assert free_on_host(memory, root, own) == 10_000
    own.write_text("4:memory:/old\n3:cpu:/outer\n")
    assert free_on_host(memory, root, own) == 1_024_000
    old = root / "memory" / "old"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("1000")
    (old / "memory.usage_in_bytes").write_text("1500")
    (old / "memory.stat").write_text("total_inactive_file 100\n")
    assert free_on_host(memory, root, own) == 0
    assert free_on_host(tmp_path / "none", tmp_path / "none", tmp_path / "none") is None
