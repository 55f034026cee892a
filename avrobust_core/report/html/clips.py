"""What happened to the clips: accuracy by class, and which classes are taken for which before and after the attack."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from avrobust_core.report.conditions import WORST, cell_label, conditions_of
from avrobust_core.report.html.numbers import (
    CLEAN,
    Condition,
    condition_name,
    fits_of,
    headline_conditions,
    strongest,
)
from avrobust_core.report.html.reading import Run
from avrobust_core.report.html.view import Column, Fold, Part, Section, Table, Text, Value, table

MOST_ROWS = 1500
"""Rows of the table of classes; with more, each cell keeps those that lose most."""
MOST_CLASSES = 25
"""Classes of a confusion matrix; of more, the commonest confusions are listed."""
MOST_CELLS = 16
MOST_CONFUSIONS = 20
HEAT = 10

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Clips:
    """The clips of one cell.

    Attributes:
        labels: of each of N clips.
        right: (N,) by condition.
        predicted: of each clip, by condition.
    """

    labels: Sequence[tuple[str, ...]]
    right: Mapping[Condition, Flags]
    predicted: Mapping[Condition, Sequence[str]]


def clip_sections(run: Run) -> list[Section]:
    """By class, and confusions."""
    read = {
        cell_label(cell): [clips for fit in fits_of(run, cell) if (clips := _clips(run, fit)) is not None]
        for cell in run.together
    }
    return [
        Section("classes", "Class by class", list(_classes(run, read))),
        Section("confusion", "What is taken for what", list(_confusions(run, read))),
    ]


def _clips(run: Run, cell: Mapping[str, Any]) -> Clips | None:
    path = run.samples(cell)
    if path is None:
        return None
    try:
        names = ["id", "attack", "threat", "labels", "prediction", "correct"]
        columns = pq.read_table(path, columns=names).to_pydict()
    except (pa.ArrowException, OSError) as error:
        run.missing.append(f"{path.relative_to(run.root).as_posix()} cannot be read ({error}): its clips are left out")
        return None
    rows: dict[Condition, dict[str, int]] = {}
    for i, key in enumerate(zip(columns["attack"], columns["threat"], strict=True)):
        condition = CLEAN if key[0] is None else key
        rows.setdefault(condition, {})[columns["id"][i]] = i
    first = rows[CLEAN]
    at = {
        condition: [found[name] for name in first] for condition, found in rows.items() if found.keys() >= first.keys()
    }
    correct = np.array(columns["correct"], dtype=np.bool_)
    right = {condition: correct[places] & correct[at[CLEAN]] for condition, places in at.items()}
    for attack, threat in conditions_of([cell]):
        if attack == WORST:
            counted = [
                flags
                for (name, under), flags in right.items()
                if under == threat and cell["robust_accuracy"].get(name, {}).get(threat, {}).get("bounded")
            ]
            right[attack, threat] = np.logical_and.reduce(counted)
    return Clips(
        labels=[tuple(columns["labels"][i]) for i in at[CLEAN]],
        right=right,
        predicted={condition: [columns["prediction"][i] for i in places] for condition, places in at.items()},
    )


def _classes(run: Run, read: Mapping[str, Sequence[Clips]]) -> Iterator[Part]:
    conditions = headline_conditions(run.together)
    counted = {label: _by_class(fits, conditions) for label, fits in read.items() if fits}
    if not counted:
        return
    keep = max(MOST_ROWS // len(counted), 10)
    rows, left_out = [], 0
    for label, classes in counted.items():
        shown = sorted(classes, key=lambda name: _loss(classes[name]), reverse=True)[:keep]
        left_out += len(classes) - len(shown)
        for name in shown if len(shown) < len(classes) else classes:
            clips, right = classes[name]
            values = [_share(count, clips) for count in right]
            rows.append([Value(label), Value(name), Value(str(clips), clips), *values])
    note = "Of clips, over all seeds; a clip of several classes counts in each."
    if left_out:
        note += f" Shown are the {keep} classes of each cell that lose most; samples.parquet of each cell has all."
    yield table("Accuracy in % by class", ("cell", "class"), ["clips", *map(condition_name, conditions)], rows, note)


def _by_class(fits: Sequence[Clips], conditions: Sequence[Condition]) -> dict[str, tuple[int, list[int | None]]]:
    """Clips, and those that are right under each condition; None where it was not measured."""
    total: Counter[str] = Counter()
    right: dict[Condition, Counter[str]] = {condition: Counter() for condition in conditions}
    for clips in fits:
        for labels in clips.labels:
            total.update(labels)
        for condition in conditions:
            for flag, labels in zip(clips.right.get(condition, ()), clips.labels, strict=False):
                if flag:
                    right[condition].update(labels)
    known = {condition for condition in conditions if all(condition in clips.right for clips in fits)}
    return {
        name: (count, [right[condition][name] if condition in known else None for condition in conditions])
        for name, count in sorted(total.items())
    }


def _loss(counts: tuple[int, Sequence[int | None]]) -> float:
    """How much of a class's accuracy the worst condition takes."""
    clips, right = counts
    known = [count for count in right if count is not None]
    return (known[0] - min(known)) / clips if known else 0.0


def _share(count: int | None, clips: int) -> Value:
    return Value("-") if count is None else Value(f"{100 * count / clips:.1f}", count / clips)


def _confusions(run: Run, read: Mapping[str, Sequence[Clips]]) -> Iterator[Part]:
    known = {label: fits for label, fits in read.items() if fits}
    condition = strongest(run.together, among=lambda each: each[0] != WORST)
    if not known or condition is None:
        return
    if any(len(labels) != 1 for fits in known.values() for clips in fits for labels in clips.labels):
        yield Text("Clips have several classes each: a class is not taken for another, so there is no such table.")
        return
    names = sorted({labels[0] for fits in known.values() for clips in fits for labels in clips.labels})
    yield Text(f"Clean, and under {condition_name(condition)}, the attack that leaves least; over all seeds.")
    for number, (label, fits) in enumerate(list(known.items())[:MOST_CELLS]):
        having = [clips for clips in fits if condition in clips.predicted]
        pairs = [(when, Counter(_pairs(having, when))) for when in (CLEAN, condition)]
        if len(names) <= MOST_CLASSES:
            shown = [_matrix(names, counts, f"{label}, {condition_name(when)}") for when, counts in pairs]
        else:
            shown = [_commonest(label, *(counts for _, counts in pairs))]
        yield Fold(label, shown, open=not number)
    if len(known) > MOST_CELLS:
        yield Text(f"The first {MOST_CELLS} of {len(known)}; samples.parquet of each cell has all predictions.")


def _pairs(fits: Sequence[Clips], condition: Condition) -> Iterator[tuple[str, str]]:
    for clips in fits:
        for labels, predicted in zip(clips.labels, clips.predicted[condition], strict=True):
            yield labels[0], predicted


def _matrix(names: Sequence[str], counts: Mapping[tuple[str, str], int], title: str) -> Table:
    """Shares of each true class's clips, a row each."""
    known = list(dict.fromkeys([*names, *(predicted for _, predicted in counts)]))
    rows = []
    for number, true in enumerate(names, 1):
        total = sum(counts.get((true, predicted), 0) for predicted in known) or 1
        shares = [counts.get((true, predicted), 0) / total for predicted in known]
        rows.append([Value(f"{number} {true}"), *(_heat(share) for share in shares)])
    columns = [Column("class"), *(Column(str(number), number=True) for number in range(1, len(known) + 1))]
    others = "".join(f"; {number} is {name}" for number, name in enumerate(known, 1) if number > len(names))
    note = f"% of the class's clips; columns are the predicted classes, numbered as the rows{others}."
    return Table(title, columns, rows, note, tools=False)


def _heat(share: float) -> Value:
    level = min(int(share * HEAT), HEAT - 1)
    return Value(f"{100 * share:.0f}" if share else "·", share, tone=f"heat{level}")


def _commonest(label: str, clean: Mapping[tuple[str, str], int], attacked: Mapping[tuple[str, str], int]) -> Table:
    wrong = Counter({pair: count for pair, count in attacked.items() if pair[0] != pair[1]})
    rows = [
        [*map(Value, pair), *(Value(str(n), n) for n in (clean.get(pair, 0), count))]
        for pair, count in wrong.most_common(MOST_CONFUSIONS)
    ]
    return table(
        f"{label}: the commonest confusions under attack", ("class", "taken for"), ("clips clean", "under attack"), rows
    )
