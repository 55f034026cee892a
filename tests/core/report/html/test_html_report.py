"""The page of a run: it says what the result holds, asks for nothing from outside, and takes no text for markup."""

import base64
import hashlib
import json
import os
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from avrobust_core import Registry
from avrobust_core.cli import main
from avrobust_core.errors import RunError
from avrobust_core.report.html.page import gather, render
from avrobust_core.report.html.reading import read_run
from avrobust_core.report.html.view import Charts, Fold, Items, Page, Part, Table, Value


class Parsed(HTMLParser):
    """The elements of a page with their attributes, and the text of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, str] = {}
        self.open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open = tag

    def handle_data(self, data: str) -> None:
        if self.open in ("script", "style"):
            self.inside[self.open] = self.inside.get(self.open, "") + data

    def handle_endtag(self, tag: str) -> None:
        self.open = ""


def page_of(folder: Path) -> Page:
    return gather(read_run(folder), Registry.discover())


def parts_of(page: Page, section: str) -> list[Part]:
    def flat(parts: Any) -> list[Part]:
        return [each for part in parts for each in (part, *(flat(part.parts) if isinstance(part, Fold) else ()))]

    return flat(next((each.parts for each in page.sections if each.name == section), ()))


def tables(page: Page, section: str) -> list[Table]:
    return [part for part in parts_of(page, section) if isinstance(part, Table)]


def column(table: Table, heading: str) -> list[Value]:
    (place,) = [i for i, each in enumerate(table.columns) if each.heading == heading]
    return [row[place] for row in table.rows]


def items(page: Page, section: str) -> str:
    return "\n".join(text for part in parts_of(page, section) if isinstance(part, Items) for text in part.items)


def test_a_report_is_one_file_that_asks_for_nothing_from_outside(made_run, tmp_path: Path) -> None:
    folder = made_run().write()
    assert main(["report", str(folder), "--out", str(tmp_path / "page.html")]) == 0
    assert not (folder / "report.html").exists()
    parsed = Parsed((tmp_path / "page.html").read_text(encoding="utf-8"))
    for tag, attributes in parsed.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form"), tag
        for name in ("src", "href", "srcset", "xlink:href", "action", "poster"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
        assert "style" not in attributes, "the policy would refuse it"
    (policy,) = [a["content"] for tag, a in parsed.elements if "http-equiv" in a]
    for tag in ("script", "style"):
        found = base64.b64encode(hashlib.sha256(parsed.inside[tag].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{found}'" in str(policy)
    assert "url(" not in parsed.inside["style"]
    assert "default-src 'none'" in str(policy)


def test_links_lead_somewhere_names_are_unique_and_rows_are_whole(made_run) -> None:
    text = render(page := page_of(made_run().write()))
    elements = Parsed(text).elements
    ids = Counter(attributes["id"] for _, attributes in elements if "id" in attributes)
    assert max(ids.values()) == 1
    pointed = [str(a[name]) for _, a in elements for name in ("href", "aria-labelledby") if name in a]
    assert {name.removeprefix("#") for name in pointed} <= ids.keys()
    for section in page.sections:
        for table in tables(page, section.name):
            assert {len(row) for row in table.rows} <= {len(table.columns)}, table.title


def test_whatever_names_labels_and_plugins_say_stays_text(made_run, evil: str) -> None:
    made = made_run(evil)
    made.write()
    caveat = {"check": made.name("flat"), "message": made.name("why"), "attack": made.name("pgd"), "threat": None}
    for cell in (*made.result["cells"], *made.result["pooled"]):
        cell["caveats"] = [caveat]
    made.save()
    text = render(page_of(made.folder))
    plain = Parsed(text)
    kinds = Counter(tag for tag, _ in plain.elements)
    assert (kinds["script"], kinds["img"], kinds["style"]) == (1, 0, 1)
    assert not [name for _, attributes in plain.elements for name in attributes if name.startswith("on")]
    shown = {
        "made",
        "x",
        "density",
        "dog",
        "flat",
        "Is x better than y?",
        "a note",
        "Traceback",
        "made data",
        "n",
        "audio",
    }
    escaped = "&lt;img src=x onerror=alert(1)&gt;&#34;&#39;&lt;/script&gt;&lt;script&gt;alert(2)&lt;/script&gt;"
    assert shown <= {word for word in shown if escaped + word in text}


def test_control_characters_and_marks_of_direction_do_not_reach_the_page(made_run) -> None:
    text = render(page_of(made_run("\x1b[31m\u202e\x00").write()))
    assert not re.search("[\x00\x1b\u202e]", text)


def test_the_first_table_has_every_cell_with_intervals_and_the_verdict(made_run) -> None:
    (first,) = tables(page_of(made_run().write()), "summary")
    headings = ["model", "training", "clean", "pgd on both", "fmn on both", "worst case on both", "audit"]
    assert [each.heading for each in first.columns] == headings
    assert [value.text for value in column(first, "clean")] == ["75.0 [65.0, 85.0]"] * 2
    assert column(first, "clean")[0].below == "over fits [55.0, 95.0]"
    assert [value.text for value in column(first, "pgd on both")] == ["50.0 [40.0, 60.0]", "40.0 [30.0, 50.0]"]
    assert [value.text for value in column(first, "audit")] == ["passed"] * 2


def test_a_worst_case_over_one_attack_is_not_told_twice(made_run) -> None:
    made = made_run()
    made.write()
    for cell in (*made.result["cells"], *made.result["pooled"]):
        cell["robust_accuracy"]["fmn"]["both"]["bounded"] = False
    made.save()
    (first,) = tables(page_of(made.folder), "summary")
    assert [each.heading for each in first.columns[2:-1]] == ["clean", "pgd on both", "fmn on both"]
    assert column(first, "fmn on both")[0].notes[0].startswith("! unbounded")


def test_what_the_audit_contradicts_is_said_beside_the_number_and_first(made_run) -> None:
    made = made_run()
    made.write()
    against = {"threat": "both", "robust_accuracy": 0.5, "at_most": 0.123, "probe": "square", "broken": 4, "probed": 5}
    made.result["cells"][1]["audit"] |= {"verdict": "failed", "contradictions": [against]}
    made.save()
    page = page_of(made.folder)
    (first,) = tables(page, "summary")
    worst, other = column(first, "worst case on both")
    assert worst.tone == "bad"
    assert "seed 1: at most 12.3 % by the audit's square" in worst.notes[0]
    assert not other.notes
    assert column(first, "audit")[0].text == "failed (1 of 2 seeds)"
    tones = [str(attributes.get("class")) for tag, attributes in Parsed(render(page)).elements if tag == "td"]
    assert {"n", "n bad", "n heat0", "n heat9"} <= set(tones)
    assert {name for tone in tones for name in tone.split() if "heat" in name} <= {f"heat{i}" for i in range(10)}
    assert items(page, "summary").startswith("1 of 4 cells have a robust accuracy that the audit contradicts: x/plain.")


def test_a_caveat_stands_beside_its_number_and_no_other(made_run) -> None:
    made = made_run()
    made.write()
    made.result["pooled"][0]["caveats"] = [{"check": "flat", "message": "no slope", "attack": "pgd", "threat": "both"}]
    made.save()
    (first,) = tables(page := page_of(made.folder), "summary")
    found = {each.heading: column(first, each.heading)[0].notes for each in first.columns}
    assert {heading: notes for heading, notes in found.items() if notes} == {"pgd on both": ("? flat: no slope",)}
    (differences,) = tables(page, "questions")
    assert [value.notes for value in column(differences, "between these networks")] == [(), ("? flat: no slope",)]


def test_a_question_is_answered_under_attack_and_open_where_chance_may_have_decided(made_run) -> None:
    made = made_run()
    made.write()
    assert "Is x better than y? x vs y (plain), under attack: the first ahead in 1 of 1" in items(
        page_of(made.folder), "summary"
    )
    made.result["comparisons"][1]["p_holm"] = 0.06
    made.save()
    assert "under attack: undecided in 1 of 1" in items(page_of(made.folder), "summary")
    made.result["comparisons"][1] |= {"p_holm": 0.01, "difference": made.result["cells"][0]["clean_accuracy"]}
    made.result["comparisons"][1]["difference"]["value"] = -0.2
    made.save()
    assert "under attack: the first behind in 1 of 1" in items(page_of(made.folder), "summary")


def test_curves_are_means_over_seeds_and_fronts_lie_where_their_budgets_say(made_run) -> None:
    made = made_run()
    made.write()
    made.result["cells"][1]["curves"]["pgd"]["both"][0]["value"] = 0.3  # the other seed has 0.5
    made.save()
    curve, front = (part.charts[0] for part in parts_of(page_of(made.folder), "curves") if isinstance(part, Charts))
    assert [mark.label for mark in curve.marks[:2]] == ["x/plain, x 1: 40.0 %", "x/plain, x 2: 25.0 %"]
    assert front.marks[0].label == "x/plain: audio 0.500, video 0.250"
    right, up = front.marks[0].x > front.marks[1].x, front.marks[0].y > front.marks[1].y
    assert (right, up) == (True, True), "more of the first modality lies right, less of the second below"


def test_classes_and_confusions_are_counted_over_seeds(made_run) -> None:
    page = page_of(made_run().write())
    (classes,) = tables(page, "classes")
    first = {str(row[1].text): [value.text for value in row[2:]] for row in classes.rows if row[0].text == "x/plain"}
    assert first == {
        "cat": ["8", "100.0", "100.0", "100.0", "100.0"],
        "dog": ["8", "75.0", "0.0", "0.0", "0.0"],
        "owl": ["8", "100.0", "100.0", "100.0", "100.0"],
    }
    clean, attacked = tables(page, "confusion")[:2]
    assert [value.text for value in clean.rows[1]] == ["2 dog", "25", "75", "·"]
    assert [value.text for value in attacked.rows[1]] == ["2 dog", "75", "25", "·"]


def test_cost_is_of_one_training_and_set_against_the_strongest_attack(made_run) -> None:
    page = page_of(made_run().write())
    (costs,) = tables(page, "cost")
    assert [value.sort for value in column(costs, "forward passes")] == [1000.5, 1000.5]
    assert costs.columns[-1].heading == "accuracy in %, pgd on both"


def test_a_run_that_has_not_ended_shows_its_cells_seed_by_seed_and_says_what_is_missing(made_run) -> None:
    made = made_run()
    folder = made.write(finished=False)
    (folder / "lock.json").unlink()
    (folder / "cells" / "y1" / "result.json").write_text("{")
    page = page_of(folder)
    (first,) = tables(page, "summary")
    assert [value.text for value in column(first, "training")] == ["plain, seed 0", "plain, seed 1", "plain, seed 0"]
    told = items(page, "summary")
    assert "3 of the 4 cells that were begun have a result" in told
    assert "lock.json is missing" in told
    assert "cells/y1/result.json: cannot be read" in told
    render(page)


def test_a_run_that_was_taken_up_again_says_that_its_result_is_old(made_run) -> None:
    folder = made_run().write()
    assert "taken up again" not in items(page_of(folder), "summary")
    later = (folder / "result.json").stat().st_mtime + 60
    os.utime(folder / "lock.json", (later, later))
    assert "The run was taken up again" in items(page_of(folder), "summary")


def test_a_run_without_any_result_says_so(tmp_path: Path) -> None:
    (tmp_path / "cells" / "abc").mkdir(parents=True)
    text = render(page_of(tmp_path))
    assert "No cell has a result yet." in text
    assert "0 of the 1 cells" in text


def test_damaged_clips_are_left_out_and_named_and_the_rest_is_told(made_run) -> None:
    folder = made_run().write()
    path = folder / "cells" / "x0" / "samples.parquet"
    pq.write_table(pq.read_table(path).slice(0, 30), path)
    (folder / "cells" / "x1" / "samples.parquet").unlink()
    page = page_of(folder)
    told = items(page, "summary")
    assert "cells/x0/samples.parquet is damaged" in told
    assert "cells/x1/samples.parquet cannot be read (No such file or directory)" in told
    assert {row[0].text for row in tables(page, "classes")[0].rows} == {"y/plain"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "result.json: cannot be read"),
        ("[]", "result.json: is no result of a run"),
        ('{"format": 2, "cells": []}', "its format is 2, and this avrobust reads 1"),
        ('{"format": 1, "name": "n", "cells": [{"model": "x"}]}', "are not as avrobust writes them"),
    ],
)
def test_a_damaged_result_is_one_sentence_and_no_file(made_run, capsys, content: str, sentence: str) -> None:
    folder = made_run().write()
    (folder / "result.json").write_text(content)
    assert main(["report", str(folder)]) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.splitlines()) == 1
    assert not (folder / "report.html").exists()


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no folder"):
        read_run(tmp_path / "missing")
    (tmp_path / "letters").mkdir()
    with pytest.raises(RunError, match="is no run"):
        read_run(tmp_path / "letters")


def test_a_cell_that_failed_has_its_message_first_and_its_traceback_below(made_run) -> None:
    made = made_run()
    made.write()
    names = {name: made.result["cells"][0][name] for name in ("id", "model", "training", "seed")}
    made.result["cells"][0] = names | {"error": {"message": "out of memory", "traceback": "line 1"}, "failures": []}
    made.save()
    page = page_of(made.folder)
    assert "x/plain, seed 0, failed: out of memory" in items(page, "summary")
    folds = [part.title for part in parts_of(page, "failures") if isinstance(part, Fold)]
    assert folds == ["pooled: broke", "x/plain, seed 0: the whole cell: out of memory"]


def test_the_report_of_a_study_that_was_carried_out(study, tmp_path: Path) -> None:
    study(out=tmp_path / "run")
    assert main(["report", str(tmp_path / "run")]) == 0
    page = page_of(tmp_path / "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    (first,) = tables(page, "summary")
    assert len(first.rows) == len(result["cells"])
    assert tables(page, "classes")
    assert "avrobust run resolved.yaml" in (tmp_path / "run" / "report.html").read_text()
