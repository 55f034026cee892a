"""What metrics are tried on: a linear model, and clips of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from avrobust_core.data.media import Task
from avrobust_core.metrics.latents import Latents
from avrobust_core.metrics.metric import Metric, Subject
from avrobust_core.metrics.probe import Probe, layers_of
from avrobust_core.testing.oracles import SHAPES, LinearOracle

CLIPS = 60
"""In each split."""
CLASSES = ("a", "b", "c", "d")


class World:
    """A linear model and the clips of one task, which it classifies mostly right.

    Args:
        task: one label per clip, or several.
    """

    def __init__(self, task: Task) -> None:
        self.task: Task = task
        self.model = LinearOracle.random(classes=len(CLASSES)).eval()

    def subject(self, metric: Metric, order: Sequence[int] = range(CLIPS)) -> Subject:
        """The subject that the core would give this metric, the evaluated clips in some order."""
        evaluated = self.latents("test", order)
        rows = tuple(order)
        asked = dict.fromkeys(wanted.split or "test" for wanted in metric.latents)
        return Subject(
            ids=evaluated.ids,
            logits=evaluated.logits,
            targets=evaluated.targets,
            classes=CLASSES,
            task=self.task,
            resamples=100,
            latents={split: evaluated if split == "test" else self.latents(split) for split in asked},
            probe=Probe(self.model, partial(self._read, rows), batch_size=16) if metric.probes else None,
        )

    def _read(self, order: Sequence[int], split: str, positions: Sequence[int]) -> dict[str, Tensor]:
        rows = [order[i] for i in positions] if split == "test" else positions
        generator = torch.Generator().manual_seed(len(split))
        whole = {name: torch.rand(CLIPS, *shape, generator=generator) for name, shape in sorted(SHAPES.items())}
        return {name: x[torch.as_tensor(rows)] for name, x in whole.items()}

    @torch.no_grad()
    def latents(self, split: str, order: Sequence[int] = range(CLIPS)) -> Latents:
        """The embeddings of a split's clips, in some order: arrays of this call alone."""
        encoded = self.model.encode(self._read(range(CLIPS), split, order))
        fused = self.model.fusion(encoded)
        logits = self.model.head(fused)
        noise = torch.randn(CLIPS, len(CLASSES), generator=torch.Generator().manual_seed(7))[torch.as_tensor(order)]
        scores = logits + 0.3 * logits.std() * noise
        if self.task == "single-label":
            targets = scores.argmax(dim=1)
        else:
            targets = ((scores > 0) | nn.functional.one_hot(scores.argmax(dim=1), len(CLASSES)).bool()).float()
        layers = layers_of(self.model, encoded, fused, ("pooled", "tokens", "fused"))
        arrays = {name: layer.numpy() for name, layer in layers.items()}
        for array in arrays.values():
            array.flags.writeable = False  # as memory-mapped ones are
        return Latents(
            ids=tuple(f"{split}-{row}" for row in order),
            targets=targets.numpy(),
            logits=logits.numpy(),
            layers=arrays,
        )
