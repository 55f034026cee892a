"""The kinds of components: one record for each, with all that the framework knows of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of component. Classes and checks are named, not imported: listing plugins needs no torch.

    Attributes:
        name: "attack", ...
        base: the class that every such component is an instance of, "package.module:Class".
        arguments: what `Component.build` takes after the configuration, by name and type.
        subject: what its checks are run on where it is more than the component as offered, "package.module:Class".
        written: where a spec names it, for `avrobust show`: the keys above, "-" for a list's item, and what to mind.
        replaced: methods of an earlier interface, which nothing calls any more, and what to define in their place.
    """

    name: str
    base: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    written: tuple[tuple[str, ...], str]
    subject: str = ""
    replaced: Mapping[str, str] = field(default_factory=dict)

    @property
    def hook(self) -> str:
        """The hook by which plugins offer it."""
        return f"avrobust_{self.name}s"

    @property
    def checks(self) -> str:
        """Its conformance checks beside those of all components, "package.module:NAME"."""
        return f"avrobust_core.testing.checklists:{self.name.upper()}_CHECKS"

    @property
    def base_name(self) -> str:
        """The name of the base class alone."""
        return self.base.partition(":")[2]

    def base_class(self) -> type[Any]:
        """The base class, imported."""
        found: type[Any] = named(self.base)
        return found

    def outdated(self, made: type) -> str | None:
        """The fault of a class of this kind that still defines a replaced method; None if there is none."""
        own = {name for cls in made.__mro__ if issubclass(cls, self.base_class()) for name in vars(cls)}
        for old, new in self.replaced.items():
            if old in own:
                return f"{made.__name__} defines {old}, which is not called: define {new} in its place"
        return None


def named(name: str) -> Any:
    """The object called "package.module:name", imported."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind(
                name="dataset",
                base="avrobust_core.data.dataset:Dataset",
                written=(("data",), ""),
            ),
            Kind(
                name="encoder",
                base="avrobust_core.models.base_classes:Encoder",
                arguments={"media": "MediaSpec"},
                written=(("encoders", "{name}"), "the entry is named after its modality, or sets it"),
            ),
            Kind(
                name="fusion",
                base="avrobust_core.models.base_classes:Fusion",
                arguments={"inputs": "Mapping[str, EncodedDims]"},
                written=(("fusion",), "inside an entry of models"),
            ),
            Kind(
                name="attack",
                base="avrobust_core.attacks.attack:Attack",
                subject="avrobust_core.testing.subjects:AttackSubject",
                written=(("attacks", "{name}"), ""),
            ),
            Kind(
                name="metric",
                base="avrobust_core.metrics.metric:Metric",
                written=(("metrics", "-"), ""),
            ),
            Kind(
                name="augmentation",
                base="avrobust_core.training.augmentations:Augmentation",
                subject="avrobust_core.testing.augmentation_subjects:AugmentationSubject",
                written=(("augment", "-"), "inside an entry of training"),
                replaced={"__call__": "begin(batch, step)"},
            ),
            Kind(
                name="tracker",
                base="avrobust_core.tracking.tracker:Tracker",
                written=(("track", "-"), ""),
            ),
        )
    }
)
"""Every kind by name, in the order in which they are listed."""
