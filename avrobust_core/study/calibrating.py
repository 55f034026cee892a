"""A short calibration: what a few steps of a study's own models, regimes and attacks take on this machine."""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import torch

from avrobust_core.attacks.gradients import joint_gradient, leaves_of
from avrobust_core.attacks.victim import Victim
from avrobust_core.data.batches import Batch
from avrobust_core.data.dataset import Dataset
from avrobust_core.data.loader import Loader
from avrobust_core.data.loading import Skipped, in_batches, select
from avrobust_core.errors import DataError
from avrobust_core.metrics.latents import LayerKind
from avrobust_core.models.model import AVModel, compiled
from avrobust_core.study import embedding
from avrobust_core.study.building import Builder
from avrobust_core.study.devices import fabric_of
from avrobust_core.study.few_clips import FewClips
from avrobust_core.study.peak import Peak, peak_memory
from avrobust_core.threats.budgets import ThreatModel
from avrobust_core.training.fit import Fit

BATCHES = 4
"""Optimiser steps of each of the epochs that a fit is calibrated by."""

EPOCHS = 2
"""Of these the last is timed: the first one's memory, caches and kernels are new."""

SECONDS = 0.3
LEAST = 2
"""Something short is repeated for so many seconds, something long so many times, once before unmeasured."""


@dataclass(frozen=True, slots=True)
class FitRate:
    """What a regime takes with a model.

    Attributes:
        seconds: per clip learned from, and epoch; reading among them.
        between: seconds between two epochs, per clip.
        forwards, backwards: passes per clip and epoch; whole numbers where each clip takes as many.
        peak: memory.
    """

    seconds: float
    between: float
    forwards: float
    backwards: float
    peak: Peak


@dataclass(frozen=True, slots=True)
class LookRate:
    """What it takes to look at clips with a model.

    Attributes:
        reading: seconds per clip.
        forward: seconds per clip, of the whole model, without gradients.
        layers: of each layer that metrics may ask for, by name, the shape of one clip's.
        weights: bytes of the model's parameters and buffers.
    """

    reading: float
    forward: float
    layers: dict[str, tuple[int, ...]]
    weights: int


@dataclass(frozen=True, slots=True)
class AttackRate:
    """What it takes to attack a model under a threat, in seconds per clip.

    Attributes:
        binding: what is done once for each batch, such as encoding what is not attacked.
        look: a forward pass without gradients.
        step: a forward and a backward pass, a step of steepest ascent and its projection.
        peak: memory.
    """

    binding: float
    look: float
    step: float
    peak: Peak


class Calibration:
    """Measures, each thing once, on one device.

    Args:
        builder: of the study.
        dataset: of the study.
    """

    def __init__(self, builder: Builder, dataset: Dataset) -> None:
        began = time.perf_counter()
        self.builder = builder
        self.dataset = dataset
        engine = builder.spec.engine
        device = engine.devices[:1] if isinstance(engine.devices, list) else 1
        self.fabric = fabric_of(engine.model_copy(update={"devices": device}))
        self.fabric.launch()
        self.fit = cache(self._fit)
        self.looking = cache(self._looking)
        self._attacks: dict[tuple[str, str], AttackRate] = {}
        self._began = began

    @property
    def device(self) -> torch.device:
        """The one that is measured on."""
        return self.fabric.device

    @property
    def seconds(self) -> float:
        """That all of it has taken so far."""
        return time.perf_counter() - self._began

    def _fit(self, model: str, training: str) -> FitRate:
        """A few steps of a regime, in a folder that is deleted again.

        Raises:
            AvrobustError: as a fit does.
        """
        spec = self.builder.spec
        entry = spec.training[training]
        few = FewClips(self.dataset, BATCHES * entry.batch_size)
        built = self.builder.model(model, few)
        learned = sum(map(len, in_batches(range(len(select(few, "train"))), entry.batch_size)))
        with (
            tempfile.TemporaryDirectory(prefix="avrobust-plan-") as folder,
            Loader(few, workers=spec.engine.workers, pin=self.device.type == "cuda") as loader,
            peak_memory(self.device) as peak,
        ):
            fit = Fit(
                self.fabric,
                compiled(built) if spec.engine.compile else built,
                loader,
                entry.model_copy(update={"epochs": EPOCHS, "select": "last", "against": None}),
                self.builder.augmentations(entry),
                seed=spec.seed,
                folder=Path(folder),
                report=lambda done, total: None,
                batch_timeout=spec.engine.batch_timeout,
            )
            record = fit.run()
            last = fit.progress.history[-1]
        return FitRate(
            seconds=(last["seconds"] - last["between_epochs_seconds"]) / learned,
            between=last["between_epochs_seconds"] / learned,
            forwards=record["clip_forwards"] / (EPOCHS * learned),
            backwards=record["clip_backwards"] / (EPOCHS * learned),
            peak=peak,
        )

    def _looking(self, model: str) -> LookRate:
        """Reading and clean predictions, and what metrics may ask for."""
        batch, reading = self._batch
        built = self._model(model)
        victim = self._victim(built)
        with victim.frozen():
            forward = self._timed(lambda: victim.logits(batch.inputs))
            kinds: tuple[LayerKind, ...] = ("pooled", "tokens", "fused")
            found = embedding.embed_batch(built, batch, kinds)
        tensors = [*built.parameters(), *built.buffers()]
        return LookRate(
            reading=reading,
            forward=forward / len(batch),
            layers={name: tuple(x.shape[1:]) for name, x in embedding.layers_in(found).items()},
            weights=sum(x.numel() * x.element_size() for x in tensors),
        )

    def attack(self, model: str, threat: ThreatModel) -> AttackRate:
        """Steps of an attack under a threat, and looks without gradients.

        Raises:
            DataError: if the threat does not fit the clips.
        """
        key = model, threat.model_dump_json()
        if key not in self._attacks:
            self._attacks[key] = self._attack(model, threat)
        return self._attacks[key]

    def _attack(self, model: str, threat: ThreatModel) -> AttackRate:
        batch, _ = self._batch
        victim = self._victim(self._model(model))
        with victim.frozen(), peak_memory(self.device) as peak:
            binding = self._timed(lambda: victim.bind(batch, threat))
            bound = victim.bind(batch, threat)

            def look() -> None:
                with torch.no_grad():
                    bound(bound.clean)

            def step() -> None:
                leaves = leaves_of(bound.clean)
                with torch.enable_grad():
                    loss = bound.loss(bound(leaves))
                bound.region.project(bound.region.step(bound.clean, joint_gradient(loss, leaves), 1.0))

            looking, stepping = self._timed(look), self._timed(step)
        return AttackRate(binding / len(batch), looking / len(batch), stepping / len(batch), peak)

    def _model(self, name: str) -> AVModel:
        return self.builder.model(name, self.dataset).to(self.device).eval()

    def _victim(self, model: AVModel) -> Victim:
        spec = self.builder.spec
        return Victim(
            model,
            media=self.dataset.media,
            task=self.dataset.task,
            seed=spec.seed,
            samples=spec.evaluation.samples,
            precision=spec.engine.attack_precision,
        )

    @cached_property
    def _batch(self) -> tuple[Batch, float]:
        """A batch of the clips that are evaluated, on the device; and the seconds that reading takes for each."""
        section, engine = self.builder.spec.evaluation, self.builder.spec.engine
        chosen = select(self.dataset, section.split, section.clips).chunks(engine.stated_batch_size)[0]
        with Loader(self.dataset) as loader:
            skipped = Skipped(self.dataset)
            began = time.perf_counter()
            batch = next(loader.batches(section.split, [chosen], skipped))
            seconds = time.perf_counter() - began
        if batch is None:
            raise DataError(f"none of the first {len(chosen)} clips of split {section.split!r} can be read")
        return batch.to(self.device), seconds / len(batch)

    def _timed(self, work: Callable[[], object]) -> float:
        """The median of the seconds that some work takes, waited for."""
        work()
        self._wait()
        taken: list[float] = []
        while len(taken) < LEAST or sum(taken) < SECONDS:
            began = time.perf_counter()
            work()
            self._wait()
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)

    def _wait(self) -> None:
        """For the device, which works on while the host goes ahead."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
