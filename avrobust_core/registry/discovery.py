"""Find the plugins that are installed, without importing any."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from typing import Any, Final, Literal

from avrobust_core.errors import ComponentError
from avrobust_core.registry.components import Component, Config
from avrobust_core.registry.hookspecs import ENTRY_POINT_GROUP

Status = Literal["ok", "broken", "disabled", "other-api"]

_GROUP_PREFIX = "avrobust_v"

SLOW: Final = 500.0
"""Milliseconds that loading a plugin may take before it is named: every command that looks plugins up waits for it."""

HEAVY: Final = ("torch", "torchaudio", "torchvision", "transformers", "timm", "scipy", "pandas", "jax", "tensorflow")
"""Libraries that take long to import, which a plugin imports when a component is built."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryEntry:
    """A component of an installed distribution.

    Attributes:
        kind: a key of `KINDS`.
        component: what the plugin offers.
        distribution: the distribution's name as its metadata spells it.
        distribution_version: the distribution's version.
        plugin: the name of the entry point.
    """

    kind: str
    component: Component
    distribution: str
    distribution_version: str
    plugin: str

    @property
    def full_name(self) -> str:
        """The qualified name, `dist:name`, with the distribution's name normalised: one spelling for one component."""
        return f"{normalised(self.distribution)}:{self.component.name}"

    @property
    def described(self) -> str:
        """For messages: its kind and name, and the plugin and distribution that offer it."""
        whose = f"plugin {self.plugin!r} of {self.distribution} {self.distribution_version}"
        return f"{self.kind} {self.component.name!r} ({whose})"

    def to_json(self) -> dict[str, Any]:
        """Everything that can be said of it without reading its configuration, as JSON data."""
        mine = ("kind", "full_name", "distribution", "distribution_version", "plugin")
        of_the_component = ("name", "summary", "version", "references", "extras")
        return {name: getattr(self, name) for name in mine} | {
            name: getattr(self.component, name) for name in of_the_component
        }

    def lacking(self, config: Config | None = None) -> str | None:
        """The modules that it needs and that are not installed, and what installs them; None if all are there.

        Nothing is imported.

        Args:
            config: what it is built with; None for what it needs in any case.
        """
        needed = (*self.component.requires, *(() if config is None else config.modules_needed()))
        missing = [module for module in needed if not is_installed(module)]
        if not missing:
            return None
        extras = ",".join(self.component.extras)
        cure = f"pip install '{self.distribution}[{extras}]'" if extras else f"install it beside {self.distribution}"
        return f"needs {', '.join(missing)}, which is not installed: {cure}"

    def builder(self) -> Callable[..., Any]:
        """The class or function that makes the component.

        Raises:
            ComponentError: if its `build` names nothing that can be imported and called; says whose it is.
        """
        try:
            return self.component.builder()
        except ComponentError as error:
            raise ComponentError(f"{self.described}: {error}") from error

    def is_named(self, name: str) -> bool:
        """True if a bare or full name means this component."""
        distribution, _, bare = name.rpartition(":")
        return bare == self.component.name and normalised(distribution) in ("", normalised(self.distribution))


@dataclass(frozen=True, slots=True)
class PluginRecord:
    """One entry point: where it comes from, whether it loaded, and what it offers.

    Attributes:
        name: the entry point's name.
        distribution: the distribution's name as its metadata spells it.
        distribution_version: the distribution's version.
        module: what the entry point names.
        group: the entry-point group; it says the version of the hooks that the plugin was written for.
        status: "ok"; "broken" (see `error`); "disabled" or "other-api" (neither is imported).
        error: why it is not "ok", on one line; None if it is, or if it was disabled.
        milliseconds: what importing it and calling its hooks took. Modules that several plugins share are
            counted for the first that imports them.
        entries: its components; empty unless "ok".
        heavy: of `HEAVY`, what it imported, and nothing had imported before.
    """

    name: str
    distribution: str
    distribution_version: str
    module: str
    group: str
    status: Status
    error: str | None
    milliseconds: float = 0.0
    entries: tuple[RegistryEntry, ...] = ()
    heavy: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        """`dist:entry-point`, with the distribution's name normalised."""
        return f"{normalised(self.distribution)}:{self.name}"

    @property
    def slowness(self) -> str | None:
        """That it took longer to import than `SLOW`, what of it is heavy, and the cure; None if it was fast enough."""
        if self.milliseconds <= SLOW:
            return None
        heavy = f" ({', '.join(self.heavy)} among it)" if self.heavy else ""
        return (
            f"importing {self.module} took {self.milliseconds:.0f} ms{heavy}, and every command waits for it: import "
            "what is heavy where a component is built, not with the plugin's module; or leave it out with "
            f"--no-plugin {self.full_name}"
        )

    def is_of(self, distribution: str) -> bool:
        """True if this is the distribution of the plugin, however it is spelled."""
        return normalised(distribution) == normalised(self.distribution)

    def is_named(self, name: str) -> bool:
        """True if a name means this plugin: the entry point's, `dist:entry-point`, or the distribution's."""
        distribution, _, entry_point = name.rpartition(":")
        if distribution:
            return entry_point == self.name and self.is_of(distribution)
        return name == self.name or self.is_of(name)


def is_installed(module: str) -> bool:
    """True if there is a module of this top-level name; it is not imported."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError, AttributeError):  # an entry of sys.modules that is no module
        return False


def normalised(distribution: str) -> str:
    """A distribution's name in the form in which names are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def declared() -> list[PluginRecord]:
    """List the entry points of every `avrobust_v*` group, none of them imported yet.

    Their status is "ok" where they are to be loaded, "other-api" where they are for another version of the hooks,
    and "broken" where a distribution's own metadata cannot be read. They come in the order of the distributions'
    normalised names, and within one in the order of its `entry_points.txt`. A distribution that is found twice on
    `sys.path` counts once, the first one, as it does for `importlib.metadata`.
    """
    by_name: dict[str, list[PluginRecord]] = {}
    for distribution in _offering_distributions():
        # A dist-info folder without METADATA has no name; newer importlib.metadata raises, older gives None.
        name = str(distribution.metadata["Name"] or "")
        key = normalised(name)
        if name and key in by_name:
            continue
        by_name.setdefault(key, []).extend(_declared_by(_first_of_its_name(distribution, name), name))
    return [record for key in sorted(by_name) for record in by_name[key]]


def _offering_distributions() -> Iterator[metadata.Distribution]:
    """Yield the distributions that mention a group of ours.

    `metadata.entry_points()` would parse every distribution's entry points, and raise for all if one that has
    nothing to do with us is malformed.
    """
    for distribution in metadata.distributions():
        try:
            text = distribution.read_text("entry_points.txt")
        except (OSError, UnicodeError) as error:
            warnings.warn(f"skipped a distribution whose entry_points.txt cannot be read: {error}", stacklevel=4)
            continue
        if text and _GROUP_PREFIX in text:
            yield distribution


def _first_of_its_name(distribution: metadata.Distribution, name: str) -> metadata.Distribution:
    """The distribution that Python takes for `name`: an earlier one may no longer have our entry points."""
    try:
        return metadata.distribution(name)
    except (metadata.PackageNotFoundError, ValueError):  # its folder is named otherwise, or it has no name
        return distribution


def _declared_by(distribution: metadata.Distribution, name: str) -> Iterator[PluginRecord]:
    version = str(distribution.metadata["Version"] or "unknown")  # parsed anew at each access
    record = partial(PluginRecord, distribution=name or "unnamed", distribution_version=version)
    try:
        entry_points = [point for point in distribution.entry_points if point.group.startswith(_GROUP_PREFIX)]
    except Exception as error:  # noqa: BLE001  the parser raises whatever the malformed line leads to
        why = f"its entry_points.txt is malformed: {type(error).__name__}: {error}"
        yield record(name="?", module="?", group=ENTRY_POINT_GROUP, status="broken", error=why)
        return
    for point in entry_points:
        status: Status = "ok"
        fault = None
        if point.group != ENTRY_POINT_GROUP:
            status = "other-api"
            fault = (
                f"written for {point.group}, but this version of avrobust has {ENTRY_POINT_GROUP}: not imported; "
                f"install a version of {name} that offers {ENTRY_POINT_GROUP}, or an avrobust that has {point.group}"
            )
        elif not name:
            status, fault = "broken", "its distribution has no METADATA file with a Name: reinstall it"
        yield record(name=point.name, module=point.value, group=point.group, status=status, error=fault)
