"""Completion: what may follow on a command line, by the parser itself, and in a real bash."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from avrobust_core.cli import command_parser, main
from avrobust_core.cli.completion import completed

ROOT = Path(__file__).parents[3]


def names(argument: str) -> list[tuple[str, str]]:
    return [(f"a-{argument}", "told"), ("pgd", "attack")]


@pytest.mark.parametrize(
    ("before", "word", "files", "found"),
    [
        ([], "tr", False, ["transfer"]),
        (["data"], "", False, ["pack", "check"]),
        (["run"], "", True, []),
        (["run", "a.yaml"], "", False, []),
        (["run", "a.yaml"], "--q", False, ["--quiet"]),
        (["run", "a.yaml", "--quiet"], "--q", False, []),
        (["run", "a.yaml", "--set", "seed=1"], "--se", False, ["--set"]),
        (["run", "a.yaml", "--out"], "", True, []),
        (["run", "a.yaml", "--out", "="], "ru", True, []),
        (["--no-plugin"], "", False, ["a-no_plugin", "pgd"]),
        (["--no-plugin", "x"], "comp", False, ["compare", "completion"]),
        (["show"], "p", False, ["pgd"]),
        (["show"], "--js", False, ["--json"]),
        (["plugins"], "--kind=p", False, ["--kind=pgd"]),
        (["measure", "a.npy", "b.npy", "--reference", "c.npy"], "", True, []),
        (["compare", "one", "two"], "", True, []),
        (["export", "run", "--cells", "x"], "", False, ["a-cells", "pgd"]),
        (["completion"], "", False, ["bash", "zsh", "fish"]),
        (["completion"], "--", False, ["--help"]),
        (["no-such-command"], "", False, []),
    ],
)
def test_what_may_follow(before: list[str], word: str, files: bool, found: list[str]) -> None:
    may, candidates = completed(command_parser(), before, word, names)
    assert (may, [word for word, _ in candidates]) == (files, found)


def test_components_kinds_and_plugins_are_completed_by_name_without_torch(capsys) -> None:
    assert main(["completion", "--before=show", "--word=pg"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "words"
    assert [line.split("\t")[0] for line in lines] == ["pgd"]
    assert lines[0].split("\t")[1].startswith("attack: ")
    assert main(["completion", "--before=plugins\n--kind", "--word=enc"]) == 0
    assert capsys.readouterr().out == "words\nencoder\n"
    assert main(["completion", "--before=--no-plugin", "--word=geo"]) == 0
    assert capsys.readouterr().out.split("\t")[0] == "words\ngeometry"


def test_bash_completes_commands_options_and_components_with_the_printed_script(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    script = f"""
        avrobust() {{ "{sys.executable}" -X importtime -m avrobust_core "$@" 2>>"{tmp_path}/imports"; }}
        eval "$(avrobust completion bash)" && complete -p avrobust
        try() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _avrobust; echo "${{COMPREPLY[*]}}"; }}
        try avrobust dat
        try avrobust data pack spec.yaml --p
        try avrobust show apg
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins"), *sys.path[:1]])}
    done = subprocess.run([bash, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.splitlines() == ["complete -F _avrobust avrobust", "data", "--part", "apgd"], done.stderr
    imported = (tmp_path / "imports").read_text()
    assert "avrobust_core.cli.completion" in imported
    assert " torch\n" not in imported


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_read_the_printed_script(shell: str, tmp_path: Path, capsys) -> None:
    assert main(["completion", shell]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    assert "avrobust completion " in script.read_text()
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"there is no {shell}")
    subprocess.run([found, "-n", str(script)], check=True)
