"""From a valid spec to live objects: the data set, models, attacks, metrics; and their identities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from avrobust_core.components import Config
from avrobust_core.contracts import Attack, Augmentation, Dataset, Encoder, Fusion, Metric
from avrobust_core.errors import ComponentError, DataError
from avrobust_core.goals import Aim
from avrobust_core.model import AVModel
from avrobust_core.randomness import derive_seed, seeded
from avrobust_core.registry import Offer, Registry
from avrobust_core.spec.cells import modality_of
from avrobust_core.spec.model import AttackEntry, ComponentRef, ModelEntry, Spec, TrainingEntry
from avrobust_core.suggest import closest

_BASES: Mapping[str, type[Any]] = {
    "dataset": Dataset,
    "encoder": Encoder,
    "fusion": Fusion,
    "attack": Attack,
    "metric": Metric,
    "augmentation": Augmentation,
}


@dataclass(frozen=True, slots=True)
class Part:
    """A component as a spec uses it: what is offered, and its configuration."""

    offer: Offer
    config: Config

    def identity(self) -> dict[str, Any]:
        """What of it changes results."""
        return {
            "component": self.offer.full_name,
            "version": self.offer.component.version,
            "config": self.config.identity(),
        }

    def build(self, *arguments: Any) -> Any:
        """Build it.

        Raises:
            ComponentError: if it is not what its kind should be; names plugin and distribution.
        """
        made = self.offer.component.build(self.config, *arguments)
        base = _BASES[self.offer.kind]
        if not isinstance(made, base):
            raise ComponentError(
                f"{self.offer.kind} {self.offer.full_name} (plugin {self.offer.plugin!r}) built a "
                f"{type(made).__name__}, which is not an avrobust_core.{base.__name__}"
            )
        return made


class Builder:
    """Builds what one spec names."""

    def __init__(self, spec: Spec, registry: Registry) -> None:
        self.spec = spec
        self.registry = registry

    def part(self, kind: str, reference: ComponentRef) -> Part:
        """The component that a reference of the spec means."""
        offer, config = self.registry.configure(kind, reference.use, dict(reference.with_))
        return Part(offer, config)

    def dataset(self) -> Dataset:
        """The data set."""
        made: Dataset = self.part("dataset", self.spec.data).build()
        return made

    def model_parts(self, entry: ModelEntry) -> tuple[dict[str, Part], Part | None]:
        """A model's encoders by modality, sorted, and its fusion."""
        encoders = {
            modality_of(self.spec, name): self.part("encoder", self.spec.encoders[name]) for name in entry.encoders
        }
        fusion = self.part("fusion", entry.fusion) if entry.fusion is not None else None
        return dict(sorted(encoders.items())), fusion

    def model(self, name: str, dataset: Dataset) -> AVModel:
        """A model with initial weights drawn from the spec's seed.

        Each encoder's weights depend on the seed and its modality alone, so that a modality starts from the same
        weights in every model of the study.
        """
        encoders, fusion = self.model_parts(self.spec.models[name])
        missing = [modality for modality in encoders if modality not in dataset.media]
        if missing:
            raise ComponentError(
                f"model {name!r} reads {', '.join(missing)}, but the data set has: {', '.join(sorted(dataset.media))}"
            )
        built: dict[str, Encoder] = {}
        for modality, part in encoders.items():
            with seeded(derive_seed(self.spec.seed, "encoder", modality)):
                built[modality] = part.build(dataset.media[modality])
        with seeded(derive_seed(self.spec.seed, "fusion")):
            joined = None
            if fusion is not None:
                joined = fusion.build({modality: encoder.dims for modality, encoder in built.items()})
            return AVModel(built, joined, len(dataset.classes))

    def augmentations(self, entry: TrainingEntry) -> list[Augmentation]:
        """The augmentations of a training regime, in order."""
        return [self.part("augmentation", reference).build() for reference in entry.augment]

    def attack(self, name: str) -> Attack:
        """An attack by the name that the spec gives it."""
        made: Attack = self.part("attack", self.spec.attacks[name]).build()
        return made

    def fit_identity(self, model: str, training: str, dataset: Dataset) -> dict[str, Any]:
        """All that decides the weights of a cell, and nothing else: not names, devices, workers or paths."""
        encoders, fusion = self.model_parts(self.spec.models[model])
        entry = self.spec.training[training]
        regime = entry.model_dump(mode="json", exclude={"augment"})
        regime["augment"] = [self.part("augmentation", reference).identity() for reference in entry.augment]
        data = self.part("dataset", self.spec.data)
        return {
            "seed": self.spec.seed,
            "data": {
                "component": data.offer.full_name,
                "version": data.offer.component.version,
                "fingerprint": dataset.fingerprint(),
            },
            "encoders": {modality: part.identity() for modality, part in encoders.items()},
            "fusion": fusion.identity() if fusion is not None else None,
            "training": regime,
            "precision": self.spec.engine.precision,
        }


def refuse_front(name: str, entry: AttackEntry, attack: Attack) -> None:
    """Refuse a front of an attack that does not look for the smallest perturbation.

    Raises:
        ComponentError: names the attack.
    """
    if entry.front is not None and not attack.minimal:
        raise ComponentError(
            f"attack {name!r} asks for a front, but {entry.use} does not look for the smallest perturbation; "
            "use one that does, such as fmn, or leave out `front`"
        )


def entry_aim(name: str, entry: AttackEntry, classes: Sequence[str]) -> Aim:
    """What an attack of a spec aims at, its target class looked up by name.

    Raises:
        DataError: if there is no such class.
    """
    if entry.target is None:
        return Aim(entry.goal)
    if entry.target not in classes:
        near = closest(entry.target, classes)
        raise DataError(
            f"attack {name!r} aims at the class {entry.target!r}, which the data set does not have"
            + (f"; did you mean {' or '.join(near)}?" if near else f"; it has: {', '.join(classes)}")
        )
    return Aim(entry.goal, classes.index(entry.target))
