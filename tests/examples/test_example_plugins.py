"""Every distribution in `examples/plugins` is made as a third party's should be, and works with the core as it is.

The folders are listed, so that a new one is held to the same: what it imports, what it declares, what it documents; and
(slow) its own tests and its specs, in processes that find it as `pip install` would leave it.
"""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml

import avrobust_core
import avrobust_core.testing

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path.parent for path in ROOT.glob("examples/plugins/*/pyproject.toml"))
SPECS = [spec for folder in FOLDERS for spec in sorted(folder.glob("*.yaml"))]
PUBLIC = {
    "avrobust_core": {*avrobust_core.__all__, "testing"},
    "avrobust_core.testing": set(avrobust_core.testing.__all__),
}
GROUP = "avrobust_v1"


def declared(folder: Path) -> dict[str, Any]:
    """The `[project]` of a distribution."""
    project: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project


def package_of(folder: Path) -> str:
    return folder.name.replace("-", "_")


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\s<>=!~\[;]", name, maxsplit=1)[0]).lower()


def allowed(folder: Path) -> set[str]:
    """The distributions whose modules it may import: those that it declares, and those that come with avrobust."""
    project = declared(folder)
    extras = [need for needs in project.get("optional-dependencies", {}).values() for need in needs]
    return {normalised(need) for need in (*project["dependencies"], *extras, *declared(ROOT)["dependencies"])}


def imports(path: Path) -> Iterator[tuple[str, set[str], int]]:
    """What a module imports, wherever in it: modules, the names taken from each, and the line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((name.name, set(), node.lineno) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: import by the package's name, as the house does"
            yield str(node.module), {name.name for name in node.names}, node.lineno


@cache
def providers() -> Mapping[str, list[str]]:
    """The distributions that bring each top-level module; looking through all that is installed takes a while."""
    return packages_distributions()


def faults_of_import(folder: Path, module: str, names: set[str]) -> str | None:
    """What is wrong with an import; None if nothing is."""
    top = module.partition(".")[0]
    if top == "avrobust_core":
        if module not in PUBLIC:
            return f"{module} is no public module of avrobust"
        private = names - PUBLIC[module]
        return f"{module} has no public name {', '.join(sorted(private))}" if private else None
    if top == package_of(folder) or top in sys.stdlib_module_names or (folder / "tests" / f"{top}.py").exists():
        return None
    brought_by = {normalised(name) for name in providers().get(top, [])} | {normalised(top)}
    return (
        None if brought_by & allowed(folder) else f"{module} is of {brought_by}, which pyproject.toml does not declare"
    )


def each(folders: list[Path] = FOLDERS) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("folder", folders, ids=[folder.name for folder in folders])


def test_all_folders_are_distributions() -> None:
    there = {path for path in (ROOT / "examples" / "plugins").iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    assert there == set(FOLDERS)
    assert FOLDERS


@each()
def test_it_is_made_as_a_distribution_should_be(folder: Path) -> None:
    project, package = declared(folder), folder / package_of(folder)
    assert project["name"] == folder.name
    assert project["dependencies"][0].startswith("avrobust")
    assert project["requires-python"] == declared(ROOT)["requires-python"]
    assert (folder / project["readme"]).is_file()
    assert (package / "py.typed").is_file()
    assert any(folder.glob("tests/test_*.py"))
    for module in project["entry-points"][GROUP].values():
        assert (folder / (module.replace(".", "/") + ".py")).is_file()
    assert any(folder.glob("*.yaml")), "a spec shows how it is used"


@each()
def test_its_modules_import_what_is_public_and_what_it_declares(folder: Path) -> None:
    faults = [
        f"{path.relative_to(folder)}:{line}: {fault}"
        for part in (package_of(folder), "tests")
        for path in sorted((folder / part).rglob("*.py"))
        for module, names, line in imports(path)
        if (fault := faults_of_import(folder, module, names))
    ]
    assert faults == []


@pytest.mark.parametrize(
    ("module", "names", "wrong"),
    [
        ("avrobust_core", {"Attack"}, None),
        ("avrobust_core", {"attacks"}, "no public name attacks"),
        ("avrobust_core.attacks.attack", {"Attack"}, "no public module"),
        ("avrobust_core.testing", {"parametrize_with_checks"}, None),
        ("avrobust_attacks.losses", {"LOSSES"}, "does not declare"),
        ("torch", set(), None),
        ("dataclasses", set(), None),
        ("jsonschema", set(), "does not declare"),
    ],
)
def test_an_import_that_a_third_party_must_not_rely_on_is_noticed(
    module: str, names: set[str], wrong: str | None
) -> None:
    found = faults_of_import(ROOT / "examples" / "plugins" / "avrobust-depth", module, names)
    assert found is None if wrong is None else wrong in str(found)


@each()
def test_every_module_says_in_its_first_line_what_it_is(folder: Path) -> None:
    for path in (folder / package_of(folder)).rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


@each()
def test_its_readme_names_all_that_it_offers_and_how_to_install_it(folder: Path, tmp_path: Path) -> None:
    offered = json.loads(finished(tmp_path, folder, "-m", "avrobust_core", "plugins", "--json"))["plugins"]
    (ours,) = [plugin for plugin in offered if plugin["distribution"] == folder.name]
    assert ours["status"] == "ok", ours["error"]
    readme = (folder / "README.md").read_text(encoding="utf-8")
    names = [component["name"].partition(":")[2] for component in ours["components"]]
    assert names
    assert [name for name in names if not re.search(rf"(?<![\w-]){name}(?![\w-])", readme)] == []
    assert f"pip install -e examples/plugins/{folder.name}" in readme


def installed(site: Path, folder: Path) -> str:
    """The search path of a process that finds a distribution: its folder, and metadata as pip would leave them."""
    project = declared(folder)
    info = site / f"{package_of(folder)}-{project['version']}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    needs = [f"Requires-Dist: {need}" for need in project["dependencies"]]
    head = ["Metadata-Version: 2.1", f"Name: {project['name']}", f"Version: {project['version']}", *needs]
    (info / "METADATA").write_text("\n".join(head) + "\n", encoding="utf-8")
    points = [f"{name} = {module}" for name, module in project["entry-points"][GROUP].items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *points, ""]), encoding="utf-8")
    return os.pathsep.join([str(site), str(folder), *[path for path in sys.path if path]])


def finished(tmp_path: Path, folder: Path, *arguments: str) -> str:
    """What Python printed, given these arguments, in a process that finds the distribution; it must end well."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": installed(tmp_path / "site", folder)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.parametrize("spec", SPECS, ids=[f"{spec.parent.name}-{spec.stem}" for spec in SPECS])
def test_its_specs_are_valid(spec: Path, tmp_path: Path) -> None:
    finished(tmp_path, spec.parent, "-m", "avrobust_core", "validate", str(spec))


@pytest.mark.slow
@each()
def test_its_own_tests_pass(folder: Path, tmp_path: Path) -> None:
    options = ("-q", "-p", "no:cacheprovider", "--rootdir", str(folder), "--import-mode=importlib")
    finished(tmp_path, folder, "-m", "pytest", *options, str(folder / "tests"))


@pytest.mark.slow
@each()
def test_it_conforms(folder: Path, tmp_path: Path) -> None:
    finished(tmp_path, folder, "-m", "avrobust_core", "check-plugin", folder.name)


@pytest.mark.slow
@each()
def test_one_of_its_specs_runs(folder: Path, tmp_path: Path) -> None:
    spec = sorted(folder.glob("*.yaml"))[0]
    fitted = yaml.safe_load(spec.read_text(encoding="utf-8")).get("training", {})
    shorter = [part for name in fitted for part in ("--set", f"training.{name}.epochs=1")]
    command = ("-m", "avrobust_core", "run", str(spec), "--out", str(tmp_path / "run"), "--json")
    result = json.loads(finished(tmp_path, folder, *command, *shorter, "--set", "audit=off").splitlines()[-1])
    assert result["cells"]
    assert result["failed"] == 0
    assert [failure for cell in result["cells"] for failure in cell["failures"]] == []
