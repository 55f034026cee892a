"""Fixtures for all tests: distributions installed for one test only, a cache of their own, ordinary signals."""

import importlib
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import settings

FakeDistribution = Callable[..., Path]

settings.register_profile("untimed", deadline=None)  # a shared machine stops for seconds
settings.load_profile("untimed")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep digests of files out of the user's own folder for caches, in commands that tests start as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def fake_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDistribution]:
    """Return a function that installs a distribution, as pip would leave it, in a folder that is put on sys.path.

    `fake_distribution(name, version, entry_points, files, site="site")` writes NAME-VERSION.dist-info with METADATA and
    entry_points.txt from `{group: {entry point: module}}`, and the files from `{path: source}` (sources are
    dedented), and returns the folder, to be given to other processes in PYTHONPATH. Another `site` is another folder.
    """
    modules: set[str] = set()

    def install(
        name: str,
        version: str,
        entry_points: Mapping[str, Mapping[str, str]],
        files: Mapping[str, str],
        site: str = "site",
    ) -> Path:
        folder = tmp_path / site
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
        lines = [
            line
            for group, points in entry_points.items()
            for line in (f"[{group}]", *(f"{point} = {module}" for point, module in points.items()), "")
        ]
        (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
        for path, source in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(dedent(source), encoding="utf-8")
            modules.add(path.partition("/")[0].removesuffix(".py"))
        if str(folder) not in sys.path:
            monkeypatch.syspath_prepend(folder)
        importlib.invalidate_caches()
        return folder

    yield install
    for module in [loaded for loaded in sys.modules if loaded.partition(".")[0] in modules]:
        del sys.modules[module]


@pytest.fixture
def ordinary_signals() -> Iterator[None]:
    """The signals that end a command have their ordinary handlers, even where tests run in the background or nohup."""
    ordinary = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in ordinary.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
