"""From a valid spec to live objects: the data set, models, attacks, metrics; and their identities."""

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from avrobust_core.attacks.attack import Attack
from avrobust_core.config.suggest import did_you_mean
from avrobust_core.data.dataset import Dataset
from avrobust_core.data.loading import check_ids, refuse_split
from avrobust_core.errors import ComponentError, DataError
from avrobust_core.models.base_classes import Encoder
from avrobust_core.models.class_names import Offered, Said, takes_head
from avrobust_core.models.layouts import CheckpointLayout, Reached, State
from avrobust_core.models.model import AVModel, channels_last
from avrobust_core.models.weights import (
    fingerprint,
    load_checkpoint,
    load_fitting_head,
    load_model,
    read_with_classes,
)
from avrobust_core.models.windows import Windows, make_windows
from avrobust_core.randomness import derive_seed, seeded
from avrobust_core.registry.choices import ComponentChoice, Configured
from avrobust_core.registry.registry import Registry
from avrobust_core.spec.cells import expand, modality_of
from avrobust_core.spec.entries import entry_goal
from avrobust_core.spec.model import ModelEntry, Spec, TrainingEntry
from avrobust_core.training.augmentations import Augmentation


class Builder:
    """Builds what one spec names."""

    def __init__(self, spec: Spec, registry: Registry) -> None:
        self.spec = spec
        self.registry = registry
        self._checkpoint = cache(read_with_classes)
        self._fingerprint = cache(fingerprint)
        self._data: tuple[Dataset, str] | None = None

    def component(self, choice: ComponentChoice) -> Configured:
        """The component that the spec names there."""
        return choice.configured(self.registry)

    def dataset(self) -> Dataset:
        """The data set.

        Raises:
            ComponentError: if a model reads a modality that it does not have, or windows that it cannot have.
            DataError: if its clips' ids are not what they should be, or it lacks the split or class that is asked for.
        """
        made: Dataset = self.component(self.spec.data).build()
        check_ids(made)
        refuse_split(made, self.spec.evaluation.split)
        for name in dict.fromkeys(cell.model for cell in expand(self.spec)):
            read = [modality_of(self.spec, encoder) for encoder in self.spec.models[name].encoders]
            refuse_modalities(name, read, made)
            self._windows(name, read, made)
        for name, attack in self.spec.attacks.items():
            entry_goal(name, attack, made.classes)
        return made

    def data_fingerprint(self, dataset: Dataset) -> str:
        """The data set's fingerprint; made once for all cells: it may read as many files as there are clips."""
        if self._data is None or self._data[0] is not dataset:
            self._data = dataset, dataset.fingerprint()
        return self._data[1]

    def model_components(self, entry: ModelEntry) -> tuple[dict[str, Configured], Configured | None]:
        """A model's encoders by modality, sorted, and its fusion."""
        encoders = {modality_of(self.spec, name): self.component(self.spec.encoders[name]) for name in entry.encoders}
        fusion = self.component(entry.fusion) if entry.fusion is not None else None
        return dict(sorted(encoders.items())), fusion

    def model(self, name: str, dataset: Dataset) -> AVModel:
        """A model with initial weights drawn from the spec's seed.

        Each encoder's weights depend on the seed and its modality alone, so that a modality starts from the same
        weights in every model of the study; or they are those of the file that the spec names.

        Raises:
            ComponentError: if the data set lacks a modality, or has no such windows.
            WeightsError: if weights cannot be read, or do not fit.
        """
        entry = self.spec.models[name]
        encoders, fusion = self.model_components(entry)
        refuse_modalities(name, encoders, dataset)
        weights, classes = self._encoder_weights(entry), dataset.classes
        windows = self._windows(name, encoders, dataset)
        built: dict[str, Encoder] = {}
        heads: list[tuple[Offered, Reached | None]] = []
        for modality, part in encoders.items():
            with seeded(derive_seed(self.spec.seed, "encoder", modality)):
                built[modality] = encoder = part.build(windows.media(modality, dataset.media[modality]))
            if modality in weights:
                path = weights[modality]
                (state, names), prefix = self._checkpoint(path), f"encoders.{modality}."
                layout, head = load_checkpoint(encoder, state, encoder.layouts, str(path), prefix)
                stated, reached = _stated(encoder.layouts, layout, len(classes))
                heads.append((Offered(head, path, names or stated), reached))
        with seeded(derive_seed(self.spec.seed, "fusion")):
            joined = None
            if fusion is not None:
                joined = fusion.build({modality: encoder.dims for modality, encoder in built.items()})
            model = AVModel(built, joined, len(classes), windows)
        if fusion is None and heads:
            said = self.spec.encoders[entry.encoders[0]].classes
            offered, reached = heads[0]
            if takes_head(name, model.head, offered, said, classes):
                load_fitting_head(model.head, offered.state)
                model.reached = reached
        if entry.weights is not None:
            self._load_whole(name, model, entry.weights, entry.classes, classes)
        if self.spec.engine.channels_last is True:
            channels_last(model)
        return model

    def _windows(self, name: str, read: Iterable[str], dataset: Dataset) -> Windows:
        """The windows of a model that reads these modalities."""
        asked = self.spec.models[name].windows
        if asked is None:
            return Windows()
        try:
            return make_windows({each: dataset.media[each] for each in read}, asked.count, asked.seconds)
        except DataError as error:
            raise ComponentError(f"windows of model {name!r}: {error}") from error

    def _load_whole(self, name: str, model: AVModel, path: Path, said: Said, classes: Sequence[str]) -> None:
        state, names = self._checkpoint(path)

        def takes(layout: str, head: State) -> bool:
            stated, reached = _stated(model.fusion.layouts, layout, len(classes))
            taken = takes_head(name, model.head, Offered(head, path, names or stated), said, classes)
            model.reached = reached if taken else None
            return taken

        load_model(model, state, str(path), takes)

    def _encoder_weights(self, entry: ModelEntry) -> dict[str, Path]:
        """The files of weights of a model's encoders, by modality."""
        found = {modality_of(self.spec, name): self.spec.encoders[name].weights for name in entry.encoders}
        return {modality: path for modality, path in sorted(found.items()) if path is not None}

    def _told(self, said: Said) -> str | None:
        """What a spec says of a file's classes, without paths."""
        return self._fingerprint(said) if isinstance(said, Path) else said

    def augmentations(self, entry: TrainingEntry) -> list[Augmentation]:
        """The augmentations of a training regime, in order."""
        return [self.component(reference).build() for reference in entry.augment]

    def attack(self, name: str) -> Attack:
        """An attack by the name that the spec gives it."""
        made: Attack = self.component(self.spec.attacks[name]).build()
        return made

    def parts_of_model(self, name: str) -> list[Configured]:
        """A model's encoders, by modality, and its fusion."""
        encoders, fusion = self.model_components(self.spec.models[name])
        return [*encoders.values(), *([] if fusion is None else [fusion])]

    def parts_of_regime(self, name: str) -> list[Configured]:
        """The data set, and a training regime's augmentations."""
        return [self.component(use) for use in (self.spec.data, *self.spec.training[name].augment)]

    def used(self) -> list[Configured]:
        """All components of the study."""
        spec = self.spec
        parts = [part for name in spec.models for part in self.parts_of_model(name)]
        parts += [part for name in spec.training for part in self.parts_of_regime(name)]
        return parts + [self.component(choice) for choice in (*spec.attacks.values(), *spec.metrics)]

    def fit_identity(self, model: str, training: str, dataset: Dataset) -> dict[str, Any]:
        """All that decides the weights of a cell, and nothing else: not names, devices, workers or paths."""
        chosen, regime = self.spec.models[model], self.spec.training[training]
        encoders, fusion = self.model_components(chosen)
        data = self.component(self.spec.data)
        weights = {modality: self._fingerprint(path) for modality, path in self._encoder_weights(chosen).items()}
        if chosen.weights is not None:
            weights["model"] = self._fingerprint(chosen.weights)
        named = {modality_of(self.spec, name): self.spec.encoders[name].classes for name in chosen.encoders}
        said = [chosen.classes, *(classes for _, classes in sorted(named.items(), key=lambda item: item[0]))]
        identity = {
            "seed": self.spec.seed,
            "data": {
                "component": data.entry.full_name,
                "version": data.entry.component.version,
                "fingerprint": self.data_fingerprint(dataset),
            },
            "encoders": {modality: part.identity() for modality, part in encoders.items()},
            "fusion": fusion.identity() if fusion is not None else None,
            "training": regime.identity()
            | self._selection_identity(chosen, regime)
            | {"augment": [self.component(reference).identity() for reference in regime.augment]},
            "precision": self.spec.engine.precision,
        }
        if chosen.windows is not None:
            identity["windows"] = chosen.windows.model_dump(mode="json")
        return identity | ({"weights": weights, "classes": list(map(self._told, said))} if weights else {})

    def _selection_identity(self, chosen: ModelEntry, regime: TrainingEntry) -> dict[str, Any]:
        """What decides by which attack an epoch is selected: not the names of attack and threat."""
        if regime.against is None:
            return {}
        attack, threat = regime.against.split("/")
        modalities = [modality_of(self.spec, name) for name in chosen.encoders]
        applied, entry = self.spec.threats[threat].restricted(modalities), self.spec.attacks[attack]
        if applied is None:  # it touches nothing that the model reads
            return {"against": None}
        return {
            "against": {
                "attack": self.component(entry).identity(),
                "threat": applied.model_dump(mode="json"),
                "goal": [entry.goal, entry.target],
                "samples": self.spec.evaluation.samples,
            }
        }


def refuse_modalities(name: str, read: Iterable[str], dataset: Dataset) -> None:
    """Refuse a model that reads what the data set does not have.

    Raises:
        ComponentError: names model and modalities.
    """
    missing = sorted(set(read) - set(dataset.media))
    if missing:
        raise ComponentError(
            f"model {name!r} reads {', '.join(missing)}, but the data set has: {', '.join(sorted(dataset.media))}"
            + did_you_mean(missing[0], dataset.media)
        )


def _stated(
    layouts: Sequence[CheckpointLayout], name: str, outputs: int
) -> tuple[Sequence[str] | None, Reached | None]:
    """What the layout of that name states of a head of so many outputs: its classes, and what it reached."""
    layout = next((layout for layout in layouts if layout.name == name), None)
    classes = None if layout is None else layout.classes(outputs)
    return classes, None if layout is None or classes is None else layout.reached
