"""The wheel, and fresh environments that hold it and others."""

import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

Build = Callable[[Path], Path]
Environment = Callable[[Sequence[Path]], Path]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Return a function from a project's folder to the wheel built of it."""

    def built(project: Path) -> Path:
        out = tmp_path_factory.mktemp("wheel")
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(project)]
        subprocess.run(command, check=True, capture_output=True)
        (path,) = out.glob("*.whl")
        return path

    return built


@pytest.fixture(scope="session")
def wheel(build: Build) -> Path:
    return build(ROOT)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Return a function from wheels to the interpreter of a fresh environment that holds them.

    Their dependencies are those of the environment that runs the tests.
    """

    def made(wheels: Sequence[Path]) -> Path:
        folder = tmp_path_factory.mktemp("env")
        venv.create(folder, with_pip=True)
        python = folder / "bin" / "python"
        command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", *map(str, wheels)]
        subprocess.run(command, check=True, capture_output=True)
        (site,) = folder.glob("lib/python3*/site-packages")
        dependencies = [path for path in sys.path if path.endswith("site-packages")]
        # A .pth line adds a folder without running the .pth files in it, so our own editable install stays out.
        (site / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
        return python

    return made


@pytest.fixture(scope="session")
def installed(wheel: Path, environment: Environment) -> Path:
    """The interpreter of a fresh environment with the wheel."""
    return environment([wheel])
