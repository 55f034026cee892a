"""The registry: the components of the installed plugins, by kind and name."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace

from avrobust_core.config.suggest import closest, did_you_mean
from avrobust_core.errors import ComponentError
from avrobust_core.registry.discovery import Offer, PluginRecord, Status, declared, normalised
from avrobust_core.registry.kinds import KINDS
from avrobust_core.registry.loading import PluginFault, load

__all__ = ["Offer", "PluginFault", "PluginRecord", "Registry", "Status"]

DISABLE_VARIABLE = "AVROBUST_DISABLE_PLUGINS"
STRICT_VARIABLE = "AVROBUST_STRICT_PLUGINS"

_ON = frozenset({"1", "true", "yes", "on"})
_OFF = frozenset({"", "0", "false", "no", "off"})


class Registry:
    """The components that the installed plugins offer.

    A component's full name is `dist:name`. Its bare name will do where one distribution only offers it for that
    kind; where several do, using the bare name is an error that lists the full ones.

    Args:
        plugins: the plugins, loaded or not; see `Registry.discover`.
    """

    def __init__(self, plugins: Iterable[PluginRecord]) -> None:
        self.plugins: tuple[PluginRecord, ...] = tuple(plugins)
        """Every plugin that was found, whatever its status."""
        offers = [offer for plugin in self.plugins for offer in plugin.offers]
        order = list(KINDS).index
        self._offers = tuple(sorted(offers, key=lambda o: (order(o.kind), o.component.name, o.full_name)))

    @classmethod
    def discover(cls, *, disabled: Iterable[str] = (), strict: bool | None = None) -> Registry:
        """Find and load the installed plugins.

        A plugin that fails is recorded as broken, offers nothing, and takes no other with it.

        Args:
            disabled: plugins not to import: an entry point's name, `dist:entry-point`, or a distribution's name.
                The environment variable AVROBUST_DISABLE_PLUGINS adds more, separated by commas.
            strict: raise what the first broken plugin raised; by default as AVROBUST_STRICT_PLUGINS=1 says.

        Raises:
            ComponentError: if a disabled name matches no plugin, or AVROBUST_STRICT_PLUGINS is neither on nor off.
            Exception: in strict mode, whatever a plugin raised.
        """
        strict = _strict_from_environment() if strict is None else strict
        found = declared()
        left_out = _disabled(found, disabled)
        taken: dict[str, dict[tuple[str, str], str]] = {}
        plugins: list[PluginRecord] = []
        for position, plugin in enumerate(found):
            if position in left_out:
                plugins.append(replace(plugin, status="disabled", error=None))
                continue
            if plugin.status == "broken" and strict:
                raise PluginFault(f"plugin {plugin.full_name}: {plugin.error}")
            loaded = plugin
            if plugin.status == "ok":
                names = taken.setdefault(normalised(plugin.distribution), {})
                loaded = load(plugin, names, strict=strict)
                names.update({(offer.kind, offer.component.name): offer.plugin for offer in loaded.offers})
            plugins.append(loaded)
        return cls(plugins)

    def offers(self, kind: str | None = None) -> tuple[Offer, ...]:
        """The components of one kind or of all, in the order of the kinds and then of the names.

        Raises:
            ComponentError: if there is no such kind.
        """
        if kind is None:
            return self._offers
        if kind not in KINDS:
            raise ComponentError(
                f"no kind of component is named {kind!r}{did_you_mean(kind, KINDS)} (there are: {', '.join(KINDS)})"
            )
        return tuple(offer for offer in self._offers if offer.kind == kind)

    def find(self, name: str, kind: str | None = None) -> tuple[Offer, ...]:
        """Every offer that a bare or full name fits, of one kind or of all.

        Raises:
            ComponentError: if there is none; the message says what may have been meant, and which plugins are out.
        """
        offers = tuple(offer for offer in self.offers(kind) if _fits(name, offer))
        if not offers:
            raise ComponentError(self._not_found(name, kind))
        return offers

    def resolve(self, kind: str, name: str) -> Offer:
        """The one component of this kind with this name, bare or full.

        Raises:
            ComponentError: if there is none, or if the bare name is offered by several distributions.
        """
        offers = self.find(name, kind)
        if len(offers) > 1:
            choices = " or ".join(repr(offer.full_name) for offer in offers)
            raise ComponentError(f"{kind} {name!r} is offered by {len(offers)} distributions: write {choices}")
        return offers[0]

    def short_name(self, offer: Offer) -> str:
        """The shortest name by which a spec can ask for a component: bare if that is unambiguous."""
        name = offer.component.name
        return name if len(self.find(name, offer.kind)) == 1 else offer.full_name

    def _not_found(self, name: str, kind: str | None) -> str:
        """The reason why a name fits nothing: a slip, another kind, or a plugin that was not loaded."""
        distribution, _, bare = name.rpartition(":")
        what = kind or "component"
        candidates = self.offers(kind)
        known = {offer.component.name for offer in candidates}
        if distribution:
            of_it = [offer for offer in candidates if normalised(offer.distribution) == normalised(distribution)]
            known = {offer.full_name for offer in of_it or candidates}
        text = f"no {what} is named {name!r}"
        if distribution and not any(_is_of(plugin, distribution) for plugin in self.plugins):
            dists = {normalised(plugin.distribution) for plugin in self.plugins}
            text += f": no distribution {distribution!r} has plugins"
            text += did_you_mean(distribution, dists) or did_you_mean(name, known)
        elif closest(name, known):
            text += did_you_mean(name, known)
        elif known and kind is not None:
            text += f"; there are: {', '.join(sorted(known))}"
        elsewhere = [offer for offer in self._offers if offer.kind != kind and _fits(name, offer)]
        sentences = [text, *(f"{offer.full_name} is of another kind: {offer.kind}" for offer in elsewhere)]
        sentences += self._left_out(distribution, bare)
        return " ".join(f"{sentence}{'' if sentence.endswith('?') else '.'}" for sentence in sentences).rstrip(".")

    def _left_out(self, distribution: str, bare: str) -> list[str]:
        """Plugins that were not loaded and may have offered a name: those it points to, or the broken ones."""
        out = [plugin for plugin in self.plugins if plugin.status != "ok"]
        if distribution:
            meant = [plugin for plugin in out if _is_of(plugin, distribution)]
        else:
            meant = [plugin for plugin in out if _is_meant(bare, plugin)]
        if meant:
            return [f"Plugin {plugin.full_name} is {_why_out(plugin)}" for plugin in meant]
        broken = [plugin.full_name for plugin in out if plugin.status == "broken"]
        if broken and not distribution:
            plural = "plugin is" if len(broken) == 1 else "plugins are"
            return [f"{len(broken)} {plural} broken: {', '.join(broken)} (see avrobust plugins --broken)"]
        return []


def _fits(name: str, offer: Offer) -> bool:
    distribution, _, bare = name.rpartition(":")
    if bare != offer.component.name:
        return False
    return not distribution or normalised(distribution) == normalised(offer.distribution)


def _is_of(plugin: PluginRecord, distribution: str) -> bool:
    return normalised(plugin.distribution) == normalised(distribution)


def _why_out(plugin: PluginRecord) -> str:
    if plugin.status == "disabled":
        return f"disabled (by --no-plugin or {DISABLE_VARIABLE})"
    if plugin.status == "other-api":
        return str(plugin.error)
    return f"broken: {plugin.error}"


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
        matching = {position for position, plugin in enumerate(plugins) if _is_meant(name, plugin)}
        if not matching:
            known: set[str] = set()
            for plugin in plugins:
                known |= {plugin.name, plugin.full_name, normalised(plugin.distribution)}
            hint = did_you_mean(name, known) or f"; there are: {', '.join(p.full_name for p in plugins) or 'none'}"
            raise ComponentError(f"{source}: no plugin is named {name!r}{hint}")
        positions |= matching
    return positions


def _is_meant(name: str, plugin: PluginRecord) -> bool:
    distribution, _, entry_point = name.rpartition(":")
    if distribution:
        return entry_point == plugin.name and _is_of(plugin, distribution)
    return name == plugin.name or _is_of(plugin, name)
