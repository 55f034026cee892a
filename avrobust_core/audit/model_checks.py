"""Checks of a model by itself: the same clips again, other draws, a modality from another clip."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core.audit.case import Case
from avrobust_core.audit.checks import Check, not_applicable
from avrobust_core.audit.meter import Meter
from avrobust_core.model import AVModel
from avrobust_core.naming import first_of

REPEATED_CLIPS = 8

SWAPPED_CLIPS = 32

FEWEST_SWAPPED = 20
"""Clips of which not one changes its class with another clip's modality: from so many on it tells something."""

FEWEST_IGNORED = 4
"""Clips whose outputs do not move at all: a few are enough."""

IGNORED = 1e-4
"""Outputs that move by no more than this share of the largest stand still."""


@dataclass(slots=True)
class Behaviour:
    """What is known of a model from passes of clean clips.

    Attributes:
        random: whether two passes of the same clip differ.
        checks: what was found.
        flips: by modality, for each clip by its position whether another clip's modality changed its class.
    """

    random: bool = False
    checks: list[Check] = field(default_factory=list)
    flips: dict[str, dict[int, bool]] = field(default_factory=dict)


def behaviour(case: Case, meter: Meter) -> Behaviour:
    """Look at a model on clean clips, at the cost of at most a third of what the meter has left."""
    found = Behaviour()
    part = meter.part(0.12)
    found.checks += _repeated(case, part, found)
    meter.take(part)
    part = meter.part(0.2)
    found.checks += _swapped(case, part, found)
    meter.take(part)
    return found


def _repeated(case: Case, meter: Meter, found: Behaviour) -> Iterator[Check]:
    samples = case.victim.samples
    count = meter.affords(3 * samples, REPEATED_CLIPS)
    if not count:
        why = f"the budget of {meter.limit} passes is less than 3 for a clip"
        yield from (not_applicable(check, why) for check in ("randomness", "loader"))
        return
    positions = case.order[:count]
    batch = case.read(case.ids(positions))
    backwards = torch.arange(len(batch) - 1, -1, -1, device=batch.targets.device)
    half = (len(batch) + 1) // 2
    first = case.victim.logits(batch.inputs)
    again = case.victim.logits(batch.inputs)
    # The same clips, in other company and in another order.
    turned = torch.cat([case.victim.logits(batch.select(part).inputs) for part in torch.split(backwards, half)])[
        backwards
    ]
    meter.spent += 3 * count * samples
    tolerance = case.victim.rounding(first.device)
    apart = torch.maximum((first - again).abs(), (first - turned).abs()).amax(dim=1) / _scale(first)
    differing = apart > tolerance
    moves = bool(differing.any())
    # Whoever asks for several draws says that there is something to draw, be it less than rounding may come to.
    found.random = moves or samples > 1
    ids = _named(batch.ids, differing)
    only_company = moves and not bool(((first - again).abs().amax(dim=1) / _scale(first) > tolerance).any())
    if not moves:
        yield Check(check="randomness", status="passed", message=f"{count} clips give the same outputs three times")
    elif samples > 1:
        yield Check(
            check="randomness",
            status="passed",
            message=f"the model is random, and stood as the mean of {samples} draws: numbers hold for that mean",
        )
    else:
        why = "in another batch" if only_company else "at another pass"
        yield Check(
            check="randomness",
            status="failed",
            message=f"the outputs of {len(ids)} of {count} clips differ {why} ({first_of(ids)}), by up to "
            f"{float(apart.max()):.2g} of the largest: the model draws at random or mixes the clips of a batch, and a "
            "clip counts as broken at one lucky draw, or as robust by luck",
            clips=ids,
            figures={"clips": count, "differing": len(ids), "largest": float(apart.max())},
        )
    yield _loader(case, positions, batch.targets, first, moves)


def _loader(case: Case, positions: NDArray[np.int64], targets: Tensor, logits: Tensor, random: bool) -> Check:
    recorded = torch.from_numpy(case.clean.logits[positions]).to(logits)
    other = (logits - recorded).abs().amax(dim=1) / _scale(logits) > 10 * case.victim.rounding(logits.device)
    labels = torch.from_numpy(case.clean.targets[positions]).to(targets)
    wrong = (labels != targets).flatten(1).any(dim=1) if targets.dim() > 1 else labels != targets
    differing = wrong if random else wrong | other
    ids = case.ids(positions[differing.cpu().numpy()])
    return Check(
        check="loader",
        status="failed" if ids else "passed",
        message=f"read again, {len(ids)} of {len(positions)} clips have other targets or outputs ({first_of(ids)}): "
        "the loader shuffles, or changes clips at random"
        if ids
        else f"{len(positions)} clips read again are as they were; what every attack read was compared, too",
        clips=ids,
    )


def _swapped(case: Case, meter: Meter, found: Behaviour) -> Iterator[Check]:
    model = case.victim.model
    names = sorted(model.encoders) if isinstance(model, AVModel) else None
    samples = case.victim.samples
    positions = case.first(case.clean.correct, SWAPPED_CLIPS)
    predicted = case.clean.logits.argmax(axis=1)
    pairs = _pairs(positions, predicted)
    few = f"{meter.limit} passes are not enough for {FEWEST_IGNORED} clips, or the model knows one class alone"
    if meter.affords(2 * samples, len(pairs)) < FEWEST_IGNORED:
        yield not_applicable("modality-use", few)
        return
    modalities = names or sorted(case.read(case.ids(case.order[:1])).inputs)
    count = meter.affords(samples * len(modalities), len(pairs))
    if len(modalities) < 2:
        yield not_applicable("modality-use", "the model reads one modality alone")
        return
    if found.random and samples == 1:
        yield not_applicable("modality-use", "the model's outputs change by themselves")
        return
    if count < FEWEST_IGNORED:
        yield not_applicable("modality-use", few)
        return
    pairs = pairs[:count]
    moved: dict[str, list[float]] = {name: [] for name in modalities}
    found.flips = {name: {} for name in modalities}
    for start in range(0, count, case.batch_size):
        chunk = pairs[start : start + case.batch_size]
        own, donors = np.array([a for a, _ in chunk]), np.array([b for _, b in chunk])
        batch, others = case.read(case.ids(own)), case.read(case.ids(donors))
        for name in modalities:
            logits = case.victim.logits({**batch.inputs, name: others.inputs[name]})
            meter.spent += len(chunk) * samples
            clean = torch.from_numpy(case.clean.logits[own]).to(logits)
            change = (logits - clean).abs().amax(dim=1) / _scale(clean)
            moved[name] += change.tolist()
            flipped = (logits.argmax(dim=1) != clean.argmax(dim=1)).tolist()
            found.flips[name].update(zip(own.tolist(), flipped, strict=True))
    yield from (_use(case, name, moved[name], found.flips[name]) for name in modalities)


def _use(case: Case, name: str, moved: list[float], flips: dict[int, bool]) -> Check:
    flipped = sum(flips.values())
    figures = {"clips": len(moved), "changed": flipped, "largest_move": max(moved)}
    ignored = max(moved) <= IGNORED
    if ignored or (not flipped and len(moved) >= FEWEST_SWAPPED):
        how = (
            "do not move at all"
            if ignored
            else f"move by at most {max(moved):.2g} of the largest, and never change class"
        )
        return Check(
            check="modality-use",
            modality=name,
            status="failed",
            message=f"with another clip's {name} the outputs of {len(moved)} clips {how}: the model does not decide by "
            f"{name}, so that what was found of attacks on {name} says nothing",
            clips=case.ids(np.array(list(flips))),
            figures=figures,
        )
    if not flipped:
        why = f"{name}: only {len(moved)} clips could be tried, and none changed its class"
        return not_applicable("modality-use", why)
    return Check(
        check="modality-use",
        modality=name,
        status="passed",
        message=f"with another clip's {name}, {flipped} of {len(moved)} clips change their class",
        figures=figures,
    )


def _pairs(positions: NDArray[np.int64], predicted: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Each clip with the next one in the list, around its end, that the model puts into another class."""
    found = []
    for place, position in enumerate(positions):
        others = np.concatenate([positions[place + 1 :], positions[:place]])
        donors = others[predicted[others] != predicted[position]]
        if len(donors):
            found.append((int(position), int(donors[0])))
    return found


def _scale(logits: Tensor) -> Tensor:
    return logits.abs().amax(dim=1).clamp(min=1e-12)


def _named(ids: tuple[str, ...], flags: Tensor) -> tuple[str, ...]:
    return tuple(clip_id for clip_id, flag in zip(ids, flags.tolist(), strict=True) if flag)
