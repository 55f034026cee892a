"""The subject of the checks that every component must pass: as a plugin offers it, built from its example."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from avrobust_core.data.media import MediaSpec
from avrobust_core.errors import AvrobustError, ComponentError
from avrobust_core.models.base_classes import EncodedDims
from avrobust_core.models.whole import Raw, RawDims
from avrobust_core.registry.components import Config
from avrobust_core.registry.discovery import RegistryEntry
from avrobust_core.registry.kinds import KINDS
from avrobust_core.registry.loading import fitting_builder, one_line
from avrobust_core.testing.running import CheckFailed, NotApplicable

MEDIA: tuple[MediaSpec, ...] = (
    MediaSpec(kind="audio", shape=(1, 16_000), rate=16_000, bounds=(-1.0, 1.0), time_axis=1),
    MediaSpec(kind="video", shape=(3, 8, 32, 32), rate=8, bounds=(0.0, 1.0), time_axis=1),
    MediaSpec(kind="video", shape=(3, 16, 64, 64), rate=16, bounds=(0.0, 1.0), time_axis=1),
    MediaSpec(kind="video", shape=(3, 32, 224, 224), rate=16, bounds=(0.0, 1.0), time_axis=1),
    MediaSpec(kind="video", shape=(10, 2048), bounds=(-0.51, 1.51), time_axis=0),  # features of frames
)
"""Media that encoders are tried with, after those of the data sets that their own plugin's distribution offers."""

DIMS: Mapping[str, EncodedDims] = {"audio": EncodedDims(token=6, embed=5), "video": EncodedDims(token=4, embed=7)}
"""Inputs that fusions are built for."""


def raw_choices(media: Sequence[MediaSpec]) -> Iterator[dict[str, EncodedDims]]:
    """Inputs that whole models are built for, which refuse `DIMS`: handed on as they are, one of each kind of media."""
    kinds: dict[str, list[RawDims]] = {}
    for spec in media:
        kinds.setdefault(spec.kind, []).append(Raw(spec).dims)
    for chosen in itertools.product(*kinds.values()):
        yield dict(zip(kinds, chosen, strict=True))


@dataclass(frozen=True, slots=True)
class ComponentSubject:
    """A component that is checked.

    Attributes:
        entry: the component, and who offers it.
        media: tried in this order with encoders and whole models; the first that one accepts is used.
        given: its configuration, as under `with` in a spec; None for its example.
    """

    entry: RegistryEntry
    media: tuple[MediaSpec, ...] = MEDIA
    given: Mapping[str, object] | None = None

    @property
    def settings(self) -> Mapping[str, object]:
        """The configuration, not validated yet: what was given, or else the component's example."""
        return self.entry.component.example if self.given is None else self.given

    @property
    def source(self) -> str:
        """For messages: where the configuration comes from."""
        return "its example" if self.given is None else "the configuration given"

    def config(self) -> Config:
        """The configuration that is checked."""
        return self.entry.component.config.model_validate(dict(self.settings))

    def build(self) -> Any:
        """The component, made from its configuration."""
        return self.build_with_arguments()[0]

    def build_with_arguments(self) -> tuple[Any, tuple[Any, ...]]:
        """The component, and what it was built for: an encoder's media, a fusion's widths by modality.

        Raises:
            CheckFailed: if building raised, or gave something else than its kind should be.
            NotApplicable: if it refuses: its configuration needs files, or media, that are not here.
        """
        kind = self.entry.kind
        choices: tuple[tuple[Any, ...], ...] = {
            "encoder": tuple((media,) for media in self.media),
            "fusion": ((dict(DIMS),), *((dims,) for dims in raw_choices(self.media))),
        }.get(kind, ((),))
        try:
            build = fitting_builder(self.entry)
        except ComponentError as error:
            raise CheckFailed(str(error)) from error
        refusals: list[str] = []
        for arguments in choices:
            try:
                with torch.random.fork_rng(devices=[]):
                    torch.default_generator.manual_seed(0)  # the same weights each time it is checked
                    made = build(self.config(), *arguments)
            except AvrobustError as error:
                refusals.append(str(error))
                continue
            except Exception as error:
                raise CheckFailed(
                    f"building {self.source} raised {one_line(error)}: refuse what cannot be built with an "
                    "AvrobustError that says why (DataError for files that are not there)"
                ) from error
            base = KINDS[kind].base_class()
            if not isinstance(made, base):
                raise CheckFailed(f"build returned a {type(made).__name__}, not an avrobust_core.{base.__name__}")
            return made, arguments
        raise NotApplicable(f"it cannot be built from {self.source} here: {'; '.join(dict.fromkeys(refusals))}")
