"""New plugins of every kind: written by the installed command, built, installed, tested, checked, and run."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from avrobust_core.registry.kinds import KINDS

pytestmark = pytest.mark.slow

ALL_AT_ONCE = """
import contextlib, io, json, sys
from avrobust_core.cli import main
found = {}
for kind, commands in json.loads(sys.argv[1]).items():
    for command in commands:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            status = main(command)
        found.setdefault(kind, []).append([status, said.getvalue()])
print(json.dumps(found))
"""
"""Commands of several plugins, one after the other: torch is imported once."""


def carried_out(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MYPYPATH"))}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600
    )


def name_of(kind: str) -> str:
    return f"avrobust-made-{kind}"


@pytest.fixture(scope="module")
def written(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the new plugins, each in a folder of its own."""
    out = tmp_path_factory.mktemp("written")
    for kind in KINDS:
        command = [str(installed.parent / "avrobust"), "new-plugin", name_of(kind), "--kind", kind, "--out", str(out)]
        done = carried_out(command, out)
        assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def with_them(written: Path, wheel: Path, build: Any, environment: Any) -> Path:
    """The interpreter of a fresh environment with avrobust's wheel and theirs."""
    python: Path = environment([wheel, *(build(written / name_of(kind)) for kind in KINDS)])
    return python


@pytest.fixture(scope="module")
def their_tests(with_them: Path, written: Path) -> Mapping[str, list[ElementTree.Element]]:
    """The outcomes of their own tests, by kind."""
    folders = [str(written / name_of(kind) / "tests") for kind in KINDS]
    options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--junitxml=found.xml"]
    done = carried_out([str(with_them), "-m", "pytest", *options, *folders], written)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    cases = list(ElementTree.parse(written / "found.xml").iter("testcase"))
    return {kind: [case for case in cases if f"test_avrobust_made_{kind}" in case.get("classname", "")] for kind in KINDS}


@pytest.fixture(scope="module")
def their_commands(with_them: Path, written: Path) -> Mapping[str, Any]:
    """Status and output of `check-plugin` and `run`, by kind."""
    commands = {
        kind: [
            ["check-plugin", name_of(kind), "--json"],
            ["run", str(written / name_of(kind) / f"made_{kind}_study.yaml"), "--out", str(written / "runs" / kind)],
        ]
        for kind in KINDS
    }
    done = carried_out([str(with_them), "-c", ALL_AT_ONCE, json.dumps(commands)], written)
    assert done.returncode == 0, done.stderr[-4000:]
    found: Mapping[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_tests_pass(their_tests: Mapping[str, list[ElementTree.Element]], kind: str) -> None:
    cases = their_tests[kind]
    passed = [case for case in cases if case.find("skipped") is None]
    assert len(passed) >= 7
    assert len(passed) >= 0.8 * len(cases)


@pytest.mark.parametrize("kind", KINDS)
def test_it_conforms(their_commands: Mapping[str, Any], kind: str) -> None:
    status, said = their_commands[kind][0]
    found = json.loads(said)
    assert status == 0, found
    assert found["counts"]["failed"] == 0
    assert {subject["kind"] for subject in found["subjects"]} == {"plugin", kind}
    assert all("passed" in {check["status"] for check in subject["checks"]} for subject in found["subjects"])


@pytest.mark.parametrize("kind", KINDS)
def test_its_study_runs(their_commands: Mapping[str, Any], kind: str, written: Path) -> None:
    status, said = their_commands[kind][1]
    assert status == 0, said
    results = list((written / "runs" / kind / "cells").glob("*/result.json"))
    assert results
    if kind == "tracker":
        lines = [path.read_text(encoding="utf-8") for path in (written / "runs" / kind).glob("made-tracker/*.jsonl")]
        assert len(lines) == len(results) == 2
        assert all("clean accuracy" in text for text in lines)


def test_their_types_hold_strictly(with_them: Path, written: Path) -> None:
    packages = [str(written / name_of(kind) / name_of(kind).replace("-", "_")) for kind in KINDS]
    options = ["--strict", "--python-executable", str(with_them), "--cache-dir", str(written / "mypy")]
    done = carried_out([sys.executable, "-m", "mypy", *options, *packages], written)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
