"""README, CONTRIBUTING, docs and the examples' READMEs: what a reader can copy from them works.

How a block is checked depends on its language alone:

- `yaml` with a `version` is loaded as a spec; without one it is part of a spec, and loaded on top of docs/spec.md's.
- `python` is compiled, and whatever it imports from this project is looked up; test_python_blocks.py runs it (slow).
- `sh`, and commands inside a sentence: `avrobust` is parsed by the command's own parser, with what is in brackets and
  without; `python FILE` must name a file that knows the options, `pip install` extras and folders that exist, `bash` a
  script; other tools come with the extras `test` and `docs`.
- `toml` is parsed. `text` is shown, not used.

A block whose first line is a comment with a file's name is that file. Pages of the tutorial are carried out from top to
bottom, as a reader would (slow).
"""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Set
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from avrobust_core import Component, Config
from avrobust_core.cli import command_parser
from avrobust_core.registry.discovery import PluginRecord, RegistryEntry
from avrobust_core.registry.kinds import KINDS
from avrobust_core.registry.registry import Registry
from avrobust_core.spec.loading import load_spec

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("examples/plugins/*/README.md")),
    *sorted(ROOT.glob(".github/**/*.md")),
]
LANGUAGES = {"yaml", "python", "sh", "toml", "text"}
TOOLS = {name: name for name in ("pytest", "ruff", "mypy", "pre-commit", "mkdocs")} | {"lint-imports": "import-linter"}
"""Commands, and the packages of the extras `test` and `docs` that bring them."""
PLACEHOLDER = "my_package"
"""The package of a reader's own in examples of plugins."""
TUTORIAL = sorted(ROOT.glob("docs/tutorial/*.md"))


class Block(NamedTuple):
    document: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str | None:
        """The file that it is, if its first line says so."""
        found = re.match(r"# ([\w./-]+\.(?:py|yaml|toml))\n", self.text)
        return found and found[1]


def split(document: Path) -> tuple[list[Block], str]:
    """The fenced blocks of a document, and its other lines (those of blocks are empty)."""
    blocks, prose, start, lines = [], [], 0, document.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if start and line == "```":
            blocks.append(Block(document, start, lines[start - 1][3:], "\n".join(lines[start : number - 1]) + "\n"))
            start = 0
        elif not start and re.fullmatch(r"```\w+", line):
            start = number
        elif not start:
            prose.append(line)
            continue
        prose.append("")
    assert not start, f"{document.name}:{start}: this block has no end"
    return blocks, "\n".join(prose)


PARTS = {document: split(document) for document in DOCUMENTS}
BLOCKS = [block for blocks, _ in PARTS.values() for block in blocks]


def written(document: Path) -> set[str]:
    """The files that a document tells its reader to write."""
    return {block.file for block in PARTS[document][0] if block.file}


def of(*languages: str) -> Any:
    return pytest.mark.parametrize("block", [block for block in BLOCKS if block.language in languages], ids=str)


def commands() -> Iterator[Any]:
    """Every command of the documents: the lines of `sh` blocks, and what sentences quote."""
    for document, (blocks, prose) in PARTS.items():
        for block in blocks:
            if block.language == "sh":
                for number, line in enumerate(block.text.splitlines(), block.line + 1):
                    for command in re.sub(r"(^|\s)#.*", "", line).split("&&"):
                        if command.strip():
                            yield pytest.param(document, command.strip(), id=f"{document.name}:{number}")
        for found in re.finditer(r"`((?:avrobust|python|bash|pre-commit)\s[^`]+)`", prose):
            number = prose.count("\n", 0, found.start()) + 1
            yield pytest.param(document, " ".join(found[1].split()), id=f"{document.name}:{number}")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_stands_in_fenced_blocks_of_a_known_language(document: Path) -> None:
    blocks, prose = PARTS[document]
    assert {block.language for block in blocks} <= LANGUAGES
    assert "```" not in prose
    assert not re.search(r"^\n    \S", prose, flags=re.MULTILINE), "an indented block is no fenced one"


@of("yaml")
def test_yaml_is_a_spec_or_part_of_one(block: Block, tmp_path: Path) -> None:
    whole = re.search(r"^version:", block.text, flags=re.MULTILINE)
    base = next(block for block in PARTS[ROOT / "docs" / "spec.md"][0] if "version: 1" in block.text)
    (tmp_path / "base.yaml").write_text(base.text, encoding="utf-8")
    text = block.text if whole or "extends:" in block.text else f"extends: base.yaml\n{block.text}"
    (tmp_path / "block.yaml").write_text(text, encoding="utf-8")
    load_spec(tmp_path / "block.yaml", with_its_own(block.document, with_the_readers_own()))


def with_its_own(document: Path, registry: Registry) -> Registry:
    """A registry, and what the distribution offers whose README this is; the same registry for any other document."""
    declared = document.parent / "pyproject.toml"
    if document.parent == ROOT or not declared.exists():
        return registry
    project = tomllib.loads(declared.read_text(encoding="utf-8"))["project"]
    if any(plugin.distribution == project["name"] for plugin in registry.plugins):
        return registry  # installed
    sys.path.append(str(document.parent))
    found = list(registry.plugins)
    for name, module in project["entry-points"]["avrobust_v1"].items():
        hooks = vars(import_module(module))
        of_it = {"distribution": project["name"], "distribution_version": project["version"]}
        entries = tuple(
            RegistryEntry(kind=kind, component=component, plugin=name, **of_it)
            for kind in KINDS
            for component in hooks.get(f"avrobust_{kind}s", tuple)()
        )
        of_plugin = {"module": module, "group": "avrobust_v1", "status": "ok", "error": None, "milliseconds": 0.0}
        found.append(PluginRecord(name=name, entries=entries, **of_it, **of_plugin))
    return Registry(found)


def with_the_readers_own() -> Registry:
    """What is installed, and the components that the tutorial shows how to offer."""
    about = {"distribution": "mine", "distribution_version": "1"}
    offers = tuple(
        RegistryEntry(kind=kind, component=component, plugin="mine", **about) for kind, component in the_readers_own()
    )
    of_plugin = {"module": PLACEHOLDER, "group": "avrobust_v1", "status": "ok", "error": None, "milliseconds": 0.0}
    mine = PluginRecord(name="mine", entries=offers, **about, **of_plugin)
    return Registry([*Registry.discover().plugins, mine])


def the_readers_own() -> Iterator[tuple[str, Component]]:
    def component(name: str, config: type[Config] = Config) -> Component:
        return Component(name=name, summary="The reader's own.", config=config, build=lambda *_: None)

    class Tries(Config):
        tries: int = 20
        """As in docs/tutorial/your_attack.md."""

    yield "fusion", component("my-net")
    yield "attack", component("corners", Tries)
    yield "metric", component("brier")


@of("python")
def test_python_compiles_and_what_it_imports_is_there(block: Block) -> None:
    tree = ast.parse(block.text)
    own = {PLACEHOLDER} | {file.partition("/")[0].removesuffix(".py") for file in written(block.document)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                import_module(name.name)
        elif isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] not in own:
            module = import_module(str(node.module))
            assert [name.name for name in node.names if not hasattr(module, name.name)] == []


@of("toml")
def test_toml_is_toml(block: Block) -> None:
    tomllib.loads(block.text)


@pytest.mark.parametrize(("document", "command"), list(commands()))
def test_a_command_is_understood(document: Path, command: str) -> None:
    for variant in {re.sub(r"\s*\[--[^\]]*\]", "", command), re.sub(r"\[(--[^\]]*)\]", r"\1", command)}:
        understood(shlex.split(re.sub(r"\[([A-Z]+)\]", r"\1", variant)), written(document))


def understood(words: list[str], own: Set[str] = frozenset()) -> None:
    """See that a command is one that works.

    Args:
        words: of the command.
        own: files that its document tells the reader to write.
    """
    match [word for word in words if word not in ("-X", "importtime")]:
        case ["avrobust", command]:
            with pytest.raises(SystemExit, match=r"^0$"):
                command_parser().parse_args([command, "--help"])
            files = []
        case ["avrobust", "data", task]:
            with pytest.raises(SystemExit, match=r"^0$"):
                command_parser().parse_args(["data", task, "--help"])
            files = []
        case ["avrobust", *arguments]:
            command_parser().parse_args(arguments)
            files = [word for word in arguments if word.startswith("examples/")]
        case ["python", "-m", "avrobust_core", *arguments]:
            understood(["avrobust", *(arguments or ["plugins"])])
            files = []
        case ["python", "-m", module, *arguments]:
            files = [f"examples/plugins/{module.replace('_', '-')}/{module}/__main__.py"]
        case ["python", script] if script in own:
            files = []
        case ["python", script, *arguments]:
            options = [word for word in arguments if word.startswith("--")]
            text = (ROOT / script).read_text(encoding="utf-8")
            assert [option for option in options if f'"{option}"' not in text] == []
            files = [script]
        case ["pip", "install", *packages, "--index-url", _]:
            needed = {re.split(r"[<>=]", need)[0] for need in PROJECT["dependencies"]}
            assert set(packages) <= needed
            files = []
        case ["pip", "install", *arguments]:
            files = [word.partition("[")[0] for word in arguments if not word.startswith("-")]
            extras = re.findall(r"\[([\w,]+)\]", " ".join(arguments))
            wanted = {extra for listed in extras for extra in listed.split(",")}
            assert wanted <= set(PROJECT["optional-dependencies"])
        case ["bash", *files]:
            assert files
        case [tool, *_]:
            files = []
            extras = PROJECT["optional-dependencies"]
            needs = " ".join([*extras["test"], *extras["docs"]])
            assert f"{TOOLS[tool]}>=" in needs
        case _:
            raise AssertionError("an empty command")
    assert [file for file in files if not (ROOT / file).exists()] == []


WRONG = (
    "avrobust rnu",
    "avrobust data pakc",
    "avrobust run --st x.yaml",
    "python benchmarks/none.py",
    "pip install '.[x]'",
    "pip install torhc --index-url https://download.pytorch.org/whl/cpu",
    "make",
)


@pytest.mark.parametrize("command", WRONG)
def test_a_command_with_a_mistake_is_noticed(command: str) -> None:
    with pytest.raises((SystemExit, OSError, AssertionError, KeyError, pytest.fail.Exception)):
        understood(shlex.split(command))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", PARTS[document][1]):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (document.parent / file) if file else document
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings], target


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIAL, ids=lambda path: path.stem)
def test_a_page_of_the_tutorial_can_be_carried_out(page: Path, tmp_path: Path) -> None:
    site, lines = tmp_path / "site", []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(site), *sys.path])}
    for block in PARTS[page][0]:
        if block.file:
            path = tmp_path / block.file
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            lines.append(block.text)  # one session, which goes on from block to block
        elif block.language == "sh":
            for command in block.text.splitlines():
                carried_out(as_here(command, site), tmp_path, environment)
    if lines:
        carried_out([sys.executable, "-c", "\n".join(lines)], tmp_path, environment)
    if (tmp_path / PLACEHOLDER / "plugin.py").exists():
        for file in tmp_path.glob("*.py"):
            shutil.copy(file, tmp_path / PLACEHOLDER)
        carried_out(as_here("pip install -e .", site), tmp_path, environment)
        carried_out(as_here("avrobust check-plugin my-net", site), tmp_path, environment)


def as_here(command: str, site: Path) -> list[str]:
    """A command of the tutorial, with this interpreter, and with nothing installed into its environment."""
    match shlex.split(command):
        case ["avrobust", *arguments]:
            return [sys.executable, "-m", "avrobust_core", *arguments]
        case ["python", *arguments]:
            return [sys.executable, *arguments]
        case ["pip", "install", "-e", "."]:
            options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", str(site)]
            return [sys.executable, "-m", "pip", "install", *options, "."]
        case _:
            raise AssertionError(f"a command that the tutorial's test does not know: {command}")


def carried_out(command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
