"""The registry, on real distributions: what is broken is reported and takes nothing else with it."""

import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avrobust_core.config.errors import configuration_errors, location_text
from avrobust_core.config.suggest import closest, did_you_mean
from avrobust_core.errors import ComponentError
from avrobust_core.registry.choices import configure
from avrobust_core.registry.hookspecs import ENTRY_POINT_GROUP as GROUP
from avrobust_core.registry.registry import PluginRecord, Registry

FakeDistribution = Callable[..., Path]

HEAD = """
from avrobust_core import Component, Config, hookimpl


class Empty(Config):
    pass


def offer(name, **more):
    return Component(**{"name": name, "summary": "A fake.", "config": Empty, "build": lambda config: None, **more})


"""


OFFER_LINE = 1 + HEAD[: HEAD.index("    return Component")].count("\n")


def source(body: str) -> str:
    return HEAD + dedent(body)


def attacks(*names: str) -> str:
    return source(
        f"""
        @hookimpl
        def avrobust_attacks():
            return [offer(name) for name in {names!r}]
        """
    )


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("AVROBUST_DISABLE_PLUGINS", "AVROBUST_STRICT_PLUGINS"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def install(fake_distribution: FakeDistribution) -> Callable[..., Path]:
    """Install a distribution of one-module plugins: `install("fake-a", point=source, ...)`."""

    def one(name: str, version: str = "1.0", site: str = "site", **points: str) -> Path:
        stem = name.replace("-", "_").replace(".", "_")
        return fake_distribution(
            name,
            version,
            {GROUP: {point: f"{stem}_{point}" for point in points}},
            {f"{stem}_{point}.py": text for point, text in points.items()},
            site=site,
        )

    return one


def discover(**options: object) -> Registry:
    """Discover without the bundled plugins, where they are installed."""
    try:
        mine = [metadata.distribution("avrobust").name]
    except metadata.PackageNotFoundError:
        mine = []
    extra = options.pop("disabled", ())
    return Registry.discover(disabled=[*mine, *extra], **options)  # type: ignore[misc, arg-type]


def record(registry: Registry, full_name: str) -> PluginRecord:
    [found] = [plugin for plugin in registry.plugins if plugin.full_name == full_name]
    return found


BROKEN = {
    "missing_import": ("import no_such_module_at_all\n", "No module named 'no_such_module_at_all'"),
    "syntax": ("def broken(:\n", "SyntaxError"),
    "raises": ("raise RuntimeError('two\\nlines')\n", "RuntimeError: two lines"),
    "leaves": ("import sys\nsys.exit(0)\n", "SystemExit: 0"),
    "panics": ("class Panic(BaseException):\n    pass\nraise Panic('from an extension')\n", "Panic: from an extension"),
    "unprintable": (
        "class Mute(Exception):\n    def __str__(self):\n        raise ValueError\nraise Mute\n",
        "Mute",
    ),
    "halfway": (
        source("@hookimpl\ndef avrobust_attacks():\n    yield offer('half')\n    raise KeyError('gone')\n"),
        "KeyError: 'gone'",
    ),
    "misspelled": (
        source("@hookimpl\ndef avrobust_atacks():\n    return [offer('half')]\n"),
        "unknown hook 'avrobust_atacks'; did you mean 'avrobust_attacks' or 'avrobust_trackers'?",
    ),
    "other_hook": (
        source("@hookimpl\ndef avrobust_attacks():\n    return []\n@hookimpl\ndef on_start():\n    pass\n"),
        "unknown hook 'on_start'",
    ),
    "unmarked": (
        source("def avrobust_attacks():\n    return [offer('half')]\n"),
        "not marked with @avrobust_core.hookimpl, so never called: avrobust_attacks",
    ),
    "one_unmarked": (
        source(
            "@hookimpl\ndef avrobust_fusions():\n    return []\ndef avrobust_attacks():\n    return [offer('half')]\n"
        ),
        "never called: avrobust_attacks",
    ),
    "no_hook": ("x = 1\n", "implements no hook"),
    "arguments": (source("@hookimpl\ndef avrobust_attacks(config):\n    return []\n"), "config"),
    "wrapper": (
        source("@hookimpl(wrapper=True)\ndef avrobust_attacks():\n    return (yield)\n"),
        "hook wrapper",
    ),
    "returns_none": (source("@hookimpl\ndef avrobust_attacks():\n    [offer('half')]\n"), "returned None"),
    "not_iterable": (source("@hookimpl\ndef avrobust_attacks():\n    return 3\n"), "returned int 3, not an iterable"),
    "string": (source("@hookimpl\ndef avrobust_attacks():\n    return 'half'\n"), "returned str 'half'"),
    "bare": (source("@hookimpl\ndef avrobust_attacks():\n    return offer('half')\n"), "returned one Component"),
    "item": (
        source("@hookimpl\ndef avrobust_attacks():\n    return [offer('half'), 'pgd']\n"),
        "item 2 is str 'pgd', not a Component",
    ),
    "mapping": (source("@hookimpl\ndef avrobust_attacks():\n    return {'a': offer('half')}\n"), "item 1 is str 'a'"),
    "endless": (
        source(
            "from itertools import count\n"
            "@hookimpl\ndef avrobust_attacks():\n    return (offer(f'half-{i}') for i in count())\n"
        ),
        "more than 10000 components",
    ),
    "bad_name": (source("@hookimpl\ndef avrobust_attacks():\n    return [offer('Half_Way')]\n"), "not kebab-case"),
    "references": (
        source("@hookimpl\ndef avrobust_attacks():\n    return [offer('half', references='arXiv 1')]\n"),
        "references must be a tuple of strings, not str 'arXiv 1'",
    ),
    "version": (
        source("@hookimpl\ndef avrobust_attacks():\n    return [offer('half', version='1')]\n"),
        "version must be a whole number from 1, not str '1'",
    ),
    "example": (
        source("@hookimpl\ndef avrobust_attacks():\n    return [offer('half', example=['steps'])]\n"),
        "example must be a mapping",
    ),
    "twice": (
        source("@hookimpl\ndef avrobust_attacks():\n    return [offer('half'), offer('half')]\n"),
        "offers the attack 'half' twice",
    ),
    "wrong_arity": (
        source("@hookimpl\ndef avrobust_encoders():\n    return [offer('half')]\n"),
        "build(config, media)",
    ),
    "wrong_kind": (
        source(
            "def build(config) -> 'Attack':\n    pass\n"
            "@hookimpl\ndef avrobust_metrics():\n    return [offer('half', build=build)]\n"
        ),
        "build returns a component of kind 'attack', but the hook offers the kind 'metric'",
    ),
}


@pytest.mark.parametrize("case", sorted(BROKEN))
def test_a_broken_plugin_is_reported_and_the_others_stay(case: str, install: Callable[..., Path]) -> None:
    text, expected = BROKEN[case]
    install("fake-broken", bad=text, good=attacks("sound"))
    install("fake-other", good=attacks("healthy"))

    registry = discover()

    broken = record(registry, "fake-broken:bad")
    assert broken.status == "broken"
    assert broken.error is not None
    assert expected in broken.error
    assert "\n" not in broken.error
    assert broken.entries == ()
    assert (broken.distribution, broken.distribution_version) == ("fake-broken", "1.0")
    assert [offer.full_name for offer in registry.entries("attack")] == ["fake-other:healthy", "fake-broken:sound"]
    assert registry.resolve("attack", "sound").plugin == "good"


@pytest.mark.parametrize("case", ["raises", "halfway", "bad_name", "syntax"])
def test_an_error_names_the_line_of_the_plugin_that_raised_it(case: str, install: Callable[..., Path]) -> None:
    install("fake-broken", bad=BROKEN[case][0])
    error = str(record(discover(), "fake-broken:bad").error)
    line = {"raises": 1, "halfway": HEAD.count("\n") + 4, "bad_name": OFFER_LINE, "syntax": 1}[case]
    assert error.endswith(f"fake_broken_bad.py:{line})")


def test_an_entry_point_whose_module_is_not_there_is_broken(fake_distribution: FakeDistribution) -> None:
    fake_distribution("fake-a", "1.0", {GROUP: {"gone": "fake_nowhere.plugin", "odd": "not a module!"}}, {})
    registry = discover()
    assert "No module named 'fake_nowhere'" in str(record(registry, "fake-a:gone").error)
    assert record(registry, "fake-a:odd").status == "broken"


def test_a_keyboard_interrupt_is_not_swallowed(install: Callable[..., Path]) -> None:
    install("fake-a", bad="raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        discover()


def test_every_kind_is_offered_by_its_hook(install: Callable[..., Path]) -> None:
    hooks = {"datasets": "", "encoders": ", media", "fusions": ", inputs", "attacks": "", "metrics": ""}
    hooks |= {"augmentations": "", "trackers": ""}
    body = "\n".join(
        f"@hookimpl\ndef avrobust_{hook}():\n    yield offer('fake-thing', build=lambda config{more}: None)\n"
        for hook, more in hooks.items()
    )
    install("fake-a", all=source(body))
    registry = discover()
    assert record(registry, "fake-a:all").error is None
    assert [offer.kind for offer in registry.entries()] == [hook.removesuffix("s") for hook in hooks]
    assert {offer.full_name for offer in registry.entries()} == {"fake-a:fake-thing"}


def test_a_build_whose_signature_cannot_be_evaluated_is_left_to_be_called(install: Callable[..., Path]) -> None:
    text = "@hookimpl\ndef avrobust_attacks():\n    return [offer('odd', build=build)]\n"
    build = "class Build:\n    __signature__ = 3\n    def __call__(self, config):\n        pass\nbuild = Build()\n"
    install("fake-a", odd=source(build + text))
    assert record(discover(), "fake-a:odd").error is None


# ---------------------------------------------------------------------------------------- what a build's name leads to

PARTS = """
from avrobust_core import Attack, AttackResult, Augmentation


class Stay(Attack):
    norms = frozenset({"linf"})

    def __init__(self, config):
        self.config = config

    def __call__(self, victim):
        return AttackResult(victim.clean, None)


class Same(Augmentation):
    def __init__(self, config):
        pass


class Bare:
    def __init__(self, config):
        pass


def make(config):
    return Stay(config)


def short():
    pass


number = 3
"""
BAD_BUILDS = {
    "built_parts": "build 'built_parts' is not of the form 'package.module:Class'",
    ":Stay": "build ':Stay' is not of the form 'package.module:Class'",
    "fake_nowhere.part:Stay": "importing fake_nowhere.part failed: ModuleNotFoundError: No module named 'fake_nowhere'",
    "built_parts:Stray": "built_parts has no class or function 'Stray'; did you mean 'Stay'?",
    "built_parts:number": "built_parts has no class or function 'number'",
    "built_exits:Stay": "importing built_exits failed: SystemExit: 0",
    "built_raises:Stay": "importing built_raises failed: ZeroDivisionError: division by zero (",
}
UNFIT_BUILDS = {
    "built_parts:short": "build is called as build(config), but its signature is ()",
    "built_parts:Same": "build returns a component of kind 'augmentation', but the hook offers the kind 'attack'",
    "built_parts:Bare": "'built_parts:Bare' is a class, but not of avrobust_core.Attack",
}


@pytest.fixture
def offering(install: Callable[..., Path]) -> Iterator[Callable[[str], None]]:
    """Installs a distribution that offers the attack `named`, built from what a string names."""
    modules = {"built_parts": PARTS, "built_exits": "raise SystemExit(0)\n", "built_raises": "1 / 0\n"}

    def offer(build: str) -> None:
        hook = f"@hookimpl\ndef avrobust_attacks():\n    yield offer('named', build={build!r})\n"
        folder = install("fake-a", p=source(hook))
        for module, text in modules.items():
            (folder / f"{module}.py").write_text(text)

    yield offer
    for module in modules:
        sys.modules.pop(module, None)


@pytest.mark.parametrize("build", ["built_parts:Stay", "built_parts:make"])
def test_a_build_may_be_the_name_of_a_class_or_a_function_imported_when_it_is_built(
    build: str, offering: Callable[[str], None]
) -> None:
    offering(build)
    registry = discover()
    assert "built_parts" not in sys.modules
    made = configure(registry, "attack", "named", {}).build()
    assert type(made).__name__ == "Stay"
    assert type(made.config).__name__ == "Empty"
    assert discover(strict=True).resolve("attack", "named").full_name == "fake-a:named"


@pytest.mark.parametrize("build", BAD_BUILDS)
def test_a_name_that_leads_nowhere_is_told_with_its_plugin_at_strict_start_up_or_else_when_it_is_built(
    build: str, offering: Callable[[str], None]
) -> None:
    offering(build)
    told = f"attack 'named' (plugin 'p' of fake-a 1.0): build {build!r}"
    registry = discover()
    assert record(registry, "fake-a:p").status == "ok"
    with pytest.raises(ComponentError) as late:
        configure(registry, "attack", "named", {}).build()
    with pytest.raises(ComponentError) as early:
        discover(strict=True)
    for caught in (late, early):
        assert str(caught.value).startswith(told)
        assert BAD_BUILDS[build] in str(caught.value)


@pytest.mark.parametrize("build", UNFIT_BUILDS)
def test_a_name_of_what_does_not_fit_its_kind_is_told_at_strict_start_up(
    build: str, offering: Callable[[str], None]
) -> None:
    offering(build)
    with pytest.raises(ComponentError) as caught:
        discover(strict=True)
    assert str(caught.value).startswith(f"attack 'named' (plugin 'p' of fake-a 1.0): {UNFIT_BUILDS[build]}")


OUTDATED = """
from torch import nn
from avrobust_core import Augmentation


class Old(Augmentation):
    def __init__(self, config):
        pass

    def __call__(self, batch, step):
        return batch


class Heir(Old):
    pass


class Module(nn.Module, Augmentation):
    def __init__(self, config):
        super().__init__()


def make(config):
    return Old(config)
"""


@pytest.mark.parametrize("name", ["Old", "Heir", "make", "Module"])
def test_an_augmentation_that_defines_call_is_refused_since_begin_took_its_place(
    name: str, install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = f"@hookimpl\ndef avrobust_augmentations():\n    yield offer('named', build='outdated_parts:{name}')\n"
    (install("fake-a", p=source(hook)) / "outdated_parts.py").write_text(OUTDATED)
    monkeypatch.delitem(sys.modules, "outdated_parts", raising=False)
    choice = configure(discover(), "augmentation", "named", {})
    if name == "Module":  # whose __call__ is torch's
        assert type(choice.build()).__name__ == "Module"
        return
    refusal = r"defines __call__, which is not called: define begin\(batch, step\) in its place"
    with pytest.raises(ComponentError, match=rf"^augmentation fake-a:named \(plugin 'p'\): (Old|Heir) {refusal}$"):
        choice.build()
    if name != "make":
        with pytest.raises(
            ComponentError, match=rf"^augmentation 'named' \(plugin 'p' of fake-a 1.0\): {name} {refusal}"
        ):
            discover(strict=True)


# ---------------------------------------------------------------------------------------------------------- names


def test_the_same_name_twice_in_one_distribution_breaks_the_later_plugin(install: Callable[..., Path]) -> None:
    install("fake-a", first=attacks("same"), second=attacks("other", "same"))
    registry = discover()
    assert record(registry, "fake-a:first").status == "ok"
    error = str(record(registry, "fake-a:second").error)
    assert "'first' and 'second' of fake-a both offer the attack 'same'" in error
    assert [offer.component.name for offer in registry.entries("attack")] == ["same"]


def test_one_name_may_be_used_for_two_kinds(install: Callable[..., Path]) -> None:
    metrics = attacks("same").replace("avrobust_attacks", "avrobust_metrics")
    install("fake-a", first=attacks("same"), second=metrics)
    registry = discover()
    assert registry.resolve("attack", "same").plugin == "first"
    assert registry.resolve("metric", "same").plugin == "second"
    assert len(registry.find("same")) == 2


def test_two_distributions_may_offer_one_name_until_it_is_used_bare(install: Callable[..., Path]) -> None:
    install("fake-a", one=attacks("same", "alone"))
    install("fake-b", one=attacks("same"))
    registry = discover()
    assert all(plugin.status == "ok" for plugin in registry.plugins if plugin.distribution.startswith("fake"))
    assert registry.resolve("attack", "alone").distribution == "fake-a"
    for distribution in ("fake-a", "fake-b"):
        assert registry.resolve("attack", f"{distribution}:same").distribution == distribution
    with pytest.raises(ComponentError, match="offered by 2 distributions: write 'fake-a:same' or 'fake-b:same'"):
        registry.resolve("attack", "same")


def test_a_bare_name_stays_usable_when_the_other_distribution_is_broken(install: Callable[..., Path]) -> None:
    install("fake-a", one=attacks("same"))
    install("fake-b", one=attacks("same") + "\nraise RuntimeError\n")
    assert discover().resolve("attack", "same").full_name == "fake-a:same"


@pytest.mark.parametrize("spelling", ["fake-a-b", "Fake_A.b", "FAKE-a--B"])
def test_distribution_names_are_compared_normalised(spelling: str, install: Callable[..., Path]) -> None:
    install("Fake_A.b", one=attacks("some"))
    registry = discover()
    offer = registry.resolve("attack", f"{spelling}:some")
    assert (offer.distribution, offer.full_name) == ("Fake_A.b", "fake-a-b:some")
    assert record(discover(disabled=[spelling]), "fake-a-b:one").status == "disabled"


def test_a_distribution_that_is_found_twice_counts_once_and_the_first_counts(install: Callable[..., Path]) -> None:
    install("fake-a", version="1.0", site="later", one=attacks("old"), stale=attacks("stale"))
    install("fake_a", version="2.0", site="earlier", one=attacks("new"))
    registry = discover()
    mine = [plugin for plugin in registry.plugins if plugin.distribution.startswith("fake")]
    assert [(plugin.name, plugin.distribution_version) for plugin in mine] == [("one", "2.0")]
    assert [offer.component.name for offer in registry.entries("attack")] == ["new"]


def test_leftovers_do_not_count_when_the_first_of_that_name_has_no_plugins(
    install: Callable[..., Path], fake_distribution: FakeDistribution
) -> None:
    install("fake-a", version="1.0", site="later", one=attacks("old"))
    fake_distribution("fake-a", "2.0", {"console_scripts": {"x": "y:z"}}, {}, site="earlier")
    assert not [plugin for plugin in discover().plugins if plugin.distribution.startswith("fake")]


# ------------------------------------------------------------------------------------------ groups and metadata


def test_a_plugin_for_another_version_of_the_hooks_is_listed_and_not_imported(
    fake_distribution: FakeDistribution,
) -> None:
    fake_distribution(
        "fake-a",
        "1.0",
        {"avrobust_v2": {"future": "fake_future"}, GROUP: {"now": "fake_now"}},
        {"fake_future.py": "raise RuntimeError('imported')\n", "fake_now.py": attacks("some")},
    )
    registry = discover(strict=True)
    future = record(registry, "fake-a:future")
    assert (future.status, future.group, future.entries) == ("other-api", "avrobust_v2", ())
    assert "avrobust_v2" in str(future.error)
    assert GROUP in str(future.error)
    assert "fake_future" not in sys.modules
    with pytest.raises(ComponentError, match=r"Plugin fake-a:future is written for avrobust_v2"):
        registry.resolve("attack", "future")


def test_malformed_metadata_of_others_is_no_concern_of_ours(
    fake_distribution: FakeDistribution, install: Callable[..., Path]
) -> None:
    folder = fake_distribution("fake-b", "1.0", {}, {})
    (folder / "fake_b-1.0.dist-info" / "entry_points.txt").write_text("[other]\nno equals sign\n", encoding="utf-8")
    install("fake-a", one=attacks("some"))
    registry = discover()
    assert registry.resolve("attack", "some").full_name == "fake-a:some"


def test_malformed_metadata_of_a_plugin_is_reported(
    fake_distribution: FakeDistribution, install: Callable[..., Path]
) -> None:
    folder = fake_distribution("fake-b", "1.0", {}, {})
    points = folder / "fake_b-1.0.dist-info" / "entry_points.txt"
    points.write_text(f"[{GROUP}]\nno equals sign\n", encoding="utf-8")
    install("fake-a", one=attacks("some"))
    registry = discover()
    [broken] = [plugin for plugin in registry.plugins if plugin.distribution == "fake-b"]
    assert broken.status == "broken"
    assert "entry_points.txt is malformed" in str(broken.error)
    assert registry.resolve("attack", "some").full_name == "fake-a:some"
    with pytest.raises(ComponentError, match=r"fake-b.*malformed"):
        discover(strict=True)


def test_entry_points_without_metadata_are_reported(fake_distribution: FakeDistribution) -> None:
    folder = fake_distribution("fake-b", "1.0", {GROUP: {"one": "fake_one"}}, {"fake_one.py": attacks("some")})
    (folder / "fake_b-1.0.dist-info" / "METADATA").unlink()
    [broken] = [plugin for plugin in discover().plugins if plugin.module == "fake_one"]
    assert broken.status == "broken"
    assert "no METADATA" in str(broken.error)


def test_the_time_that_a_plugin_takes_is_recorded(install: Callable[..., Path]) -> None:
    install("fake-a", slow="import time\ntime.sleep(0.12)\n" + attacks("slow"), quick=attacks("quick"))
    install("fake-b", slow="import time\ntime.sleep(0.12)\nraise RuntimeError\n")
    registry = discover()
    assert 120 <= record(registry, "fake-a:slow").milliseconds < 5000
    assert 120 <= record(registry, "fake-b:slow").milliseconds < 5000
    assert 0 < record(registry, "fake-a:quick").milliseconds < record(registry, "fake-a:slow").milliseconds


# ------------------------------------------------------------------------------------------ disabled and strict


@pytest.mark.parametrize("name", ["one", "fake-a:one", "FAKE_A:one", "fake-a"])
@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_disabled_plugin_is_listed_and_not_imported(
    name: str, by: str, install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("fake-a", one="raise RuntimeError('imported')\n")
    install("fake-b", other=attacks("some"))
    if by == "environment":
        monkeypatch.setenv("AVROBUST_DISABLE_PLUGINS", f" {name} , ,fake-b")
        registry = discover(strict=True)
        assert registry.entries() == ()
    else:
        registry = discover(disabled=[name], strict=True)
        assert [offer.component.name for offer in registry.entries()] == ["some"]
    disabled = record(registry, "fake-a:one")
    assert (disabled.status, disabled.error, disabled.milliseconds) == ("disabled", None, 0.0)
    assert "fake_a_one" not in sys.modules


def test_disabling_what_there_is_not_is_an_error_with_a_suggestion(
    install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("fake-a", curious=attacks("some"))
    with pytest.raises(ComponentError, match="no plugin is named 'curous'; did you mean 'curious'"):
        discover(disabled=["curous"])
    monkeypatch.setenv("AVROBUST_DISABLE_PLUGINS", "zzzz")
    with pytest.raises(ComponentError, match=r"AVROBUST_DISABLE_PLUGINS: .*'zzzz'; there are: .*fake-a:curious"):
        discover()


@pytest.mark.parametrize("value", ["1", "true", "ON"])
def test_strict_raises_what_the_plugin_raised(
    value: str, install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("fake-a", one=attacks("some"), bad="import no_such_module_at_all\n")
    monkeypatch.setenv("AVROBUST_STRICT_PLUGINS", value)
    with pytest.raises(ModuleNotFoundError) as raised:
        discover()
    assert raised.value.name == "no_such_module_at_all"
    assert raised.value.__notes__ == ["raised while loading plugin fake-a:bad (fake_a_bad)"]
    assert record(discover(strict=False), "fake-a:bad").status == "broken"


def test_strict_does_not_let_a_plugin_end_the_process(install: Callable[..., Path]) -> None:
    install("fake-a", bad="raise SystemExit(0)\n")
    with pytest.raises(ComponentError, match="fake-a:bad"):
        discover(strict=True)


def test_strict_counts_a_clash_of_names(install: Callable[..., Path]) -> None:
    install("fake-a", first=attacks("same"), second=attacks("same"))
    with pytest.raises(ComponentError, match="both offer the attack 'same'"):
        discover(strict=True)


def test_a_strict_setting_that_is_neither_on_nor_off_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVROBUST_STRICT_PLUGINS", "perhaps")
    with pytest.raises(ComponentError, match="neither on nor off"):
        Registry.discover()


# ----------------------------------------------------------------------------------------------- unknown names


def test_an_unknown_name_says_the_kind_and_what_is_near(install: Callable[..., Path]) -> None:
    install("fake-a", one=attacks("fake-pgd", "fake-cw"))
    registry = discover()
    with pytest.raises(ComponentError) as raised:
        registry.resolve("attack", "fake-pdg")
    assert str(raised.value) == "no attack is named 'fake-pdg'; did you mean 'fake-pgd'?"
    with pytest.raises(ComponentError, match=r"no attack is named 'zzz'; there are: fake-cw, fake-pgd$"):
        registry.resolve("attack", "zzz")
    with pytest.raises(ComponentError, match="did you mean 'fake-a:fake-pgd'"):
        registry.resolve("attack", "fake-a:fake-pgdd")
    with pytest.raises(ComponentError, match="no distribution 'fake-aa' has plugins; did you mean 'fake-a'"):
        registry.resolve("attack", "fake-aa:fake-pgd")


def test_an_unknown_name_says_if_it_is_of_another_kind(install: Callable[..., Path]) -> None:
    install("fake-a", one=attacks("fake-pgd"))
    with pytest.raises(ComponentError, match="fake-a:fake-pgd is of another kind: attack"):
        discover().resolve("metric", "fake-pgd")


def test_an_unknown_kind_says_which_there_are() -> None:
    with pytest.raises(ComponentError, match=r"no kind of component is named 'atack'; did you mean 'attack'\?"):
        Registry([]).entries("atack")


def test_an_unknown_name_says_if_the_plugin_is_broken_or_disabled(install: Callable[..., Path]) -> None:
    install("fake-a", bad="import no_such_module_at_all\n")
    install("fake-b", out=attacks("some"))
    registry = discover(disabled=["fake-b"])
    for name in ("bad", "fake-a", "fake-a:anything"):
        with pytest.raises(ComponentError, match="Plugin fake-a:bad is broken: ModuleNotFoundError: No module named"):
            registry.resolve("attack", name)
    for name in ("out", "fake-b:some"):
        with pytest.raises(ComponentError, match="Plugin fake-b:out is disabled"):
            registry.resolve("attack", name)
    with pytest.raises(ComponentError, match="1 plugin is broken: fake-a:bad"):
        registry.resolve("attack", "some")


# ----------------------------------------------------------------------------------------------- configuration

CONFIGURED = """
from typing import Literal
from pydantic import Field, field_validator


class Stage(Config):
    width: int = Field(default=8, ge=1)


class MyConfig(Config):
    steps: int = Field(ge=1)
    norm: Literal["linf", "l2"] = "linf"
    stages: list[Stage] = []
    explode: bool = False

    @field_validator("explode")
    @classmethod
    def _explode(cls, value):
        if value:
            raise TypeError("bug in the plugin")
        return value


@hookimpl
def avrobust_attacks():
    yield offer("fake-pgd", config=MyConfig, example={"steps": 2})
    yield offer("fake-plain")
"""


def test_a_configuration_is_validated(install: Callable[..., Path]) -> None:
    install("fake-a", one=HEAD + CONFIGURED)
    found = configure(discover(), "attack", "fake-pgd", {"steps": 3})
    offer, config = found.entry, found.config
    assert offer.full_name == "fake-a:fake-pgd"
    assert config.model_dump() == {"steps": 3, "norm": "linf", "stages": [], "explode": False}


def test_all_faults_of_a_configuration_are_told_at_once(install: Callable[..., Path]) -> None:
    install("fake-a", one=HEAD + CONFIGURED)
    given = {"stepz": 3, "norm": "l3", "stages": [{"width": 4}, {"widht": 0}, {"width": 0}], "zzz": 1}
    with pytest.raises(ComponentError) as raised:
        configure(discover(), "attack", "fake-pgd", given)
    head, *lines = str(raised.value).splitlines()
    assert head == "6 errors in the configuration of attack 'fake-pgd' (plugin 'one' of fake-a 1.0):"
    assert sorted(lines) == [
        "  norm: input should be 'linf' or 'l2', not 'l3'",
        "  stages[1].widht: no such field; did you mean 'width'?",
        "  stages[2].width: input should be greater than or equal to 1, not 0",
        "  steps: required, but not given",
        "  stepz: no such field; did you mean 'steps'?",
        "  zzz: no such field; there are: steps, norm, stages, explode",
    ]


def test_a_component_without_fields_says_so(install: Callable[..., Path]) -> None:
    install("fake-a", one=HEAD + CONFIGURED)
    with pytest.raises(ComponentError, match="x: no such field; it has no fields"):
        configure(discover(), "attack", "fake-plain", {"x": 1})


def test_a_validator_that_fails_otherwise_is_the_plugins_fault(install: Callable[..., Path]) -> None:
    install("fake-a", one=HEAD + CONFIGURED)
    expected = r"plugin 'one' of fake-a 1.0\) failed to validate its configuration: TypeError: bug in the plugin"
    with pytest.raises(ComponentError, match=expected):
        configure(discover(), "attack", "fake-pgd", {"steps": 1, "explode": True})


def test_faults_are_placed_inside_unions_mappings_and_aliases() -> None:
    from pydantic import Field, ValidationError

    from avrobust_core import Config

    class Inner(Config):
        depth: int = 1

    class Outer(Config):
        by_name: dict[str, Inner | None] = Field(default={}, alias="byName")

    with pytest.raises(ValidationError) as raised:
        Outer.model_validate({"byName": {"x": {"dept": 1}}, "by_nam": 1})
    told = {location_text(place): message for place, message in configuration_errors(Outer, raised.value)}
    assert told == {
        "byName.x.dept": "no such field; did you mean 'depth'?",
        "by_nam": "no such field; did you mean 'byName'?",
    }


# -------------------------------------------------------------------------------------------------- suggestions


def test_suggestions_read_as_a_sentence() -> None:
    assert did_you_mean("pdg", ["pgd", "cw"]) == "; did you mean 'pgd'?"
    assert did_you_mean("guided_mixup", ["guided-mixup"]) == "; did you mean 'guided-mixup'?"
    assert did_you_mean("zzz", ["pgd", "cw"]) == ""
    assert (
        did_you_mean("avrobust_atacks", ["avrobust_attacks", "avrobust_metrics"])
        == "; did you mean 'avrobust_attacks'?"
    )
    assert did_you_mean("aab", ["aaa", "aac", "aad", "aae"]) == "; did you mean 'aaa', 'aac' or 'aad'?"


@given(st.text(), st.lists(st.text()), st.integers(0, 4))
def test_suggestions_are_known_names_few_and_independent_of_order(name: str, known: list[str], limit: int) -> None:
    found = closest(name, known, limit)
    assert set(found) <= set(known)
    assert len(found) == len(set(found)) <= limit
    assert found == closest(name, known[::-1], limit)
    if name in known and limit and name:
        assert name in closest(name, known, len(known))
