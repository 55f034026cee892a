"""The checks of what plugins offer, by kind, and of the plugins themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from pydantic import BaseModel

from avrobust_core.config.errors import nested_models
from avrobust_core.data.media import MediaSpec
from avrobust_core.registry.discovery import PluginRecord, RegistryEntry
from avrobust_core.registry.kinds import KINDS, named
from avrobust_core.registry.loading import one_line
from avrobust_core.testing.component_subjects import MEDIA, ComponentSubject
from avrobust_core.testing.running import Check, CheckFailed, CheckOutcome, NotApplicable, NotChecked, run_check


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
    """Its configuration, the example unless one is given, is valid, and what of it decides results is JSON data."""
    try:
        config = subject.config()
    except Exception as error:
        raise CheckFailed(f"{subject.source}, {dict(subject.settings)}, is not valid: {one_line(error)}") from error
    try:
        json.dumps(config.identity())
    except (TypeError, ValueError) as error:
        raise CheckFailed(f"identity() is not JSON data, so that no result can be kept under it: {error}") from error


def check_build(subject: ComponentSubject) -> None:
    """Building it gives what the component's kind should be; where it cannot be built, nothing is checked."""
    try:
        subject.build()
    except NotApplicable as error:
        raise NotChecked(
            f"{error}. Give a configuration that can be built here: --with field=value, or beside its name in pytest"
        ) from error


_OF_ALL: tuple[Check[ComponentSubject], ...] = tuple(map(Check, (check_described_fields, check_example, check_build)))

_BUILT = 2
"""The place of `check_build` among them."""

COMPONENT_CHECKS: Mapping[str, tuple[Check[ComponentSubject], ...]] = {
    kind.name: (*_OF_ALL, *(() if kind.subject else named(kind.checks))) for kind in KINDS.values()
}
"""The checks of each kind of component; attacks have `ATTACK_CHECKS` besides, augmentations `AUGMENTATION_CHECKS`."""

PLUGIN_CHECKS: tuple[Check[PluginRecord], ...] = (Check(check_imports_without_torch),)
"""The checks of a plugin as a whole."""


def check_component(
    offer: RegistryEntry, media: tuple[MediaSpec, ...] = (), given: Mapping[str, object] | None = None
) -> Iterator[CheckOutcome]:
    """Run every check of a component and yield the outcome of each.

    Where none of the checks of its kind says anything of it, the last outcome is "not checked".

    Args:
        offer: the component.
        media: tried before `MEDIA` with an encoder or a whole model.
        given: its configuration, as under `with` in a spec; None for its example.
    """
    kind = KINDS[offer.kind]
    subject = ComponentSubject(offer, (*media, *MEDIA), given)
    outcomes = []
    for found in COMPONENT_CHECKS[offer.kind]:
        outcomes.append(run_check(subject, found))
        yield outcomes[-1]
    if kind.subject and all(outcome.status == "passed" for outcome in outcomes[1:]):
        made = named(kind.subject).of_component(offer.component, given, offer.full_name)
        for found in named(kind.checks):
            outcomes.append(run_check(made, found))
            yield outcomes[-1]
    own = outcomes[len(_OF_ALL) :]
    if own and all(outcome.status == "not applicable" for outcome in own) and outcomes[_BUILT].status == "passed":
        yield run_check(own[0], Check(check_something_said))


def check_something_said(first: CheckOutcome) -> None:
    """At least one check of the component's kind passes or fails."""
    raise NotChecked(
        f"none of the checks of its kind says anything of it; the first, {first.check}: {first.reason}. Give a "
        "configuration that can be tried"
    )


def media_of(offers: Iterable[RegistryEntry | ComponentSubject]) -> tuple[MediaSpec, ...]:
    """The media of these data sets; those that cannot be built here are left out."""
    found: list[MediaSpec] = []
    for offer in offers:
        with suppress(Exception):  # its own checks say what is wrong with it
            subject = ComponentSubject(offer) if isinstance(offer, RegistryEntry) else offer
            found.extend(subject.build().media.values())
    return tuple(found)


def _undescribed(model: type[BaseModel], above: tuple[type[BaseModel], ...]) -> Iterator[str]:
    model.model_rebuild()  # a deferred schema has no descriptions yet
    for name, info in model.model_fields.items():
        if not (info.description or "").strip():
            yield f"{model.__name__}.{name}"
        for nested in nested_models(info.annotation):
            if nested not in (*above, model):
                yield from _undescribed(nested, (*above, model))
