"""Pages of the site that are made from the code: components, commands, the Python API, examples; free of mkdocs.

They are made whenever the site is built, so that they cannot say anything else than what is installed.
"""

import argparse
import ast
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import yaml

import avrobust_core
import avrobust_core.testing
from avrobust_core import Registry
from avrobust_core.cli import command_parser
from avrobust_core.cli.component_text import fields_of, snippet
from avrobust_core.registry.discovery import RegistryEntry
from avrobust_core.registry.kinds import KINDS, Kind

ROOT = Path(__file__).parents[2]
HELP_WIDTH = 100
"""Columns of the commands' help."""


def pages() -> dict[str, str]:
    """Every generated page: its path below the site's root, and its Markdown, links as from that place."""
    kinds = {f"reference/{kind.name}s.md": kind_page(kind) for kind in KINDS.values()}
    python = {f"reference/python/{name}.md": text for name, text in python_pages().items()}
    return {"reference/commands.md": commands_page(), **kinds, **python, "examples.md": examples_page()}


def copies() -> dict[str, str]:
    """Files of the repository that are pages of the site: their paths, and their places below the site's root."""
    readmes = sorted(ROOT.glob("examples/plugins/*/README.md"))
    return {
        "README.md": "index.md",
        "CONTRIBUTING.md": "contributing.md",
        "CHANGELOG.md": "changelog.md",
        "CITATION.cff": "CITATION.cff",
        **{path.relative_to(ROOT).as_posix(): f"plugins/{path.parent.name}.md" for path in readmes},
    }


def place_of(path: str) -> str | None:
    """Where the site shows a file or a folder of the repository, as a path below its root; None if nowhere."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if re.fullmatch(r"examples/[^/]+\.yaml", path):
        return f"examples.md#{PurePosixPath(path).stem}"
    if re.fullmatch(r"examples/plugins/[^/]+", path):
        path = f"{path}/README.md"
    return copies().get(path)


def relinked(text: str, source: str, page: str) -> str:
    """Markdown whose links lead from a page of the site to where the site shows what they name.

    Args:
        text: the Markdown, with links as they are right in the repository.
        source: where it stands in the repository, like "docs/data.md".
        page: its place below the site's root.
    """

    def renewed(match: re.Match[str]) -> str:
        target, _, anchor = match[1].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        path = os.path.normpath(PurePosixPath(source).parent / target)
        place = place_of(PurePosixPath(path).as_posix())
        if place is None:
            return match[0]  # mkdocs warns of it, and a warning is an error
        found = os.path.relpath(place, PurePosixPath(page).parent)
        return f"]({found}{'#' + anchor if anchor else ''})"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else re.sub(r"\]\(([^)\s]+)\)", renewed, part) for part in parts)


def bundled(kind: str) -> list[RegistryEntry]:
    """The components of a kind that come with avrobust, by name."""
    found = [entry for entry in Registry.discover().entries(kind) if entry.distribution == "avrobust"]
    return sorted(found, key=lambda entry: entry.component.name)


def kind_page(kind: Kind) -> str:
    """A page of all bundled components of one kind."""
    entries = bundled(kind.name)
    arguments = ", ".join(["config", *(f"{name}: {type_}" for name, type_ in kind.arguments.items())])
    return "\n".join(
        [
            f"# {kind.name.capitalize()}s",
            "",
            f"Plugins offer them by the hook `{kind.hook}`. `build({arguments})` returns "
            f"[`{kind.base_name}`][avrobust_core.{kind.base_name}].",
            "",
            "| name | what it is |",
            "|---|---|",
            *(
                f"| [`{entry.component.name}`](#{entry.component.name}) | {cell(entry.component.summary)} |"
                for entry in entries
            ),
            "",
            *(line for entry in entries for line in component_part(entry)),
        ]
    )


def component_part(entry: RegistryEntry) -> Iterator[str]:
    """One component: summary, where it comes from, configuration and example."""
    component = entry.component
    yield from (f"## {component.name}", "", component.summary, "")
    if component.extras:
        yield from (f"Needs `pip install '{entry.distribution}[{','.join(component.extras)}]'`.", "")
    if component.references:
        yield from ("Sources: " + ", ".join(f"<{reference}>" for reference in component.references), "")
    yield from ("```yaml", *snippet(entry, component.name), "```", "")
    if fields := list(fields_of(component.config)):
        yield from ("| field | type | default | what it means |", "|---|---|---|---|")
        for field in fields:
            default = "required" if field.default == "required" else f"`{field.default.removeprefix('default ')}`"
            name = ".".join(field.path)
            yield f"| `{name}` | {cell(field.kind)} | {cell(default)} | {cell(field.description)} |"
        yield ""


def cell(text: str) -> str:
    """Text for a cell of a table: on one line, and without a bar that would end the cell."""
    return " ".join(text.split()).replace("|", "\\|")


def commands_page() -> str:
    """A page of the help of every command."""
    lines = [
        "# Commands",
        "",
        "What `avrobust COMMAND --help` prints. [Specs and runs](../spec.md#commands) says which does what, and "
        "what exit statuses mean.",
        "",
    ]
    with wide(HELP_WIDTH):
        for parser in parsers(command_parser()):
            lines += [f"## {parser.prog}", "", "```text", parser.format_help().rstrip(), "```", ""]
    return "\n".join(lines)


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser, and those of its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in dict.fromkeys(action.choices.values()):
                yield from parsers(below)


@contextmanager
def wide(columns: int) -> Iterator[None]:
    """Let help be written for so many columns, whatever the terminal's."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(columns)
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def python_pages() -> dict[str, str]:
    """Pages of the public names by the room of the core that they come from; `ground` has those of single modules."""
    rooms: dict[str, list[str]] = {}
    for name, module in public_names().items():
        room = module.split(".")[1]
        rooms.setdefault(room if (ROOT / "avrobust_core" / room).is_dir() else "ground", []).append(name)
    found = {
        room: python_page(f"avrobust_core: {room}", said(room), "avrobust_core", rooms[room]) for room in sorted(rooms)
    }
    testing = sorted(avrobust_core.testing.__all__)
    found["testing"] = python_page("avrobust_core.testing", said("testing"), "avrobust_core.testing", testing)
    return found


def public_names() -> Mapping[str, str]:
    """Every public name of the core, and the module that defines it."""
    tree = ast.parse((ROOT / "avrobust_core" / "__init__.pyi").read_text(encoding="utf-8"))
    return {
        alias.name: statement.module
        for statement in tree.body
        if isinstance(statement, ast.ImportFrom) and statement.module
        for alias in statement.names
    }


def said(room: str) -> str:
    """What a room says of itself."""
    if room == "ground":
        return "Names from the modules on the ground floor of the core."
    text = (ROOT / "avrobust_core" / room / "__init__.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]


def python_page(title: str, about: str, package: str, names: list[str]) -> str:
    """A page of the docstrings of some public names."""
    lines = [f"# {title}", "", about, ""]
    for name in sorted(names, key=str.lower):
        lines += [f"::: {package}.{name}", "    options:", f"      heading: {name}", f"      toc_label: {name}", ""]
    return "\n".join(lines)


def examples_page() -> str:
    """A page of the specs in `examples/`, each as it is there."""
    lines = ["# Example specs", "", "As they stand in the folder `examples`.", ""]
    for path in sorted(ROOT.glob("examples/*.yaml")):
        text = path.read_text(encoding="utf-8").rstrip()
        yaml.safe_load(text)
        lines += [f"## {path.stem}", "", "```yaml", text, "```", ""]
    return "\n".join(lines)
