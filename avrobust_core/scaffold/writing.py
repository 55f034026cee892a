"""Writing a new plugin: the files of its distribution from the templates, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from avrobust_core._version import __version__
from avrobust_core.errors import AvrobustError
from avrobust_core.files import TEMPORARY
from avrobust_core.registry.hookspecs import ENTRY_POINT_GROUP
from avrobust_core.registry.kinds import KINDS
from avrobust_core.scaffold.drafts import DRAFTS
from avrobust_core.scaffold.names import Names


class FolderTaken(AvrobustError):
    """Something stands where the new plugin's folder should."""


def rendered(names: Names, kind: str) -> dict[str, str]:
    """The files of a new plugin: their text by path.

    Args:
        names: of its parts.
        kind: of its component, a key of `KINDS`.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined  # takes a while

    # Braces are Python's and GitHub's here; << and <% are nobody's.
    templates = Environment(
        loader=PackageLoader("avrobust_core.scaffold", "templates"),
        variable_start_string="<<",
        variable_end_string=">>",
        block_start_string="<%",
        block_end_string="%>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        autoescape=False,  # no page is made of it
    )
    draft = DRAFTS[kind]
    words = {
        "name": names.distribution,
        "package": names.package,
        "component": names.component,
        "cls": names.class_name,
        "kind": kind,
        "hook": KINDS[kind].hook,
        "base": KINDS[kind].base_name,
        "group": ENTRY_POINT_GROUP,
        "version": __version__,
        "spec": spec_of(names),
        "summary": draft.summary,
        "about": draft.about,
        "references": draft.references,
        "example": draft.example,
    }
    words["usage"] = templates.get_template(f"{kind}/usage.yaml.jinja").render(words).rstrip()
    return {
        path: templates.get_template(f"{template}.jinja").render(words) if template else ""
        for path, template in _files(names, kind).items()
    }


def spec_of(names: Names) -> str:
    """The file of the new plugin's study."""
    return f"{names.component.replace('-', '_')}_study.yaml"


def write_plugin(files: Mapping[str, str], folder: Path) -> None:
    """Write the files of a new plugin into a folder that is not there yet: all of them, or none.

    Args:
        files: text by path below the folder.
        folder: made, with those above it.

    Raises:
        FolderTaken: if it is there already.
        OSError: if it cannot be written.
    """
    if folder.exists() or folder.is_symlink():
        raise FolderTaken(f"{folder} is there already: take another name or another --out, or remove it first")
    # On the same disk, so that the folder can be moved into its place in one step.
    above = next(each for each in folder.absolute().parents if each.exists())
    stage = Path(tempfile.mkdtemp(dir=above, prefix=f"{TEMPORARY}{folder.name}."))
    try:
        made = stage / folder.name
        for path, text in files.items():
            file = made / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        folder.parent.mkdir(parents=True, exist_ok=True)
        os.rename(made, folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _files(names: Names, kind: str) -> dict[str, str | None]:
    """The template of each file, by the file's path; None for one that is empty."""
    package = names.package
    return {
        "pyproject.toml": "common/pyproject.toml",
        "README.md": "common/README.md",
        ".gitignore": "common/gitignore",
        ".github/workflows/ci.yml": "common/ci.yml",
        f"{package}/__init__.py": "common/init.py",
        f"{package}/py.typed": None,
        f"{package}/plugin.py": "common/plugin.py",
        f"{package}/configs.py": f"{kind}/configs.py",
        f"{package}/{kind}.py": f"{kind}/body.py",
        f"tests/test_{package}.py": f"{kind}/test.py",
        spec_of(names): f"{kind}/study.yaml",
    }
