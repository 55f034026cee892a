"""Checks of metrics: of predictions, of latent spaces, of models that are probed."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from avrobust_core.metrics.findings import checked_measurement
from avrobust_core.metrics.metric import Measurement, Metric, Subject
from avrobust_core.testing.component_subjects import ComponentSubject
from avrobust_core.testing.independence_checks import global_state, refuse_moved, seeded_globals
from avrobust_core.testing.interval_checks import same_estimates
from avrobust_core.testing.metric_world import CLIPS, World
from avrobust_core.testing.running import CheckFailed, NotApplicable


def check_measurement(subject: ComponentSubject) -> None:
    """It measures each of its tasks, the same twice; what it returns has the shapes that it should have."""
    metric: Metric = subject.build()
    for task in sorted(metric.tasks):
        world = World(task)
        given = world.subject(metric)
        first = checked_measurement(metric.measure(given), subject.entry.described, CLIPS)
        metric.measure(world.subject(metric, range(CLIPS // 2)))  # of which nothing may stay in it
        for who, again in ((metric, "twice"), (subject.build(), "by two metrics of one configuration")):
            second = who.measure(world.subject(who))
            if not first.values or not same_estimates(first.values.items(), second.values.items()):
                raise CheckFailed(f"measuring the same {task} clips {again} gave {first.values} and {second.values}")
        _well_formed(first, given)


def check_subject_unchanged(subject: ComponentSubject) -> None:
    """It leaves what it is given as it is: logits, targets, embeddings."""
    metric: Metric = subject.build()
    for task in sorted(metric.tasks):
        given = World(task).subject(metric)
        before = copy.deepcopy(dict(_arrays(given)))
        metric.measure(given)
        if changed := [name for name, array in _arrays(given) if array.tobytes() != before[name].tobytes()]:
            raise CheckFailed(
                f"it wrote into the {' and the '.join(changed)} of the {task} clips that it was given: every metric "
                "after it measures something else; work on a copy"
            )


def check_metric_random_state(subject: ComponentSubject) -> None:
    """Global random states and settings are left alone, and what it finds does not depend on them."""
    metric: Metric = subject.build()
    for task in sorted(metric.tasks):
        found = []
        with seeded_globals() as seeds:
            for _ in seeds:
                given = World(task).subject(metric)
                before = global_state()
                found.append(metric.measure(given))
                refuse_moved(before, "draw from numpy.random.default_rng(subject.seed)")
        if not same_estimates(*(each.values.items() for each in found)):
            raise CheckFailed(
                f"what it finds of the same {task} clips depends on the global random state: draw from "
                "numpy.random.default_rng(subject.seed)"
            )


def _arrays(given: Subject) -> Iterator[tuple[str, NDArray[Any]]]:
    yield "logits", given.logits
    yield "targets", given.targets
    for split, latents in given.latents.items():
        yield f"targets of {split}", latents.targets
        yield f"logits of {split}", latents.logits
        yield from ((f"{layer} of {split}", np.asarray(array)) for layer, array in latents.layers.items())


def check_clip_order(subject: ComponentSubject) -> None:
    """Its findings do not depend on the order of the clips."""
    metric: Metric = subject.build()
    order = torch.randperm(CLIPS, generator=torch.Generator().manual_seed(3)).tolist()
    for task in sorted(metric.tasks):
        world = World(task)
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
        plain = metric.measure(World(task).subject(metric))
        given = World(task).subject(metric)
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
    world = World(sorted(metric.tasks)[0])
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
        given = World(task).subject(metric)
        latents = World(task).latents("test")
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
