"""Checks of a model by itself: the same clips again, other draws, a modality from another clip."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core.audit.case import Case
from avrobust_core.audit.checks import Check, judged, not_applicable
from avrobust_core.audit.meter import Meter
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
    """The behaviour of a model on clean clips.

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
    for share, look in ((0.12, _repeated), (0.2, _swapped)):
        found.checks += look(case, meter.part(share), found)
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
    turned = torch.cat([case.victim.logits(batch.select(part).inputs) for part in torch.split(backwards, half)])
    meter.spend(3 * count * samples)
    tolerance = case.victim.rounding(first.device)
    later = _move(first, again)
    apart = torch.maximum(later, _move(first, turned[backwards]))
    differing = apart > tolerance
    moves = bool(differing.any())
    # Several draws are asked for of random models, even if they move less than rounding does.
    found.random = moves or samples > 1
    ids = case.ids(positions[differing.cpu().numpy()])
    only_company = not bool((later > tolerance).any())
    failed = moves and samples == 1
    yield judged(
        "randomness",
        failed,
        f"the outputs of {len(ids)} of {count} clips differ {'in another batch' if only_company else 'at another pass'}"
        f" ({first_of(ids)}), by up to {float(apart.max()):.2g} of the largest: the model draws at random or mixes the "
        "clips of a batch, and a clip counts as broken at one lucky draw, or as robust by luck",
        f"the model is random, and stood as the mean of {samples} draws: numbers hold for that mean"
        if moves
        else f"{count} clips give the same outputs three times",
        clips=ids,
        figures={"clips": count, "differing": len(ids), "largest": float(apart.max())} if failed else {},
    )
    yield _loader(case, positions, batch.targets, first, moves)


def _loader(case: Case, positions: NDArray[np.int64], targets: Tensor, logits: Tensor, random: bool) -> Check:
    recorded = torch.from_numpy(case.clean.logits[positions]).to(logits)
    other = _move(logits, recorded) > 10 * case.victim.rounding(logits.device)
    labels = torch.from_numpy(case.clean.targets[positions]).to(targets)
    wrong = (labels != targets).reshape(len(positions), -1).any(dim=1)
    differing = wrong if random else wrong | other
    ids = case.ids(positions[differing.cpu().numpy()])
    return judged(
        "loader",
        bool(ids),
        f"read again, {len(ids)} of {len(positions)} clips have other targets or outputs ({first_of(ids)}): "
        "the loader shuffles, or changes clips at random",
        f"{len(positions)} clips read again are as they were; what every attack read was compared, too",
        clips=ids,
    )


def _swapped(case: Case, meter: Meter, found: Behaviour) -> Iterator[Check]:
    samples = case.victim.samples
    positions = case.first(case.clean.correct, SWAPPED_CLIPS)
    predicted = case.clean.logits.argmax(axis=1)
    pairs = _pairs(positions, predicted)
    few = f"{meter.limit} passes are not enough for {FEWEST_IGNORED} clips, or the model knows one class alone"
    if meter.affords(2 * samples, len(pairs)) < FEWEST_IGNORED:
        yield not_applicable("modality-use", few)
        return
    count = meter.affords(samples * len(case.modalities), len(pairs))
    for hindered, why in (
        (len(case.modalities) < 2, "the model reads one modality alone"),
        (found.random and samples == 1, "the model's outputs change by themselves"),
        (count < FEWEST_IGNORED, few),
    ):
        if hindered:
            yield not_applicable("modality-use", why)
            return
    moved: dict[str, list[float]] = {name: [] for name in case.modalities}
    found.flips = {name: {} for name in case.modalities}
    for own, donors in zip(case.chunks(pairs[:count, 0]), case.chunks(pairs[:count, 1]), strict=True):
        batch, others = case.read(case.ids(own)), case.read(case.ids(donors))
        for name in case.modalities:
            logits = case.victim.logits({**batch.inputs, name: others.inputs[name]})
            meter.spend(len(own) * samples)
            clean = torch.from_numpy(case.clean.logits[own]).to(logits)
            moved[name] += _move(clean, logits).tolist()
            flipped = (logits.argmax(dim=1) != clean.argmax(dim=1)).tolist()
            found.flips[name].update(zip(own.tolist(), flipped, strict=True))
    yield from (_use(case, name, moved[name], found.flips[name]) for name in case.modalities)


def _use(case: Case, name: str, moved: list[float], flips: dict[int, bool]) -> Check:
    flipped = sum(flips.values())
    figures = {"clips": len(moved), "changed": flipped, "largest_move": max(moved)}
    ignored = max(moved) <= IGNORED
    failed = ignored or (not flipped and len(moved) >= FEWEST_SWAPPED)
    if not failed and not flipped:
        why = f"{name}: only {len(moved)} clips could be tried, and none changed its class"
        return not_applicable("modality-use", why)
    how = f"move by at most {max(moved):.2g} of the largest, and never change class"
    return judged(
        "modality-use",
        failed,
        f"with another clip's {name} the outputs of {len(moved)} clips {'do not move at all' if ignored else how}: the "
        f"model does not decide by {name}, so that what was found of attacks on {name} says nothing",
        f"with another clip's {name}, {flipped} of {len(moved)} clips change their class",
        modality=name,
        clips=case.ids(flips),
        figures=figures,
    )


def _pairs(positions: NDArray[np.int64], predicted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each clip with the next one in the list, around its end, that the model puts into another class: (P, 2)."""
    found = []
    for place, position in enumerate(positions):
        others = np.concatenate([positions[place + 1 :], positions[:place]])
        donors = others[predicted[others] != predicted[position]]
        if len(donors):
            found.append((position, donors[0]))
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _move(logits: Tensor, others: Tensor) -> Tensor:
    """The largest difference of each clip's outputs (B, K), as a share of the largest of its `logits`: (B,)."""
    return (logits - others).abs().amax(dim=1) / logits.abs().amax(dim=1).clamp(min=1e-12)
