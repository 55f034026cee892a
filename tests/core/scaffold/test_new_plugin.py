"""`avrobust new-plugin`: what it writes holds together, whatever the name; what it refuses leaves nothing behind."""

import importlib
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from avrobust_core import Registry
from avrobust_core.cli import command_parser, main
from avrobust_core.registry.kinds import KINDS
from avrobust_core.scaffold.drafts import DRAFTS
from avrobust_core.scaffold.names import LONGEST
from avrobust_core.spec.loading import load_spec

ROOT = Path(__file__).parents[3]

NAMES = ("avrobust-made-{}", "q-{}", "long-name-of-one-more-{}")
"""Of distributions: ordinary, short, and (cut or filled up) as long as can be."""


def named(pattern: str, kind: str) -> str:
    return (f"{pattern.format(kind)}{'z' * LONGEST}"[:LONGEST]) if pattern.startswith("long") else pattern.format(kind)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a new plugin of each kind under each kind of name."""
    out = tmp_path_factory.mktemp("made") / "not" / "yet"
    for kind in KINDS:
        for pattern in NAMES:
            assert main(["new-plugin", named(pattern, kind), "--kind", kind, "--out", str(out)]) == 0
    return out


@pytest.fixture
def installed(made: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a new plugin of that kind, which is as if installed."""
    folder = made / named(NAMES[0], kind)
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = folder / f"{folder.name.replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(exist_ok=True)
    text = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(text, encoding="utf-8")
    points = "".join(f"{name} = {module}\n" for name, module in project["entry-points"]["avrobust_v1"].items())
    (info / "entry_points.txt").write_text(f"[avrobust_v1]\n{points}", encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()
    yield folder
    for module in [loaded for loaded in sys.modules if loaded.startswith(folder.name.replace("-", "_"))]:
        del sys.modules[module]


def test_every_kind_has_a_draft() -> None:
    assert list(DRAFTS) == list(KINDS)


def test_what_is_written_is_clean_whatever_the_name(made: Path) -> None:
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    stricter = [f"--extend-select={','.join(ours['select'])}", f"--ignore={','.join(ours['ignore'])}"]
    for arguments in (["check"], ["check", *stricter, "--exclude=tests"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--no-cache", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    for folder in made.iterdir():
        texts = [path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.is_file()]
        assert not any(mark in text for text in texts for mark in ("<<", "<%", "%>"))
        assert max(len(line) for path in folder.rglob("*.py") for line in path.read_text().splitlines()) <= 120
        workflow = yaml.safe_load((folder / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
        steps = [step.get("run", "") for step in workflow["jobs"]["test"]["steps"]]
        assert f"avrobust check-plugin {folder.name}" in steps


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_found_and_its_example_and_its_spec_are_valid(installed: Path, kind: str) -> None:
    registry = Registry.discover()
    (plugin,) = [plugin for plugin in registry.plugins if plugin.is_of(installed.name)]
    assert plugin.error is None
    (offer,) = plugin.entries
    assert (offer.kind, offer.component.name) == (kind, f"made-{kind}")
    offer.component.config.model_validate(dict(offer.component.example))
    assert offer.builder().__module__ == f"avrobust_made_{kind}.{kind}"
    (study,) = installed.glob("*_study.yaml")
    assert f"made-{kind}" in study.read_text(encoding="utf-8")
    load_spec(study, registry)


@pytest.mark.parametrize("kind", KINDS)
def test_the_yaml_of_its_readme_is_part_of_a_spec(installed: Path, kind: str) -> None:
    (study,) = installed.glob("*_study.yaml")
    (block,) = [
        part.partition("```")[0]
        for part in (installed / "README.md").read_text(encoding="utf-8").split("```yaml\n")[1:]
    ]
    assert f"made-{kind}" in block
    (installed / "block.yaml").write_text(f"extends: {study.name}\n{block}", encoding="utf-8")
    load_spec(installed / "block.yaml", Registry.discover())


def test_the_commands_to_go_on_with_are_printed_and_understood(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new-plugin", "avrobust-loudness", "--kind", "metric"]) == 0
    said, _, rest = capsys.readouterr().out.partition("Next:\n")
    assert "avrobust-loudness/avrobust_loudness/metric.py" in said
    commands = [line.strip() for line in rest.splitlines()]
    assert commands[:3] == ["cd avrobust-loudness", "pip install -e '.[test]'", "pytest"]
    monkeypatch.chdir(tmp_path / "avrobust-loudness")
    for command in commands[3:]:
        options = command_parser().parse_args(shlex.split(command)[1:])
        assert Path(getattr(options, "spec", "README.md")).is_file()
    readme = Path("README.md").read_text(encoding="utf-8")
    assert all(command in readme for command in commands[1:])


REFUSED = {
    "Avrobust_Loudness": "did you mean 'avrobust-loudness'?",
    "loud ness": "did you mean 'loud-ness'?",
    "3d": "small letters, digits and single hyphens, a letter first",
    "a--b": "did you mean 'a-b'?",
    "../up": "did you mean 'up'?",
    "": "is no name for a plugin",
    "avrobust-3d": "leaves '3d' for the component's name",
    "avrobust-": "did you mean 'avrobust'?",
    "x" * (LONGEST + 1): f"has {LONGEST + 1} characters",
    "lambda": "is a keyword of Python",
    "tests": "the folder with the plugin's tests",
    "random": "'random' is a module of Python's standard library",
    "numpy": "a distribution 'numpy' is installed already",
    "yaml": "a package 'yaml' can be imported already, from",
    "pgd": "'pgd' is the name of an installed component, the attack avrobust:pgd",
    "avrobust-pgd": "'pgd' is the name of an installed component, the attack avrobust:pgd",
    "noise": "the attack avrobust:noise and the augmentation avrobust:noise",
    "avrobust-attacks": "'attacks' is the name of an installed plugin, avrobust:attacks",
    "avrobust": "a distribution 'avrobust' is installed already",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_will_not_do_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-plugin", name, "--kind", "metric", "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr()
    assert REFUSED[name] in told.err
    assert not told.out
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_same_name_is_no_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loudness").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["new-plugin", "loudness", "--kind", "metric", "--out", str(tmp_path / "out")]) == 0


def test_a_kind_with_a_slip_is_refused_with_the_one_that_is_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new-plugin", "loudness", "--kind", "metrics", "--out", str(tmp_path / "out")]) == 2
    assert "did you mean 'metric'?" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "loudness").mkdir()
    (tmp_path / "loudness" / "mine.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for name in ("loudness", "gone"):
        assert main(["new-plugin", name, "--kind", "metric", "--out", str(tmp_path)]) == 1
        assert f"{tmp_path / name} is there already" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["gone", "loudness", "mine.txt"]


def test_a_disk_that_fills_up_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, written = Path.write_text, []

    def full(path: Path, text: str, encoding: str) -> int:
        written.append(path.name)
        if len(written) == 6:
            raise OSError(28, "No space left on device", str(path))
        return write(path, text, encoding=encoding)

    monkeypatch.setattr(Path, "write_text", full)
    assert main(["new-plugin", "loudness", "--kind", "metric", "--out", str(tmp_path / "out")]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert len(written) == 6
    assert list(tmp_path.iterdir()) == []


def test_it_does_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from avrobust_core.cli import main; "
        f"assert main(['new-plugin', 'loudness', '--kind', 'attack', '--out', {str(tmp_path)!r}]) == 0; "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_shell_completes_its_options_and_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    def found(*before: str, word: str) -> list[str]:
        assert main(["completion", "--before=" + "\n".join(before), f"--word={word}"]) == 0
        return [line.partition("\t")[0] for line in capsys.readouterr().out.splitlines()]

    assert found(word="new") == ["words", "new-plugin"]
    assert found("new-plugin", "loudness", word="--") == ["words", "--help", "--kind", "--out"]
    assert found("new-plugin", "loudness", "--kind", word="") == ["words", *KINDS]
    assert found("new-plugin", "loudness", "--out", word="") == ["files"]
    assert found("new-plugin", word="") == ["words"], "a new name is none that there is"
