"""One process of a run: its share of the clips, the models it holds, and what it shows."""

import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from avrobust_core.batches import Batch
from avrobust_core.border.readings import FirstReading
from avrobust_core.model import AVModel
from avrobust_core.naming import clips_named
from avrobust_core.spec.model import Spec
from avrobust_core.study import parts
from avrobust_core.study.building import Builder, Part
from avrobust_core.study.console import Monitor
from avrobust_core.study.deadline import limited
from avrobust_core.study.loading import Selection, Skipped, read_batches, select
from avrobust_core.study.plan import PlannedCell
from avrobust_core.study.provenance import made_with
from avrobust_core.study.saving import load_weights
from avrobust_core.study.training import WEIGHTS


class Process:
    """What every step of a run works with.

    Args:
        fabric: launched.
        builder: of the spec's components.
        monitor: shows progress.

    Attributes:
        dataset: the data set.
        selection: the clips that are evaluated, all processes' together.
        skipped: the clips that could not be read, so far.
    """

    def __init__(self, fabric: Fabric, builder: Builder, monitor: Monitor) -> None:
        self.fabric = fabric
        self.builder = builder
        self.monitor = monitor
        self.dataset = builder.dataset()
        self.selection = select(self.dataset, self.spec.evaluation.split, self.spec.evaluation.clips)
        self.skipped = Skipped(self.dataset)
        self._models: dict[str, AVModel] = {}

    @property
    def spec(self) -> Spec:
        """What is carried out."""
        return self.builder.spec

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes what all have found."""
        return bool(self.fabric.is_global_zero)

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.fabric.device

    def model(self, cell: PlannedCell) -> AVModel:
        """A cell's fitted model, in evaluation mode."""
        if cell.id not in self._models:
            model = self.builder.model(cell.model, self.dataset)
            load_weights(model, cell.folder / WEIGHTS)
            self._models[cell.id] = model.to(self.device).eval()
        return self._models[cell.id]

    def made_with(self, made_by: Iterable[Part]) -> dict[str, Any]:
        """For a record: what it is made with now, as JSON data under `made_with`."""
        return {"made_with": made_with(self.builder.registry, self.device.type, made_by)}

    def forget_models(self) -> None:
        """Free the memory that models take."""
        self._models.clear()

    def in_parts(
        self,
        folder: Path,
        selection: Selection,
        work: parts.Work,
        label: str,
        first_reading: FirstReading | None = None,
    ) -> None:
        """This process's share of some work on clips; what earlier runs left is not done again.

        Raises:
            DataError: if a batch is not what it was at the first reading; then nothing has been done with it.
            BatchTimeout: if a batch takes longer than `engine.batch_timeout`; names the work by its label.
        """
        mine = selection.share(self.fabric.global_rank, self.fabric.world_size)
        skipped = Skipped(self.dataset)
        done = 0

        def tick(clips: int) -> None:
            nonlocal done
            done += clips
            self.monitor.update(done, len(mine))

        def limit(step: str, ids: Sequence[str]) -> AbstractContextManager[None]:
            return limited(self.spec.engine.batch_timeout, lambda: f"{label}: {step} ({clips_named(ids)})")

        parts.carry_out(
            folder,
            mine,
            work,
            batch_size=self.spec.engine.batch_size,
            read=lambda split, batches: self.read(split, batches, skipped),
            unreadable=lambda: dict(skipped.by_split.get(mine.split, {})),
            device=self.device,
            rank=self.fabric.global_rank,
            tick=tick,
            constant=lambda: dict(skipped.constant.get(mine.split, {})),
            limit=limit,
            compare=None if first_reading is None else partial(first_reading.compare, label=label),
        )

    def read(self, split: str, batches: Sequence[Sequence[int]], skipped: Skipped) -> Iterator[Batch | None]:
        """Batches of clips by their positions; None where no clip of a batch can be read."""
        return read_batches(
            self.dataset,
            split,
            batches,
            skipped=skipped,
            workers=self.spec.engine.workers,
            pin=self.device.type == "cuda",
        )


def end_others(fabric: Fabric) -> None:
    """End the processes that this one has launched: they would wait for it for ever."""
    launched: list[subprocess.Popen[bytes]] = getattr(fabric.strategy.launcher, "procs", [])
    others = list(launched)
    launched.clear()  # else Fabric's observer kills this process, too, before it has said why it ends
    for process in others:
        process.terminate()
    deadline = time.monotonic() + 3
    for process in others:
        try:
            process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:  # in a collective, where no signal reaches Python
            process.kill()
