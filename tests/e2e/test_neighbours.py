"""Neighbours: what a spec means beside other distributions, and what it says of one that lacks something."""

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest
import yaml

from avrobust_core.cli import main
from avrobust_core.errors import ComponentError
from avrobust_core.registry.choices import configure
from avrobust_core.registry.registry import Registry
from avrobust_core.spec.loading import load_spec

PLUGIN = """
    from pydantic import Field

    from avrobust_core import AttackChoice, Component, Config, hookimpl


    class Pushing(Config):
        "A push."

        steps: int = 1
        '''Ignored.'''


    class Around(Config):
        "Around another."

        inner: AttackChoice = Field(default_factory=lambda: AttackChoice(use="pgd"))
        '''The attack inside.'''


    @hookimpl
    def avrobust_attacks():
        yield Component(name="pgd", summary="Nothing changes.", config=Pushing, build="acme_heavy:Nothing")
        yield Component(name="around", summary="Around.", config=Around, build="acme_heavy:Nothing")
        yield Component(
            name="needy", summary="Needs more.", config=Pushing, build="acme_heavy:Nothing",
            requires=("no_such_module_here", "json"), extras=("more", "still"),
        )
        yield Component(
            name="poor", summary="Needs more.", config=Pushing, build="acme_heavy:Nothing",
            requires=("no_such_module_here",),
        )
"""

HEAVY = """
    import torch

    from avrobust_core import Attack, AttackResult


    class Nothing(Attack):
        "Returns the clean clips."

        norms = frozenset({"linf"})

        def __init__(self, config):
            pass

        def __call__(self, victim):
            clean = {name: ball.center.clone() for name, ball in victim.balls.items()}
            return AttackResult(clean, torch.zeros(len(victim), dtype=torch.bool))
"""

SPEC = """\
version: 1
name: beside
data: {use: toy-av, with: {classes: 3, train: 24, test: 12}}
encoders: {audio: {use: cnn, with: {channels: [4]}}}
models: {audio: {encoders: [audio]}}
training: {standard: {epochs: 1}}
threats: {audio: {audio: {norm: linf, eps: 0.002}}}
attacks: {push: pgd}
audit: "off"
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def acme(fake_distribution: Callable[..., Path]) -> Path:
    files = {"acme_plugin.py": PLUGIN, "acme_heavy.py": HEAVY}
    return fake_distribution("Acme", "1.0", {"avrobust_v1": {"push": "acme_plugin"}}, files)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `avrobust` beside study.yaml: exit status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "1000")
    Path("study.yaml").write_text(SPEC)

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def used(command: Run, where: str, *more: str) -> tuple[str, str]:
    status, out, err = command("explain", "study.yaml", where, *more)
    assert status == 0, err
    return out.splitlines()[0], err


@pytest.mark.usefixtures("acme")
def test_a_bare_name_means_the_bundled_component_and_a_note_says_how_to_be_explicit(command: Run) -> None:
    first, note = used(command, "attacks.push.use")
    assert '"avrobust:pgd"' in first
    for part in ("'acme:pgd' or 'avrobust:pgd'", "'avrobust:pgd' is taken", "`prefer: [acme]`", "`prefer: [avrobust]`"):
        assert part in note
    assert note.count("is offered by") == 1
    assert command("validate", "study.yaml")[0] == 0


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize(("prefer", "taken"), [("Acme", "acme:pgd"), ("avrobust", "avrobust:pgd")])
def test_prefer_decides_without_a_note_inside_defaults_too(command: Run, prefer: str, taken: str) -> None:
    first, err = used(command, "attacks.push.use", "--set", f"prefer=[{prefer}]")
    assert f'"{taken}"' in first
    assert not err
    registry = Registry.discover()
    loaded = load_spec("study.yaml", registry, [f"prefer=[{prefer}]", "attacks.push=around"])
    around = loaded.spec.attacks["push"].configured()
    assert around.identity()["config"]["inner"]["component"] == taken
    assert loaded.resolved()["prefer"] == [prefer]
    Path("again.yaml").write_text(loaded.resolved_yaml())
    again = load_spec("again.yaml", registry)
    assert again.spec.attacks["push"].identity() == around.identity()


@pytest.mark.usefixtures("acme")
def test_the_choices_of_explain_follow_prefer(command: Run) -> None:
    def choices(*more: str) -> list[str]:
        out = command("explain", "study.yaml", "attacks.push.use", *more)[1]
        [line] = [line for line in out.splitlines() if line.strip().startswith("choices")]
        return line.replace("choices", "").replace(" ", "").split(",")

    assert {"pgd", "avrobust:pgd"} <= set(choices("--set", "prefer=[acme]"))
    assert {"acme:pgd", "avrobust:pgd"} <= set(choices())


@pytest.mark.usefixtures("acme")
def test_the_note_is_given_once_for_each_name() -> None:
    registry = Registry.discover()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            assert registry.resolve("attack", "pgd").full_name == "avrobust:pgd"
    assert len(caught) == 1


@pytest.mark.usefixtures("acme")
def test_what_prefer_cannot_mean_is_told_at_its_place(command: Run) -> None:
    Path("study.yaml").write_text(SPEC + "prefer: [avrobust, acmee, Avrobust]\n")
    status, _, err = command("validate", "study.yaml")
    assert status == 2
    assert "study.yaml:10:20: prefer: no distribution 'acmee' has plugins" in err
    assert "did you mean 'acme'?" in err
    assert "study.yaml:10:27: prefer: 'Avrobust' is listed twice" in err
    assert "2 problems" in err


def test_two_neighbours_that_clash_stay_an_error_that_names_the_cure(
    command: Run, fake_distribution: Callable[..., Path]
) -> None:
    for name in ("one", "two"):
        files = {f"{name}_plugin.py": PLUGIN.replace('"around"', '"clash"')}
        fake_distribution(name, "1.0", {"avrobust_v1": {"p": f"{name}_plugin"}}, files)
    status, _, err = command("validate", "study.yaml", "--set", "attacks.push=clash")
    assert status == 2
    assert "offered by 2 distributions: write 'one:clash' or 'two:clash', or say `prefer: [one]` in the spec" in err
    assert '"two:clash"' in used(command, "attacks.push.use", "--set", "attacks.push=clash", "--set", "prefer=[two]")[0]
    assert "bare name 'clash' of kind attack means nothing, and is an error" in command("show", "clash")[1]


@pytest.mark.usefixtures("acme")
def test_plugins_show_and_doctor_say_what_a_shared_name_means(command: Run) -> None:
    sentence = "The bare name 'pgd' of kind attack means 'avrobust:pgd', with a warning: write 'acme:pgd' or"
    for arguments in (("plugins",), ("show", "pgd"), ("doctor",)):
        assert sentence in command(*arguments)[1], arguments
    assert "The bare name" not in command("show", "fgsm")[1]
    listed = command("plugins", "--kind", "attack")[1]
    assert "  acme:pgd" in listed
    assert "  avrobust:pgd" in listed


@pytest.mark.usefixtures("acme")
def test_the_schema_lets_a_bare_name_stand_for_any_that_offers_it(command: Run) -> None:
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(json.loads(command("schema")[1]))
    for attack in ("pgd", "acme:pgd", "avrobust:pgd", {"use": "pgd", "with": {"steps": 3}}):
        spec = yaml.safe_load(SPEC) | {"prefer": ["acme"], "attacks": {"push": attack}}
        assert not list(validator.iter_errors(spec)), attack
    assert list(validator.iter_errors(spec | {"prefer": "acme"}))


@pytest.mark.slow
@pytest.mark.usefixtures("acme")
def test_what_was_made_with_one_is_not_reused_for_the_other(command: Run) -> None:
    def cell(*more: str) -> dict[str, object]:
        status, out, err = command("run", "study.yaml", "--out", "run", "--json", "--no-report", *more)
        assert status == 0, err
        found: dict[str, object] = json.loads(out.splitlines()[-1])["cells"][0]
        return found

    bundled, acmes = cell(), cell("--set", "prefer=[acme]")
    assert bundled["robust_accuracy"] != acmes["robust_accuracy"]  # the other changes nothing
    evaluations = sorted(str(path) for path in Path("run").rglob("evaluations/*"))
    assert cell("--set", "prefer=[avrobust]")["robust_accuracy"] == bundled["robust_accuracy"]
    assert sorted(str(path) for path in Path("run").rglob("evaluations/*")) == evaluations


def test_an_attack_that_forgot_its_norms_is_told_so(acme: Path) -> None:
    (acme / "acme_heavy.py").write_text(dedent(HEAVY).replace("norms =", "ways ="), encoding="utf-8")
    configured = configure(Registry.discover(), "attack", "acme:pgd", {})
    with pytest.raises(ComponentError, match=r"attack acme:pgd \(plugin 'push'\) built a Nothing without `norms`: set"):
        configured.build()


# ------------------------------------------------------------------------------------------ what is not there


@pytest.mark.usefixtures("acme")
def test_a_missing_extra_is_told_by_validate_at_the_component(command: Run) -> None:
    status, _, err = command("validate", "study.yaml", "--set", "attacks.push=needy")
    assert status == 2
    assert "attacks.push: acme:needy needs no_such_module_here, which is not installed" in err
    assert "pip install 'Acme[more,still]'" in err
    err = command("validate", "study.yaml", "--set", "attacks.push=poor")[2]
    assert "install it beside Acme" in err
    inside = "attacks.push={use: around, with: {inner: needy}}"
    assert "attacks.push.with.inner: acme:needy needs" in command("validate", "study.yaml", "--set", inside)[2]
    with pytest.raises(ComponentError, match=r"attack 'needy' \(plugin 'push' of Acme 1.0\) needs no_such_module_here"):
        configure(Registry.discover(), "attack", "needy", {})
    assert "needs no_such_module_here, which is not installed: pip install 'Acme[more,still]'" in command("doctor")[1]
    assert "missing       needs no_such_module_here" in command("show", "needy")[1]


@pytest.mark.parametrize(("component", "module"), [("timm-frames", "timm"), ("tensorboard", "tensorboard")])
def test_bundled_components_name_the_extra_that_they_need(
    monkeypatch: pytest.MonkeyPatch, component: str, module: str
) -> None:
    [entry] = Registry.discover().find(component)
    monkeypatch.setitem(sys.modules, module, None)
    assert entry.lacking() == f"needs {module}, which is not installed: pip install 'avrobust[{module}]'"


def test_what_a_configuration_alone_needs_is_told_too(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    status, _, err = command("validate", "study.yaml", "--set", "data={use: features, with: {path: some.h5}}")
    assert status == 2
    assert "data: avrobust:features needs h5py, which is not installed" in err
    assert "pip install 'avrobust[features]'" in err
    assert "h5py" not in command("validate", "study.yaml", "--set", "data={use: features, with: {path: some.npz}}")[2]
    with pytest.raises(ComponentError, match=r"needs h5py, which is not installed"):
        configure(Registry.discover(), "dataset", "features", {"path": "some.HDF5"})


def test_a_slow_import_is_named_with_its_time_and_what_is_heavy(
    command: Run, fake_distribution: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import time\nimport jax\ntime.sleep(0.55)\n" + "\n".join(line[4:] for line in PLUGIN.splitlines())
    files = {"slow_plugin.py": text, "jax.py": ""}
    fake_distribution("slow", "1.0", {"avrobust_v1": {"p": "slow_plugin"}}, files)
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    status, out, err = command("plugins")
    assert status == 0
    for told in (out, err):
        assert "importing slow_plugin took" in told
        assert "(jax among it)" in told
        assert "--no-plugin slow:p" in told
    assert err.count("importing") == 1
    for name in ("slow_plugin", "jax"):
        sys.modules.pop(name)
    assert "plugin slow:p: importing slow_plugin took" in command("doctor")[1]


def test_a_name_of_another_version_of_the_hooks_is_told_as_that(
    command: Run, fake_distribution: Callable[..., Path]
) -> None:
    fake_distribution("future", "3.0", {"avrobust_v2": {"next": "future_plugin"}}, {"future_plugin.py": "boom"})
    for name in ("next-attack", "future:next-attack"):
        err = command("validate", "study.yaml", "--set", f"attacks.push={name}")[2]
        for part in ("lugin future:next", "written for avrobust_v2", "has avrobust_v1", "install a version of future"):
            assert part in err, name


@pytest.mark.parametrize("breaks", [True, False])
def test_a_distribution_for_another_avrobust_is_told_as_that(
    command: Run, fake_distribution: Callable[..., Path], breaks: bool
) -> None:
    text = "from avrobust_core import NoSuchName\n" if breaks else PLUGIN
    site = fake_distribution("late", "1.0", {"avrobust_v1": {"p": "late_plugin"}}, {"late_plugin.py": text})
    metadata = site / "late-1.0.dist-info" / "METADATA"
    requires = "Requires-Dist: avrobust-depth>=99\nRequires-Dist: avrobust (>=99)\n"
    metadata.write_text(metadata.read_text() + requires, encoding="utf-8")
    err = command("validate", "study.yaml", "--set", "attacks.push=late:other")[2]
    assert "late requires avrobust>=99, but this is 0." in err
    assert "install that avrobust, or a version of late for this one" in err
    assert err.count("requires avrobust") == 1
