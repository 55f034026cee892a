"""CONTRIBUTING describes the house as it stands: floors, rooms and plugins, in their own words."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "avrobust_core"
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]


def rows(heading: str) -> list[tuple[str, ...]]:
    """The rows of the table below a heading."""
    section = re.split(r"^#+ ", TEXT.partition(f"# {heading}\n")[2], flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines[2:]]


def about(place: Path) -> str:
    """The first line of a module's or a package's docstring."""
    file = place / "__init__.py" if place.is_dir() else place
    documented = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    assert documented, f"{file} says nothing of itself"
    return documented.splitlines()[0]


def packages(folder: Path) -> set[str]:
    return {item.parent.name for item in folder.glob("*/__init__.py")}


def test_floors_and_rooms_are_those_of_the_import_rules_and_of_the_tree() -> None:
    (layers,) = [contract["layers"] for contract in CONTRACTS["contracts"] if contract["type"] == "layers"]
    expected = []
    for floor, layer in reversed(list(enumerate(reversed(layers)))):
        for name in re.split(r" [|:] ", layer):
            place = CORE / name if (CORE / name).is_dir() else CORE / f"{name}.py"
            shown = f"{name}/" if place.is_dir() else place.name
            expected.append((str(floor), f"`{shown}`", about(place)))
    assert rows("The rooms of the core") == expected


def test_every_module_and_room_of_the_core_stands_on_a_floor() -> None:
    modules = {item.name for item in CORE.glob("*.py")} - {"__init__.py"}
    assert {room.strip("`") for _, room, _ in rows("The rooms of the core")} == modules | {
        f"{name}/" for name in packages(CORE)
    }


def test_the_plugins_are_those_of_the_tree() -> None:
    plugins = ROOT / "plugins"
    expected = [(f"`{name}/`", about(plugins / name)) for name in sorted(packages(plugins))]
    assert rows("The plugins") == expected
    assert packages(plugins) | {"avrobust_core"} == set(CONTRACTS["root_packages"])


def test_the_folders_are_those_of_the_tree() -> None:
    for folder, _ in rows("The house"):
        assert (ROOT / folder.strip("`")).is_dir()
    (tests,) = [text for folder, text in rows("The house") if folder == "`tests/`"]
    named = set(re.findall(r"`(\w+)/`", tests))
    assert named == {item.name for item in (ROOT / "tests").iterdir() if item.is_dir()} - {"__pycache__"}


@pytest.mark.parametrize(("question", "rooms", "files"), rows("Five questions"))
def test_what_a_reader_looks_for_is_in_the_room_that_is_named(question: str, rooms: str, files: str) -> None:
    room, *others = re.findall(r"`([\w/]+)/`", rooms)
    assert all((ROOT / other).is_dir() for other in others)
    for file, name in re.findall(r"`(\w+\.py)`(?:: `(\w+)`)?", files):
        text = (ROOT / room / file).read_text(encoding="utf-8")
        assert re.search(rf"^ *(class|def) {name}\b", text, flags=re.MULTILINE)
