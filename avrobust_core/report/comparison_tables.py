"""The tables of paired comparisons: of models and regimes, and of a fused model with a modality's own classifier."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from avrobust_core.evaluation.wording import MOST_COLUMNS, difference, doubt, interval, of_method, over_seeds, percent
from avrobust_core.report.conditions import condition_of, pair_of, why_left_out


def table_of(left: Iterable[str], right: Iterable[str], title: str | None = None) -> Table:
    """A table without rows: columns of text under the left headings, of numbers under the right ones."""
    table = Table(*left, title=title, title_justify="left")
    for heading in right:
        table.add_column(heading, justify="right")
    return table


def print_comparisons(console: Console, result: Mapping[str, Any]) -> None:
    """One table per entry of `compare`: pairs beside one another, or, if they are many, below one another."""
    entries: dict[int, list[Mapping[str, Any]]] = {}
    for item in result.get("comparisons", []):
        entries.setdefault(item["entry"], []).append(item)
    for items in entries.values():
        done = [item for item in items if "left_out" not in item]
        pairs = dict.fromkeys(pair_of(item) for item in done)
        if items[0].get("question"):
            console.print(f"\n{items[0]['question']}", style="bold")
        if done:
            brackets = interval(result, [item["difference"] for item in done], any(map(of_method, done)))
            console.print(
                f"differences in accuracy in points, the first minus the second{over_seeds(result)}, "
                f"{brackets}; * the interval leaves 0 out; p by Holm over this table"
            )
            doubted = _doubted(result, ("first", "second"))
            beside = len(pairs) <= MOST_COLUMNS
            console.print(_pairs_beside(done, pairs, doubted) if beside else _pairs_below(done, doubted))
        for reason in dict.fromkeys(item["across_fits"]["left_out"] for item in done if not of_method(item)):
            console.print(f"these are differences between networks, not between methods: {reason}")
        for reason in dict.fromkeys(why_left_out(item) for item in items if "left_out" in item):
            console.print(f"not compared: {reason}")


def print_overturned(console: Console, result: Mapping[str, Any]) -> None:
    """A row for each fused model, modality's own classifier, attack and threat."""
    items: Sequence[Mapping[str, Any]] = result.get("overturned", [])
    if not items:
        return
    console.print(
        "\nDoes one modality overturn the fusion where its own classifier withstands the attack?", style="bold"
    )
    brackets = interval(result, [item[share] for item in items for share in _BROKEN], methods=False)
    console.print(
        "clips that the attack breaks in one of the two only, in % of those that both get right clean"
        f"{', over all seeds' if len(items[0]['seeds']) > 1 else ''}, {brackets}; p by Holm over this table"
    )
    doubted = _doubted(result, ("fused", "own"))
    table = table_of(
        ("fused", "own classifier", "training", "attack", "threat"), ["both right", *_BROKEN.values(), "p"]
    )
    for item in items:
        names = item["fused"]["model"], item["own"]["model"], item["fused"]["training"]
        shares = [doubted(item) + percent(item[share]) for share in _BROKEN]
        table.add_row(*names, *condition_of(item), str(item["both_right"]), *shares, f"{item['p_holm']:.2g}")
    console.print(table)


_BROKEN = {"only_fused": "only the fused", "only_own": "only the own"}
"""The shares of `overturned`, and their headings."""

Doubted = Callable[[Mapping[str, Any]], str]
"""From a comparison to the mark before it, if something speaks against either number."""


def _doubted(result: Mapping[str, Any], sides: tuple[str, str]) -> Doubted:
    cells: Sequence[Mapping[str, Any]] = result["cells"]

    def mark(item: Mapping[str, Any]) -> str:
        compared = [_cell(item[side]) for side in sides]
        attack, threat = condition_of(item)
        found = [
            doubt(cell, attack if threat else None, threat or None)
            for cell in cells
            if "error" not in cell and _cell(cell) in compared
        ]
        return max(found, default="") + ("~ " if item.get("not_alike") else "")

    return mark


def _cell(names: Mapping[str, Any]) -> tuple[str | None, str, str]:
    """A cell, whichever of its seeds; with its run where several are compared."""
    return names.get("run"), names["model"], names["training"]


def _pairs_beside(items: Sequence[Mapping[str, Any]], pairs: Iterable[tuple[str, str]], doubted: Doubted) -> Table:
    """A row for each attack and threat, a column for each pair."""
    methods = any(map(of_method, items))
    table = table_of(("attack", "threat", *(["between"] if methods else [])), map("\n".join, pairs))
    found = {
        (condition_of(item), between, pair_of(item)): doubted(item) + text
        for item in items
        for between, text in _differences(item)
    }
    for condition, between in dict.fromkeys(key[:2] for key in found):
        heading = (*condition, between) if methods else condition
        table.add_row(*heading, *(found.get((condition, between, pair), "-") for pair in pairs))
    return table


def _pairs_below(items: Sequence[Mapping[str, Any]], doubted: Doubted) -> Table:
    """A row for each pair, attack and threat."""
    methods = any(map(of_method, items))
    table = table_of(("pair", "", "attack", "threat", *(["between"] if methods else [])), ["difference"])
    for item in items:
        for between, text in _differences(item):
            table.add_row(*pair_of(item), *condition_of(item), *([between] if methods else []), doubted(item) + text)
    return table


def _differences(item: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The difference between the networks, and, where there are several fits, between the methods."""
    value = item["difference"]["value"]
    yield "these networks", difference(value, item["difference"], item["p_holm"])
    if of_method(item):
        yield "the methods", difference(value, item["across_fits"], item["across_fits"].get("p_holm"))
