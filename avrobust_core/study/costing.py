"""What a study will cost: passes, seconds, memory and disk of each cell, foretold from a short calibration."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from avrobust_core.attacks.passes import NO_PASSES, Occasion, Passes
from avrobust_core.data.dataset import Dataset
from avrobust_core.data.loading import in_batches, select, split_for_training
from avrobust_core.errors import AvrobustError
from avrobust_core.spec.cells import selecting
from avrobust_core.spec.model import TrainingEntry
from avrobust_core.study.building import Builder
from avrobust_core.study.calibrating import AttackRate, Calibration, FitRate, LookRate
from avrobust_core.study.plan import CLEAN, PlannedCell, PlannedEvaluation
from avrobust_core.threats.budgets import ThreatModel
from avrobust_core.training.validation import MOST_ATTACKED

Known = Literal["exactly", "at most", "about", "unknown"]
"""How far a number of passes is known: at most, where work on clips that are broken stops; about, where it was counted
in the calibration; unknown, where an attack does not state it."""

ROW_BYTES = 100
"""Of a clip's row in the file of an evaluation, beside its logits."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of clips, where they are not those of the data set.

    Attributes:
        learned: of the split "train", the part held out among them.
        evaluated: of the split that is evaluated.
    """

    learned: int | None = None
    evaluated: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a cell's work.

    Attributes:
        name: fit, clean, an attack and its threat, embeddings of a split, a metric, audit.
        clips: that it works on; of a fit, those learned from in an epoch.
        forwards, backwards: passes of clips through the model, as the results count them: see docs/scale.md.
        known: how far these are known.
        seconds: on all devices together, beside one another; None where it cannot be told.
        done: True if nothing of it is left to do.
    """

    name: str
    clips: int
    forwards: int
    backwards: int
    known: Known
    seconds: float | None
    done: bool = False


@dataclass(frozen=True, slots=True)
class CellCost:
    """What one cell costs.

    Attributes:
        cell: which.
        parts: of its work.
        host, device: bytes of memory that one process needs, in main memory and on its accelerator.
        disk: bytes that are left in the cell's folder.
        problem: why it could not be calibrated; None if it was.
    """

    cell: PlannedCell
    parts: tuple[Part, ...] = ()
    host: int = 0
    device: int = 0
    disk: int = 0
    problem: str | None = None

    @property
    def left(self) -> list[Part]:
        """The parts that are not done."""
        return [part for part in self.parts if not part.done]

    @property
    def seconds(self) -> float:
        """Of all that is left and can be told."""
        return sum(part.seconds or 0.0 for part in self.left)

    @property
    def bounded(self) -> bool:
        """True if less may be needed, as some of the clips will be broken early."""
        return any(part.known == "at most" for part in self.left)

    def to_json(self) -> dict[str, Any]:
        """As JSON data; `seconds` is what is left."""
        return self.cell.names | {
            "parts": [asdict(part) for part in self.parts],
            "seconds": round(self.seconds, 3),
            "memory": {"host": self.host, "device": self.device},
            "disk": self.disk,
            "problem": self.problem,
        }


class Costing:
    """Foretells the costs of cells.

    Args:
        builder: of the study.
        dataset: of the study.
        calibration: of this machine.
        sizes: in place of the data set's own; then nothing counts as done.
        devices: that share the work evenly.
    """

    def __init__(
        self, builder: Builder, dataset: Dataset, calibration: Calibration, sizes: Sizes, devices: int = 1
    ) -> None:
        self.builder = builder
        self.spec = builder.spec
        self.dataset = dataset
        self.calibration = calibration
        self.sizes = sizes
        self.devices = devices
        section = self.spec.evaluation
        self.evaluated = sizes.evaluated or len(select(dataset, section.split, section.clips))

    def cost(self, cell: PlannedCell) -> CellCost:
        """Of one cell; what cannot be calibrated is told, and nothing else of that cell."""
        try:
            look = self.calibration.looking(cell.model)
            rate = None
            if self.spec.training[cell.training].epochs:
                rate = self.calibration.fit(cell.model, cell.training)
            rates = {
                evaluation.folder: self.calibration.attack(cell.model, evaluation.applied)
                for evaluation in cell.evaluations
                if evaluation.applied is not None
            }
        except AvrobustError as error:
            return CellCost(cell, problem=str(error))
        fit = [] if rate is None else [self._fit(cell, rate, look)]
        shown: dict[Path, PlannedEvaluation] = {}
        for evaluation in cell.evaluations:  # names of the spec that mean the same share a folder
            shown.setdefault(evaluation.folder, evaluation)
        looked = [self._evaluation(each, look, rates.get(each.folder)) for each in shown.values()]
        attacks = [part for part in looked if part.name != CLEAN]
        parts = [*fit, *looked, *self._audit(attacks), *self._metrics(look)]
        if self.sizes != Sizes():
            parts = [replace(part, done=False) for part in parts]
        peaks = [*(found.peak for found in rates.values()), *([] if rate is None else [rate.peak])]
        return CellCost(
            cell,
            tuple(parts),
            host=max((peak.host for peak in peaks), default=0),
            device=max((peak.device for peak in peaks), default=0),
            disk=self._disk(cell, look),
        )

    def _fit(self, cell: PlannedCell, rate: FitRate, look: LookRate) -> Part:
        regime = self.spec.training[cell.training]
        train, validation = self._learned(regime)
        clips = sum(map(len, in_batches(range(train), regime.batch_size)))
        whole = rate.forwards.is_integer() and rate.backwards.is_integer()
        each = clips * (rate.seconds + rate.between) + validation * (look.reading + look.forward)
        forwards, backwards = clips * rate.forwards + validation, clips * rate.backwards
        known: Known = "exactly" if whole else "about"
        found = selecting(self.spec, cell.model, cell.training)
        if found is not None:  # validation clips are attacked after each epoch
            plan, applied = found
            attacked = min(validation, MOST_ATTACKED)
            passes = self.builder.attack(plan.attack).passes(occasion(self.builder, self.dataset, plan.attack, applied))
            known = "unknown" if passes is None else "at most" if known == "exactly" else known
            if passes is not None:
                samples, attack = self.spec.evaluation.samples, self.calibration.attack(cell.model, applied)
                forwards += attacked * samples * passes.forwards
                backwards += attacked * samples * passes.backwards
                each += attacked * (attack.binding + look.forward + _seconds(passes, attack))
        return Part(
            "fit",
            clips,
            forwards=round(regime.epochs * forwards),
            backwards=round(regime.epochs * backwards),
            known=known,
            seconds=None if known == "unknown" else regime.epochs * each / self.devices,
            done=cell.fitted,
        )

    def _learned(self, regime: TrainingEntry) -> tuple[int, int]:
        """The clips that a regime learns from, and those that it selects by."""
        if regime.select == "last":
            return self.sizes.learned or len(select(self.dataset, "train")), 0
        train, validation = split_for_training(self.dataset, regime.validation)
        kept = 0 if validation is None else len(validation)
        if self.sizes.learned is None:
            return len(train), kept
        if validation is not None and validation.split == "train":  # a share of them is held out
            kept = round(self.sizes.learned * regime.validation)
            return self.sizes.learned - kept, kept
        return self.sizes.learned, kept

    def _evaluation(self, evaluation: PlannedEvaluation, look: LookRate, rate: AttackRate | None) -> Part:
        clips, samples = self.evaluated, self.spec.evaluation.samples
        part = partial(Part, evaluation.label, clips, done=evaluation.done)
        if rate is None or evaluation.attack is None:
            seconds = clips * (look.reading + look.forward) / self.devices
            return part(forwards=clips * samples, backwards=0, known="exactly", seconds=seconds)
        passes = attack_passes(self.builder, self.dataset, evaluation)
        if passes is None:
            return part(forwards=0, backwards=0, known="unknown", seconds=None)
        entry = self.spec.attacks[evaluation.attack]
        looks = len(entry.factors) + (entry.goal != "untargeted")
        each = look.reading + rate.binding + looks * look.forward + _seconds(passes, rate)
        seconds = clips * each + self._preparation(evaluation.attack, look, rate)
        return part(
            forwards=clips * passes.forwards * samples,
            backwards=clips * passes.backwards * samples,
            known="exactly" if passes.exact else "at most",
            seconds=seconds / self.devices,
        )

    def _preparation(self, attack: str, look: LookRate, rate: AttackRate) -> float:
        """The seconds of what an attack does with a whole split beforehand, in every process."""
        preparation = self.builder.attack(attack).preparation
        if preparation is None:
            return 0.0
        clips = self._clips(preparation.split or self.spec.evaluation.split)
        rounds = 1 + preparation.passes.forwards
        return self.devices * clips * (rounds * (look.reading + rate.binding) + _seconds(preparation.passes, rate))

    def _audit(self, attacks: Sequence[Part]) -> Iterator[Part]:
        """At most a share of the attacks' passes, on a few clips, in the first process."""
        section = self.spec.audit
        if section == "off" or not attacks or any(part.seconds is None for part in attacks):
            return
        share = section.share
        yield Part(
            "audit",
            min(section.clips, self.evaluated),
            forwards=round(share * sum(part.forwards for part in attacks)),
            backwards=round(share * sum(part.backwards for part in attacks)),
            known="at most",
            seconds=share * sum(part.seconds or 0.0 for part in attacks) * self.devices,
            done=all(part.done for part in attacks),
        )

    def _metrics(self, look: LookRate) -> Iterator[Part]:
        """The embeddings that metrics ask for, and what measuring takes beside passes."""
        made = {choice.use: self.builder.component(choice).build() for choice in self.spec.metrics}
        metrics = {name: metric for name, metric in made.items() if self.dataset.task in metric.tasks}
        evaluated = self.spec.evaluation.split
        splits = {want.split or evaluated for metric in metrics.values() for want in metric.latents}
        clips = {split: self._clips(split) for split in sorted({evaluated, *splits})}
        for split in sorted(splits):
            count = clips[split]
            seconds = count * (look.reading + look.forward) / self.devices
            yield Part(f"embeddings of {split}", count, count, 0, "exactly", seconds)
        widths = {name: shape[-1] for name, shape in look.layers.items()}
        for name, metric in metrics.items():
            if metric.latents or metric.probes:
                taken = metric.seconds(clips, widths, evaluated)
                yield Part(name, self.evaluated, 0, 0, "unknown" if taken is None else "about", taken)

    def _clips(self, split: str) -> int:
        """The clips of a split that are read for anything but a fit."""
        section = self.spec.evaluation
        if split == section.split:
            return self.evaluated
        if split == "train" and self.sizes.learned is not None:
            return self.sizes.learned
        return len(select(self.dataset, split))

    def _disk(self, cell: PlannedCell, look: LookRate) -> int:
        """Weights twice (the best, the last), layers as metrics ask for them, and a row per clip and evaluation."""
        asked: dict[str, set[str]] = {}
        for component in map(self.builder.component, self.spec.metrics):
            for want in component.build().latents:
                asked.setdefault(want.split or self.spec.evaluation.split, set()).update(want.kinds)
        layers = 0
        for split, kinds in asked.items():
            numbers = [shape for name, shape in look.layers.items() if name.split("/")[0] in kinds]
            layers += self._clips(split) * sum(4 * math.prod(shape) for shape in numbers)
        rows = len(cell.evaluations) * self.evaluated * (4 * len(self.dataset.classes) + ROW_BYTES)
        return 2 * look.weights + layers + rows


def attack_passes(builder: Builder, dataset: Dataset, evaluation: PlannedEvaluation) -> Passes | None:
    """The passes of each clip under an attack, as its results count them; of one sample of the model.

    A curve runs the attack once for each factor, from where the smaller one ended, on the clips that are not broken
    yet; an attack that looks for the smallest perturbation runs once.

    Returns:
        None if the attack does not state it; none for clean predictions and threats that touch nothing of the model.
    """
    if evaluation.attack is None or evaluation.applied is None:
        return NO_PASSES
    entry, attack = builder.spec.attacks[evaluation.attack], builder.attack(evaluation.attack)
    exact = builder.spec.engine.attack_precision == "32-true"
    first_time = replace(occasion(builder, dataset, evaluation.attack, evaluation.applied), exact=exact)
    first = attack.passes(first_time)
    if first is None or attack.minimal or len(entry.factors) == 1:
        return first
    later = attack.passes(first_time.begun())
    return None if later is None else first + later.times(len(entry.factors) - 1)


def occasion(builder: Builder, dataset: Dataset, attack: str, threat: ThreatModel) -> Occasion:
    """What decides how many passes an attack of the spec takes, in float32.

    Args:
        builder: of the study.
        dataset: of the study.
        attack: its name in the spec.
        threat: what it may change.
    """
    return Occasion(
        classes=len(dataset.classes),
        task=dataset.task,
        norms=frozenset(budget.norm for _, budget in threat.items()),
        targeted=builder.spec.attacks[attack].goal != "untargeted",
        repeatable=builder.spec.evaluation.samples == 1,
        exact=True,
    )


def _seconds(passes: Passes, rate: AttackRate) -> float:
    """Each backward pass comes with a forward pass and a step; the other forward passes are looks."""
    return passes.backwards * rate.step + max(passes.forwards - passes.backwards, 0) * rate.look
