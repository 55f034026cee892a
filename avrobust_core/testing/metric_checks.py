"""Checks of metrics: of predictions, of latent spaces, of models that are probed."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from avrobust_core.data.media import Task
from avrobust_core.metrics.findings import checked_measurement
from avrobust_core.metrics.latents import Latents
from avrobust_core.metrics.metric import Measurement, Metric, Subject
from avrobust_core.metrics.probe import Probe, layers_of
from avrobust_core.testing.component_subjects import ComponentSubject
from avrobust_core.testing.oracles import SHAPES, LinearOracle
from avrobust_core.testing.running import CheckFailed, NotApplicable

CLIPS = 60
"""In each split."""
CLASSES = ("a", "b", "c", "d")


class _World:
    """A linear model and the clips of one task, which it classifies mostly right."""

    def __init__(self, task: Task) -> None:
        self.task: Task = task
        self.model = LinearOracle.random(classes=len(CLASSES)).eval()

    def subject(self, metric: Metric, order: Sequence[int] = range(CLIPS)) -> Subject:
        """The subject that the core would give this metric, the evaluated clips in some order."""
        evaluated = self.latents("test", order)
        asked = dict.fromkeys(wanted.split or "test" for wanted in metric.latents)
        return Subject(
            ids=evaluated.ids,
            logits=evaluated.logits,
            targets=evaluated.targets,
            classes=CLASSES,
            task=self.task,
            resamples=100,
            latents={split: evaluated if split == "test" else self.latents(split) for split in asked},
            probe=Probe(self.model, partial(self._read, order), batch_size=16) if metric.probes else None,
        )

    def _read(self, order: Sequence[int], split: str, positions: Sequence[int]) -> dict[str, Tensor]:
        rows = [order[i] for i in positions] if split == "test" else positions
        generator = torch.Generator().manual_seed(len(split))
        whole = {name: torch.rand(CLIPS, *shape, generator=generator) for name, shape in sorted(SHAPES.items())}
        return {name: x[torch.as_tensor(rows)] for name, x in whole.items()}

    @torch.no_grad()
    def latents(self, split: str, order: Sequence[int] = range(CLIPS)) -> Latents:
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


def check_measurement(subject: ComponentSubject) -> None:
    """It measures each of its tasks, the same twice; what it returns has the shapes that it should have."""
    metric: Metric = subject.build()
    for task in sorted(metric.tasks):
        world = _World(task)
        given = world.subject(metric)
        first, second = (checked_measurement(metric.measure(given), subject.entry.described, CLIPS) for _ in range(2))
        if not first.values or first.values != second.values:
            raise CheckFailed(f"measuring the same {task} clips twice gave {first.values} and {second.values}")
        _well_formed(first, given)


def check_clip_order(subject: ComponentSubject) -> None:
    """Its findings do not depend on the order of the clips."""
    metric: Metric = subject.build()
    order = torch.randperm(CLIPS, generator=torch.Generator().manual_seed(3)).tolist()
    for task in sorted(metric.tasks):
        world = _World(task)
        plain, moved = (metric.measure(world.subject(metric, rows)) for rows in (range(CLIPS), order))
        for name, estimate in plain.values.items():
            other = moved.values[name].value
            if not math.isclose(estimate.value, other, rel_tol=1e-4, abs_tol=1e-6) and estimate.value == estimate.value:
                raise CheckFailed(f"{name} is {estimate.value} of {task} clips, but {other} in another order of them")
        for name, values in plain.per_clip.items():
            if not np.allclose(values[order], moved.per_clip[name], rtol=1e-3, atol=1e-5, equal_nan=True):
                raise CheckFailed(f"{name} of a clip is another where the clips are in another order")


def check_groups(subject: ComponentSubject) -> None:
    """Its intervals are over groups, and are marked so, if clips were drawn in groups; its numbers stay as they are."""
    metric: Metric = subject.build()
    for task in sorted(metric.tasks):
        given = _World(task).subject(metric)
        plain = metric.measure(given)
        grouped = metric.measure(replace(given, groups=tuple(f"group {i % 12}" for i in range(CLIPS))))
        for name, estimate in grouped.values.items():
            value = plain.values[name].value
            if estimate.value != value and value == value:
                raise CheckFailed(f"{name} is {value} of {task} clips, but {estimate.value} of the same in groups")
            if estimate.method != "none" and estimate.groups is None:
                raise CheckFailed(
                    f"the interval of {name} is over clips where clips were drawn in groups: hand `subject.groups` to "
                    "`bootstrap` or `share`"
                )


def check_model_unchanged(subject: ComponentSubject) -> None:
    """A model that it probes is as it was: weights, buffers, training flags."""
    metric: Metric = subject.build()
    if not metric.probes:
        raise NotApplicable("it does not probe the model")
    world = _World(sorted(metric.tasks)[0])
    before = {name: x.clone() for name, x in world.model.state_dict().items()}
    metric.measure(world.subject(metric))
    if any(not torch.equal(x, before[name]) for name, x in world.model.state_dict().items()):
        raise CheckFailed("it changed the model's weights or buffers")
    if any(module.training for module in world.model.modules()):
        raise CheckFailed("it left the model in training mode")


def check_bare_embeddings(subject: ComponentSubject) -> None:
    """A metric that reads no predictions measures bare embeddings: no logits, no model, any layer's name."""
    metric: Metric = subject.build()
    if metric.predictions:
        raise NotApplicable("it reads predictions")
    for task in sorted(metric.tasks):
        given = _World(task).subject(metric)
        latents = _World(task).latents("test")
        bare = replace(
            latents, logits=np.zeros((CLIPS, 0), dtype=np.float32), layers={"embeddings": latents.layers["fused"]}
        )
        alone = replace(given, logits=bare.logits, latents=dict.fromkeys(given.latents, bare), probe=None)
        found = metric.measure(alone)
        if not found.values:
            raise CheckFailed("it found nothing in bare embeddings: set `predictions` if it needs logits")
        _well_formed(found, alone)


def _well_formed(found: Measurement, given: Subject) -> None:
    for name, classes in found.per_class.items():
        if unknown := set(classes) - set(given.classes):
            raise CheckFailed(f"per_class[{name!r}] has unknown classes: {', '.join(sorted(map(str, unknown)))}")
    for name, values in found.per_clip.items():
        if np.shape(values) != (len(given.ids),):
            raise CheckFailed(f"per_clip[{name!r}] is of shape {np.shape(values)}, not ({len(given.ids)},)")
    try:
        json.dumps(found.details, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckFailed(f"details are not JSON data: {error}") from error
