"""`avrobust cite`: which sources, once each, in BibTeX that parses, whatever a plugin states as its source."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from avrobust_core.cli import main
from avrobust_core.cli.cite import bibtex

ROOT = Path(__file__).parents[3]


def entry(name: str, *references: str, kind: str = "attack") -> Any:
    return SimpleNamespace(kind=kind, component=SimpleNamespace(name=name, references=references))


def test_the_sources_of_what_a_spec_uses_are_cited_once_with_avrobust_and_the_paper_that_it_starts_from(
    tmp_path, capsys
) -> None:
    assert main(["cite", str(ROOT / "examples" / "quickstart.yaml")]) == 0
    text = capsys.readouterr().out
    keys = re.findall(r"^@(\w+)\{(\S+),$", text, flags=re.MULTILINE)
    assert keys[:2] == [("software", "avrobust"), ("inproceedings", "arxiv-2203.12122")]
    assert len(keys) == len(set(keys))
    assert ("misc", "arxiv-1706.06083") in keys
    assert "note = {Used by avrobust: attack pgd}" in text
    run = tmp_path / "run"
    run.mkdir()
    (run / "resolved.yaml").write_text((ROOT / "examples" / "quickstart.yaml").read_text())
    (run / "lock.json").write_text('{"avrobust": "0.0.7"}')
    assert main(["cite", str(run)]) == 0
    assert capsys.readouterr().out == text.replace("version = {0.1.0}", "version = {0.0.7}")


def test_a_component_inside_another_is_cited_too(tmp_path, capsys) -> None:
    attacks = "attacks={all: {use: ensemble, with: {members: [{use: ddn}]}}}"
    assert main(["cite", str(ROOT / "examples" / "quickstart.yaml"), "--set", attacks]) == 0
    text = capsys.readouterr().out
    assert "attack ddn" in text
    assert "attack pgd" not in text


def test_a_source_is_known_by_its_number_its_address_or_as_it_is_written() -> None:
    one, two, three, four = bibtex(
        [
            entry("a", "https://arxiv.org/abs/1706.06083", "https://doi.org/10.1109/34.667881"),
            entry("b", "arXiv:1706.06083v4", "https://arxiv.org/abs/2203.12122", kind="metric"),
            entry("c", "https://example.org/a_b%20{c}", "Smith & {Sons} 100%, 1994"),
        ]
    )
    assert one.startswith("@misc{arxiv-1706.06083,\n")
    assert "note = {Used by avrobust: attack a, metric b}" in one
    assert "year = {2017}" in one
    assert two.startswith("@misc{doi-10.1109-34.667881,\n")
    assert "doi = {10.1109/34.667881}" in two
    assert "url = {https://example.org/a_b%20c}" in three
    assert r"howpublished = {Smith \& \{Sons\} 100\%, 1994}" in four
