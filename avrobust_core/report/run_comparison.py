"""The tables of a comparison of finished runs: differences, the clips that flipped, what differs between the runs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from avrobust_core.naming import first_of
from avrobust_core.plain_text import shortened
from avrobust_core.report.comparison_tables import print_comparisons
from avrobust_core.report.conditions import condition_of, where_of
from avrobust_core.report.tables import results_console
from avrobust_core.spec.explaining import as_json

_LONGEST = 60
"""Characters of a value that is shown."""


def print_run_comparison(found: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what `compare_runs` found.

    Args:
        found: as it returns it.
        results: each run's result.json, by its folder: what speaks against a number there is marked here, too.
    """
    console = results_console()
    for pair in found["comparisons"]:
        first, second = pair["first"], pair["second"]
        clips = pair["clips"]
        console.print(f"\n{first} against {second}", style="bold")
        console.print(
            f"{clips['common']} clips in common, of {clips['first']} in {first} and {clips['second']} in {second}"
        )
        print_comparisons(console, _as_result(pair, results))
        for line in (*_lines_below(pair), *_flipped(pair), *_differs(pair)):
            console.print(line, soft_wrap=True)


def _as_result(pair: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Two runs as one result, for the tables that a study's own comparisons have."""
    seeds = max((item.get("seeds", []) for item in pair["differences"]), key=len)
    cells = [cell | {"run": run} for run in (pair["first"], pair["second"]) for cell in results[run]["cells"]]
    return {
        "confidence": pair["confidence"],
        "seed": seeds,
        "pooled": len(seeds) > 1,
        "cells": cells,
        "comparisons": pair["differences"],
    }


def _lines_below(pair: Mapping[str, Any]) -> Iterator[str]:
    """Which attacks are not alike, and which cells and seeds stand alone."""
    for item in pair["differences"]:
        if item.get("not_alike"):
            yield f"~ {_place(item)}: attacked otherwise: {first_of(item['not_alike'], '; ')}"
    for names in dict.fromkeys(
        (where_of(item), *(tuple(item[side]["seeds"]) for side in ("first", "second"))) for item in pair["differences"]
    ):
        where, *seeds = names
        if seeds[0] != seeds[1]:
            yield f"{where}: seeds {first_of(seeds[0])} against {first_of(seeds[1])}"
    for side in ("first", "second"):
        if pair["cells"][f"only_{side}"]:
            yield f"not compared, of {pair[side]}: {', '.join(pair['cells'][f'only_{side}'])}"


def _flipped(pair: Mapping[str, Any]) -> Iterator[str]:
    for item in pair["differences"]:
        flipped: Mapping[str, Sequence[str]] = item.get("flipped", {})
        cells = {side: (item[side]["model"], item[side]["training"]) for side in ("first", "second")}
        alike = cells["first"] == cells["second"]
        named = {side: pair[side] if alike else f"{'/'.join(cell)} of {pair[side]}" for side, cell in cells.items()}
        told = [
            f"{len(flipped[f'only_{side}'])} only {named[side]} gets right ({first_of(flipped[f'only_{side}'])})"
            for side in ("first", "second")
            if flipped.get(f"only_{side}")
        ]
        if told:
            yield f"clips that flipped, {_place(item)}: {'; '.join(told)}"


def _differs(pair: Mapping[str, Any]) -> Iterator[str]:
    for file, values in pair["differs"].items():
        yield f"{file}: {len(values)} values differ" if values else f"{file}: nothing differs"
        for each in values:
            ours, theirs = (shortened(as_json(each[side]), _LONGEST) for side in ("first", "second"))
            yield f"    {each['path']}: {ours} -> {theirs}"


def _place(item: Mapping[str, Any]) -> str:
    return f"{where_of(item)}, {' under '.join(filter(None, condition_of(item)))}"
