"""The site shows all there is: every page, hook, component, command and public name; and they are documented."""

import importlib.util
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import avrobust_core
import avrobust_core.testing
from avrobust_core import Registry
from avrobust_core.registry import hookspecs
from avrobust_core.registry.discovery import RegistryEntry
from avrobust_core.registry.kinds import KINDS
from avrobust_core.spec.loading import load_spec
from avrobust_core.spec.problems import SpecError

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs" / "site"
OFFERS = [offer for offer in Registry.discover().entries() if offer.distribution == "avrobust"]
WITHOUT_SOURCE = {
    "dataset toy-av": "made here",
    "dataset folder": "a layout, not a set",
    "dataset shards": "a format of avrobust's own",
    "encoder raw": "the identity",
    "attack noise": "random points",
    "attack drop": "silence",
    "metric accuracy": "a share",
}
"""Components that implement no paper and stand for no published thing, and why."""


def load_generated() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generated", SITE / "generated.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATED = load_generated()
PAGES: dict[str, str] = GENERATED.pages()


def each_offer() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("offer", OFFERS, ids=[f"{offer.kind}-{offer.component.name}" for offer in OFFERS])


def test_every_page_of_docs_is_in_the_navigation_once() -> None:
    nav = re.search(r"^nav:\n(.*?)^\w", (SITE / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert nav is not None
    listed = [page for section in yaml.safe_load(nav[1]) for pages in section.values() for page in pages]
    elsewhere = set(GENERATED.copies().values())
    written = {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}
    assert sorted(page for page in listed if page not in elsewhere) == sorted(written)


def test_every_hook_has_a_page_and_an_example() -> None:
    hooks = [name for name in vars(hookspecs) if name.startswith("avrobust_")]
    assert sorted(hooks) == sorted(kind.hook for kind in KINDS.values())
    for kind in KINDS.values():
        assert f"`{kind.hook}`" in PAGES[f"reference/{kind.name}s.md"]
        assert f"def {kind.hook}():" in str(getattr(hookspecs, kind.hook).__doc__)


@each_offer()
def test_every_bundled_component_has_a_part_of_a_page_with_all_its_fields_and_sources(offer: RegistryEntry) -> None:
    page = PAGES[f"reference/{offer.kind}s.md"]
    part = page.partition(f"\n## {offer.component.name}\n")[2].partition("\n## ")[0]
    assert offer.component.summary in part
    for name, field in offer.component.config.model_fields.items():
        assert f"| `{field.alias or name}` |" in part
    for reference in offer.component.references:
        assert f"<{reference}>" in part


@each_offer()
def test_every_bundled_component_names_its_sources(offer: RegistryEntry) -> None:
    name = f"{offer.kind} {offer.component.name}"
    assert bool(offer.component.references) != (name in WITHOUT_SOURCE)
    for reference in offer.component.references:
        assert re.fullmatch(r"https://\S+", reference)


def test_what_has_no_source_is_there() -> None:
    assert set(WITHOUT_SOURCE) <= {f"{offer.kind} {offer.component.name}" for offer in OFFERS}


@each_offer()
def test_every_bundled_components_example_is_valid_in_a_spec(offer: RegistryEntry, tmp_path: Path) -> None:
    page = PAGES[f"reference/{offer.kind}s.md"]
    part = page.partition(f"\n## {offer.component.name}\n")[2].partition("\n## ")[0]
    (snippet,) = re.findall(r"```yaml\n(.*?)```", part, flags=re.DOTALL)
    shown = yaml.safe_load(snippet)
    assert offer.component.name in re.findall(r"[\w-]+", snippet)
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(around(offer, shown), sort_keys=False), encoding="utf-8")
    missing = [name for name in offer.component.requires if importlib.util.find_spec(name) is None]
    with pytest.raises(SpecError, match="pip install 'avrobust") if missing else nullcontext():
        load_spec(tmp_path / "spec.yaml", Registry.discover())


def around(offer: RegistryEntry, shown: dict[str, object]) -> dict[str, object]:
    """A whole spec around the part that a component's page shows."""
    spec: dict[str, object] = {
        "version": 1,
        "name": "around",
        "data": "toy-av",
        "encoders": {"audio": "cnn", "video": "slowfast-tiny"},
        "models": {"one": {"encoders": ["audio", "video"], "fusion": "concat"}},
        "training": {"standard": {"epochs": 2}},
        "threats": {
            "audio": {"audio": {"norm": threat_norm(offer), "eps": 0.002}},
        },
        "attacks": {"pgd": {"use": "pgd"}},
        "metrics": ["accuracy"],
    }
    match offer.kind:
        case "fusion":
            spec["models"] = {"one": {"encoders": ["audio", "video"], **shown}}
        case "augmentation":
            spec["training"] = {"standard": {"epochs": 2, **shown}}
        case "encoder":
            name = offer.component.name
            below = shown["encoders"]
            assert isinstance(below, dict)
            spec["encoders"] = {"audio": "cnn", name: {"modality": "video", **named(below[name])}}
            spec["models"] = {"one": {"encoders": ["audio", name], "fusion": "concat"}}
        case _:
            spec |= shown
    return spec


def named(choice: object) -> dict[str, object]:
    """A component as a spec writes it in full."""
    return dict(choice) if isinstance(choice, dict) else {"use": choice}


def threat_norm(offer: RegistryEntry) -> str:
    """A norm that an attack takes; linf for whatever is no attack."""
    if offer.kind != "attack":
        return "linf"
    norms = offer.component.make(offer.component.config(**offer.component.example)).norms
    return "linf" if "linf" in norms else min(norms)


def test_every_command_has_its_help_on_the_page() -> None:
    page = PAGES["reference/commands.md"]
    commands = {parser.prog for parser in GENERATED.parsers(GENERATED.command_parser())}
    assert {"avrobust run", "avrobust data pack"} <= commands
    assert {line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")} == commands
    assert "--set PATH=VALUE" in page


def test_every_public_name_is_on_one_page_of_the_python_reference() -> None:
    text = "\n".join(page for path, page in PAGES.items() if path.startswith("reference/python/"))
    found = re.findall(r"^::: (\S+)$", text, flags=re.MULTILINE)
    core = [f"avrobust_core.{name}" for name in avrobust_core.__all__]
    kit = [f"avrobust_core.testing.{name}" for name in avrobust_core.testing.__all__]
    assert sorted(found) == sorted([*core, *kit])


def test_the_help_does_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert GENERATED.commands_page() == PAGES["reference/commands.md"]


@pytest.mark.parametrize(
    ("source", "page", "link", "expected"),
    [
        ("README.md", "index.md", "docs/data.md#pack-once", "data.md#pack-once"),
        ("docs/tutorial/a.md", "tutorial/a.md", "../../CONTRIBUTING.md#the-house", "../contributing.md#the-house"),
        ("docs/tutorial/a.md", "tutorial/a.md", "../data.md", "../data.md"),
        ("docs/a.md", "a.md", "../examples/clips.yaml", "examples.md#clips"),
        ("README.md", "index.md", "examples/plugins/avrobust-depth/", "plugins/avrobust-depth.md"),
        ("README.md", "index.md", "https://example.org/a.md", "https://example.org/a.md"),
        ("README.md", "index.md", "#start", "#start"),
    ],
)
def test_links_lead_to_where_the_site_shows_what_they_name(source: str, page: str, link: str, expected: str) -> None:
    assert GENERATED.relinked(f"See [it]({link}).", source, page) == f"See [it]({expected})."


def test_links_in_code_stay_as_they_are() -> None:
    text = "```sh\n[a](docs/data.md)\n```\n"
    assert GENERATED.relinked(text, "README.md", "index.md") == text


def test_lists_and_tables_stand_apart_so_that_markdown_sees_them() -> None:
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/plugins/*/README.md")]:
        text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for before, line in zip(text.splitlines(), text.splitlines()[1:], strict=False):
            for opening in (r"[-*] ", r"\|"):
                if re.match(opening, line) and before and not re.match(rf" *{opening}|  ", before):
                    raise AssertionError(f"{document.relative_to(ROOT)}: an empty line is missing before {line[:60]!r}")


@pytest.mark.slow
@pytest.mark.skipif(
    not importlib.util.find_spec("mkdocs"), reason="extra `docs` is not installed; CI builds the site itself"
)
def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(SITE / "mkdocs.yml"), "-d", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    pages = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")]
    assert len(pages) > 50
    for page in pages:
        assert not re.search(r"<(?:script|img|iframe)[^>]* src=\"?https?:", page)
        assert not re.search(r"<link[^>]*rel=\"?(?:stylesheet|preconnect|preload)[^>]*https?:", page)
