"""The names of a new plugin: those that follow from its distribution's, and which ones are refused."""

from __future__ import annotations

import keyword
import sys
from dataclasses import dataclass
from importlib import metadata, util
from typing import Self

from avrobust_core.errors import AvrobustError, ComponentError
from avrobust_core.registry.components import KEBAB_CASE
from avrobust_core.registry.registry import Registry

PREFIX = "avrobust-"
"""Left out of the component's name, which a spec writes where all belongs to avrobust."""

LONGEST = 32
"""Characters of a name: with more the lines of the templates would be too long."""

_TAKEN_INSIDE = frozenset({"tests"})
"""Folders of the distribution that are not its package."""


class NameRefused(AvrobustError):
    """A name cannot be a new plugin's; says why, and what would do."""


@dataclass(frozen=True, slots=True)
class Names:
    """What a new plugin's parts are called.

    Attributes:
        distribution: and its folder: "avrobust-loud-noise".
        package: what Python imports: "avrobust_loud_noise".
        component: and the entry point: "loud-noise".
    """

    distribution: str
    package: str
    component: str

    @classmethod
    def of(cls, name: str) -> Self:
        """The names that follow from the distribution's.

        Raises:
            NameRefused: if it is no name of a distribution, or none that Python can import as a package.
        """
        if not KEBAB_CASE.fullmatch(name):
            better = "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in name.lower()).split())
            hint = f"; did you mean {better!r}?" if KEBAB_CASE.fullmatch(better) else ""
            raise NameRefused(
                f"{name!r} is no name for a plugin: take small letters, digits and single hyphens, a letter first, "
                f"like 'avrobust-loudness'{hint}"
            )
        if len(name) > LONGEST:
            raise NameRefused(f"{name!r} has {len(name)} characters: take a name of at most {LONGEST}")
        names = cls(name, name.replace("-", "_"), name.removeprefix(PREFIX))
        if not KEBAB_CASE.fullmatch(names.component):
            raise NameRefused(
                f"{name!r} leaves {names.component!r} for the component's name, which must begin with a letter: take "
                "another name"
            )
        if keyword.iskeyword(names.package) or keyword.issoftkeyword(names.package):
            raise NameRefused(f"{name!r} is a keyword of Python, no package: take another name, like '{PREFIX}{name}'")
        if names.package in _TAKEN_INSIDE:
            raise NameRefused(f"{name!r} is the name of the folder with the plugin's tests: take another")
        return names

    @property
    def class_name(self) -> str:
        """The component's class: "LoudNoise"."""
        return "".join(part.capitalize() for part in self.component.split("-"))

    def refuse_taken(self, registry: Registry) -> None:
        """Refuse names that something installed has already.

        Args:
            registry: the components and plugins that are installed.

        Raises:
            NameRefused: says what has the name.
        """
        if taken := self._taken(registry):
            raise NameRefused(f"{taken}: take another name, so that one name means one thing")

    def _taken(self, registry: Registry) -> str | None:
        try:
            installed = metadata.distribution(self.distribution)
        except metadata.PackageNotFoundError:
            installed = None
        if installed is not None:
            return f"a distribution {self.distribution!r} is installed already, in version {installed.version}"
        for plugin in registry.plugins:
            if plugin.is_named(self.component) or plugin.is_of(self.distribution):
                return f"{self.component!r} is the name of an installed plugin, {plugin.full_name}"
        try:
            offers = registry.find(self.component)
        except ComponentError:
            offers = ()
        if offers:
            said = " and ".join(f"the {entry.kind} {entry.full_name}" for entry in offers)
            return f"{self.component!r} is the name of an installed component, {said}"
        if self.package in sys.stdlib_module_names:
            return f"{self.package!r} is a module of Python's standard library"
        if (place := _imported_from(self.package)) is not None:
            return f"a package {self.package!r} can be imported already, from {place}"
        return None


def _imported_from(package: str) -> str | None:
    """Where a package would be imported from; None if there is none: a mere folder of that name does not count."""
    try:
        spec = util.find_spec(package)
    except (ImportError, ValueError):
        return None
    return None if spec is None else spec.origin
