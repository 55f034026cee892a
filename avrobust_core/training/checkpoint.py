"""The file from which a killed fit goes on."""

import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from avrobust_core.data.loading import ClipNotes
from avrobust_core.errors import RunError
from avrobust_core.files import write_atomically
from avrobust_core.models.checkpoints import torch_load
from avrobust_core.models.module_state import plain_state, take_state
from avrobust_core.plain_text import plain_text
from avrobust_core.training.steps import Steps


@dataclass(slots=True)
class Progress:
    """The progress of a fit: all that a resumed fit needs beside weights, optimiser and augmentations.

    Attributes:
        epoch: epochs that are done.
        step: batches of the present epoch that are done.
        loss_sum: of the clips of the present epoch.
        hits: of the same clips, those that were classified correctly.
        seen: the number of these clips.
        seconds: that the present epoch has taken.
        between: those of them that augmentations have taken before its first step and after its last.
        forwards: of clips through the model, of the whole fit.
        backwards: the same.
        best: what the best epoch reached on the validation clips, and minus its loss on them.
        best_epoch: its number, from 1.
        history: the rows of history.jsonl.
        clip_notes: of the clips that could not be read, or are odd; see `Skipped.to_json`.
    """

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
    clip_notes: dict[str, ClipNotes] = field(default_factory=dict)

    def next_epoch(self) -> None:
        """Begin the next epoch, of which nothing is known yet."""
        self.epoch, self.step, self.seen = self.epoch + 1, 0, 0
        self.loss_sum = self.hits = self.seconds = self.between = 0.0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A fit on disk: weights and their average, optimiser, scale of the loss, augmentations and progress.

    Attributes:
        path: of the file.
        model: its weights are saved and restored, as are those of what follows.
        steps: with the optimiser, the scale of the loss (in float16), the average and the augmentations.
    """

    path: Path
    model: nn.Module
    steps: Steps

    def save(self, progress: Progress) -> None:
        """Write the file, whole or not at all."""
        steps = self.steps
        content = {
            "model": plain_state(self.model),
            "optimizer": steps.optimizer.state_dict(),
            "scale": steps.fabric.strategy.precision.state_dict(),
            "average": None if steps.average is None else steps.average.state_dict(),
            "progress": asdict(progress),
            "augmentations": steps.learner.state_dict(),
        }
        write_atomically(self.path, lambda file: torch.save(content, file))

    def resume(self, device: torch.device) -> Progress:
        """Restore everything from the file; where there is none, return the progress of a fit that has not begun.

        Raises:
            RunError: if the file cannot be read, is damaged, or belongs to another fit.
        """
        if not self.path.exists():
            return Progress()
        try:
            with zipfile.ZipFile(self.path) as archive:
                damaged = archive.testzip()  # torch.load does not look at the checksums
            content = torch_load(self.path, device)
            take_state(self.model, content["model"])
            steps = self.steps
            steps.optimizer.load_state_dict(content["optimizer"])
            steps.fabric.strategy.precision.load_state_dict(content["scale"])
            if steps.average is not None:
                steps.average.load_state_dict(content["average"])
            progress = Progress(**content["progress"])
            steps.learner.load_state_dict(content["augmentations"])
        except Exception as error:  # a damaged file may hold anything
            raise RunError(
                f"{self.path}: cannot be read ({plain_text(error, 300)}); delete it to fit from the start"
            ) from error
        if damaged is not None:
            raise RunError(f"{self.path}: is damaged (in {damaged}); delete it to fit from the start")
        return progress
