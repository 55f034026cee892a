"""The wheel, installed outside of the checkout: every package ships, every entry point resolves, the command works."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _run(python: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        [str(python), *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def test_the_wheel_ships_every_package_typed_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    packages = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    ours = {"avrobust_core"} | {path.name for path in (ROOT / "plugins").iterdir() if path.is_dir()}
    assert packages == ours
    for package in packages:
        assert f"{package}/py.typed" in names
        in_checkout = next(ROOT.glob(f"{package}")) if package == "avrobust_core" else ROOT / "plugins" / package
        modules = {path.relative_to(in_checkout.parent).as_posix() for path in in_checkout.rglob("*.py")}
        assert modules <= set(names)
    folders = ("report/html/templates/*", "bench/templates/*", "bench/presets/*", "scaffold/templates/*/*")
    templates = {
        path.relative_to(ROOT).as_posix() for pattern in folders for path in ROOT.glob(f"avrobust_core/{pattern}")
    }
    assert len(templates) >= 9 + 41
    assert templates <= set(names)


def test_every_bundled_plugin_resolves_outside_of_the_checkout(installed: Path, tmp_path: Path) -> None:
    found = _run(installed, "-m", "avrobust_core", "plugins", "--json", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    plugins = {plugin["name"]: plugin for plugin in json.loads(found.stdout)["plugins"]}
    assert {"data", "audio", "video", "fusion", "attacks", "metrics", "training"} <= set(plugins)
    assert {plugin["status"] for plugin in plugins.values()} == {"ok"}
    where = _run(installed, "-c", "import avrobust_core, avrobust_data; print(avrobust_core.__file__)", cwd=tmp_path)
    assert str(ROOT) not in where.stdout


def test_the_quickstart_validates_outside_of_the_checkout(installed: Path, tmp_path: Path) -> None:
    command = installed.parent / "avrobust"
    done = subprocess.run(
        [str(command), "validate", str(ROOT / "examples" / "quickstart.yaml")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_third_party_plugin_is_found_like_a_bundled_one(installed: Path, tmp_path: Path) -> None:
    source = ROOT / "examples" / "plugins" / "avrobust-depth"
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "w"), str(source)],
        check=True,
        capture_output=True,
    )
    (depth,) = (tmp_path / "w").glob("*.whl")
    target = tmp_path / "extra"
    subprocess.run(
        [
            str(installed),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            "--target",
            str(target),
            str(depth),
        ],
        check=True,
        capture_output=True,
    )
    code = (
        f"import sys; sys.path.append({str(target)!r})\n"
        "from avrobust_core import Registry\n"
        "print(Registry.discover().resolve('encoder', 'depth-cnn').full_name)"
    )
    done = _run(installed, "-c", code, cwd=tmp_path)
    assert done.stdout.strip() == "avrobust-depth:depth-cnn", done.stderr
