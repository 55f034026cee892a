"""What is written once more for other tools agrees with what the project says of itself."""

from pathlib import Path

import yaml

from avrobust_core._version import __version__

ROOT = Path(__file__).parents[2]


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


def test_the_changelog_has_an_entry_for_this_version_under_known_headings() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    lines = text.splitlines()
    assert any(line.startswith(f"## {__version__}") for line in lines)
    kinds = {line.removeprefix("### ") for line in lines if line.startswith("### ")}
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_every_hook_of_pre_commit_is_a_step_of_ci() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    steps = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    for hook in hooks:
        command = hook["entry"].removesuffix(" --force-exclude")
        assert any(step == command or step.startswith(f"{command} ") for step in steps), hook["id"]
