"""`avrobust plugins` and `avrobust show`: what they print, what they return, and what they do not import."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from avrobust_core.cli import plugins as commands
from avrobust_core.cli.component_text import type_text, yaml_value
from avrobust_core.cli.layout import table, wrapped
from avrobust_core.errors import ComponentError
from avrobust_core.registry.choices import FusionChoice
from avrobust_core.registry.hookspecs import ENTRY_POINT_GROUP as GROUP
from avrobust_core.registry.kinds import KINDS
from avrobust_core.spec.model import AttackEntry, EncoderEntry

FakeDistribution = Callable[..., Path]
Avrobust = Callable[..., tuple[int, str]]

PLUGIN = '''
from typing import Any, Literal
from pydantic import Field
from avrobust_core import Component, Config, hookimpl


class Stage(Config):
    width: int = Field(default=8, ge=1, le=64)
    """Channels of the stage."""


class MyConfig(Config):
    steps: int = Field(ge=1)
    """Gradient steps."""
    norm: Literal["linf", "l2"] = "linf"
    """The ball's norm."""
    rate: float | None = Field(default=None, gt=0)
    """Learning rate; null for one derived from the steps and from everything else that there is to derive it from."""
    stages: list[Stage] = []
    """One per stage."""


def offer(name, example, build=lambda config: None, **more):
    return Component(
        name=name, summary=f"The fake {name}.", config=MyConfig, build=build, example=example, version=3,
        references=("https://arxiv.org/abs/1706.06083",), extras=("fast", "gpu"), **more
    )


EXAMPLE = {"steps": 2, "norm": "l2", "rate": 1e-5, "stages": [{"width": 4}], "note": "on"}
EXAMPLE["more"] = {"a": None, "b": "x: y"}


@hookimpl
def avrobust_datasets():
    yield offer("fake-thing", EXAMPLE)


@hookimpl
def avrobust_encoders():
    yield offer("fake-thing", EXAMPLE, lambda config, media: None)


@hookimpl
def avrobust_fusions():
    yield offer("fake-thing", EXAMPLE, lambda config, inputs: None)


@hookimpl
def avrobust_attacks():
    yield offer("fake-thing", EXAMPLE)
    yield offer("fake-plain", {})


@hookimpl
def avrobust_metrics():
    yield offer("fake-thing", EXAMPLE)
    yield offer("fake-count", {})


@hookimpl
def avrobust_augmentations():
    yield offer("fake-thing", EXAMPLE)


@hookimpl
def avrobust_trackers():
    yield offer("fake-thing", EXAMPLE)
'''

BROKEN = {
    "missing_import": "import no_such_module_at_all\n",
    "leaves": "raise SystemExit(3)\n",
    "halfway": """
        from avrobust_core import Component, Config, hookimpl
        @hookimpl
        def avrobust_attacks():
            yield Component(name="half", summary="Half.", config=Config, build=lambda config: None)
            raise KeyError("gone")
        """,
    "misspelled": """
        from avrobust_core import hookimpl
        @hookimpl
        def avrobust_atacks():
            return []
        """,
    "wrong_type": """
        from avrobust_core import hookimpl
        @hookimpl
        def avrobust_attacks():
            return 3
        """,
}


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("AVROBUST_DISABLE_PLUGINS", "AVROBUST_STRICT_PLUGINS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def bundled() -> list[str]:
    """The distribution of the bundled plugins, if it is installed."""
    try:
        return [metadata.distribution("avrobust").name]
    except metadata.PackageNotFoundError:
        return []


@pytest.fixture
def avrobust(capsys: pytest.CaptureFixture[str], bundled: list[str]) -> Avrobust:
    """Run one of the two commands without the bundled plugins; return the exit status and what it printed."""

    def run(*arguments: str) -> tuple[int, str]:
        parser = argparse.ArgumentParser()
        parser.add_argument("--no-plugin", action="append")
        commands.add_parsers(parser.add_subparsers(required=True))
        left_out = [argument for name in bundled for argument in ("--no-plugin", name)]
        options = parser.parse_args([*left_out, *arguments])
        status: int = options.run(options)
        return status, capsys.readouterr().out

    return run


@pytest.fixture
def fake_a(fake_distribution: FakeDistribution) -> Path:
    return fake_distribution("fake-a", "1.2", {GROUP: {"one": "fake_one"}}, {"fake_one.py": PLUGIN})


@pytest.fixture
def fake_broken(fake_distribution: FakeDistribution) -> Path:
    return fake_distribution(
        "fake-broken",
        "0.1",
        {GROUP: {name: f"fake_{name}" for name in BROKEN}, "avrobust_v9": {"future": "fake_future"}},
        {f"fake_{name}.py": text for name, text in BROKEN.items()},
    )


def test_plugins_lists_plugins_and_components_by_kind(fake_a: Path, avrobust: Avrobust) -> None:
    status, out = avrobust("plugins")
    assert status == 0
    rows = [line.split() for line in out.splitlines()]
    [row] = [row for row in rows if row[:1] == ["fake-a:one"]]
    assert row[1:3] == ["1.2", "ok"]
    assert float(row[3]) > 0
    assert row[4] == "9"
    kinds = [line for line in out.splitlines() if line in {"dataset", "encoder", "fusion", "attack", "metric"}]
    assert kinds == ["dataset", "encoder", "fusion", "attack", "metric"]
    assert "  fake-plain  " in out
    assert "The fake fake-plain." in out


def test_plugins_reports_broken_ones_and_still_succeeds(fake_a: Path, fake_broken: Path, avrobust: Avrobust) -> None:
    status, out = avrobust("plugins")
    assert status == 0
    for name in BROKEN:
        assert f"fake-broken:{name} " in out
    assert out.count(" broken ") == len(BROKEN)
    assert "fake-broken:future" in out
    assert "other-api" in out
    told = " ".join(out.split())
    assert "No module named 'no_such_module_at_all'" in told
    assert "unknown hook 'avrobust_atacks'; did you mean 'avrobust_attacks' or 'avrobust_trackers'?" in told
    assert "fake-plain" in out


def test_broken_lists_only_the_broken_and_fails_if_there_are_any(
    fake_a: Path, avrobust: Avrobust, fake_distribution: FakeDistribution
) -> None:
    assert avrobust("plugins", "--broken") == (0, "No plugin is broken.\n")
    fake_distribution("fake-b", "1.0", {GROUP: {"bad": "fake_bad"}}, {"fake_bad.py": "raise RuntimeError('why')\n"})
    status, out = avrobust("plugins", "--broken")
    assert status == 1
    assert "RuntimeError: why" in " ".join(out.split())
    assert "fake-a:one" not in out
    status, out = avrobust("plugins", "--broken", "--json")
    assert status == 1
    assert [plugin["full_name"] for plugin in json.loads(out)["plugins"]] == ["fake-b:bad"]


def test_kind_limits_what_is_listed(fake_a: Path, fake_broken: Path, avrobust: Avrobust) -> None:
    _, out = avrobust("plugins", "--kind", "attack", "--json")
    told = json.loads(out)
    assert [item["name"] for item in told["components"]] == ["fake-plain", "fake-thing"]
    assert {item["kind"] for item in told["components"]} == {"attack"}
    with pytest.raises(ComponentError, match=r"no kind of component is named 'atack'; did you mean 'attack'\?"):
        avrobust("plugins", "--kind", "atack")


def test_a_plugin_that_does_not_offer_the_kind_is_left_out(
    fake_a: Path, avrobust: Avrobust, fake_distribution: FakeDistribution
) -> None:
    source = """
        from avrobust_core import Component, Config, hookimpl
        @hookimpl
        def avrobust_metrics():
            yield Component(name="fake-only", summary="Only.", config=Config, build=lambda config: None)
        """
    fake_distribution("fake-b", "1.0", {GROUP: {"metrics": "fake_metrics"}}, {"fake_metrics.py": source})
    _, out = avrobust("plugins", "--kind", "attack")
    assert "fake-a:one" in out
    assert "fake-b:metrics" not in out


def test_plugins_json_is_one_object_even_if_a_plugin_prints(
    avrobust: Avrobust, fake_broken: Path, fake_distribution: FakeDistribution
) -> None:
    fake_distribution("fake-a", "1.2", {GROUP: {"one": "fake_one"}}, {"fake_one.py": "print('loud')\n" + PLUGIN})
    status, out = avrobust("plugins", "--json")
    assert status == 0
    told = json.loads(out)
    states = {plugin["full_name"]: plugin["status"] for plugin in told["plugins"]}
    assert states["fake-a:one"] == "ok"
    assert states["fake-broken:future"] == "other-api"
    assert {states[f"fake-broken:{name}"] for name in BROKEN} == {"broken"}
    [one] = [plugin for plugin in told["plugins"] if plugin["full_name"] == "fake-a:one"]
    assert one["error"] is None
    assert one["milliseconds"] > 0
    assert {"kind": "attack", "name": "fake-a:fake-plain"} in one["components"]


def test_an_ambiguous_name_is_listed_in_full(
    fake_a: Path, avrobust: Avrobust, fake_distribution: FakeDistribution
) -> None:
    fake_distribution("fake-b", "1.0", {GROUP: {"one": "fake_two"}}, {"fake_two.py": PLUGIN})
    _, out = avrobust("plugins", "--kind", "attack")
    assert "  fake-a:fake-plain  fake-a  " in out
    assert "  fake-b:fake-plain  fake-b  " in out
    _, out = avrobust("show", "fake-plain")
    assert "attack fake-a:fake-plain" in out
    assert "attack fake-b:fake-plain" in out
    assert 'fake-plain: "fake-b:fake-plain"' in out or "fake-plain: fake-b:fake-plain" in out


def test_show_describes_the_component_and_each_field(fake_a: Path, avrobust: Avrobust) -> None:
    status, out = avrobust("show", "fake-plain")
    assert status == 0
    lines = [line.strip() for line in out.splitlines()]
    assert lines[0] == "attack fake-a:fake-plain"
    for line in (
        "The fake fake-plain.",
        "distribution  fake-a 1.2 (plugin one)",
        "version       3",
        "needs         pip install 'fake-a[fast,gpu]'",
        "https://arxiv.org/abs/1706.06083",
        "steps: int (>= 1), required",
        "Gradient steps.",
        "norm: linf or l2, default linf",
        "rate: float or null (> 0), default null",
        "stages: list of Stage, default []",
        "width: int (>= 1, <= 64), default 8",
        "Channels of the stage.",
        "fake-plain: fake-plain",
    ):
        assert line in lines
    assert max(len(line) for line in out.splitlines()) <= 80


def test_show_describes_every_kind_of_that_name(fake_a: Path, avrobust: Avrobust) -> None:
    _, out = avrobust("show", "fake-a:fake-thing")
    heads = [line for line in out.splitlines() if line.endswith(" fake-a:fake-thing")]
    assert [head.split()[0] for head in heads] == [*KINDS]


def test_show_of_an_unknown_name_suggests(fake_a: Path, avrobust: Avrobust) -> None:
    with pytest.raises(ComponentError, match=r"no component is named 'fake-plian'; did you mean 'fake-plain'\?"):
        avrobust("show", "fake-plian")


def _snippets(out: str) -> dict[str, Any]:
    """The YAML of each component that `show` printed, by kind."""
    found = {}
    for block in out.split("\n\n\n"):
        text = block.partition("  in a spec\n")[2]
        found[block.split()[0]] = yaml.safe_load(text)
    return found


def test_the_snippet_can_be_pasted_into_a_spec(fake_a: Path, avrobust: Avrobust) -> None:
    _, out = avrobust("show", "fake-thing")
    found = _snippets(out)
    example = {"steps": 2, "norm": "l2", "rate": 1e-5, "stages": [{"width": 4}], "note": "on"}
    example["more"] = {"a": None, "b": "x: y"}
    entry = {"use": "fake-thing", "with": example}
    assert found == {
        "dataset": {"data": entry},
        "encoder": {"encoders": {"fake-thing": entry}},
        "fusion": {"fusion": entry},
        "attack": {"attacks": {"fake-thing": entry}},
        "metric": {"metrics": [entry]},
        "augmentation": {"augment": [entry]},
        "tracker": {"track": [entry]},
    }
    assert FusionChoice.model_validate(found["fusion"]["fusion"]).settings == example
    assert AttackEntry.model_validate(found["attack"]["attacks"]["fake-thing"]).use == "fake-thing"
    assert EncoderEntry.model_validate(found["encoder"]["encoders"]["fake-thing"]).use == "fake-thing"


def test_without_an_example_the_snippet_is_the_bare_name(fake_a: Path, avrobust: Avrobust) -> None:
    assert _snippets(avrobust("show", "fake-plain")[1]) == {"attack": {"attacks": {"fake-plain": "fake-plain"}}}
    assert _snippets(avrobust("show", "fake-count")[1]) == {"metric": {"metrics": ["fake-count"]}}


def test_show_json_has_the_schema(fake_a: Path, avrobust: Avrobust) -> None:
    _, out = avrobust("show", "fake-plain", "--json")
    [component] = json.loads(out)["components"]
    assert (component["kind"], component["full_name"], component["version"]) == ("attack", "fake-a:fake-plain", 3)
    assert component["schema"]["properties"]["steps"]["description"] == "Gradient steps."


@pytest.mark.parametrize("width", [40, 60, 200])
def test_lines_fit_the_terminal(
    width: int, fake_a: Path, fake_broken: Path, avrobust: Avrobust, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    _, out = avrobust("show", "fake-thing")
    assert max(len(line) for line in out.splitlines()) <= max(width, 60)  # names and snippets are never broken
    _, out = avrobust("plugins", "--kind", "attack")
    summaries = [line for line in out.splitlines() if "The fake" in line]
    assert summaries
    assert max(len(line) for line in summaries) <= width


def test_a_table_is_aligned() -> None:
    assert table([("a", "n"), ("bbb", "10")], right={1}) == ["a     n", "bbb  10"]
    assert wrapped("one two three", 12, indent=2) == ["  one two three"]
    assert wrapped("word " * 12, 40, indent=4) == ["    " + " ".join(["word"] * 7), "    " + " ".join(["word"] * 5)]


@pytest.mark.parametrize(
    "value",
    [
        "on",
        "no",
        "null",
        "1e-3",
        "8/255",
        "-x",
        "a: b",
        "a #b",
        "",
        "é",
        "~",
        "x:",
        "avrobust:pgd",
        "0x1f",
        "y",
        "On",
        "TRUE",
    ],
)
def test_strings_survive_yaml(value: str) -> None:
    assert yaml.safe_load(f"a: [{yaml_value(value)}]") == {"a": [value]}


def test_types_are_written_as_they_are_said() -> None:
    from typing import Annotated, Any, Literal

    assert type_text(int | None) == "int or null"
    assert type_text(list[str] | None) == "list of str or null"
    assert type_text(dict[str, list[float]]) == "mapping from str to list of float"
    assert type_text(tuple[int, str]) == "[int, str]"
    assert type_text(tuple[int, ...]) == "list of int"
    assert type_text(Literal["a", 3]) == "a or 3"
    assert type_text(Annotated[int, "x"]) == "int"
    assert type_text(Any) == "anything"


# ------------------------------------------------------------------------------------------- in its own process

SNIPPET = """
import sys
from avrobust_core.cli import main
from avrobust_core.registry.registry import Registry
seen = []
offers = Registry.entries
Registry.entries = lambda self, kind=None: (found := offers(self, kind), seen.extend(found))[0]
status = main(["plugins"])
heavy = {"torch", "numpy", "yaml", "rich", "av", "pyarrow", "sklearn", "lightning_fabric"} & set(sys.modules)
assert not heavy, heavy
# No timed test: machines are shared. Nearly all of its time goes into loading modules (307 when this was written).
assert len(sys.modules) < 340, sorted(sys.modules)
built = [config.__name__ for offer in seen for config in [offer.component.config] if config.__pydantic_complete__]
assert len(seen) > 40 and not built, built  # building schemas was most of what was left
sys.exit(status)
"""


def test_plugins_in_its_own_process_survives_all_and_imports_nothing_heavy(fake_a: Path, fake_broken: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(fake_a), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", SNIPPET], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in BROKEN:
        assert f"fake-broken:{name} " in done.stdout
    assert "fake-plain" in done.stdout
