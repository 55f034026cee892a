"""The Python face: attack any module from a dict of modalities to logits, with verified results and intervals."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn

from avrobust_core.attacking import AttackRun, prepared, refuse_norms
from avrobust_core.audit.auditing import caveats_of, guarded
from avrobust_core.audit.case import Case
from avrobust_core.audit.clips import Clips
from avrobust_core.audit.saying import verdict_lines
from avrobust_core.batches import Batch
from avrobust_core.border.answers import name_of
from avrobust_core.border.clips import as_batch, refuse_attacked_types, refuse_other_modalities
from avrobust_core.border.readings import Readings
from avrobust_core.border.requests import (
    Asked,
    built,
    check_settings,
    class_names,
    media_of,
    named_attacks,
    named_metrics,
    named_threats,
    threats_of,
    validated,
)
from avrobust_core.budgets import ThreatModel
from avrobust_core.caveats import concerns, describe
from avrobust_core.contracts import Attack, Metric
from avrobust_core.errors import DataError, ModelError
from avrobust_core.fronts import directions, tilted
from avrobust_core.media import MediaSpec, Task
from avrobust_core.spec.model import AttackEntry, AuditSection
from avrobust_core.study.building import entry_aim, refuse_front
from avrobust_core.study.evaluation import Predictions, evaluate_batch, from_table
from avrobust_core.study.parts import MicroBatches, to_table
from avrobust_core.study.results import Intervals, Outcome, measurement_to_json, subject_of, summarise
from avrobust_core.study.wording import drawn, figures, percent
from avrobust_core.victim import AttackPrecision, Victim

if TYPE_CHECKING:
    from avrobust_core.registry import Registry


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
        caveats = self.summary["caveats"]

        def mark(attack: str | None, threat: str | None) -> str:
            return " ?" if concerns(caveats, attack, threat) else ""

        clean = self.summary["clean_accuracy"]
        over = "" if clean["groups"] is None else f", intervals over {drawn(clean)}"
        lines = [f"clean: {percent(clean)} % of {self.summary['clips']} clips{over}{mark(None, None)}"]
        for attack, threats in self.summary["robust_accuracy"].items():
            for threat, estimate in threats.items():
                lines.append(f"{attack} on {threat}: {percent(estimate)} %{mark(attack, threat)}")
        for entry in self.summary["metrics"]:
            where = "" if entry["attack"] is None else f", {entry['attack']} on {entry['threat']}"
            for name, estimate in entry["values"].items():
                doubt = mark(entry["attack"], entry["threat"])
                lines.append(f"{entry['metric']}: {name}{where}: {figures(estimate)}{doubt}")
        notes = [
            (entry["metric"], note) for entry in self.summary["metrics"] for note in entry["details"].get("notes", [])
        ]
        lines += [f"{metric}: {note}" for metric, note in dict.fromkeys(notes)]
        lines += [f"? {describe(caveat)}" for caveat in caveats]
        return "\n".join([*lines, *verdict_lines(self.summary["audit"])])


def evaluate(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    attacks: Sequence[Asked] | Mapping[str, Asked],
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
    groups: Mapping[str, str] | Sequence[str] | None = None,
    audit: AuditSection | Mapping[str, Any] | Literal["off"] = AuditSection(),  # noqa: B008 - frozen
    registry: "Registry | None" = None,
) -> Evaluation:
    """Attack a model that need not have been trained here, each attack under each threat.

    Args:
        model: from a dict of modalities to logits (B, K) of at least two classes, or to what holds them (`logits_of`);
            never probabilities. Put in evaluation mode meanwhile and left as it was. Clips are moved to the device of
            its parameters.
        loader: of `Batch`es, of pairs (inputs by modality, targets), or of triples with the clips' ids. It is read
            once, and again for each attack, and must give the same clips each time, bit for bit; without ids a clip's
            number stands for it, and then in the same order, too. The model is given copies. An attacked modality is
            float32; what stands for a modality that a clip lacks (NaN, say) is between loader and model.
        attacks: names of components, attacks, maps as in a spec; or a map from names of your own to these.
        threats: by name, as `ThreatModel` or as in a spec: {"audio": {"norm": "linf", "eps": 0.002}}.
        media: what each modality is; needed for budgets that speak of time.
        bounds: lowest and highest value of each modality, where `media` is not given: without either, a budget's own
            bounds or none hold.
        task: whether targets are (B,) class numbers or (B, K) of zeros and ones.
        classes: the classes' names, as many as the model has logits, for `goal: class` and per-class results; by
            default their numbers.
        metrics: measured on the clean predictions and, those that say so, under each attack; names or instances.
        seed: of the attacks' random numbers, and of the bootstrap.
        samples: forward passes whose mean logits stand for the model: 1 for a model that answers alike each time;
            more for one with randomness of its own, which is refused with 1.
        precision: of the attacks' own passes; see `Victim`.
        confidence: of the intervals.
        resamples: of the bootstrap over clips.
        groups: what each clip was drawn with (a speaker, a source video), by id, or in the loader's order: intervals
            are then over groups. None if every clip stands for itself.
        audit: how far other probes on a few clips may go to say whether the numbers can be believed, as in a spec:
            {"clips": 64, "share": 0.2}; "off" for none. Their verdict is `summary["audit"]`.
        registry: where components are found; by default what is installed.

    Raises:
        DataError: if the loader is empty, gives what is no batch, or gives other clips when it is read again; or if
            targets, bounds, classes or a threat do not fit the clips.
        ModelError: if the model's answers cannot be used: no logits, not finite, not the same twice.
        ComponentError: if a component cannot be found or configured, or an attack does not support a norm.
        AttackViolation: if an attack broke its threat model.
    """
    check_settings(task=task, samples=samples, precision=precision, confidence=confidence, resamples=resamples)
    audited_by = None if audit == "off" else validated(AuditSection, audit, "audit")
    if not isinstance(model, nn.Module):
        raise ModelError(f"the model is {name_of(model)}, no torch.nn.Module: wrap it in one")
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise ModelError(
            f"{name_of(model)} was built under torch.inference_mode, and has no gradients: build it outside"
        )
    named = class_names(classes)
    read = _Reader(loader, media, bounds, task, next(model.parameters(), torch.empty(0)).device)
    victim = Victim(
        model,
        media=read.media,
        task=task,
        seed=seed,
        samples=samples,
        precision=precision,
        classes=None if named is None else len(named),
    )
    applied = named_threats(threats, tuple(read.first.inputs))
    registry = registry or _installed()
    parts = {name: built(name, asked, registry) for name, asked in named_attacks(attacks).items()}
    measured = named_metrics(metrics)
    for name, (attack, entry) in parts.items():
        refuse_front(name, entry, attack)
        for threat_name in threats_of(entry, name, applied):
            refuse_norms(name, attack, threat_name, applied[threat_name])
            refuse_attacked_types(read.first, applied[threat_name].modalities)
    with torch.inference_mode(False), torch.enable_grad(), victim.frozen():
        clean = read.predictions(victim, None)
        drawn_with = _grouping(groups, clean.ids)
        names = named or tuple(map(str, range(clean.logits.shape[1])))
        outcomes = [
            _outcome(victim, read, name, attack, entry, threat_name, applied[threat_name], names)
            for name, (attack, entry) in parts.items()
            for threat_name in threats_of(entry, name, applied)
        ]
        if groups is not None and not isinstance(groups, Mapping) and read.shuffled:
            raise DataError(
                "groups: the loader shuffles its clips, so that a list of groups means nothing: map ids to groups"
            )
        intervals = Intervals(confidence, resamples, seed, drawn_with)
        audited = guarded(
            audited_by,
            lambda: _case(victim, read, clean, outcomes, intervals, parts, applied, names),
        )
    summary = summarise(clean, outcomes, intervals, caveats_of(audited))
    summary["audit"] = audited
    summary["metrics"] = [
        entry for metric in measured for entry in _measure(metric, registry, clean, outcomes, names, task, intervals)
    ]
    return Evaluation(clean, tuple(outcomes), summary)


def _grouping(groups: Mapping[str, str] | Sequence[str] | None, ids: Sequence[str]) -> Mapping[str, str]:
    """The group of each clip, by id."""
    if groups is None:
        return {}
    if not isinstance(groups, Mapping):
        if len(groups) != len(ids):
            raise DataError(
                f"groups: {len(groups)} are given, but the loader gives {len(ids)} clips: give one for each"
            )
        groups = dict(zip(ids, groups, strict=True))
    missing = [clip_id for clip_id in ids if clip_id not in groups]
    if missing:
        raise DataError(f"groups: none is given for {missing[0]!r}, and for {len(missing)} of {len(ids)} clips in all")
    return groups


def _case(
    victim: Victim,
    read: "_Reader",
    clean: Predictions,
    outcomes: Sequence[Outcome],
    intervals: Intervals,
    parts: Mapping[str, tuple[Attack, AttackEntry]],
    threats: Mapping[str, ThreatModel],
    classes: tuple[str, ...],
) -> Case:
    """What the audit is given."""
    runs = {}
    for outcome in outcomes:
        attack, entry = parts[outcome.attack]
        aim = entry_aim(outcome.attack, entry, classes)
        run = AttackRun(outcome.attack, attack, threats[outcome.threat], aim, entry.factors)
        runs[outcome.attack, outcome.threat] = run
    clips = Clips(lambda _: read.batches(), read.device)
    return Case(victim, clean, outcomes, runs, intervals, clips, read.batch_size, read.alike(clean.ids))


class _Reader:
    """Reads the loader, again and again, knows what its modalities are, and sees to it that it is the same each time.

    Attributes:
        first: the first batch, as it was given.
        batch_size: of the first batch.
        device: the model's.
        media: what each modality is.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        media: Mapping[str, MediaSpec] | None,
        bounds: Mapping[str, tuple[float, float]] | None,
        task: Task,
        device: torch.device,
    ) -> None:
        self._loader = loader
        self._task: Task = task
        self.device = device
        self._readings = Readings()
        self._shapes: dict[str, tuple[torch.Size, ...]] = {}
        if isinstance(loader, Iterator):
            raise DataError("the loader is an iterator, which can be read only once: pass a list or a DataLoader")
        first = next(self._given(), None)
        if first is None:
            raise DataError("the loader gives no batch; it is read repeatedly: pass a list or a DataLoader")
        self._readings.take(first)
        self.first = first
        self.batch_size = len(first)
        self.media = media_of(media, bounds, {name: tuple(x.shape[1:]) for name, x in first.inputs.items()})

    @property
    def shuffled(self) -> bool:
        """Whether the clips came in another order than at first."""
        return self._readings.shuffled

    def batches(self) -> Iterator[Batch]:
        """All batches, on the model's device; their tensors may be the caller's."""
        for batch in self._readings.follow(self._given()):
            refuse_other_modalities(batch, self.first)
            self._shapes |= dict.fromkeys(
                batch.ids, tuple(batch.inputs[name].shape[1:] for name in sorted(batch.inputs))
            )
            yield batch.to(self.device)

    def alike(self, ids: Sequence[str]) -> NDArray[np.bool_]:
        """Whether each clip is of the shape that most of them have: (N,) bool."""
        most, _ = Counter(self._shapes.values()).most_common(1)[0]
        return np.array([self._shapes[clip] == most for clip in ids])

    def predictions(self, victim: Victim, run: AttackRun | None) -> Predictions:
        """What is found for every clip, clean or attacked, in the order of the first reading."""
        evaluate_part = MicroBatches(lambda batch: evaluate_batch(victim, batch, run))
        tables = [to_table(batch, evaluate_part(batch)) for batch in self.batches()]
        table = pa.concat_tables(tables).combine_chunks()
        place = {clip: i for i, clip in enumerate(table["id"].to_pylist())}
        return from_table(table.take(pa.array([place[clip] for clip in self._readings.ids])), 0.0)

    def _given(self) -> Iterator[Batch]:
        try:
            items = iter(self._loader)
        except TypeError:
            raise DataError(
                f"the loader is {type(self._loader).__name__}, which cannot be read batch by batch: pass a list or a "
                "DataLoader"
            ) from None
        position = 0
        for number, item in enumerate(items):
            batch = as_batch(item, number, position, self._task)
            position += len(batch)
            yield batch


def rebatched(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """The same clips in the same order, in batches of `size`, the last one of what is left."""
    left: Batch | None = None
    for batch in batches:
        if left is not None and any(x.shape[1:] != left.inputs[name].shape[1:] for name, x in batch.inputs.items()):
            raise DataError(
                f"clip {batch.ids[0]} is of another shape than clip {left.ids[0]}: an attack that must see the clips "
                "first, in batches of its own size, needs all of them to be of one shape"
            )
        left = batch if left is None else left.join(batch)
        whole = len(left) - len(left) % size
        positions = torch.arange(len(left), device=left.targets.device)
        yield from (left.select(positions[first : first + size]) for first in range(0, whole, size))
        left = left.select(positions[whole:]) if whole < len(left) else None
    if left is not None:
        yield left


def _installed() -> "Registry":
    from avrobust_core.registry import Registry

    return Registry.discover()


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
