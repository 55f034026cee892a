"""The checks of what plugins offer, by kind, and of the plugins themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress

from pydantic import BaseModel

from avrobust_core.config.errors import nested_models
from avrobust_core.data.media import MediaSpec
from avrobust_core.registry.discovery import PluginRecord, RegistryEntry
from avrobust_core.registry.kinds import KINDS, named
from avrobust_core.registry.loading import one_line
from avrobust_core.testing.component_subjects import MEDIA, ComponentSubject
from avrobust_core.testing.running import Check, CheckFailed, CheckOutcome, run_check


def check_imports_without_torch(plugin: PluginRecord) -> None:
    """Importing the plugin's module does not import torch."""
    code = "import importlib, sys; sys.path[:0] = {!r}; importlib.import_module({!r}); print('torch' in sys.modules)"
    code = code.format([entry for entry in sys.path if entry], plugin.module.partition(":")[0])
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    if found.returncode:
        raise CheckFailed(f"importing {plugin.module} in a process of its own failed: {found.stderr.strip()[-300:]}")
    if found.stdout.strip().endswith("True"):
        raise CheckFailed(
            f"importing {plugin.module} imports torch, and every `avrobust` command waits for it: name what is heavy, "
            "as in build='package.module:Class', or import it inside the components' build functions"
        )


def check_described_fields(subject: ComponentSubject) -> None:
    """Every field of the configuration is described."""
    if bare := list(_undescribed(subject.entry.component.config, ())):
        raise CheckFailed(
            f"no description of {', '.join(bare)}: put a docstring below each field, `avrobust show` prints it"
        )


def check_example(subject: ComponentSubject) -> None:
    """The example is a valid configuration, and what of it decides results is JSON data."""
    try:
        config = subject.config()
    except Exception as error:
        raise CheckFailed(
            f"its example {dict(subject.entry.component.example)} is not valid: {one_line(error)}"
        ) from error
    try:
        json.dumps(config.identity())
    except (TypeError, ValueError) as error:
        raise CheckFailed(f"identity() is not JSON data, so that no result can be kept under it: {error}") from error


def check_build(subject: ComponentSubject) -> None:
    """Building the example gives what the component's kind should be."""
    subject.build()


_OF_ALL: tuple[Check[ComponentSubject], ...] = tuple(map(Check, (check_described_fields, check_example, check_build)))

COMPONENT_CHECKS: Mapping[str, tuple[Check[ComponentSubject], ...]] = {
    kind.name: (*_OF_ALL, *(() if kind.subject else named(kind.checks))) for kind in KINDS.values()
}
"""The checks of each kind of component; attacks have `ATTACK_CHECKS` besides, augmentations `AUGMENTATION_CHECKS`."""

PLUGIN_CHECKS: tuple[Check[PluginRecord], ...] = (Check(check_imports_without_torch),)
"""The checks of a plugin as a whole."""


def check_component(offer: RegistryEntry, media: tuple[MediaSpec, ...] = ()) -> Iterator[CheckOutcome]:
    """Run every check of a component, as its example configures it, and yield the outcome of each.

    Args:
        offer: the component.
        media: tried before `MEDIA` with an encoder or a whole model.
    """
    kind = KINDS[offer.kind]
    subject = ComponentSubject(offer, (*media, *MEDIA))
    outcomes = []
    for found in COMPONENT_CHECKS[offer.kind]:
        outcomes.append(run_check(subject, found))
        yield outcomes[-1]
    if kind.subject and all(outcome.status == "passed" for outcome in outcomes[1:]):
        made = named(kind.subject).of_component(offer.component, name=offer.full_name)
        for found in named(kind.checks):
            yield run_check(made, found)


def media_of(offers: tuple[RegistryEntry, ...]) -> tuple[MediaSpec, ...]:
    """The media of these data sets; those that cannot be built here are left out."""
    found: list[MediaSpec] = []
    for offer in offers:
        with suppress(Exception):  # its own checks say what is wrong with it
            found.extend(ComponentSubject(offer).build().media.values())
    return tuple(found)


def _undescribed(model: type[BaseModel], above: tuple[type[BaseModel], ...]) -> Iterator[str]:
    model.model_rebuild()  # a deferred schema has no descriptions yet
    for name, info in model.model_fields.items():
        if not (info.description or "").strip():
            yield f"{model.__name__}.{name}"
        for nested in nested_models(info.annotation):
            if nested not in (*above, model):
                yield from _undescribed(nested, (*above, model))
