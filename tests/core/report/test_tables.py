"""What the tables say of comparisons and of several seeds; and that of one seed they say what they always did."""

from collections.abc import Callable
from typing import Any

import pytest

from avrobust_core.evaluation.wording import percent, size
from avrobust_core.report.tables import print_tables

Show = Callable[[dict[str, Any]], list[str]]


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Show:
    """The lines of a result's tables."""

    def run(result: dict[str, Any]) -> list[str]:
        print_tables(result)
        return capsys.readouterr().out.splitlines()

    return run


def estimate(value: float, low: float, high: float) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": 24, "method": "bootstrap"}


def cell(model: str, seed: int) -> dict[str, Any]:
    found = estimate(0.5, 0.4, 0.6)
    metric = {"metric": "map", "attack": None, "threat": None, "values": {"map": estimate(0.2 + seed / 10, 0, 1)}}
    return {
        "model": model,
        "training": "plain",
        "seed": seed,
        "clean_accuracy": found,
        "robust_accuracy": {"pgd": {"a": found | {"attacked": ["audio"], "bounded": True}}},
        "worst_case": {"a": found},
        "metrics": [metric],
    }


def study(seeds: tuple[int, ...] = (0,), **changes: Any) -> dict[str, Any]:
    cells = [cell(model, seed) for model in ("x", "y") for seed in seeds]
    data = {"name": "s", "seed": seeds[0], "confidence": 0.95, "cells": cells, "pooled": [], "comparisons": []}
    if len(seeds) > 1:
        pooled = [cell(model, 0) | {"seeds": list(seeds), "clean_accuracy": estimate(0.75, 0.7, 0.8)} for model in "xy"]
        data |= {"seed": list(seeds), "pooled": pooled}
    return data | changes


def compared(first: str, second: str, attack: str | None, *numbers: float, entry: int = 0) -> dict[str, Any]:
    names = {"first": {"model": first, "training": "plain"}, "second": {"model": second, "training": "plain"}}
    value, low, high, p = numbers
    return {"entry": entry, **names, "attack": attack, "threat": attack and "a", "p_holm": p} | {
        "difference": estimate(value, low, high),
        "across_fits": {"left_out": "one fit only"},
    }


def row(lines: list[str], *cells: str) -> str:
    (found,) = [line for line in lines if [part.strip() for part in line.split("│")[1:]][: len(cells)] == list(cells)]
    return found


def test_with_one_seed_nothing_speaks_of_seeds(show: Show) -> None:
    lines = show(study())
    assert "seed" not in "\n".join(lines)
    assert lines[0] == "s: accuracy in %, [95 % interval over clips]"
    assert "0.2 [0, 1]" in row(lines, "map", "map")


def test_with_several_seeds_there_is_one_row_per_model_with_the_number_of_seeds(show: Show) -> None:
    lines = show(study((0, 3)))
    assert lines[0] == "s: accuracy in %, mean over 2 seeds, [95 % interval over clips]"
    assert "75.0 [70.0, 80.0]" in row(lines, "x", "plain", "2")
    assert "0.35 (0.2 to 0.5)" in row(lines, "map", "map")


def test_many_cells_stand_below_one_another_and_their_columns_in_several_tables(show: Show) -> None:
    data = study()
    data["cells"] = [cell(f"m{i}", 0) for i in range(6)]
    for i, found in enumerate(data["cells"]):
        found["robust_accuracy"] = {f"a{j}": {"a": found["robust_accuracy"]["pgd"]["a"]} for j in range(6)}
        found["clean_accuracy"] = estimate((10 + i) / 100, 0, 1)
    lines = show(data)
    headings = [[part.strip() for part in line.split("┃")[1:-1]] for line in lines if line.startswith("┃")]
    assert ["", "", "", "a0", "a1", "a2", "a3", "a4"] in headings
    assert ["", "", "", "a5", "worst case"] in headings
    assert headings.count(["model", "training", "clean", "a", "a"]) == 1
    assert [line.split("│")[3].strip()[:4] for line in lines if line.startswith("│ m3 ")] == ["13.0", "13.0"]
    assert ["", "", "", "", "m0", "m1", "m2", "m3", "m4"] in headings, "metrics of five"
    assert ["", "", "", "", "m5"] in headings, "and of the sixth"


def test_a_seed_that_failed_is_named(show: Show) -> None:
    data = study((0, 3))
    data["cells"][1]["error"] = {"message": "out of luck"}
    data["pooled"][1] = {"model": "y", "training": "plain", "seeds": [], "error": {"message": "all 2 seeds failed"}}
    lines = show(data)
    assert "x/plain, seed 3 failed: out of luck" in lines
    assert "failed" in row(lines, "y", "plain", "0")


def test_few_pairs_stand_beside_one_another_and_are_marked_where_the_interval_leaves_0_out(show: Show) -> None:
    lines = show(
        study(
            comparisons=[
                compared("x", "y", None, 0.05, 0.01, 0.09, 0.012),
                compared("x", "y", "pgd", 0.05, -0.01, 0.11, 0.4),
                compared("x", "y", "worst_case", -0.2, -0.3, -0.1, 1e-6),
            ]
        )
    )
    assert row(lines, "clean", "", "+5.0 [+1.0, +9.0] *, p 0.012")
    assert row(lines, "pgd", "a", "+5.0 [-1.0, +11.0], p 0.4")
    assert row(lines, "worst case", "a", "-20.0 [-30.0, -10.0] *, p 1e-06")
    assert any("x vs y" in line for line in lines)


def test_many_pairs_stand_below_one_another_each_in_one_line(show: Show) -> None:
    names = "abcdefgh"
    items = [
        compared(a, b, attack, 0.1, 0.0, 0.2, 0.5)
        for i, a in enumerate(names)
        for b in names[i + 1 :]
        for attack in (None, "pgd")
    ]
    lines = show(study(comparisons=items))
    rows = [line for line in lines if " vs " in line]
    assert len(rows) == 2 * 28
    assert row(lines, "g vs h", "plain", "pgd", "a", "+10.0 [+0.0, +20.0], p 0.5")


def test_each_entry_has_its_table_and_what_is_left_out_is_said_once(show: Show) -> None:
    gone = "z/plain is not in the study: include or exclude leave it out"
    left_out = [
        {
            key: value
            for key, value in compared(name, "z", None, 0, 0, 0, 0).items()
            if key in ("entry", "first", "second")
        }
        | {"left_out": gone}
        for name in "xy"
    ]
    one_sided = compared("x", "y", "pgd", 0, 0, 0, 0, entry=1) | {"left_out": "only one of the two is attacked so"}
    items = [compared("x", "y", None, 0.1, 0, 0.2, 0.5), *left_out, compared("y", "x", None, 0.1, 0, 0.2, 0.5, entry=1)]
    lines = show(study(comparisons=[*items, one_sided]))
    assert sum(line.startswith("differences in accuracy") for line in lines) == 2
    assert lines.count(f"not compared: {gone}") == 1
    assert "not compared: x vs y in plain, pgd under a: only one of the two is attacked so" in lines


def test_the_question_of_a_comparison_is_its_title(show: Show) -> None:
    asked = [compared("x", "y", "pgd", 0.1, 0.02, 0.2, 0.01) | {"question": "Is x better?"}]
    lines = show(study(comparisons=asked))
    title = lines.index("Is x better?")
    assert lines[title + 1].startswith("differences in accuracy in points")
    assert "Is x better?" not in show(study(comparisons=[asked[0] | {"question": None}]))


CAVEAT = {"check": "zero-gradient", "message": "no gradient [/x] reached audio", "attack": "pgd", "threat": "a"}


def test_a_number_with_a_caveat_is_marked_wherever_it_is_printed_and_the_reason_stands_below(show: Show) -> None:
    doubted = cell("x", 0) | {
        "caveats": [CAVEAT],
        "curves": {"pgd": {"a": [{"factor": 0.5} | estimate(0.7, 0.6, 0.8)]}},
        "smallest_perturbation": {"pgd": {"a": {"median_size": estimate(0.3, 0.2, 0.4)}}},
    }
    comparisons = [compared("x", "y", None, 0.25, 0.1, 0.4, 0.02), compared("x", "y", "pgd", 0.0, -0.1, 0.1, 1)]
    lines = show(study(cells=[doubted, cell("y", 0)], comparisons=comparisons))
    assert row(lines, "x", "plain", "50.0 [40.0, 60.0]", "? 50.0 [40.0, 60.0]")
    assert row(lines, "y", "plain", "50.0 [40.0, 60.0]", "50.0 [40.0, 60.0]")
    assert "? x/plain, pgd on a: zero-gradient: no gradient [/x] reached audio" in lines
    assert row(lines, "clean", "", "+25.0 [+10.0, +40.0] *, p 0.02")
    assert row(lines, "pgd", "a", "? +0.0 [-10.0, +10.0], p 1")
    assert row(lines, "x", "plain", "pgd", "a", "? 70.0")
    assert row(lines, "x", "plain", "pgd", "a", "? 0.300 [0.200, 0.400]")


def test_a_caveat_about_the_model_marks_all_its_numbers(show: Show) -> None:
    doubted = cell("x", 0) | {"caveats": [CAVEAT | {"attack": None, "threat": None}]}
    lines = show(study(cells=[doubted, cell("y", 0)]))
    assert row(lines, "x", "plain", "? 50.0 [40.0, 60.0]", "? 50.0 [40.0, 60.0]")


def test_the_worst_case_is_in_doubt_only_if_every_attack_is(show: Show) -> None:
    one = cell("x", 0) | {"caveats": [CAVEAT]}
    one["robust_accuracy"] = one["robust_accuracy"] | {"fmn": one["robust_accuracy"]["pgd"]}
    both = one | {"model": "y", "caveats": [CAVEAT, CAVEAT | {"attack": "fmn"}]}
    lines = show(study(cells=[one, both]))
    plain = "50.0 [40.0, 60.0]"
    assert row(lines, "x", "plain", plain, f"? {plain}", plain, plain)
    assert row(lines, "y", "plain", plain, f"? {plain}", f"? {plain}", f"? {plain}")


def test_means_over_seeds_are_marked_for_any_of_their_fits(show: Show) -> None:
    data = study(seeds=(0, 1))
    data["pooled"][0]["caveats"] = [CAVEAT | {"message": f"seed 1: {CAVEAT['message']}"}]
    data["cells"][1]["caveats"] = [CAVEAT]
    lines = show(data)
    assert row(lines, "x", "plain", "2", "75.0 [70.0, 80.0]", "? 50.0 [40.0, 60.0]")
    assert "? x/plain, seed 1, pgd on a: zero-gradient: no gradient [/x] reached audio" in lines


def test_with_one_fit_the_table_says_that_its_differences_are_not_the_methods(show: Show) -> None:
    lines = show(study(comparisons=[compared("x", "y", None, 0.1, 0.02, 0.2, 0.01)]))
    assert lines.count("these are differences between networks, not between methods: one fit only") == 1
    assert not [line for line in lines if "the methods" in line]


def test_with_several_fits_networks_and_methods_have_their_rows(show: Show) -> None:
    across = {"low": -0.05, "high": 0.25, "degrees": 4.2, "p": 0.2, "p_holm": 0.4}
    items = [compared("x", "y", attack, 0.1, 0.02, 0.2, 0.01) | {"across_fits": across} for attack in (None, "pgd")]
    lines = show(study((0, 1, 2), comparisons=items))
    assert row(lines, "clean", "", "these networks", "+10.0 [+2.0, +20.0] *, p 0.01")
    assert row(lines, "clean", "", "the methods", "+10.0 [-5.0, +25.0], p 0.4")
    assert row(lines, "pgd", "a", "the methods", "+10.0 [-5.0, +25.0], p 0.4")
    (heading,) = [line for line in lines if line.startswith("differences")]
    assert "for these networks; below it over fits, too, for the method" in heading
    assert not [line for line in lines if "not between methods" in line]
    many = [
        compared(a, b, None, 0.1, 0.02, 0.2, 0.01) | {"across_fits": across}
        for a, b in ("ab", "ac", "ad", "ae", "af", "ag")
    ]
    assert row(show(study((0, 1, 2), comparisons=many)), "a vs c", "plain", "clean", "", "the methods")


def test_an_accuracy_over_several_fits_has_the_methods_interval_below_it(show: Show) -> None:
    data = study((0, 1, 2))
    data["pooled"][0]["clean_accuracy"] |= {"across_fits": {"low": 0.61, "high": 0.87, "degrees": 3.0}}
    data["pooled"][1]["clean_accuracy"] |= {"across_fits": {"left_out": "one fit only"}}
    lines = show(data)
    assert "over fits, too, for the method]" in lines[0]
    place = lines.index(row(lines, "x", "plain", "3", "75.0 [70.0, 80.0]"))
    assert "[61.0, 87.0]" in lines[place + 1]
    assert "y/plain, the method: no interval: one fit only" in lines


def test_intervals_over_groups_are_said_to_be(show: Show) -> None:
    data = study(comparisons=[compared("x", "y", None, 0.1, 0.02, 0.2, 0.01)])
    for found in data["cells"]:
        found["clean_accuracy"] = found["clean_accuracy"] | {"groups": 40}
    data["comparisons"][0]["difference"]["groups"] = 40
    lines = show(data)
    assert lines[0] == "s: accuracy in %, [95 % interval over 40 groups of clips]"
    assert any(line.startswith("differences") and "over 40 groups of clips" in line for line in lines)


def test_metrics_under_attack_stand_below_their_clean_value(show: Show) -> None:
    data = study()
    for found in data["cells"]:
        for attack, value in (("pgd", 0.125), ("fgsm", 0.25)):
            for name in ("map", "auc"):
                entry = {"metric": "map", "attack": attack, "threat": "a", "values": {name: estimate(value, 0, 1)}}
                found["metrics"].append(entry)
    data["cells"][0]["caveats"] = [
        {"check": "zero-gradient", "message": "none", "attack": "pgd", "threat": "a"},
    ]
    lines = show(data)
    rows = [line for line in lines if line.startswith("│ map ")]
    shown = [[part.strip() for part in line.split("│")[1:-1]] for line in rows]
    assert [cells[1:4] for cells in shown] == [
        ["map", "clean", ""],
        ["map", "pgd", "a"],
        ["map", "fgsm", "a"],
        ["auc", "pgd", "a"],
        ["auc", "fgsm", "a"],
    ]
    assert shown[1][4:] == ["? 0.125 [0, 1]", "0.125 [0, 1]"]


def test_what_a_metric_says_of_itself_stands_below_once(show: Show) -> None:
    data = study((0, 1))
    for found in data["cells"]:
        found["metrics"][0]["details"] = {"notes": ["2 of 9 classes are left out [/of] the means"]}
    assert show(data).count("map: 2 of 9 classes are left out [/of] the means") == 1


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (0.0, 0.018, "[0.0, 1.8]"),
        (0.000127, 0.9996, "[0.01, 99.96]"),
        (1e-7, 1 - 1e-7, "[<0.01, >99.99]"),
        (None, None, "[-, -]"),
        (0.25, 1.0, "[25.0, 100.0]"),
    ],
)
def test_only_0_and_1_look_like_them(low: float | None, high: float | None, shown: str) -> None:
    assert percent({"value": 0.5, "low": low, "high": high}) == f"50.0 {shown}"


def test_a_size_without_an_interval_does_not_look_as_if_it_lay_beyond() -> None:
    found = {"value": 0.5, "low": None, "high": None, "method": "none"}
    assert size(found) == "0.500 [-, -]"
    assert size(found | {"low": 0.25, "method": "bootstrap"}) == "0.500 [0.250, beyond]"


def test_names_messages_and_questions_are_text_and_no_markup(capsys) -> None:
    from avrobust_core.report.tables import print_tables

    estimate = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}
    evil = "[/x] :smile: \x1b[31mred\x1b[0m\r\x07\u202eend"
    shown = "[/x] :smile: red"
    cell = {
        "model": evil,
        "training": "[bold]standard",
        "seed": 0,
        "clean_accuracy": estimate,
        "robust_accuracy": {evil: {"[/both]": estimate | {"attacked": ["a"], "bounded": True}}},
        "worst_case": {},
        "failures": [
            {"metric": "[/m]", "attack": None, "threat": None, "direction": None, "evaluation": "clean"}
            | {"message": evil + "x" * 1000, "bounded": False}
        ],
        "metrics": [{"metric": evil, "attack": None, "threat": None, "values": {"[/v]": estimate}}],
        "curves": {evil: {"[/both]": [estimate | {"factor": 1.0}]}},
        "caveats": [],
    }
    broken = {"model": "b[/]", "training": evil, "seed": 0, "error": {"message": evil}}
    comparison = {"entry": 0, "question": evil, "first": {"model": evil, "training": "t"}}
    comparison |= {"second": {"model": "b[/]", "training": "t"}, "left_out": evil}
    print_tables({"name": evil, "seed": 0, "confidence": 0.95, "cells": [cell, broken], "comparisons": [comparison]})
    found = capsys.readouterr().out
    assert shown in found
    assert not any(mark in found for mark in "\x1b\r\x07\u202e")
    assert max(map(len, found.splitlines())) <= 500
    for name in ("[bold]standard", "[/both]", "[/m]", "[/v]", "b[/]"):
        assert name in found


def test_progress_shows_labels_as_text(capsys, monkeypatch) -> None:
    from avrobust_core.study.console import Monitor

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monitor = Monitor()
    with monitor.task("[/x] \x1b]0;title\x07label"):
        monitor.update(1, 2)
    monitor.say("[/y] \x1b]0;title\x07said " + "z" * 1000)
    found = capsys.readouterr().err
    assert "[/x] label" in found
    assert "[/y] said zzz" in found
    assert "title" not in found
    assert "z" * 500 not in found


def test_what_one_modality_overturns_has_a_row_per_attack_with_the_marks_of_doubt(show: Show) -> None:
    sides = {side: {"model": model, "training": "plain"} for side, model in (("fused", "x"), ("own", "y"))}
    shares = {"only_fused": estimate(0.045, 0.015, 0.103), "only_own": estimate(0.145, 0.085, 0.225)}
    counts = {"seeds": [0], "both_right": 110, "p": 0.013, "p_holm": 0.026}
    items = [sides | shares | counts | {"attack": attack, "threat": "a"} for attack in ("pgd", "worst_case")]
    lines = show(study(overturned=items))
    cells = ("x", "y", "plain", "pgd", "a", "110", "4.5 [1.5, 10.3]", "14.5 [8.5, 22.5]", "0.026")
    row(lines, *cells)
    row(lines, *cells[:3], "worst case")
    (said,) = [line for line in lines if line.startswith("clips that the attack breaks")]
    assert said.endswith("right clean, [95 % interval over clips]; p by Holm over this table")
    doubted = study(overturned=items)
    doubted["cells"][1]["caveats"] = [{"check": "zero-gradient", "attack": "pgd", "threat": "a", "message": "none"}]
    assert "? 4.5 [1.5, 10.3]" in row(show(doubted), *cells[:6])
    assert not [line for line in show(study(overturned=[])) if "overturn" in line]
