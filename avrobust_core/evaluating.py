"""The Python face: attack any module from a dict of modalities to logits, with verified results and intervals."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from torch import Tensor, nn

from avrobust_core.attacking import AttackRun, prepared, refuse_norms
from avrobust_core.batches import Batch
from avrobust_core.budgets import ThreatModel
from avrobust_core.caveats import concerns, describe
from avrobust_core.contracts import Attack, Metric
from avrobust_core.errors import DataError
from avrobust_core.fronts import directions, tilted
from avrobust_core.media import MediaSpec, Task
from avrobust_core.spec.model import AttackEntry
from avrobust_core.study.building import entry_aim, refuse_front
from avrobust_core.study.evaluation import Predictions, evaluate_batch, from_table
from avrobust_core.study.parts import MicroBatches, to_table
from avrobust_core.study.results import Intervals, Outcome, measurement_to_json, subject_of, summarise
from avrobust_core.victim import AttackPrecision, Victim

if TYPE_CHECKING:
    from avrobust_core.registry import Registry

Asked = str | Attack | Mapping[str, Any]
"""An attack: a component's name; one that is built already; or a map as in a spec: use, with, goal, curve, front."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `evaluate` has found.

    Attributes:
        clean: predictions on the clean clips.
        outcomes: one for each attack and threat, with its predictions per clip.
        summary: accuracies, success rates, curves and worst cases with intervals, as JSON data.
    """

    clean: Predictions
    outcomes: tuple[Outcome, ...]
    summary: dict[str, Any]

    def __str__(self) -> str:
        def said(estimate: Mapping[str, Any]) -> str:
            return f"{100 * estimate['value']:.1f} [{100 * estimate['low']:.1f}, {100 * estimate['high']:.1f}]"

        caveats = self.summary["caveats"]

        def mark(attack: str | None, threat: str | None) -> str:
            return " ?" if concerns(caveats, attack, threat) else ""

        clean = said(self.summary["clean_accuracy"])
        lines = [f"clean: {clean} % of {self.summary['clips']} clips{mark(None, None)}"]
        for attack, threats in self.summary["robust_accuracy"].items():
            for threat, estimate in threats.items():
                lines.append(f"{attack} on {threat}: {said(estimate)} %{mark(attack, threat)}")
        return "\n".join([*lines, *(f"? {describe(caveat)}" for caveat in caveats)])


def evaluate(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    attacks: Sequence[str] | Mapping[str, Asked],
    threats: Mapping[str, ThreatModel | Mapping[str, Any]],
    media: Mapping[str, MediaSpec] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    task: Task = "single-label",
    classes: Sequence[str] | None = None,
    metrics: Sequence[str | Metric] = (),
    seed: int = 0,
    samples: int = 1,
    precision: AttackPrecision = "32-true",
    confidence: float = 0.95,
    resamples: int = 1000,
    registry: "Registry | None" = None,
) -> Evaluation:
    """Attack a model that need not have been trained here, each attack under each threat.

    Args:
        model: from a dict of modalities to logits (B, K), never probabilities; put in evaluation mode meanwhile and
            left as it was. Clips are moved to the device of its parameters.
        loader: of `Batch`es, of pairs (inputs by modality, targets), or of triples with the clips' ids. Without ids a
            clip's number stands for it, so the loader must give the clips in the same order each time. It is read
            once, and again for each attack.
        attacks: names of components, or a map from names of your own to attacks.
        threats: by name, as `ThreatModel` or as in a spec: {"audio": {"norm": "linf", "eps": 0.002}}.
        media: what each modality is; needed for budgets that speak of time.
        bounds: lowest and highest value of each modality, where `media` is not given: without either, a budget's own
            bounds or none hold.
        task: whether targets are (B,) int64 or (B, K) float32 multi-hot.
        classes: the classes' names, for `goal: class` and per-class results; by default their numbers.
        metrics: measured on the clean predictions and, those that say so, under each attack; names or instances.
        seed: of the attacks' random numbers, and of the bootstrap.
        samples: see `Victim`.
        precision: of the attacks' own passes; see `Victim`.
        confidence: of the intervals.
        resamples: of the bootstrap over clips.
        registry: where components are found; by default what is installed.

    Raises:
        DataError: if the loader is empty or gives what is no batch, or a threat does not fit the clips.
        ComponentError: if a component cannot be found or configured, or an attack does not support a norm.
        AttackViolation: if an attack broke its threat model.
    """
    read = _Reader(loader, media, bounds, next(model.parameters(), torch.empty(0)).device)
    victim = Victim(model, media=read.media, task=task, seed=seed, samples=samples, precision=precision)
    applied = {name: ThreatModel.model_validate(threat) for name, threat in threats.items()}
    registry = registry or _installed()
    parts = {name: _attack(name, asked, registry) for name, asked in _named(attacks).items()}
    for name, (attack, entry) in parts.items():
        refuse_front(name, entry, attack)
        for threat_name in _threats(name, entry, applied):
            refuse_norms(name, attack, threat_name, applied[threat_name])
    with victim.frozen():
        clean = read.predictions(victim, None)
        names = tuple(classes) if classes is not None else tuple(map(str, range(clean.logits.shape[1])))
        outcomes = [
            _outcome(victim, read, name, attack, entry, threat_name, applied[threat_name], names)
            for name, (attack, entry) in parts.items()
            for threat_name in _threats(name, entry, applied)
        ]
    intervals = Intervals(confidence, resamples, seed)
    summary = summarise(clean, outcomes, intervals)
    summary["metrics"] = [
        entry for metric in metrics for entry in _measure(metric, registry, clean, outcomes, names, task, intervals)
    ]
    return Evaluation(clean, tuple(outcomes), summary)


class _Reader:
    """Reads the loader, again and again, and knows what its modalities are."""

    def __init__(
        self,
        loader: Iterable[Any],
        media: Mapping[str, MediaSpec] | None,
        bounds: Mapping[str, tuple[float, float]] | None,
        device: torch.device,
    ) -> None:
        self._loader = loader
        self._device = device
        first = next(self.batches(), None)
        if first is None:
            raise DataError("the loader gives no batch; it is read repeatedly: pass a list or a DataLoader")
        limits = bounds or {}
        self.media = media or {
            name: MediaSpec(kind=name, shape=tuple(x.shape[1:]), bounds=limits.get(name))
            for name, x in first.inputs.items()
        }

    def batches(self) -> Iterator[Batch]:
        """All batches, on the model's device."""
        position = 0
        for item in self._loader:
            batch = _as_batch(item, position)
            position += len(batch)
            yield batch.to(self._device)

    def predictions(self, victim: Victim, run: AttackRun | None) -> Predictions:
        """What is found for every clip, clean or attacked."""
        evaluate_part = MicroBatches(lambda batch: evaluate_batch(victim, batch, run))
        tables = [to_table(batch, evaluate_part(batch)) for batch in self.batches()]
        if not tables:
            raise DataError("the loader gave batches once, but not again: pass a list or a DataLoader, not an iterator")
        return from_table(pa.concat_tables(tables).combine_chunks(), 0.0)


def rebatched(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """The same clips in the same order, in batches of `size`, the last one of what is left."""
    left: Batch | None = None
    for batch in batches:
        left = batch if left is None else left.join(batch)
        whole = len(left) - len(left) % size
        positions = torch.arange(len(left), device=left.targets.device)
        yield from (left.select(positions[first : first + size]) for first in range(0, whole, size))
        left = left.select(positions[whole:]) if whole < len(left) else None
    if left is not None:
        yield left


def _as_batch(item: Any, position: int) -> Batch:
    if isinstance(item, Batch):
        return item
    if not isinstance(item, (tuple, list)) or len(item) not in (2, 3) or not isinstance(item[0], Mapping):
        raise DataError(
            f"the loader gives {type(item).__name__}, not a Batch, (inputs, targets) or (inputs, targets, ids)"
        )
    inputs, targets = dict(item[0]), item[1]
    if not isinstance(targets, Tensor):
        raise DataError(f"the loader's targets are {type(targets).__name__}, not a tensor")
    ids = tuple(map(str, item[2])) if len(item) == 3 else tuple(str(position + i) for i in range(len(targets)))
    return Batch(inputs, targets, ids)


def _installed() -> "Registry":
    from avrobust_core.registry import Registry

    return Registry.discover()


def _named(attacks: Sequence[str] | Mapping[str, Asked]) -> Mapping[str, Asked]:
    return attacks if isinstance(attacks, Mapping) else {name: name for name in attacks}


def _attack(name: str, asked: Asked, registry: "Registry") -> tuple[Attack, AttackEntry]:
    if isinstance(asked, Attack):
        return asked, AttackEntry(use=name)
    entry = AttackEntry.model_validate({"use": asked} if isinstance(asked, str) else dict(asked))
    offer, config = registry.configure("attack", entry.use, dict(entry.with_))
    return offer.component.build(config), entry


def _threats(name: str, entry: AttackEntry, threats: Mapping[str, ThreatModel]) -> list[str]:
    asked = list(threats) if entry.threats is None else entry.threats
    unknown = [threat for threat in asked if threat not in threats]
    if unknown:
        raise DataError(f"attack {name!r}: there is no threat {', '.join(unknown)}; there are: {', '.join(threats)}")
    return asked


def _outcome(
    victim: Victim,
    read: _Reader,
    name: str,
    attack: Attack,
    entry: AttackEntry,
    threat_name: str,
    threat: ThreatModel,
    classes: tuple[str, ...],
) -> Outcome:
    aim = entry_aim(name, entry, classes)
    run = AttackRun(name, attack, threat, aim, entry.factors)
    preparation = attack.preparation
    if preparation is not None:
        if preparation.split is not None:
            raise DataError(
                f"attack {name!r} asks to see the split {preparation.split!r} first, but a loader has no splits: "
                "configure it for the clips that are attacked"
            )
        run = prepared(victim, run, lambda: rebatched(read.batches(), preparation.batch_size))
    predictions = read.predictions(victim, run)
    points = () if entry.front is None or len(threat.modalities) != 2 else directions(threat.modalities, entry.front)
    front = [(shares, read.predictions(victim, replace(run, threat=tilted(threat, shares)))) for shares in points]
    return Outcome(
        name,
        threat_name,
        threat.modalities,
        predictions,
        aim=aim,
        factors=run.factors,
        minimal=attack.minimal,
        bounded=attack.bounded,
        front=front,
    )


def _measure(
    asked: str | Metric,
    registry: "Registry",
    clean: Predictions,
    outcomes: Sequence[Outcome],
    classes: tuple[str, ...],
    task: Task,
    intervals: Intervals,
) -> Iterator[dict[str, Any]]:
    if isinstance(asked, Metric):
        name, metric = type(asked).__name__, asked
    else:
        offer, config = registry.configure("metric", asked, {})
        name, metric = asked, offer.component.build(config)
    runs: list[tuple[str | None, str | None, Predictions]] = [(None, None, clean)]
    if metric.latents or metric.probes:
        raise DataError(
            f"metric {name!r} reads the latent space of whole splits, and a loader has none: measure it in a study, or "
            "on embeddings, with `avrobust measure`"
        )
    if metric.under_attack:
        runs += [(outcome.attack, outcome.threat, outcome.predictions) for outcome in outcomes]
    for attack, threat, predictions in runs:
        found = measurement_to_json(metric.measure(subject_of(predictions, classes, task, intervals)))
        yield {"metric": name, "attack": attack, "threat": threat} | found
