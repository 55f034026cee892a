"""Checks of augmentations: their cost, their side effects and their state."""

from __future__ import annotations

import io
import itertools
import pickle
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from avrobust_core.registry.loading import one_line
from avrobust_core.testing.augmentation_subjects import CLASSES, CLIPS, IDS, AugmentationSubject, Course, difference
from avrobust_core.testing.independence_checks import global_state
from avrobust_core.testing.models import stateful_model
from avrobust_core.testing.running import CheckFailed, NotApplicable
from avrobust_core.training.costs import Cost, counting


def check_global_random_state(subject: AugmentationSubject) -> None:
    """Global random states and global settings are as they were."""

    def watch(method: Callable[..., Any], *arguments: Any) -> Any:
        before = global_state()
        found = method(*arguments)
        if changed := [name for name, value in global_state().items() if value != before[name]]:
            raise CheckFailed(
                f"{method.__name__} changed {', '.join(changed)}: draw from ClipDraws, and restore what you must set"
            )
        return found

    for scene in subject.scenes():
        list(Course(subject.make(), scene, watch=watch).two_epochs())


def check_cost(subject: AugmentationSubject) -> None:
    """It adds to step.cost all passes through the model's head beside training's own."""
    for scene in subject.scenes():
        course = Course(subject.make(), scene)
        for epoch in range(2):
            for seen in course.epoch(epoch, stop=CLIPS):
                _honest(seen.spent, seen.counted)
            _honest(*course.end_epoch(epoch))


def _honest(spent: Cost, counted: Cost) -> None:
    for name in ("forwards", "backwards"):
        said, found = getattr(spent, name), getattr(counted, name)
        if said != found:
            raise CheckFailed(
                f"it put {found} clips through the model beside training's own pass ({name}), and added {said} to "
                f"step.cost.{name}"
            )


def check_model_unchanged(subject: AugmentationSubject) -> None:
    """Weights, buffers, gradients, requires_grad and training flags are as they were after each of its methods.

    `loss` may move the statistics of normalisation, as a training pass does that it adds to the loss.
    """
    for scene in subject.scenes():
        shapes = {name: spec.shape for name, spec in scene.media.items()}
        model = stateful_model(shapes, CLASSES).train()
        next(iter(model.parameters())).requires_grad_(False)  # a frozen one must not be thawed
        list(Course(subject.make(), scene, model=model, watch=partial(_watched_model, model)).two_epochs())


def _watched_model(model: nn.Module, method: Callable[..., Any], *arguments: Any) -> Any:
    """Call a method of an augmentation; refuse one that changes the model."""
    before = _state(model)
    found = method(*arguments)
    for what, now in _state(model).items():
        if (method.__name__, what) != ("loss", "buffers") and not _alike(before[what], now):
            raise CheckFailed(
                f"{method.__name__} changed the model's {what}: take gradients with torch.autograd.grad, and put back "
                "what you set"
            )
    return found


def _state(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The parts of a model that must not be changed, copied."""
    parameters = dict(model.named_parameters())
    return {
        "weights": {name: p.detach().clone() for name, p in parameters.items()},
        "buffers": {name: b.detach().clone() for name, b in model.named_buffers()},
        "gradients": {name: None if p.grad is None else p.grad.clone() for name, p in parameters.items()},
        "requires grad": {name: p.requires_grad for name, p in parameters.items()},
        "training flags": {name: module.training for name, module in model.named_modules()},
    }


def check_order(subject: AugmentationSubject) -> None:
    """The order of an epoch's clips is as many positions as there are clips, the same twice, without the model."""
    chosen = False
    for scene in subject.scenes():
        augmentation = subject.make()
        course = Course(augmentation, scene, ordered=False)
        for epoch in range(3):
            spent = Cost()
            with counting(course.learner.model, spent):
                first, second = (augmentation.order(IDS, course.where(epoch)) for _ in range(2))
            if spent.forwards:
                raise CheckFailed("order put clips through the model: it must be a function of the state and the step")
            if first is not None:
                chosen = True
                found = np.asarray(first)
                if not np.issubdtype(found.dtype, np.integer) or found.shape != (CLIPS,):
                    raise CheckFailed(f"order gave {found.dtype} of shape {found.shape}, not ({CLIPS},) positions")
                if found.min() < 0 or found.max() >= CLIPS:
                    raise CheckFailed(f"order gave positions from {found.min()} to {found.max()} of {CLIPS} clips")
            if not _alike(first, second):
                raise CheckFailed("order gave other positions when it was asked again: it must not change the state")
            list(course.epoch(epoch))
    if not chosen:
        raise NotApplicable("it leaves the order of the clips as it is")


def check_resumed(subject: AugmentationSubject) -> None:
    """Resumed from its state, after an epoch or amid one, it goes on as if it had not been interrupted."""
    for scene in subject.scenes():
        for done in (0, 2):
            course = Course(subject.make(), scene)
            list(course.epoch(0))
            passes = course.epoch(1)
            list(itertools.islice(passes, done * course.augmentation.replays))
            resumed = Course(subject.make(), scene)
            resumed.learner.load_state_dict(_through_a_file(course.learner.state_dict()))
            plain = [*passes, *course.epoch(2)]
            other = [*resumed.epoch(1, start=done), *resumed.epoch(2)]
            if where := difference(plain, other):
                raise CheckFailed(
                    f"resumed from its state, it gave other {where} than the one that went on: state_dict must hold "
                    "all that is kept from batch to batch"
                )


def _through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    try:
        return torch.load(file, weights_only=True)
    except Exception as error:
        raise CheckFailed(
            f"its state cannot be read back without executing a pickle ({one_line(error)}): keep tensors, numbers, "
            "strings, lists and dicts"
        ) from error


def check_processes(subject: AugmentationSubject) -> None:
    """Two processes that each train on a part of every batch end an epoch in the same state and order."""
    kept = False
    for scene in subject.scenes():
        courses = [Course(subject.make(), scene, share=(rank, 2)) for rank in range(2)]
        for epoch in range(2):
            for course in courses:
                list(course.epoch(epoch, stop=CLIPS))
            _end_together(courses, epoch)
            states = [course.augmentation.state_dict() for course in courses]
            kept |= bool(states[0])
            orders = [course.augmentation.order(IDS, course.where(epoch + 1)) for course in courses]
            if not _alike(*states) or not _alike(*orders):
                raise CheckFailed("after end_epoch two processes have other states: share what each has seen by gather")
    if not kept:
        raise NotApplicable("it keeps nothing from one epoch to the next")


def _end_together(courses: Sequence[Course], epoch: int) -> None:
    """End an epoch in several processes, played by threads that exchange copies, as processes do."""
    ranks = range(len(courses))
    said: dict[tuple[int, int], SimpleQueue[Any]] = {pair: SimpleQueue() for pair in itertools.product(ranks, ranks)}
    errors: list[Exception] = []

    def gather(rank: int, mine: Any) -> list[Any]:
        for receiver in ranks:
            said[rank, receiver].put(pickle.dumps(mine))
        found = [said[sender, rank].get() for sender in ranks]
        if None in found:
            raise CheckFailed("one process called gather more often than the other: a run would wait for ever")
        return [pickle.loads(one) for one in found]

    def end(rank: int) -> None:
        try:
            courses[rank].end_epoch(epoch, partial(gather, rank))
        except Exception as error:  # noqa: BLE001 - raised again in the main thread
            errors.append(error)
        finally:
            for receiver in ranks:
                said[rank, receiver].put(None)  # it calls no more

    with ThreadPoolExecutor(len(courses)) as threads:
        threads.map(end, ranks)
    if errors:
        raise errors[0]


def _alike(one: Any, other: Any) -> bool:
    """Tell if two states are the same, whatever they are made of."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.allclose(one, other, equal_nan=True)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_alike(x, other[key]) for key, x in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_alike(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)
