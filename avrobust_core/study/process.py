"""One process of a run: its share of the clips, the models it holds, and what it shows."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from avrobust_core.attacks.goals import Goal
from avrobust_core.attacks.victim import Victim
from avrobust_core.data.batches import Batch
from avrobust_core.data.loader import Loader
from avrobust_core.data.loading import Selection, Skipped, select
from avrobust_core.data.readings import FirstReading
from avrobust_core.deadline import limited
from avrobust_core.errors import DatasetFailure, RunError
from avrobust_core.evaluation import shards
from avrobust_core.evaluation.failures import Unfinished
from avrobust_core.files import read_record
from avrobust_core.metrics.shares import Shares
from avrobust_core.models.compiling import CompiledEncoders
from avrobust_core.models.model import AVModel
from avrobust_core.models.saving import load_weights
from avrobust_core.models.tuning import Setting, Tried
from avrobust_core.naming import bytes_named, clips_named
from avrobust_core.ranks import ranks
from avrobust_core.registry.choices import Configured
from avrobust_core.spec.entries import entry_goal
from avrobust_core.spec.model import Spec
from avrobust_core.study.batch_sizes import MEASURED, BatchSize, fitting_batch_size
from avrobust_core.study.building import Builder
from avrobust_core.study.console import Monitor
from avrobust_core.study.plan import PlannedCell
from avrobust_core.study.provenance import made_with
from avrobust_core.study.tracking import Tracking
from avrobust_core.study.watch import Watch
from avrobust_core.training.fit import WEIGHTS
from avrobust_core.training.processes import gathered


class Process:
    """The process that every step of a run works with.

    Args:
        fabric: launched.
        builder: of the spec's components.
        monitor: shows progress.
        tracking: tells the trackers; None where nothing is tracked.
        watch: over the other processes of the run; None where there are none.

    Attributes:
        dataset: the data set.
        loader: reads it for every step of the run; to be closed when the run ends.
        selection: the clips that are evaluated, all processes' together.
        attacks: built, by the names that the spec gives them.
        skipped: the clips that could not be read, so far.
        fresh: True once something of the present cell has been computed, not reused.
        only_reads: True while only what earlier commands have left is taken up.
        tuned: by cell, what `tune` measured of the model that is held, where the engine leaves something to it.
    """

    def __init__(
        self,
        fabric: Fabric,
        builder: Builder,
        monitor: Monitor,
        tracking: Tracking | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.fabric = fabric
        self.builder = builder
        self.monitor = monitor
        self.tracking = tracking or Tracking()
        self.watch = watch
        self.dataset = builder.dataset()
        pin = fabric.device.type == "cuda"
        self.loader = Loader(self.dataset, workers=builder.spec.engine.workers, pin=pin)
        self.selection = select(self.dataset, self.spec.evaluation.split, self.spec.evaluation.clips)
        self.attacks = {name: builder.attack(name) for name in self.spec.attacks}
        self.skipped = Skipped(self.dataset)
        self.fresh = False
        self.only_reads = False
        self.tuned: dict[str, Mapping[Setting, Mapping[str, Tried]]] = {}
        self._compiled: dict[str, CompiledEncoders] = {}
        if self.spec.engine.cudnn_benchmark is True:
            torch.backends.cudnn.benchmark = True
        self._models: dict[str, AVModel] = {}
        self._sizes: dict[str, BatchSize] = {}

    @property
    def spec(self) -> Spec:
        """The study."""
        return self.builder.spec

    @property
    def first(self) -> bool:
        """True in the process that writes the results of all."""
        return bool(self.fabric.is_global_zero)

    @property
    def device(self) -> torch.device:
        """The device that this process computes on."""
        return self.fabric.device

    @property
    def settle(self) -> Callable[[], None] | None:
        """What to call when something fails, before that is taken for this process's own; None if it is alone."""
        return None if self.watch is None else self.watch.settle

    @property
    def shares(self) -> Shares:
        """This process among those that compute a metric together."""
        return Shares(self.fabric.global_rank, self.fabric.world_size, partial(gathered, self.fabric))

    def goal(self, attack: str) -> Goal:
        """The goal of an attack, by the name that the spec gives it."""
        return entry_goal(attack, self.spec.attacks[attack], self.dataset.classes)

    def kept(self, path: Path, again: str) -> dict[str, Any] | None:
        """The record that an earlier run left, if it is sound; if it is damaged, `again` and the reason are shown."""
        try:
            return read_record(path) if path.exists() else None
        except RunError as error:
            self.monitor.say(f"{again}: {error}")
            return None

    def model(self, cell: PlannedCell) -> AVModel:
        """A cell's fitted model, in evaluation mode."""
        if cell.id not in self._models:
            model = self.builder.model(cell.model, self.dataset)
            load_weights(model, cell.folder / WEIGHTS)
            self._models[cell.id] = model.to(self.device).eval()
        return self._models[cell.id]

    def compiled(self, cell: PlannedCell) -> CompiledEncoders:
        """Those encoders of a cell's model that are compiled for attacks."""
        if cell.id not in self._compiled:
            model = self.model(cell)
            names = model.modalities if self.spec.engine.attack_compile is True else ()
            self._compiled[cell.id] = CompiledEncoders(model, names)
        return self._compiled[cell.id]

    def attacked(self, cell: PlannedCell) -> Victim:
        """A cell's fitted model, to be attacked as the engine says: its precision, its compiled encoders."""
        engine = self.spec.engine
        compiled = self.compiled(cell) if engine.attack_compile else None  # else no pass looks for some
        return replace(self.victim(cell), precision=engine.attack_precision, compiled=compiled)

    def victim(self, cell: PlannedCell) -> Victim:
        """A cell's fitted model, to be attacked in float32 as it is."""
        return Victim(
            self.model(cell),
            media=self.dataset.media,
            task=self.dataset.task,
            seed=cell.seed,
            samples=self.spec.evaluation.samples,
        )

    def batch_size(self, *cells: PlannedCell) -> int:
        """Clips at a time where these cells' models are asked: `engine.batch_size`, or what it finds and says."""
        size = self.spec.engine.batch_size
        return size if size != "auto" else min(self.found_batch_size(cell).clips for cell in cells)

    def found_batch_size(self, cell: PlannedCell) -> BatchSize:
        """How many clips memory holds while a cell's model, which is held, is attacked; measured once."""
        if cell.id not in self._sizes:
            split, skipped = self.selection.split, Skipped(self.dataset)
            read = (next(self.read(split, [chunk], skipped)) for chunk in self.selection.chunks(MEASURED))
            batch = next(filter(None, read), None)
            if batch is None:
                raise DatasetFailure(f"no clip of split {split!r} could be read")
            found = fitting_batch_size(self.attacked(cell), batch.to(self.device), self.device, ranks().local_world)
            self._sizes[cell.id] = found
            of = "" if found.free is None else f" of {bytes_named(found.free)} that are free"
            self.monitor.say(f"{cell.label}: {found.clips} clips at a time; each takes {bytes_named(found.each)}{of}")
        return self._sizes[cell.id]

    def made_with(self, made_by: Iterable[Configured]) -> dict[str, Any]:
        """For a record: what it is made with now, as JSON data under `made_with`."""
        return {"made_with": made_with(self.device.type, made_by)}

    def begin(self) -> None:
        """Something of the present cell is to be computed.

        Raises:
            Unfinished: if this process only reads.
        """
        if self.only_reads:
            raise Unfinished

    def forget_models(self) -> None:
        """Free the memory that models take."""
        self._models.clear()
        self._sizes.clear()
        self.tuned.clear()
        self._compiled.clear()
        if self.spec.engine.cudnn_benchmark == "auto":
            torch.backends.cudnn.benchmark = False

    def in_shards(
        self,
        folder: Path,
        selection: Selection,
        work: shards.Work,
        label: str,
        batch_size: int,
        first_reading: FirstReading | None = None,
        spare: Callable[[], bool] = lambda: False,
    ) -> None:
        """This process's share of some work on clips; what earlier runs left is not done again.

        Args:
            folder: of the work.
            selection: the clips, all processes' together.
            work: on each batch.
            label: of the work, for errors.
            batch_size: clips per call of `work`.
            first_reading: what was read before, to be compared.
            spare: makes the work take less memory, where one clip does not fit; see `shards.MicroBatches`.

        Raises:
            DataError: if a batch is not what it was at the first reading; then nothing has been done with it.
            BatchTimeout: if a batch takes longer than `engine.batch_timeout`; names the work by its label.
        """
        mine = selection.share(self.fabric.global_rank, self.fabric.world_size)
        skipped = Skipped(self.dataset)

        def limit(step: str, ids: Sequence[str]) -> AbstractContextManager[None]:
            return limited(self.spec.engine.batch_timeout, lambda: f"{label}: {step} ({clips_named(ids)})")

        shards.carry_out(
            folder,
            mine,
            work,
            batch_size=batch_size,
            read=partial(self.read, skipped=skipped),
            skipped=skipped,
            device=self.device,
            rank=self.fabric.global_rank,
            report=self.monitor.update,
            limit=limit,
            compare=None if first_reading is None else partial(first_reading.compare, label=label),
            spare=spare,
        )

    def read(self, split: str, batches: Sequence[Sequence[int]], skipped: Skipped) -> Iterator[Batch | None]:
        """Batches of clips by their positions; None where no clip of a batch can be read."""
        return self.loader.batches(split, batches, skipped)
