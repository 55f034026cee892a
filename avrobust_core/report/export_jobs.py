"""What is exported, whoever asks for it: models with their clips and attacks, and what is known of these."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from avrobust_core.attacks.running import AttackRun
from avrobust_core.attacks.victim import Victim
from avrobust_core.data.batches import Batch
from avrobust_core.data.media import MediaSpec, Task
from avrobust_core.errors import RunError
from avrobust_core.evaluation.outcomes import Intervals
from avrobust_core.evaluation.predictions import Predictions
from avrobust_core.naming import first_of
from avrobust_core.randomness import derive_seed
from avrobust_core.registry.registry import Registry
from avrobust_core.study.console import Monitor
from avrobust_core.threats.budgets import ThreatModel


@dataclass(frozen=True, slots=True)
class Origin:
    """What the clips are of, and what they are worked on with.

    Attributes:
        media: of each modality.
        classes: their names, in the order of the logits.
        task: of the models.
        split: of the data set.
        intervals: their settings, with the groups of clips.
        registry: where the data set that reads the files is looked up.
        device: the models'.
        batch_size: clips per call of a model.
        monitor: shows each step.
    """

    media: Mapping[str, MediaSpec]
    classes: Sequence[str]
    task: Task
    split: str
    intervals: Intervals
    registry: Registry
    device: torch.device
    batch_size: int
    monitor: Monitor


@dataclass(frozen=True, slots=True)
class JobAttack:
    """An attack that is carried out again.

    Attributes:
        attack, threat: their names.
        run: what is carried out.
        success: by clip, whether it succeeded before; None if that is not known.
        rate: its success rate over all clips then, with its interval; None if that is not known.
    """

    attack: str
    threat: str
    run: AttackRun
    success: Mapping[str, bool] | None
    rate: Mapping[str, Any] | None

    @property
    def label(self) -> str:
        """For messages: "pgd/both"."""
        return f"{self.attack}/{self.threat}"


@dataclass(frozen=True, slots=True)
class Job:
    """A model with the clips and the attacks that are exported.

    Attributes:
        label: of the model, for messages and folders.
        names: what export.json calls it.
        victim: the model.
        ids: the clips.
        correct: for each of the clips, whether it is classified correctly when it is clean.
        attacks: to be carried out again.
        batches: from what it is for, as messages say it, to these clips in this order, on the CPU, at most
            `Origin.batch_size` at a time.
        ready: from an attack's run to the same after the attack has seen the clips that it prepares from.
    """

    label: str
    names: Mapping[str, Any]
    victim: Victim
    ids: Sequence[str]
    correct: Sequence[bool]
    attacks: Sequence[JobAttack]
    batches: Callable[[str], Iterator[Batch]]
    ready: Callable[[AttackRun], AttackRun]


def first_right(clean: Predictions, clips: int) -> set[str]:
    """The first so many clips, by a hash of their ids, that are classified correctly."""
    right = [name for name, correct in zip(clean.ids, clean.correct, strict=True) if correct]
    return set(sorted(right, key=lambda name: derive_seed("evaluation", name))[:clips])


def how_chosen(clips: int, ids: Sequence[str] | None) -> str:
    """For people, how clips were chosen: by `first_right`, or by their ids."""
    if ids is not None:
        return "by their ids"
    return f"of each model the first {clips}, by a hash of their ids, that it classifies correctly"


def refuse_features(label: str, threat: ThreatModel) -> None:
    """Refuse an attack on features.

    Raises:
        RunError: says which.
    """
    features = [name for name, budget in threat.items() if budget.space != "input"]
    if features:
        raise RunError(
            f"{label} attacks features of {first_of(features)}, which no media file holds: name other attacks to be "
            "exported"
        )


def refuse_taken(out: Path) -> None:
    """Refuse a folder for an export that is there already.

    Raises:
        RunError: if it is, and not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} is there already, and not empty: choose another folder, or delete it")
