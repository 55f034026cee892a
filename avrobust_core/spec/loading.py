"""Load a spec: files, `extends` and `--set` into one tree, checked whole, every mistake reported in one error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from avrobust_core.registry.choices import Configured
from avrobust_core.registry.registry import Registry
from avrobust_core.spec.cells import modality_of
from avrobust_core.spec.crossrefs import cross_references
from avrobust_core.spec.messages import validated
from avrobust_core.spec.model import Spec
from avrobust_core.spec.nodes import MapNode, Path
from avrobust_core.spec.problems import SpecError, in_order
from avrobust_core.spec.references import preferences, repeated, resolve_references, settle
from avrobust_core.spec.sweeps import expand_sweeps
from avrobust_core.spec.tree import apply_override, override_source, read_tree
from avrobust_core.spec.values import unusable_values
from avrobust_core.spec.yaml_writer import write_yaml


@dataclass(frozen=True, slots=True)
class LoadedSpec:
    """A spec that is in order, and where all of it came from.

    Attributes:
        spec: the validated structure; components under the names that the author gave them.
        path: the file that was loaded.
        text: its text.
        tree: what the file, the files that it extends and the overrides say together, with places.
        components: by path in the tree, each component's entry in the registry and its configuration with all defaults.
    """

    spec: Spec
    path: FilePath
    text: str
    tree: MapNode
    components: Mapping[Path, Configured]

    def resolved(self) -> dict[str, Any]:
        """The spec with nothing left implicit, as plain data: defaults, component configurations, qualified names.

        Loading its YAML gives the same resolution again.
        """
        data: dict[str, Any] = self.spec.model_dump(mode="json", by_alias=True, exclude={"sweep"})
        for path, component in self.components.items():
            entry: Any = data
            for key in path:
                entry = entry[key]
            entry["use"] = component.entry.full_name
            entry["with"] = component.config.model_dump(mode="json", by_alias=True)
        for name, encoder in data["encoders"].items():
            encoder["modality"] = modality_of(self.spec, name)
        for attack in data["attacks"].values():
            if attack["threats"] is None:
                attack["threats"] = list(data["threats"])
        return data

    def resolved_yaml(self) -> str:
        """`resolved()` as YAML."""
        return write_yaml(self.resolved())


def load_spec(path: str | FilePath, registry: Registry, overrides: Sequence[str] = ()) -> LoadedSpec:
    """Load and check a spec.

    Args:
        path: the YAML file.
        registry: resolves and configures the components that it names.
        overrides: `--set` arguments, `path=value`, applied in this order after the files are merged.

    Raises:
        SpecError: with every mistake found: in the YAML, the structure, the components' configurations, and between
            the sections.
    """
    file = FilePath(path)
    reading = read_tree(file)
    problems, root = reading.problems, reading.root
    for argument in overrides:
        if root is not None:
            root, found = apply_override(root, argument)
            problems += found
    spec: Spec | None = None
    components: dict[Path, Configured] = {}
    if root is not None:
        root, found = expand_sweeps(root)
        problems += found
        unusable = unusable_values(root)
        problems += unusable
        if not unusable:  # else validators would meet numbers and text that nobody wrote them for
            registry, found = preferences(root, registry)
            problems += found
            spec, found = validated(root, Spec, context={"registry": registry})
            problems += found
            components, found = resolve_references(root, registry)
            problems += found
            problems += cross_references(root)
            problems += repeated(root, components)
    if problems or spec is None or root is None:
        raise SpecError(in_order(problems, [*reading.sources, *map(override_source, overrides)]))
    settle(spec, components)
    return LoadedSpec(spec, file, reading.text, root, components)
