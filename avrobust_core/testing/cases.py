"""Tests of pytest from components: one for each check of the component's kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from avrobust_core.attacks.attack import Attack
from avrobust_core.config.suggest import did_you_mean
from avrobust_core.data.media import MediaSpec
from avrobust_core.errors import ComponentError
from avrobust_core.registry.components import Component
from avrobust_core.registry.discovery import RegistryEntry
from avrobust_core.registry.kinds import KINDS, named
from avrobust_core.registry.loading import kind_built
from avrobust_core.registry.registry import Registry
from avrobust_core.testing.augmentation_subjects import AugmentationSubject
from avrobust_core.testing.checklists import ATTACK_CHECKS, AUGMENTATION_CHECKS
from avrobust_core.testing.component_checks import COMPONENT_CHECKS, media_of
from avrobust_core.testing.component_subjects import MEDIA, ComponentSubject
from avrobust_core.testing.running import Check
from avrobust_core.testing.subjects import AttackSubject
from avrobust_core.training.augmentations import Augmentation

if TYPE_CHECKING:
    import pytest

Settings = Mapping[str, object]

Offered = str | Component | RegistryEntry
"""A component: by its bare or full name, or as a plugin's hook yields it."""

Made = Attack | Augmentation | AttackSubject | AugmentationSubject | ComponentSubject
"""What is checked as it is."""

NOT_INSTALLED = "?"
"""The name of the plugin that offers a component which was not found in the registry."""

Checked = Offered | tuple[Offered, Settings] | Made
"""A component, with its example or with another configuration, or what was made already."""


def parametrize_with_checks(
    components: Checked | Iterable[Checked],
    checks: Iterable[Check[Any] | str] | None = None,
    *,
    media: Sequence[MediaSpec] = (),
) -> pytest.MarkDecorator:
    """Parametrise a test over components and checks, as scikit-learn's decorator of this name does over estimators.

    The test takes `subject` and `check` and calls one with the other. A check that does not apply skips it; a component
    that cannot be built fails its test `build`, since nothing of it is checked:

        @parametrize_with_checks(["my-distribution:my-metric", ("my-attack", {"steps": 10})])
        def test_my_components_conform(subject, check):
            check(subject)

    Args:
        components: one or several, of any kinds. Each is the name of one that is installed, bare or full; or a
            `Component`, installed or not; or a pair of either and its whole configuration, as under `with` in a spec,
            in place of its example. An attack, an augmentation, or a subject made already will do, too.
        checks: only these, themselves or by name; by default all of each component's kind. One that is no check of
            this kit is run on every component: on its `ComponentSubject`, or on its `AttackSubject` or
            `AugmentationSubject`.
        media: tried first with encoders and fusions; then come the media of data sets among the components, and of
            those that the distribution of an installed one offers.

    Raises:
        ComponentError: if no component has a name, or a name in `checks` is that of no check; or if a `Component` does
            not say its kind: by the class that it builds, or by what its function is annotated to return.
        ValidationError: if the configuration of an attack or an augmentation is not valid.
    """
    import pytest  # here only: nothing else of avrobust needs it

    parts = _chosen(list(_parts(_several(components), tuple(media))), None if checks is None else tuple(checks))
    names = Counter(part.name for part in parts)
    return pytest.mark.parametrize(
        ("subject", "check"),
        [
            pytest.param(subject, check, id=f"{part.name if names[part.name] == 1 else part.long_name}-{check.name}")
            for part in parts
            for subject, of_it in part.runs
            for check in of_it
        ],
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """The tests of one component.

    Attributes:
        name: for test ids.
        long_name: for test ids where several components have the name.
        runs: subjects, and the checks of each; the last subject is the one for checks from elsewhere.
    """

    name: str
    long_name: str
    runs: tuple[tuple[Any, tuple[Check[Any], ...]], ...]


def _several(components: Checked | Iterable[Checked]) -> list[Checked]:
    pair = isinstance(components, tuple) and len(components) == 2 and isinstance(components[1], Mapping)
    if pair or not isinstance(components, Iterable) or isinstance(components, str):
        return [cast(Checked, components)]
    return list(cast(Iterable[Checked], components))


def _parts(items: Iterable[Checked], media: tuple[MediaSpec, ...]) -> Iterator[_Part]:
    registry = cache(Registry.discover)  # only for names
    found: list[ComponentSubject | AttackSubject | AugmentationSubject] = []
    for item in items:
        if isinstance(item, Attack | AttackSubject):
            found.append(AttackSubject.of(item))
        elif isinstance(item, Augmentation | AugmentationSubject):
            found.append(AugmentationSubject.of(item))
        elif isinstance(item, ComponentSubject):
            found.append(item)
        else:
            offered, given = item if isinstance(item, tuple) else (item, None)
            entries = registry().find(offered) if isinstance(offered, str) else (_entry(offered),)
            found += [ComponentSubject(entry, (*media, *MEDIA), given) for entry in entries]
    datasets = [each for each in found if isinstance(each, ComponentSubject) and each.entry.kind == "dataset"]
    for subject in found:
        if isinstance(subject, AttackSubject):
            yield _Part(subject.name, f"attack-{subject.name}", ((subject, ATTACK_CHECKS),))
        elif isinstance(subject, AugmentationSubject):
            yield _Part(subject.name, f"augmentation-{subject.name}", ((subject, AUGMENTATION_CHECKS),))
        else:
            yield _part(_with_media(subject, media, datasets, registry))


def _entry(offered: Component | RegistryEntry) -> RegistryEntry:
    """A component that may not be installed, as the registry would hold it."""
    if isinstance(offered, RegistryEntry):
        return offered
    kind = kind_built(offered)
    if kind is None:
        raise ComponentError(
            f"component {offered.name!r} does not say its kind: let build name a class, annotate what its function "
            "returns, or give the name under which it is installed"
        )
    package = offered.config.__module__.partition(".")[0]
    return RegistryEntry(
        kind=kind, component=offered, distribution=package, distribution_version="?", plugin=NOT_INSTALLED
    )


def _with_media(
    subject: ComponentSubject,
    media: tuple[MediaSpec, ...],
    datasets: Sequence[ComponentSubject],
    registry: Callable[[], Registry],
) -> ComponentSubject:
    if subject.entry.kind not in ("encoder", "fusion"):
        return subject
    beside: list[RegistryEntry] = []
    if subject.entry.plugin != NOT_INSTALLED:
        beside += [data for data in registry().entries("dataset") if data.distribution == subject.entry.distribution]
    return replace(subject, media=(*media, *media_of((*datasets, *beside)), *MEDIA))


def _part(subject: ComponentSubject) -> _Part:
    kind, component = KINDS[subject.entry.kind], subject.entry.component
    told = ",".join(f"{key}={value}" for key, value in (subject.given or {}).items())
    name = f"{component.name}({told})" if told else component.name
    runs: list[tuple[Any, tuple[Check[Any], ...]]] = [(subject, COMPONENT_CHECKS[kind.name])]
    if kind.subject:
        runs.append((named(kind.subject).of_component(component, subject.given), named(kind.checks)))
    return _Part(name, f"{kind.name}-{subject.entry.full_name}{name.removeprefix(component.name)}", tuple(runs))


def _chosen(parts: Sequence[_Part], checks: Sequence[Check[Any] | str] | None) -> list[_Part]:
    """Only these checks of each component, in the kit's order; those that are not the kit's, of every component."""
    if checks is None:
        return list(parts)
    kit: list[Check[Any]] = [each for of_kind in COMPONENT_CHECKS.values() for each in of_kind]
    kit += [*ATTACK_CHECKS, *AUGMENTATION_CHECKS]
    known = {each.name for each in kit}
    if unknown := [name for name in checks if isinstance(name, str) and name not in known]:
        raise ComponentError("; ".join(f"no check is named {name!r}{did_you_mean(name, known)}" for name in unknown))
    mine = tuple(each for each in checks if isinstance(each, Check) and each not in kit)
    found = []
    for part in parts:
        runs = [(subject, tuple(c for c in of_it if c in checks or c.name in checks)) for subject, of_it in part.runs]
        subject, of_it = runs[-1]
        found.append(replace(part, runs=(*runs[:-1], (subject, (*of_it, *mine)))))
    return found
