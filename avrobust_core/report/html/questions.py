"""The study's questions: paired comparisons with their answers, and what an attack on one modality overturns."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from avrobust_core.evaluation.wording import difference, interval, of_method, over_seeds, percent
from avrobust_core.report.conditions import WORST, condition_of, pair_of, why_left_out
from avrobust_core.report.html.charts import Point, rows_charts
from avrobust_core.report.html.numbers import FEW, Condition, condition_name, doubts
from avrobust_core.report.html.reading import Run
from avrobust_core.report.html.view import Charts, Items, Part, Section, Text, Value, table

MOST_PAIRS = 16
"""The most pairs of a chart, and of the answers that are told one by one."""

Item = Mapping[str, Any]
"""A comparison, as JSON data."""


def answers(run: Run) -> list[str]:
    """A sentence for each question: who was ahead under attack, and where it is open."""
    found = []
    for number, items in enumerate(_entries(run).values(), 1):
        attacked = [item for item in items if "left_out" not in item and item["attack"] is not None]
        if attacked:
            ways = [_way(run, item) for item in attacked]
            question = items[0].get("question") or f"Comparison {number}"
            pairs = list(dict.fromkeys(map(_pair_name, attacked)))
            if len(pairs) == 1:
                told = f"{pairs[0]}, under attack: {_counted(ways)}"
            else:
                open_ = ways.count(0)
                told = (
                    f"{len(ways) - open_} of {len(ways)} differences under attack, between {len(pairs)} pairs, are "
                    f"more than chance; {open_} are undecided"
                )
            found.append(f"{question} {told} (p by Holm below {_level(run)}).")
    return found


def questions(run: Run) -> Section:
    """A chart, an answer and a table for each entry of `compare`."""
    parts: list[Part] = []
    for number, items in enumerate(_entries(run).values(), 1):
        parts += _question(run, items[0].get("question") or f"Comparison {number}", items)
    return Section("questions", "The study's questions", parts)


def overturned(run: Run) -> Section:
    """What an attack on one modality breaks in the fused model alone, or in the modality's own classifier alone."""
    items: Sequence[Item] = run.result.get("overturned", [])
    if not items:
        return Section("overturned", "")
    shares = {"only_fused": "only the fused breaks", "only_own": "only the own breaks"}
    brackets = interval(run.result, [item[share] for item in items for share in shares], methods=False)
    rows = [
        [
            Value(item["fused"]["model"]),
            Value(item["own"]["model"]),
            Value(item["fused"]["training"]),
            *map(Value, condition_of(item)),
            Value(str(item["both_right"]), item["both_right"]),
            *(Value(percent(item[share]), item[share]["value"]) for share in shares),
            Value(f"{item['p_holm']:.2g}", item["p_holm"]),
        ]
        for item in items
    ]
    left = ("fused", "own classifier", "training", "attack", "threat")
    note = f"In % of the clips that both get right clean, {brackets}; p by Holm over this table."
    return Section(
        "overturned",
        "Does one modality overturn the fusion?",
        [table("Clips that an attack on one modality breaks", left, ["both right", *shares.values(), "p"], rows, note)],
    )


def _entries(run: Run) -> dict[int, list[Item]]:
    found: dict[int, list[Item]] = {}
    for item in run.result.get("comparisons", []):
        found.setdefault(item["entry"], []).append(item)
    return found


def _question(run: Run, question: str, items: Sequence[Item]) -> Iterator[Part]:
    done = [item for item in items if "left_out" not in item]
    yield Text(question, "heading")
    if done:
        methods = any(map(of_method, done))
        yield Items(list(_pair_answers(run, done)))
        yield _chart(done)
        brackets = interval(run.result, [item["difference"] for item in done], methods=False)
        note = (
            f"The first minus the second, in points{over_seeds(run.result)}, {brackets}; * the interval leaves 0 out; "
            "p by Holm over this table."
        )
        rows = [
            [
                *map(Value, pair_of(item)),
                *map(Value, condition_of(item)),
                _difference(item, "difference", _against(run, item)),
                *([_difference(item, "across_fits", ())] if methods else []),
                Value(str(item["only_first"]), item["only_first"]),
                Value(str(item["only_second"]), item["only_second"]),
            ]
            for item in done
        ]
        right = ["between these networks", *(["between the methods"] if methods else []), "only first", "only second"]
        yield table(f"Differences: {question}", ("pair", "where", "attack", "threat"), right, rows, note)
    for reason in dict.fromkeys(item["across_fits"]["left_out"] for item in done if not of_method(item)):
        yield Text(f"These are differences between networks, not between methods: {reason}.")
    reasons = list(dict.fromkeys(f"Not compared: {why_left_out(item)}" for item in items if "left_out" in item))
    if reasons:
        yield Items(reasons)


def _difference(item: Item, of: str, notes: Sequence[str]) -> Value:
    value = item["difference"]["value"]
    if of == "across_fits" and not of_method(item):
        return Value("-")
    p = item["p_holm"] if of == "difference" else item[of].get("p_holm")
    return Value(difference(value, item[of], p), value, notes=tuple(notes), tone="doubt" if notes else "")


def _way(run: Run, item: Item) -> int:
    """1 if the first is ahead, -1 if the second is, 0 if chance may have decided."""
    p = item["across_fits"].get("p_holm") if of_method(item) else item["p_holm"]
    if p is None or p >= 1 - run.result["confidence"]:
        return 0
    return 1 if item["difference"]["value"] > 0 else -1


def _level(run: Run) -> str:
    return f"{1 - run.result['confidence']:.2g}"


def _counted(ways: Sequence[int]) -> str:
    """In words: "the first ahead in 3 of 5, undecided in 2 of 5"."""
    names = {1: "the first ahead", -1: "the first behind", 0: "undecided"}
    return ", ".join(f"{name} in {ways.count(way)} of {len(ways)}" for way, name in names.items() if way in ways)


def _pair_name(item: Item) -> str:
    return f"{pair_of(item)[0]} ({pair_of(item)[1]})"


def _pair_answers(run: Run, done: Sequence[Item]) -> Iterator[str]:
    """For each pair, under how many attacks the first is ahead or behind."""
    pairs: dict[str, list[Item]] = {}
    for item in done:
        if item["attack"] is not None:
            pairs.setdefault(_pair_name(item), []).append(item)
    for name, items in list(pairs.items())[:MOST_PAIRS]:
        values = [100 * item["difference"]["value"] for item in items]
        yield (
            f"{name}: under attack, {_counted([_way(run, item) for item in items])}; differences of "
            f"{min(values):+.1f} to {max(values):+.1f} points."
        )
    if len(pairs) > MOST_PAIRS:
        yield f"and {len(pairs) - MOST_PAIRS} pairs more, in the table."


def _chart(done: Sequence[Item]) -> Charts:
    """Differences with intervals, a row for each pair."""
    conditions = list(dict.fromkeys(map(condition_of, done)))
    if len(conditions) > FEW:
        conditions = [each for each in conditions if each[0] in ("clean", WORST)][:FEW] or conditions[:FEW]
    pairs = list(dict.fromkeys(map(_pair_name, done)))[:MOST_PAIRS]
    found = {(_pair_name(item), condition_of(item)): item for item in done}
    rows = [
        (pair, [_point(found.get((pair, condition)), pair, condition) for condition in conditions]) for pair in pairs
    ]
    about = "Differences in accuracy with intervals, a row for each pair; the table below has the numbers."
    drawings = rows_charts("Differences in accuracy", about, rows, "points, first minus second", zero=True)
    return Charts(drawings, list(map(condition_name, conditions)))


def _point(item: Item | None, pair: str, condition: Condition) -> Point | None:
    if item is None:
        return None
    value, found = item["difference"]["value"], item["across_fits"] if of_method(item) else item["difference"]
    low, high = (None if found[end] is None else 100 * found[end] for end in ("low", "high"))
    return Point(100 * value, 0.0, low, high, f"{pair}, {condition_name(condition)}: {difference(value, found, None)}")


def _against(run: Run, item: Item) -> list[str]:
    """What speaks against either side's number."""
    cells = [
        cell
        for side in ("first", "second")
        for cell in run.together
        if (cell["model"], cell["training"]) == (item[side]["model"], item[side]["training"])
    ]
    return list(dict.fromkeys(note for cell in cells for note in doubts(cell, condition_of(item))))
