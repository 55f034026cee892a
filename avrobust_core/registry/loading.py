"""Load one plugin apart from all others, and check that what it offers are components of the right kind."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from itertools import islice
from time import perf_counter
from typing import Any

import pluggy

from avrobust_core._version import __version__
from avrobust_core.config.suggest import did_you_mean
from avrobust_core.errors import ComponentError
from avrobust_core.registry import hookspecs
from avrobust_core.registry.components import Component, shown
from avrobust_core.registry.discovery import HEAVY, PluginRecord, RegistryEntry
from avrobust_core.registry.kinds import KINDS, Kind

# More components than any plugin offers: a hook that yields without end is broken, and must not hang the command.
_MOST_COMPONENTS = 10_000

_OF_THE_CORE = re.compile(r"avrobust\s*($|[^\w.\s-])", re.IGNORECASE)  # not avrobust-depth

# The packages whose frames in a traceback are not the plugin's.
_MACHINERY = frozenset({"importlib", "_frozen_importlib", "_frozen_importlib_external", "pluggy", "avrobust_core"})


class PluginFault(ComponentError):
    """A plugin does not keep to the contract of its hooks; the message says how, and is written for its author."""


def load(plugin: PluginRecord, earlier: Iterable[PluginRecord], *, strict: bool) -> PluginRecord:
    """Import a plugin and collect what it offers; its failure is its own.

    Args:
        plugin: a record of `declared` with status "ok".
        earlier: the plugins that were loaded before; a distribution offers a component once.
        strict: raise what the plugin raised, with a note of which plugin it was, instead of recording it; import what
            its components are built from, too.

    Returns:
        The record, "ok" with the entries or "broken" with the error, and the time that it took.
    """
    heavy = [name for name in HEAVY if name not in sys.modules]
    started = perf_counter()
    try:
        loaded = replace(plugin, entries=tuple(_collect(plugin, earlier)))
        if strict:
            for entry in loaded.entries:
                fitting_builder(entry)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if strict:
            where = f"plugin {plugin.full_name} ({plugin.module})"
            if isinstance(error, Exception):
                error.add_note(f"raised while loading {where}")
                raise
            # A plugin's sys.exit(0) must not end a strict run as a success.
            raise PluginFault(f"{where}: {one_line(error)}") from error
        misfit = core_wanted(plugin.distribution)
        loaded = replace(plugin, status="broken", error=one_line(error) + (f"; {misfit}" if misfit else ""))
    milliseconds = (perf_counter() - started) * 1e3
    return replace(loaded, milliseconds=milliseconds, heavy=tuple(name for name in heavy if name in sys.modules))


def core_wanted(distribution: str) -> str | None:
    """What a distribution requires of avrobust, where this version does not fit; None if it does, or says nothing."""
    try:
        texts = [text for text in metadata.requires(distribution) or () if _OF_THE_CORE.match(text)]
    except (metadata.PackageNotFoundError, ValueError):
        return None
    for text in texts:
        from packaging.requirements import InvalidRequirement, Requirement  # not for listing plugins

        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            continue  # doctor tells of it
        counts = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if counts and not wanted.specifier.contains(__version__, prereleases=True):
            return (
                f"{distribution} requires avrobust{wanted.specifier}, but this is {__version__}: install that "
                f"avrobust, or a version of {distribution} for this one"
            )
    return None


def _collect(plugin: PluginRecord, earlier: Iterable[PluginRecord]) -> Iterator[RegistryEntry]:
    """Yield what a plugin offers, by kind; raises whatever the plugin raises, and `PluginFault`."""
    module = metadata.EntryPoint(plugin.name, plugin.module, plugin.group).load()
    others = (other for other in earlier if other.is_of(plugin.distribution))
    taken = {(entry.kind, entry.component.name): other.name for other in others for entry in other.entries}
    for kind, component in _components(module, plugin.full_name):
        what = f"{kind} {component.name!r}"
        other = taken.get((kind, component.name))
        if other == plugin.name:
            raise PluginFault(f"it offers the {what} twice")
        if other is not None:
            both = f"the entry points {other!r} and {plugin.name!r} of {plugin.distribution}"
            raise PluginFault(f"{both} both offer the {what}")
        taken[kind, component.name] = plugin.name
        about = {"distribution": plugin.distribution, "distribution_version": plugin.distribution_version}
        yield RegistryEntry(kind=kind, component=component, plugin=plugin.name, **about)


def _components(module: object, full_name: str) -> Iterator[tuple[str, Component]]:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(module, full_name)
    callers = {caller.name: caller for caller in manager.get_hookcallers(module) or ()}
    _check_hooks(manager, module, callers)
    for kind in KINDS.values():
        if (caller := callers.get(kind.hook)) is None:
            continue
        hook, implementations = kind.hook, caller.get_hookimpls()
        if any(implementation.wrapper or implementation.hookwrapper for implementation in implementations):
            raise PluginFault(f"{hook} is a hook wrapper: there is nothing to wrap, each plugin is called by itself")
        results = caller()
        if len(results) < len(implementations):  # pluggy drops None
            raise PluginFault(f"{hook} returned None, not an iterable of components: is a 'return' or 'yield' missing?")
        for result in results:
            yield from ((kind.name, component) for component in _checked(kind, result))


def _check_hooks(manager: pluggy.PluginManager, module: object, callers: Mapping[str, pluggy.HookCaller]) -> None:
    """Raise `PluginFault` for hooks that would never be called."""
    hooks = {kind.hook for kind in KINDS.values()}
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        unknown = sorted(name for name, caller in callers.items() if not caller.has_spec())
        raise PluginFault("; ".join(f"unknown hook {name!r}{did_you_mean(name, hooks)}" for name in unknown)) from error
    unmarked = sorted(
        name
        for name, value in getattr(module, "__dict__", {}).items()
        if name.startswith("avrobust_") and inspect.isfunction(value) and name not in callers
        if name in hooks or not callers
    )
    if unmarked:
        raise PluginFault(f"not marked with @avrobust_core.hookimpl, so never called: {', '.join(unmarked)}")
    if not hooks & callers.keys():
        raise PluginFault(f"it implements no hook; there are: {', '.join(sorted(hooks))} (marked with @hookimpl)")


def _checked(kind: Kind, result: object) -> Iterator[Component]:
    """Yield the components that a hook returned, each checked to fit the kind."""
    hook = kind.hook
    if isinstance(result, Component):
        raise PluginFault(f"{hook} returned one Component, not an iterable of them: use 'yield', or return a list")
    if isinstance(result, str | bytes) or not hasattr(result, "__iter__"):
        raise PluginFault(f"{hook} returned {shown(result)}, not an iterable of components")
    for position, item in enumerate(islice(iter(result), _MOST_COMPONENTS + 1), start=1):
        if position > _MOST_COMPONENTS:
            raise PluginFault(f"{hook} yields more than {_MOST_COMPONENTS} components")
        if not isinstance(item, Component):
            raise PluginFault(f"{hook}: item {position} is {shown(item)}, not a Component")
        misfit = None if isinstance(item.build, str) else _misbuilt(kind, item.build)
        if misfit is not None:
            raise PluginFault(f"{hook}: component {item.name!r}: {misfit}")
        yield item


def fitting_builder(entry: RegistryEntry) -> Callable[..., Any]:
    """The class or function that makes a component, imported and checked to fit its kind.

    Raises:
        ComponentError: if it cannot be imported, or does not fit; names the component and its plugin.
    """
    kind, build = KINDS[entry.kind], entry.builder()
    misfit = _misbuilt(kind, build)
    if misfit is None and isinstance(build, type):
        misfit = kind.outdated(build)
        if not issubclass(build, kind.base_class()):
            misfit = f"{entry.component.build!r} is a class, but not of avrobust_core.{kind.base_name}"
    if misfit is not None:
        raise PluginFault(f"{entry.described}: {misfit}")
    return build


def _misbuilt(kind: Kind, build: Callable[..., Any]) -> str | None:
    """The fault by which a component of this kind cannot be built like this; None if there is none."""
    arguments = ("config", *kind.arguments)
    try:
        signature = inspect.signature(build)
    except Exception:  # noqa: BLE001  no signature (written in C), or annotations that only a type checker can evaluate
        return None
    try:
        signature.bind(*arguments)
    except TypeError as error:
        return f"build is called as build({', '.join(arguments)}), but its signature is {signature}: {error}"
    returned = _returned_kind(build, signature.return_annotation)
    if returned is not None and returned != kind.name:
        return f"build returns a component of kind {returned!r}, but the hook offers the kind {kind.name!r}"
    return None


def kind_built(component: Component) -> str | None:
    """The kind of a component, by the class that it builds or what its function is annotated to return; else None.

    Raises:
        ComponentError: if its `build` names nothing that can be imported and called.
    """
    build = component.builder()
    try:
        annotation = inspect.signature(build).return_annotation
    except (TypeError, ValueError, NameError):  # written in C, or annotated with names that are not there
        annotation = None
    return _returned_kind(build, annotation)


def _returned_kind(build: Callable[..., object], annotation: object) -> str | None:
    """The kind that `build` says it returns; None if it does not say."""
    if isinstance(build, type):
        annotation = build
    if isinstance(annotation, str):
        name = annotation.strip("\"' ").rpartition(".")[2]
        return next((kind.name for kind in KINDS.values() if kind.base_name == name), None)
    kinds = {kind.base: kind.name for kind in KINDS.values()}
    bases = [f"{base.__module__}:{base.__name__}" for base in getattr(annotation, "__mro__", ())]
    return next((kinds[base] for base in bases if base in kinds), None)


def one_line(error: BaseException) -> str:
    """An exception's type and message on one line, with the place in the plugin's code where it was raised."""
    import traceback  # only where something is broken

    from avrobust_core.blame import place_of

    if isinstance(error, PluginFault):
        return " ".join(str(error).split())
    if isinstance(error, SyntaxError):
        place = f"{error.filename}:{error.lineno}" if error.filename else None
        text = f"{type(error).__name__}: {error.msg}"
    else:
        place = place_of(error, _MACHINERY)
        # A broken `__str__` of the exception is dealt with by the traceback module.
        text = " ".join("".join(traceback.TracebackException.from_exception(error).format_exception_only()).split())
    return f"{text} ({place})" if place else text
