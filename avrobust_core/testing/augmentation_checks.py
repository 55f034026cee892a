"""Checks of augmentations: their results, and what these depend on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from avrobust_core.data.batches import Batch, Encoded
from avrobust_core.testing.augmentation_subjects import (
    BATCH_SIZE,
    CLASSES,
    SCENES,
    AugmentationSubject,
    Course,
    Scene,
    Seen,
    difference,
)
from avrobust_core.testing.running import CheckFailed, NotApplicable

LATE = 1000
"""An epoch by which what changes with the epochs, such as a radius that grows, has changed."""


def check_both_tasks(subject: AugmentationSubject) -> None:
    """It takes clips with one label and clips with several, or refuses them in so many words."""
    if missing := {scene.task for scene in SCENES} - {scene.task for scene in subject.scenes()}:
        raise NotApplicable(f"it refuses {missing.pop()} clips")


def check_batch_unchanged(subject: AugmentationSubject) -> None:
    """The batch that it is given is not changed, and what it returns is of the same clips, shapes, dtypes and device.

    The same holds for encodings.
    """
    for scene in subject.scenes():
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            list(Course(subject.make(), scene, watch=_watched_form, device=device).two_epochs())


def _watched_form(method: Callable[..., Any], *arguments: Any) -> Any:
    """Call a method of an augmentation; refuse one that changes its arguments, or the form of what it is to return."""
    given: Any = arguments[0] if arguments else None
    if method.__name__ in ("begin", "again"):
        before = _copies(_contents(given))
        found = method(*arguments)
        if found is not None:
            if not _equal(_contents(given), before):
                raise CheckFailed("it changed the batch that it was given, in place: return a new one")
            if found.batch.ids != given.ids:
                raise CheckFailed("it returned other clips than it was given: `order` is where clips are chosen")
            _of_same_form("clips", given.inputs, found.batch.inputs)
    elif method.__name__ == "encodings":
        before, targets = _copies(_flat(given)), arguments[1].clone()
        found = method(*arguments)
        if not _equal(_flat(given), before):
            raise CheckFailed("it changed the encodings that it was given, in place: return new ones")
        _of_same_form("encodings", before, _flat(found[0]))
        if not torch.equal(arguments[1], targets):
            raise CheckFailed("it changed the targets that it was given, in place: return new ones")
    else:
        found = method(*arguments)
        if method.__name__ == "loss" and not (
            found.shape == given.shape and found.requires_grad and bool(found.isfinite().all())
        ):
            raise CheckFailed(
                f"loss gave {tuple(found.shape)} of {tuple(given.shape)}, or what is not finite, or has no gradient: "
                "return one loss per clip"
            )
    return found


def _contents(batch: Batch) -> dict[str, Tensor]:
    return {**{f"input {name}": x for name, x in batch.inputs.items()}, "targets": batch.targets}


def _flat(encoded: Mapping[str, Encoded]) -> dict[str, Tensor]:
    return {f"{name} {part}": getattr(found, part) for name, found in encoded.items() for part in ("tokens", "pooled")}


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.detach().clone() for name, x in tensors.items()}


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(x, other[name]) for name, x in one.items())


def _of_same_form(what: str, given: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    if found.keys() != given.keys() or any(found[name].shape != x.shape for name, x in given.items()):
        raise CheckFailed(f"it returned {what} of other shapes than it was given")
    for name, x in given.items():
        if found[name].dtype != x.dtype or found[name].device != x.device:
            raise CheckFailed(
                f"it returned {name} as {found[name].dtype} on {found[name].device}, not as {x.dtype} on {x.device}"
            )


def check_targets(subject: AugmentationSubject) -> None:
    """Targets of the loss are classes, or lie in [0, 1]; soft ones of a single label sum to 1."""
    for scene in subject.scenes():
        for seen in Course(subject.make(), scene).two_epochs():
            targets = seen.targets
            if not targets.is_floating_point():
                if scene.task == "multi-label" or targets.min() < 0 or targets.max() >= CLASSES:
                    raise CheckFailed(f"targets of {scene.name} are {targets.dtype}, or no classes: {targets.tolist()}")
                continue
            if targets.shape != (len(seen.read), CLASSES) or targets.dtype != torch.float32:
                raise CheckFailed(f"soft targets are {targets.dtype} {tuple(targets.shape)}, not float32 (B, K)")
            if not bool(((targets >= 0) & (targets <= 1 + 1e-6)).all()):
                raise CheckFailed(f"targets of {scene.name} lie outside [0, 1]: {targets.min()} to {targets.max()}")
            if scene.task == "single-label" and not torch.allclose(targets.sum(1), torch.ones(len(targets)), atol=1e-5):
                raise CheckFailed("soft targets of clips with one label do not sum to 1")


def check_bounds(subject: AugmentationSubject) -> None:
    """Clips that went through the model lie within the bounds of their media, and are finite."""
    for scene in subject.scenes():
        for seen in Course(subject.make(), scene).two_epochs():
            for name, x in seen.inputs.items():
                low, high = scene.media[name].bounds or (-torch.inf, torch.inf)
                if not bool(((x >= low) & (x <= high) & x.isfinite()).all()):
                    raise CheckFailed(
                        f"{name} of {scene.name} goes from {x.min():.6g} to {x.max():.6g}; its media's bounds are "
                        f"[{low}, {high}]: clip to step.media[{name!r}].bounds"
                    )


def check_repeatable(subject: AugmentationSubject) -> None:
    """It does the same for the same seed and epoch; what depends on the seed depends on the epoch, too."""
    by_seed = by_epoch = False
    for scene in subject.scenes():
        first, again = (list(Course(subject.make(), scene).two_epochs()) for _ in range(2))
        if where := difference(first, again):
            raise CheckFailed(f"the same clips, seed and epochs gave other {where}: draw from ClipDraws.of(seed, ...)")
        plain, seed, epoch = (
            list(Course(subject.make(), scene, seed=s, epochs=2 * LATE, ordered=False).epoch(e, stop=2))
            for s, e in ((0, LATE), (1, LATE), (0, LATE + 1))
        )
        by_seed |= bool(difference(plain, seed))
        by_epoch |= bool(difference(plain, epoch))
    if by_seed and not by_epoch:
        raise CheckFailed("it does the same in every epoch: draw from ClipDraws.of(seed, ids, f'.../{step.epoch}')")
    if by_epoch and not by_seed:
        raise CheckFailed("two late epochs differ, but not two seeds: draw from ClipDraws.of(step.seed, ...)")


def check_clip_order(subject: AugmentationSubject) -> None:
    """The result for a clip does not depend on the order of its batch, unless the augmentation chose that order."""
    for scene in subject.scenes():
        plain, moved = (list(Course(subject.make(), scene, reverse=reverse).two_epochs()) for reverse in (False, True))
        if where := difference(plain, moved):
            raise CheckFailed(
                f"{where} of a clip are others where its batch is in another order: draw the clip's own "
                "random numbers, and choose partners by their ids"
            )


def check_passes_apart(subject: AugmentationSubject) -> None:
    """A pass goes on as it began, even where a pass over another batch begins before it ends."""
    for scene in subject.scenes():
        alone, crossed = (_second_epoch(subject, scene, crossed) for crossed in (False, True))
        if where := difference(alone, crossed):
            raise CheckFailed(
                f"a pass gave other {where} where another one began before it ended: keep what belongs to one pass in "
                "the AugmentedStep that begin returns"
            )


def _second_epoch(subject: AugmentationSubject, scene: Scene, crossed: bool) -> list[Seen]:
    """The passes over the second epoch's first batch, each crossed by one over another batch that is not finished."""

    def watch(method: Callable[..., Any], *arguments: Any) -> Any:
        found = method(*arguments)
        if crossed and method.__name__ == "begin" and arguments[1].epoch == 1:
            method(scene.read(range(BATCH_SIZE, 2 * BATCH_SIZE)), arguments[1])
        return found

    course = Course(subject.make(), scene, watch=watch)
    list(course.epoch(0))
    return list(course.epoch(1, stop=1))
