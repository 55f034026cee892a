"""The registry: the components of the installed plugins, by kind and name."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby

from avrobust_core.config.suggest import did_you_mean
from avrobust_core.errors import AvrobustWarning, ComponentError
from avrobust_core.registry.discovery import PluginRecord, RegistryEntry, Status, declared, normalised
from avrobust_core.registry.kinds import KINDS
from avrobust_core.registry.loading import PluginFault, core_wanted, load

__all__ = ["PluginFault", "PluginRecord", "Registry", "RegistryEntry", "Status"]

DISABLE_VARIABLE = "AVROBUST_DISABLE_PLUGINS"
STRICT_VARIABLE = "AVROBUST_STRICT_PLUGINS"

BUNDLED = "avrobust"
"""The distribution whose components a bare name means where nothing else is said."""

_ON = frozenset({"1", "true", "yes", "on"})
_OFF = frozenset({"", "0", "false", "no", "off"})


class Registry:
    """The components that the installed plugins offer.

    A component's full name is `dist:name`. Its bare name will do where one distribution only offers it for that
    kind. Where several do, it means the component of the first distribution in `prefer` that offers one; or else the
    one that comes with avrobust, with a warning; or else using it is an error that lists the full names.

    Args:
        plugins: the plugins, loaded or not; see `Registry.discover`.
        prefer: distributions, the first before the others; see `preferring`.
    """

    def __init__(self, plugins: Iterable[PluginRecord], prefer: Iterable[str] = ()) -> None:
        self.plugins: tuple[PluginRecord, ...] = tuple(plugins)
        """Every plugin that was found, whatever its status."""
        self.prefer: tuple[str, ...] = tuple(normalised(name) for name in prefer)
        """The normalised names of the distributions that a bare name means first, where several offer it."""
        self._told: set[tuple[str, str]] = set()
        entries = [entry for plugin in self.plugins for entry in plugin.entries]
        order = list(KINDS).index
        self._entries = tuple(sorted(entries, key=lambda o: (order(o.kind), o.component.name, o.full_name)))

    @classmethod
    def discover(cls, *, disabled: Iterable[str] = (), strict: bool | None = None) -> Registry:
        """Find and load the installed plugins.

        A plugin that fails is recorded as broken, offers nothing, and takes no other with it.

        Args:
            disabled: plugins not to import: an entry point's name, `dist:entry-point`, or a distribution's name.
                The environment variable AVROBUST_DISABLE_PLUGINS adds more, separated by commas.
            strict: raise what the first broken plugin raised; by default as AVROBUST_STRICT_PLUGINS=1 says.

        Warns (`AvrobustWarning`) of plugins of other distributions that take longer to import than `SLOW`.

        Raises:
            ComponentError: if a disabled name matches no plugin, or AVROBUST_STRICT_PLUGINS is neither on nor off.
            Exception: in strict mode, whatever a plugin raised.
        """
        strict = _strict_from_environment() if strict is None else strict
        found = declared()
        left_out = _disabled(found, disabled)
        plugins: list[PluginRecord] = []
        for position, plugin in enumerate(found):
            loaded = plugin
            if position in left_out:
                loaded = replace(plugin, status="disabled", error=None)
            elif plugin.status == "ok":
                loaded = load(plugin, plugins, strict=strict)
            elif plugin.status == "broken" and strict:
                raise PluginFault(f"plugin {plugin.full_name}: {plugin.error}")
            plugins.append(loaded)
            if loaded.slowness and normalised(loaded.distribution) != BUNDLED:
                warnings.warn(f"plugin {loaded.full_name}: {loaded.slowness}", AvrobustWarning, stacklevel=2)
        return cls(plugins)

    def preferring(self, distributions: Iterable[str]) -> Registry:
        """The same components, where a bare name that several distributions offer means that of the first of these.

        Raises:
            ComponentError: if one of them has no plugins.
        """
        names = tuple(distributions)
        for name in names:
            self.refuse_stranger(name)
        return Registry(self.plugins, names)

    def refuse_stranger(self, distribution: str) -> None:
        """Refuse to prefer a distribution without plugins.

        Raises:
            ComponentError: names those that have some.
        """
        if not any(plugin.is_of(distribution) for plugin in self.plugins):
            known = sorted({normalised(plugin.distribution) for plugin in self.plugins})
            hint = did_you_mean(distribution, known) or f"; with plugins there are: {', '.join(known) or 'none'}"
            raise ComponentError(f"no distribution {distribution!r} has plugins{hint}")

    def entries(self, kind: str | None = None) -> tuple[RegistryEntry, ...]:
        """The components of one kind or of all, in the order of the kinds and then of the names.

        Raises:
            ComponentError: if there is no such kind.
        """
        if kind is None:
            return self._entries
        if kind not in KINDS:
            raise ComponentError(
                f"no kind of component is named {kind!r}{did_you_mean(kind, KINDS)} (there are: {', '.join(KINDS)})"
            )
        return tuple(entry for entry in self._entries if entry.kind == kind)

    def find(self, name: str, kind: str | None = None) -> tuple[RegistryEntry, ...]:
        """Every component that a bare or full name fits, of one kind or of all.

        Raises:
            ComponentError: if there is none; the message says what may have been meant, and which plugins are out.
        """
        entries = tuple(entry for entry in self.entries(kind) if entry.is_named(name))
        if not entries:
            raise ComponentError(self._not_found(name, kind))
        return entries

    def resolve(self, kind: str, name: str) -> RegistryEntry:
        """The component of this kind that this name, bare or full, means.

        Warns (`AvrobustWarning`), once for each name, where it takes the one that comes with avrobust because nothing
        says which is meant.

        Raises:
            ComponentError: if there is none, or if several distributions offer the bare name and nothing decides.
        """
        entries = self.find(name, kind)
        if len(entries) == 1:
            return entries[0]
        meant = self.meant(entries)
        full = " or ".join(repr(entry.full_name) for entry in entries)
        offered = f"{kind} {name!r} is offered by {len(entries)} distributions"
        others = [normalised(entry.distribution) for entry in entries if entry is not meant]
        if meant is None:
            raise ComponentError(f"{offered}: write {full}, or say `prefer: [{others[0]}]` in the spec")
        if normalised(meant.distribution) not in self.prefer and (kind, name) not in self._told:
            self._told.add((kind, name))
            warnings.warn(
                f"{offered}, {full}: {meant.full_name!r} is taken, which comes with avrobust. To be explicit, write "
                f"one of the full names, or say `prefer: [{BUNDLED}]` or `prefer: [{others[0]}]` in the spec",
                AvrobustWarning,
                stacklevel=2,
            )
        return meant

    def meant(self, entries: Sequence[RegistryEntry]) -> RegistryEntry | None:
        """That one of several components of one kind and name which its bare name means; None if nothing decides."""
        for distribution in (*self.prefer, BUNDLED):
            for entry in entries:
                if normalised(entry.distribution) == distribution:
                    return entry
        return entries[0] if len(entries) == 1 else None

    def rivalries(self, name: str) -> list[str]:
        """For each kind of which several distributions offer this bare name, a sentence that says what it means."""
        found = []
        for kind, group in groupby(self.find(name), key=lambda entry: entry.kind):
            entries = list(group)
            meant = self.meant(entries)
            if len(entries) > 1:
                what = "nothing, and is an error" if meant is None else repr(meant.full_name)
                why = "" if meant is None or normalised(meant.distribution) in self.prefer else ", with a warning"
                full = " or ".join(repr(entry.full_name) for entry in entries)
                found.append(
                    f"The bare name {entries[0].component.name!r} of kind {kind} means {what}{why}: write {full}, or "
                    "say `prefer: [DISTRIBUTION]` in the spec."
                )
        return found

    def short_name(self, entry: RegistryEntry) -> str:
        """The shortest name that means the component without a warning: bare, or else full."""
        rivals = self.find(entry.component.name, entry.kind)
        sure = len(rivals) == 1 or (self.meant(rivals) is entry and normalised(entry.distribution) in self.prefer)
        return entry.component.name if sure else entry.full_name

    def _not_found(self, name: str, kind: str | None) -> str:
        """The reason why a name fits nothing: a slip, another kind, or a plugin that was not loaded."""
        distribution, _, bare = name.rpartition(":")
        what = kind or "component"
        candidates = self.entries(kind)
        known = {entry.component.name for entry in candidates}
        if distribution:
            of_it = [entry for entry in candidates if normalised(entry.distribution) == normalised(distribution)]
            known = {entry.full_name for entry in of_it or candidates}
        text = f"no {what} is named {name!r}"
        if distribution and not any(plugin.is_of(distribution) for plugin in self.plugins):
            dists = {normalised(plugin.distribution) for plugin in self.plugins}
            text += f": no distribution {distribution!r} has plugins"
            text += did_you_mean(distribution, dists) or did_you_mean(name, known)
        else:
            there_are = f"; there are: {', '.join(sorted(known))}" if known and kind is not None else ""
            text += did_you_mean(name, known) or there_are
        elsewhere = [entry for entry in self._entries if entry.kind != kind and entry.is_named(name)]
        sentences = [text, *(f"{entry.full_name} is of another kind: {entry.kind}" for entry in elsewhere)]
        sentences += self._left_out(distribution, bare)
        loaded = {p.distribution: p for p in self.plugins if p.status == "ok" and normalised(p.distribution) != BUNDLED}
        sentences += [
            misfit
            for name, plugin in loaded.items()
            if (not distribution or plugin.is_of(distribution)) and (misfit := core_wanted(name))
        ]
        return " ".join(f"{sentence}{'' if sentence.endswith('?') else '.'}" for sentence in sentences).rstrip(".")

    def _left_out(self, distribution: str, bare: str) -> list[str]:
        """Plugins that were not loaded and may have offered a name: those it points to, or the broken ones."""
        out = [plugin for plugin in self.plugins if plugin.status != "ok"]
        meant = [plugin for plugin in out if (plugin.is_of(distribution) if distribution else plugin.is_named(bare))]
        if meant:
            disabled = f"disabled (by --no-plugin or {DISABLE_VARIABLE})"
            why = {"disabled": disabled, "other-api": "", "broken": "broken: "}
            return [f"Plugin {plugin.full_name} is {why[plugin.status]}{plugin.error or ''}" for plugin in meant]
        sentences = []
        if not distribution:
            broken = [plugin.full_name for plugin in out if plugin.status == "broken"]
            if broken:
                plural = "plugin is" if len(broken) == 1 else "plugins are"
                sentences.append(f"{len(broken)} {plural} broken: {', '.join(broken)} (see avrobust plugins --broken)")
            sentences += [
                f"It may be of plugin {plugin.full_name}, {plugin.error}"
                for plugin in out
                if plugin.status == "other-api"
            ]
        return sentences


def _strict_from_environment() -> bool:
    value = os.environ.get(STRICT_VARIABLE, "").strip().lower()
    if value not in _ON | _OFF:
        raise ComponentError(f"{STRICT_VARIABLE}={value!r} is neither on nor off: set it to 1 or 0")
    return value in _ON


def _disabled(plugins: list[PluginRecord], names: Iterable[str]) -> set[int]:
    """The positions of the plugins that are disabled by name, by argument or environment."""
    variable = os.environ.get(DISABLE_VARIABLE, "").split(",")
    wanted = [(name, "disabled (--no-plugin)") for name in names] + [(name, DISABLE_VARIABLE) for name in variable]
    positions: set[int] = set()
    for given, source in wanted:
        name = given.strip()
        if not name:
            continue
        matching = {position for position, plugin in enumerate(plugins) if plugin.is_named(name)}
        if not matching:
            known = {known for p in plugins for known in (p.name, p.full_name, normalised(p.distribution))}
            hint = did_you_mean(name, known) or f"; there are: {', '.join(p.full_name for p in plugins) or 'none'}"
            raise ComponentError(f"{source}: no plugin is named {name!r}{hint}")
        positions |= matching
    return positions
