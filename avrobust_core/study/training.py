"""Fitting a model: a visible loop on Lightning Fabric; killed at any step, it goes on to the same weights."""

import json
import math
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from avrobust_core.augmentations import Augmentation, Cost, TrainingStep
from avrobust_core.batches import Batch
from avrobust_core.border.answers import ask, refuse_non_finite
from avrobust_core.checkpoints import torch_load
from avrobust_core.contracts import Dataset
from avrobust_core.errors import AvrobustError, DataError, RunError
from avrobust_core.module_state import plain_state, take_state
from avrobust_core.naming import clips_named
from avrobust_core.objectives import classification_loss, correct
from avrobust_core.plain_text import plain_text
from avrobust_core.randomness import derive_seed, seeded
from avrobust_core.spec.model import EngineSection, TrainingEntry
from avrobust_core.study.deadline import limited
from avrobust_core.study.learning import Learner
from avrobust_core.study.loading import (
    Selection,
    Skipped,
    epoch_order,
    in_batches,
    read_batches,
    select,
    split_for_training,
)
from avrobust_core.study.optimization import parameter_groups, schedule
from avrobust_core.study.saving import load_weights as load_weights
from avrobust_core.study.saving import save_weights
from avrobust_core.study.store import read_record, write_atomically, write_record, write_text

CHECKPOINT_SECONDS = 60.0
"""How much training a killed process loses at most, beside the step it was in."""

WEIGHTS = "model.safetensors"
"""The file of the weights that are attacked."""

Report = Callable[[int, int], None]
"""Told (steps done, steps in all)."""


@dataclass(slots=True)
class Progress:
    """Where a fit stands; all that a resumed fit needs beside weights and optimiser."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    hits: float = 0.0
    seen: int = 0
    seconds: float = 0.0
    between: float = 0.0
    forwards: int = 0
    backwards: int = 0
    best: tuple[float, float] | None = None
    best_epoch: int | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[str, dict[str, str]] = field(default_factory=dict)
    constant: dict[str, dict[str, str]] = field(default_factory=dict)


class Fit:
    """One cell's fit.

    Args:
        fabric: launched.
        model: with its initial weights.
        dataset: to train on.
        regime: epochs, optimiser, augmentations' names.
        augmentations: built, in order.
        seed: of order, dropout and augmentations.
        folder: the cell's; receives model.safetensors, last.safetensors, history.jsonl and, last of all, fit.json.
        engine: workers and batch size.
        report: told of progress.
        made_with: versions, for the record.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: nn.Module,
        dataset: Dataset,
        regime: TrainingEntry,
        augmentations: Sequence[Augmentation],
        *,
        seed: int,
        folder: Path,
        engine: EngineSection,
        report: Report,
        made_with: Mapping[str, Any] | None = None,
    ) -> None:
        if regime.batch_size % fabric.world_size:
            raise AvrobustError(
                f"training batch_size {regime.batch_size} cannot be shared evenly by {fabric.world_size} processes"
            )
        self.fabric = fabric
        self.module = model
        self.dataset = dataset
        self.regime = regime
        self.seed = seed
        self.folder = folder
        self.engine = engine
        self.skipped = Skipped(dataset)
        self.report = report
        self.made_with = dict(made_with or {})
        self.train, self.validation = (
            split_for_training(dataset, regime.validation)
            if regime.select == "best"
            else (select(dataset, "train"), None)
        )
        self.progress = Progress()
        optimizer = torch.optim.AdamW(parameter_groups(model, regime.weight_decay), lr=regime.learning_rate)
        self.model, self.optimizer = fabric.setup(model, optimizer)
        self.learner = Learner(self.model, augmentations)
        if len(self.train) < fabric.world_size:
            raise DataError(f"{len(self.train)} training clips cannot be shared by {fabric.world_size} processes")
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
        began = saved = time.monotonic()
        cost = Cost()
        where = self._where(epoch, cost)
        mine = [_share(batch, rank, world) for batch in self._batches(where)[state.step :]]
        earlier = state.seconds
        loss_sum = torch.tensor(state.loss_sum, device=self.fabric.device, dtype=torch.float64)
        hits = torch.tensor(state.hits, device=self.fabric.device, dtype=torch.float64)
        self.model.train()
        for asked, batch in zip(mine, self._read("train", mine), strict=True):
            state.step += 1
            if not self._enough(asked, batch) or batch is None:
                continue
            batch = batch.to(self.fabric.device)
            for replay in range(self.learner.replays):
                done = (epoch * self.batches_per_epoch + state.step - 1) * self.learner.replays + replay
                # Seeded step by step, so that a resumed fit draws the same dropout masks without saving any state.
                self._seed(derive_seed(self.seed, "step", done, rank))
                step = replace(where, replay=replay)
                with self._limited(epoch, batch):
                    learned = self.learner.learn(batch, step)
                self.fabric.backward(learned.losses.mean())
                self.learner.after_backward(learned, step)
                self._update(done)
                loss_sum += learned.losses.detach().sum().double()
                hits += self._hits(learned.logits, learned.targets)
                state.seen += len(learned.logits)
                state.forwards += len(learned.logits) + cost.forwards
                state.backwards += len(learned.logits) + cost.backwards
                cost.forwards = cost.backwards = 0
                self.report(done + 1, self.total)
            now = time.monotonic()
            # Of several processes only the first would save what its augmentations have seen since the epoch began.
            if now - saved > CHECKPOINT_SECONDS and (world == 1 or not self.learner.stateful):
                state.loss_sum, state.hits, state.seconds = float(loss_sum), float(hits), earlier + now - began
                self._save()
                saved = now
        state.loss_sum, state.hits, state.seconds = float(loss_sum), float(hits), earlier + time.monotonic() - began
        if not math.isfinite(state.loss_sum):
            raise AvrobustError(
                f"the training loss of epoch {epoch + 1} is not finite: lower learning_rate, or look for bad clips"
            )

    def _enough(self, asked: Sequence[int], batch: Batch | None) -> bool:
        """Whether a step is taken: every process has two clips of its share, or one if it asked for no more.

        Batch normalisation, and whatever else takes statistics over a batch, cannot learn from a single clip that the
        unreadable ones of its batch have left. Processes step together, so that all of them pass over such a batch.
        """
        enough = batch is not None and len(batch) >= min(2, len(asked))
        if self.fabric.world_size == 1 or not self.dataset.max_unreadable:  # none unreadable: all have what they asked
            return enough
        return self._summed(enough)[0] == self.fabric.world_size

    def _limited(self, epoch: int, batch: Batch) -> AbstractContextManager[None]:
        where = f"fitting: epoch {epoch + 1}, step {self.progress.step}"
        return limited(self.engine.batch_timeout, lambda: f"{where} ({clips_named(batch.ids)})", last_resort=False)

    def _seed(self, seed: int) -> None:
        if self.fabric.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # torch.manual_seed asks every kind of device: 0.8 ms
        else:
            torch.manual_seed(seed)

    def _hits(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.dataset.task == "single-label" and targets.dim() == 2:
            targets = targets.argmax(dim=1)  # soft targets: the heavier label
        return correct(logits, targets, self.dataset.task).sum()

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
        )

    def _batches(self, where: TrainingStep) -> list[Sequence[int]]:
        order = epoch_order(self.train, self.seed, where.epoch)
        ids = dict(zip(self.train.indices, self.train.ids, strict=True))
        began = time.monotonic()
        order = self.learner.order(order, [ids[i] for i in order], where)
        self.progress.between += time.monotonic() - began
        return in_batches(order, self.regime.batch_size)

    def _update(self, done: int) -> None:
        """One optimiser step, the gradient clipped, at the learning rate of this step."""
        rate = self.regime.learning_rate * schedule(done, self.total, self.regime.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.regime.gradient_clip is not None:
            self.fabric.clip_gradients(
                self.model,
                self.optimizer,
                max_norm=self.regime.gradient_clip,
                error_if_nonfinite=False,  # it would wait for the device at every step; the epoch's loss tells
            )
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _read(self, split: str, batches: Sequence[Sequence[int]]) -> Iterator[Batch | None]:
        return read_batches(
            self.dataset,
            split,
            batches,
            skipped=self.skipped,
            workers=self.engine.workers,
            pin=self.fabric.device.type == "cuda",
        )

    def _close_epoch(self, epoch: int) -> None:
        state, began = self.progress, time.monotonic()
        cost = Cost()
        self.learner.end_epoch(self._where(epoch, cost), self._gather)
        state.between += time.monotonic() - began
        state.forwards += cost.forwards
        state.backwards += cost.backwards
        loss_sum, hits, seen = self._summed(state.loss_sum, state.hits, state.seen)
        if not seen:
            raise DataError(
                f"nothing was learned in epoch {epoch + 1}: of every training batch fewer than two clips could be "
                "read; mend the data set, or raise batch_size"
            )
        row = {
            "epoch": epoch + 1,
            "loss": loss_sum / max(seen, 1),
            "accuracy": hits / max(seen, 1),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "clips": int(seen),
        }
        if self.validation is not None:
            loss, accuracy = self._validate(self.validation)
            row |= {"validation_loss": loss, "validation_accuracy": accuracy}
            score = (accuracy, -loss)
            if state.best is None or score > tuple(state.best):
                state.best, state.best_epoch = score, epoch + 1
                self._write_weights(WEIGHTS)
        row |= {
            "seconds": round(state.seconds + time.monotonic() - began, 3),
            "between_epochs_seconds": round(state.between, 3),
        }
        state.history.append(row)
        state.epoch, state.step = epoch + 1, 0
        state.loss_sum = state.hits = state.seconds = state.between = 0.0
        state.seen = 0
        self._write_history()
        self._save()

    @torch.no_grad()
    def _validate(self, selection: Selection) -> tuple[float, float]:
        mine = selection.share(self.fabric.global_rank, self.fabric.world_size)
        loss_sum = hits = 0.0
        seen = 0
        self.model.eval()
        for batch in self._read(selection.split, mine.chunks(self.engine.batch_size)):
            if batch is None:
                continue
            batch = batch.to(self.fabric.device)
            logits = ask(
                self.module, partial(self.module, batch.inputs), batch.inputs, len(self.dataset.classes)
            ).float()
            refuse_non_finite(self.module, logits, batch.ids, batch.inputs)
            loss_sum += float(classification_loss(logits, batch.targets, self.dataset.task).double().sum())
            hits += float(correct(logits, batch.targets, self.dataset.task).sum())
            seen += len(batch)
            self.progress.forwards += len(batch)
        loss_sum, hits, total = self._summed(loss_sum, hits, seen)
        return loss_sum / max(total, 1), hits / max(total, 1)

    def _summed(self, *values: float) -> tuple[float, ...]:
        if self.fabric.world_size == 1:
            return values
        together = self.fabric.all_reduce(
            torch.tensor(values, dtype=torch.float64, device=self.fabric.device), reduce_op="sum"
        )
        return tuple(cast(Tensor, together).tolist())

    def _finish(self) -> dict[str, Any]:
        state = self.progress
        if state.best is None:
            self._write_weights(WEIGHTS)
        self._write_weights("last.safetensors")
        self._write_history()
        forwards, backwards = self._summed(state.forwards, state.backwards)
        for skipped, constant in self._gather((self.skipped.to_json(), self.skipped.constant_json())):
            self.skipped.merge(skipped, constant)
        record = {
            "epochs": self.regime.epochs,
            "best_epoch": state.best_epoch,
            "train_clips": len(self.train),
            "validation_clips": len(self.validation) if self.validation is not None else 0,
            "parameters": sum(parameter.numel() for parameter in self.module.parameters()),
            "clip_forwards": int(forwards),
            "clip_backwards": int(backwards),
            "seconds": round(sum(row["seconds"] for row in state.history), 3),
            "between_epochs_seconds": round(sum(row["between_epochs_seconds"] for row in state.history), 3),
            "skipped": self.skipped.to_json(),
            "constant": self.skipped.constant_json(),
            "made_with": self.made_with,
        }
        if self.fabric.is_global_zero:
            weights = [self.folder / name for name in (WEIGHTS, "last.safetensors")]
            write_record(self.folder / "fit.json", record, weights)
            self._checkpoint.unlink(missing_ok=True)
        self.fabric.barrier()
        return read_record(self.folder / "fit.json", check=())

    def _gather(self, mine: Any) -> list[Any]:
        """What every process has, in the order of their ranks."""
        if self.fabric.world_size == 1:
            return [mine]
        everyone: list[Any] = [None] * self.fabric.world_size
        torch.distributed.all_gather_object(everyone, mine)
        return everyone

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def _write_history(self) -> None:
        if self.fabric.is_global_zero:
            text = "".join(json.dumps(row) + "\n" for row in self.progress.history)
            write_text(self.folder / "history.jsonl", text)

    def _write_weights(self, name: str) -> None:
        if self.fabric.is_global_zero:
            save_weights(self.module, self.folder / name)

    def _save(self) -> None:
        if self.fabric.is_global_zero:
            self.progress.skipped, self.progress.constant = self.skipped.to_json(), self.skipped.constant_json()
            content = {
                "model": plain_state(self.module),
                "optimizer": self.optimizer.state_dict(),
                "progress": asdict(self.progress),
                "augmentations": self.learner.state_dict(),
            }
            write_atomically(self._checkpoint, lambda file: torch.save(content, file))

    def _resume(self) -> None:
        self.fabric.barrier()
        if not self._checkpoint.exists():
            return
        try:
            with zipfile.ZipFile(self._checkpoint) as archive:
                damaged = archive.testzip()  # torch.load does not look at the checksums
            content = torch_load(self._checkpoint, self.fabric.device)
            take_state(self.module, content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.progress = Progress(**content["progress"])
            self.learner.load_state_dict(content["augmentations"])
        except Exception as error:  # a damaged file may hold anything
            raise RunError(
                f"{self._checkpoint}: cannot be read ({plain_text(error, 300)}); delete it to fit from the start"
            ) from error
        if damaged is not None:
            raise RunError(f"{self._checkpoint}: is damaged (in {damaged}); delete it to fit from the start")
        self.skipped.merge(self.progress.skipped, self.progress.constant)
        # Sums over processes are kept by the first alone; the others start from nothing.
        if not self.fabric.is_global_zero:
            self.progress.loss_sum = self.progress.hits = 0.0
            self.progress.seen = 0


def _share(batch: Sequence[int], rank: int, world: int) -> Sequence[int]:
    """One process's clips of a batch: neighbours, which may belong together."""
    return batch[rank * len(batch) // world : (rank + 1) * len(batch) // world]
