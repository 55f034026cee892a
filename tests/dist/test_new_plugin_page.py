"""docs/new_plugin.md, carried out from top to bottom by a reader with a fresh environment."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "new_plugin.md"


def steps() -> Iterator[tuple[str, str]]:
    """What the page has a reader do: ("sh", a command), or (a file, its text)."""
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S):
        if language == "sh":
            yield from (("sh", command) for command in text.splitlines())
        else:
            yield text.partition("\n")[0].removeprefix("# "), text


def as_installed(command: str, python: Path) -> list[str]:
    """A command of the page in the environment of an interpreter, which has no package index at hand."""
    match shlex.split(command):
        case ["avrobust", *arguments]:
            return [str(python.parent / "avrobust"), *arguments]
        case ["pip", "install", "-e", ".[test]"]:
            options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
            return [str(python), "-m", "pip", "install", *options, "-e", ".[test]"]
        case ["pytest"]:
            return [str(python), "-m", "pytest", "-p", "no:cacheprovider"]
    raise AssertionError(f"the page has a command that its test does not know: {command}")


@pytest.mark.slow
def test_the_page_works_as_it_says(wheel: Path, environment: Any, tmp_path: Path) -> None:
    python = environment([wheel])
    outside = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    folder, done, said = tmp_path, [], ""
    for what, text in steps():
        if what != "sh":
            assert (folder / what).is_file(), f"{what} is none of the files that were written"
            (folder / what).write_text(text, encoding="utf-8")
            continue
        command = as_installed(text, python)
        found = subprocess.run(command, cwd=folder, env=outside, capture_output=True, text=True, check=False)
        assert found.returncode == 0, f"{text}\n{found.stdout[-3000:]}\n{found.stderr[-3000:]}"
        done.append(text)
        said = found.stdout
        if "new-plugin" in text:
            folder = tmp_path / "avrobust-sure-errors"
    assert [command.split()[1] for command in done if command.startswith("avrobust")] == [
        "new-plugin",
        "check-plugin",
        "run",
    ]
    assert re.search(r"sure-errors │ share", said), said
    for arguments in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--no-cache", "."]
        found = subprocess.run(command, cwd=folder, env=outside, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stdout
