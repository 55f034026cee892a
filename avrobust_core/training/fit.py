"""Fitting a model: a visible loop on Lightning Fabric; killed at any step, it goes on to the same weights."""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from avrobust_core.data.batches import Batch
from avrobust_core.data.loader import Loader
from avrobust_core.data.loading import Skipped, epoch_order, in_batches, select, split_for_training
from avrobust_core.deadline import limited
from avrobust_core.errors import AvrobustError, DataError
from avrobust_core.files import read_record, write_record, write_text
from avrobust_core.models.module_state import plain_state
from avrobust_core.models.objectives import correct
from avrobust_core.models.saving import save_weights
from avrobust_core.naming import clips_named
from avrobust_core.randomness import derive_seed, seeded
from avrobust_core.training.augmentations import Augmentation, ForwardPass, TrainingStep
from avrobust_core.training.checkpoint import Checkpoint, Progress
from avrobust_core.training.costs import Cost
from avrobust_core.training.learner import Learned
from avrobust_core.training.mixing import hard_targets
from avrobust_core.training.pauses import Pauses
from avrobust_core.training.processes import gathered, in_parts, share_of, summed
from avrobust_core.training.settings import Regime
from avrobust_core.training.steps import Steps
from avrobust_core.training.validation import AttackClips, Validation

if TYPE_CHECKING:
    from scipy.sparse import csr_array

CHECKPOINT_SECONDS = 60.0
"""Seconds of training that a killed process loses at most, beside the step it was in."""

SCRATCH = "scratch"
"""The folder of what augmentations keep in files while the fit goes on."""

WEIGHTS = "model.safetensors"
"""The file of the weights that are attacked."""

HISTORY = "history.jsonl"
"""The file with a line of JSON for each epoch."""

Report = Callable[[int, int], None]
"""Told (steps done, steps in all)."""

Row = Mapping[str, Any]
"""One epoch of the history: its number, from 1, and what it came to."""


@dataclass(eq=False)
class Fit:
    """One cell's fit.

    Attributes:
        fabric: launched.
        module: with its initial weights.
        loader: of the data set to train on.
        regime: epochs, optimiser, selection.
        augmentations: built, in order.
        seed: of order, dropout and augmentations.
        folder: the cell's; receives model.safetensors, last.safetensors, history.jsonl and, last of all, fit.json.
        report: told of progress.
        batch_size: clips per forward pass on the validation clips.
        batch_timeout: seconds that a part of a step may take; None for no limit.
        attack: attacks validation clips, for a regime that selects by robust accuracy; None where the threat touches
            nothing that the model reads.
        made_with: gives the versions for the record, asked when the fit has ended and all it needs is imported.
        each_epoch: told of each epoch's row of the history; of a fit that goes on, of those before it first.
    """

    fabric: Fabric
    module: nn.Module
    loader: Loader
    regime: Regime
    augmentations: Sequence[Augmentation]
    _: KW_ONLY
    seed: int
    folder: Path
    report: Report
    batch_size: int = 32
    batch_timeout: float | None = None
    attack: AttackClips | None = None
    made_with: Callable[[], Mapping[str, Any]] = dict
    each_epoch: Callable[[Row], object] = lambda row: None

    def __post_init__(self) -> None:
        fabric, regime = self.fabric, self.regime
        self.dataset = self.loader.dataset
        if regime.batch_size < fabric.world_size:
            raise AvrobustError(
                f"training batch_size {regime.batch_size} leaves some of {fabric.world_size} processes without a clip"
            )
        self.train, held_out = (
            (select(self.dataset, "train"), None)
            if regime.select == "last"
            else split_for_training(self.dataset, regime.validation)
        )
        if held_out is None and regime.select in ("robust", "map"):
            raise DataError(
                f"select: {regime.select} needs clips to select by, and none are held out of the training split: raise "
                '`validation`, or give the data set a split "val"'
            )
        if len(self.train) < fabric.world_size:
            raise DataError(f"{len(self.train)} training clips cannot be shared by {fabric.world_size} processes")
        self.skipped = Skipped(self.dataset)
        self.progress = Progress()
        self._rows: dict[str, int] | None = None  # of the training clips, made when an augmentation asks for labels
        self.steps = Steps(fabric, self.module, regime, self.augmentations, self.batch_timeout)
        self.learner = self.steps.learner
        self.checkpoint = Checkpoint(self.folder / "checkpoint.pt", self.module, self.steps)
        self.validation: Validation | None = None
        if held_out is not None:
            self.validation = Validation(fabric, self.module, self.dataset, held_out, regime, self.attack)
        self.batches_per_epoch = len(in_batches(self.train.indices, regime.batch_size))
        self.total = regime.epochs * self.batches_per_epoch * self.learner.replays

    def run(self) -> dict[str, Any]:
        """Fit, from the last checkpoint if there is one.

        Returns:
            The record that fit.json holds: epochs, best epoch, clips, cost.

        Raises:
            AvrobustError: if the loss is not finite.
            DatasetFailure: if too many clips cannot be read.
            ModelError: if the model returns no logits, or some for validation clips that are not finite.
            WeightsError: if the model has what cannot be saved: before it is trained, not after.
        """
        plain_state(self.module)
        self._resume()
        with seeded(derive_seed(self.seed, "fit")):
            for epoch in range(self.progress.epoch, self.regime.epochs):
                self._train_epoch(epoch)
                self._close_epoch(epoch)
        return self._finish()

    def _train_epoch(self, epoch: int) -> None:
        state, rank, world = self.progress, self.fabric.global_rank, self.fabric.world_size
        began = time.monotonic()
        pauses = Pauses(self.fabric, CHECKPOINT_SECONDS)
        cost = Cost()
        where = self._where(epoch, cost)
        batches = self._batches(where)[state.step :]
        mine = [share_of(batch, rank, world) for batch in batches]
        earlier = state.seconds
        loss_sum = torch.tensor(state.loss_sum, device=self.fabric.device, dtype=torch.float64)
        hits = torch.tensor(state.hits, device=self.fabric.device, dtype=torch.float64)
        self.steps.model.train()
        reading = self._read("train", mine, derive_seed(self.seed, "read", where.epoch))
        for whole, (asked, batch) in zip(batches, reading, strict=True):
            state.step += 1
            clips = self._clips(whole, asked, batch)
            if not clips or batch is None:
                continue
            parts = in_parts(batch.to(self.fabric.device), self.regime.accumulate, len(asked))
            passes: list[Learned | None] = [None] * len(parts)  # of the replay before
            for replay in range(self.learner.replays):
                done = (epoch * self.batches_per_epoch + state.step - 1) * self.learner.replays + replay
                # Seeded step by step, so that a resumed fit draws the same dropout masks without saving any state.
                self.steps.seed(derive_seed(self.seed, "step", done, rank))
                step, again = replace(where, replay=replay), replay + 1 < self.learner.replays
                for i, part in enumerate(parts):
                    last = i + 1 == len(parts)
                    learned = self.steps.learn(part, step, self._now(), clips, earlier=passes[i], last=last)
                    loss_sum += learned.losses.detach().sum().double()
                    hits += self._hits(learned.forward)
                    passes[i] = learned if again else None
                    del learned  # or its encodings would lie in memory during the next pass
                self.steps.update(done, self.total)
                state.seen += len(batch)
                state.forwards += len(batch) + cost.forwards
                state.backwards += len(batch) + cost.backwards
                cost.forwards = cost.backwards = 0
                self.report(done + 1, self.total)
            # Of several processes only the first would save what its augmentations have seen since the epoch began.
            if (world == 1 or not self.learner.divided) and pauses.due():
                state.loss_sum, state.hits, state.seconds = (
                    float(loss_sum),
                    float(hits),
                    earlier + time.monotonic() - began,
                )
                if world > 1:
                    self.learner.state_dict()  # what each process has on its way is then in the files of all
                self._save()
        state.loss_sum, state.hits, state.seconds = float(loss_sum), float(hits), earlier + time.monotonic() - began
        if not math.isfinite(state.loss_sum):
            raise AvrobustError(
                f"the training loss of epoch {epoch + 1} is not finite: lower learning_rate, or look for bad clips"
            )

    def _clips(self, whole: Sequence[int], asked: Sequence[int], batch: Batch | None) -> int:
        """The clips that all processes together learn from in a step; 0 where none is taken.

        A step needs two clips in every process's share, or one if it asked for no more. Batch normalisation, and
        whatever else takes statistics over a batch, cannot learn from a single clip that the unreadable ones of its
        batch have left. Processes step together, so that all of them pass over such a batch.
        """
        mine = 0 if batch is None else len(batch)
        enough = mine >= min(2, len(asked))
        if self.fabric.world_size == 1:
            return mine if enough else 0
        if not self.dataset.max_unreadable:  # all processes have what they asked for
            return len(whole)
        ready, clips = summed(self.fabric, enough, mine)
        return int(clips) if ready == self.fabric.world_size else 0

    def _now(self) -> str:
        return f"epoch {self.progress.epoch + 1}, step {self.progress.step}"

    def _hits(self, forward: ForwardPass) -> Tensor:
        task = self.dataset.task
        return correct(forward.logits.detach(), hard_targets(forward.batch.targets, task), task).sum()

    def _where(self, epoch: int, cost: Cost) -> TrainingStep:
        dataset = self.dataset
        return TrainingStep(
            epoch=epoch,
            seed=self.seed,
            model=self.module,
            classes=len(dataset.classes),
            task=dataset.task,
            epochs=self.regime.epochs,
            media=dataset.media,
            cost=cost,
            scratch=self.folder / SCRATCH,
            clips=self.train.ids,
            labels=self._labels,
        )

    def _labels(self, clips: Sequence[str]) -> "csr_array | None":
        labels = self.dataset.label_matrix("train")
        if labels is None:
            return None
        if self._rows is None:
            self._rows = {clip: i for i, clip in enumerate(self.dataset.ids("train"))}
        return labels[[self._rows[clip] for clip in clips]]

    def _batches(self, where: TrainingStep) -> list[Sequence[int]]:
        order = epoch_order(self.train, self.seed, where.epoch, self.dataset.locality(self.train.split))
        ids = dict(zip(self.train.indices, self.train.ids, strict=True))
        began = time.monotonic()
        order = self.learner.order(order, [ids[i] for i in order], where)
        self.progress.between += time.monotonic() - began
        return in_batches(order, self.regime.batch_size)

    def _read(
        self, split: str, batches: Sequence[Sequence[int]], draw: int | None = None
    ) -> Iterator[tuple[Sequence[int], Batch | None]]:
        """What is asked for, and what could be read of it, batch by batch."""
        reading = self.loader.batches(split, batches, self.skipped, draw)
        for asked in batches:
            with limited(self.batch_timeout, partial(self._reading, split, asked), last_resort=False):
                batch = next(reading)
            yield asked, batch

    def _reading(self, split: str, asked: Sequence[int]) -> str:
        ids = self.dataset.ids(split)
        return f"fitting: reading ({clips_named([ids[index] for index in asked])})"

    def _close_epoch(self, epoch: int) -> None:
        state, began, cost = self.progress, time.monotonic(), Cost()
        self.learner.end_epoch(self._where(epoch, cost), partial(gathered, self.fabric))
        state.between += time.monotonic() - began
        loss_sum, hits, seen = summed(self.fabric, state.loss_sum, state.hits, state.seen)
        if not seen:
            raise DataError(
                f"nothing was learned in epoch {epoch + 1}: of every training batch fewer than two clips could be "
                "read; mend the data set, or raise batch_size"
            )
        row = {
            "epoch": epoch + 1,
            "loss": loss_sum / seen,
            "accuracy": hits / seen,
            "learning_rate": self.steps.optimizer.param_groups[0]["lr"],
            "clips": int(seen),
        }
        if self.validation is not None:
            with self.steps.averaged():
                limit = partial(self.steps.limited, f"epoch {epoch + 1}, attacking validation clips")
                found = self.validation.measure(self._read, self.batch_size, cost, limit)
                row |= found.row
                if state.best is None or found.score > tuple(state.best):
                    state.best, state.best_epoch = found.score, epoch + 1
                    self._write_weights(WEIGHTS)
        state.forwards += cost.forwards
        state.backwards += cost.backwards
        row |= {
            "seconds": round(state.seconds + time.monotonic() - began, 3),
            "between_epochs_seconds": round(state.between, 3),
        }
        state.history.append(row)
        state.next_epoch()
        self._write_history()
        self._save()
        self.each_epoch(row)

    def _finish(self) -> dict[str, Any]:
        state = self.progress
        with self.steps.averaged():
            if state.best is None:
                self._write_weights(WEIGHTS)
            self._write_weights("last.safetensors")
        self._write_history()
        forwards, backwards = summed(self.fabric, state.forwards, state.backwards)
        for found in gathered(self.fabric, self.skipped.to_json()):
            self.skipped.merge(found)
        record = {
            "epochs": self.regime.epochs,
            "best_epoch": state.best_epoch,
            "train_clips": len(self.train),
            "validation_clips": len(self.validation.clips) if self.validation is not None else 0,
            "parameters": sum(parameter.numel() for parameter in self.module.parameters()),
            "clip_forwards": int(forwards),
            "clip_backwards": int(backwards),
            "seconds": round(sum(row["seconds"] for row in state.history), 3),
            "between_epochs_seconds": round(sum(row["between_epochs_seconds"] for row in state.history), 3),
            **self.skipped.to_json(),
            "made_with": dict(self.made_with()),
        }
        reached = getattr(self.module, "reached", None)
        if reached is not None and not self.regime.epochs:  # the network is as it was published
            record["published"] = asdict(reached)
        if self.fabric.is_global_zero:
            weights = [self.folder / name for name in (WEIGHTS, "last.safetensors")]
            write_record(self.folder / "fit.json", record, weights)
            self.checkpoint.path.unlink(missing_ok=True)
            shutil.rmtree(self.folder / SCRATCH, ignore_errors=True)
        self.fabric.barrier()
        return read_record(self.folder / "fit.json", check=())

    def _write_history(self) -> None:
        if self.fabric.is_global_zero:
            text = "".join(json.dumps(row) + "\n" for row in self.progress.history)
            write_text(self.folder / HISTORY, text)

    def _write_weights(self, name: str) -> None:
        if self.fabric.is_global_zero:
            save_weights(self.module, self.folder / name, self.dataset.classes)

    def _save(self) -> None:
        """Save what all processes have done so far, from which any number of them can go on; all must call it."""
        state = self.progress
        loss_sum, hits, *counts = summed(
            self.fabric, state.loss_sum, state.hits, state.seen, state.forwards, state.backwards
        )
        seen, forwards, backwards = map(int, counts)
        notes = Skipped(self.dataset)
        for found in gathered(self.fabric, self.skipped.to_json()):
            notes.merge(found)
        if self.fabric.is_global_zero:
            of_all = replace(state, loss_sum=loss_sum, hits=hits, seen=seen, forwards=forwards, backwards=backwards)
            self.checkpoint.save(replace(of_all, clip_notes=notes.to_json()))

    def _resume(self) -> None:
        if self.fabric.is_global_zero and not self.checkpoint.path.exists():
            shutil.rmtree(self.folder / SCRATCH, ignore_errors=True)
        self.fabric.barrier()
        self.progress = self.checkpoint.resume(self.fabric.device)
        self.skipped.merge(self.progress.clip_notes)
        for row in self.progress.history:
            self.each_epoch(row)
        # Sums over processes are kept by the first alone; the others start from nothing.
        if not self.fabric.is_global_zero:
            self.progress.loss_sum = self.progress.hits = 0.0
            self.progress.seen = self.progress.forwards = self.progress.backwards = 0
