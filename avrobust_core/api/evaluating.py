"""The Python face: attack any module from a dict of modalities to logits, with verified results and intervals."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from avrobust_core.api.reading import Reader, rebatched
from avrobust_core.api.requests import (
    Asked,
    AttackRequest,
    attack_requests,
    check_settings,
    class_names,
    named_metrics,
    named_threats,
    validated,
)
from avrobust_core.attacks.model import AttackPrecision
from avrobust_core.attacks.running import AttackRun, prepared
from avrobust_core.attacks.victim import Victim
from avrobust_core.audit.auditing import caveats_of, guarded
from avrobust_core.audit.case import Case
from avrobust_core.audit.clips import Clips
from avrobust_core.audit.saying import verdict_lines
from avrobust_core.caveats import concerns, describe
from avrobust_core.data.checking import refuse_attacked_types
from avrobust_core.data.media import MediaSpec, Task
from avrobust_core.errors import DataError, ModelError
from avrobust_core.evaluation.outcomes import Intervals, Outcome, measurement_to_json, subject_of, summarise
from avrobust_core.evaluation.predictions import Predictions
from avrobust_core.evaluation.wording import drawn, figures, percent
from avrobust_core.metrics.findings import checked_measurement
from avrobust_core.metrics.metric import Metric
from avrobust_core.models.answers import name_of
from avrobust_core.registry.registry import Registry
from avrobust_core.spec.model import AuditSection
from avrobust_core.threats.budgets import ThreatModel
from avrobust_core.threats.pareto import directions, tilted

if TYPE_CHECKING:
    from avrobust_core.api.exporting import Exporting


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        clean: predictions on the clean clips.
        outcomes: one for each attack and threat, with its predictions per clip.
        summary: accuracies, success rates, curves and worst cases with intervals, as JSON data.
        exported: what was written, and what it is worth, as export.json has it, with the folder as `out`; if it could
            not be written, why, as `failed`; None if nothing was asked for.
    """

    clean: Predictions
    outcomes: tuple[Outcome, ...]
    summary: dict[str, Any]
    exported: dict[str, Any] | None = None

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
        measured = self.summary["metrics"]
        notes = [f"{entry['metric']}: {note}" for entry in measured for note in entry["details"].get("notes", [])]
        lines += dict.fromkeys(notes)
        lines += [f"? {describe(caveat)}" for caveat in caveats]
        return "\n".join([*lines, *verdict_lines(self.summary["audit"]), *_export_lines(self.exported)])


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
    export: str | Path | Mapping[str, Any] | None = None,
    registry: Registry | None = None,
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
        media: of each modality; needed for budgets that speak of time.
        bounds: lowest and highest value of each modality, where `media` is not given: without either, a budget's own
            bounds or none hold.
        task: "single-label" for targets (B,) of class numbers, "multi-label" for (B, K) of zeros and ones.
        classes: the classes' names, as many as the model has logits, for `goal: class` and per-class results; by
            default their numbers.
        metrics: measured on the clean predictions and, where they ask for it, under each attack; names or instances.
        seed: of the attacks' random numbers, and of the bootstrap.
        samples: forward passes whose mean logits stand for the model: 1 for a model that answers alike each time;
            more for one with randomness of its own, which is refused with 1.
        precision: of the attacks' own passes; see `Victim`.
        confidence: of the intervals.
        resamples: of the bootstrap over clips.
        groups: the group that each clip was drawn with (a speaker, a source video), by id, or in the loader's order:
            intervals are then over groups. None if every clip stands for itself.
        audit: how far other probes on a few clips may go to say whether the numbers can be believed, as in a spec:
            {"clips": 64, "share": 0.2}; "off" for none. Their verdict is `summary["audit"]`.
        export: a folder to make, with clips as media files, attacked and clean, which are then read back and measured
            again; or a map: {"out": "attacked", "clips": 8}, with `ids`, `sound`, `pictures` and `png` as the options
            of `avrobust export` (docs/export.md). It needs `media` with rates.
        registry: of components; by default those that are installed.

    Raises:
        DataError: if the loader is empty, gives anything but batches, or gives other clips when it is read again; or if
            targets, bounds, classes or a threat do not fit the clips.
        ModelError: if the model's answers cannot be used: no logits, not finite, not the same twice.
        ComponentError: if a component cannot be found or configured, or an attack does not support a norm.
        AttackViolation: if an attack broke its threat model.
        RunError: if what `export` asks for cannot be: before anything is attacked. What fails later is `exported`.
    """
    check_settings(task=task, samples=samples, precision=precision, confidence=confidence, resamples=resamples)
    audited_by = None if audit == "off" else validated(AuditSection, audit, "audit")
    _refuse_model(model)
    named = class_names(classes)
    read = Reader(loader, media, bounds, task, next(model.parameters(), torch.empty(0)).device)
    count = None if named is None else len(named)
    victim = Victim(model, media=read.media, task=task, seed=seed, samples=samples, precision=precision, classes=count)
    registry = registry or Registry.discover()
    requests = attack_requests(attacks, named_threats(threats, tuple(read.first.inputs)), registry)
    for request in requests:
        refuse_attacked_types(read.first, request.threat.modalities)
    exporting = None if export is None else _exporting(export, read, requests, registry)
    measured = named_metrics(metrics, registry)
    with torch.inference_mode(False), torch.enable_grad(), victim.frozen():
        clean = read.predictions(victim, None)
        if exporting is not None:
            exporting.choose(clean)
        drawn_with = _grouping(groups, clean.ids)
        names = named or tuple(map(str, range(clean.logits.shape[1])))
        runs = {(request.name, request.threat_name): request.run(names) for request in requests}
        outcomes = [_outcome(victim, read, request, runs[request.name, request.threat_name]) for request in requests]
        if groups is not None and not isinstance(groups, Mapping) and read.shuffled:
            raise DataError(
                "groups: the loader shuffles its clips, so that a list of groups means nothing: map ids to groups"
            )
        intervals = Intervals(confidence, resamples, seed, drawn_with)
        clips = Clips(lambda _: read.batches(), read.device)
        alike = read.alike(clean.ids)
        case = partial(Case, victim, clean, outcomes, runs, intervals, clips, read.batch_size, alike)
        audited = guarded(audited_by, case)
    summary = summarise(clean, outcomes, intervals, caveats_of(audited))
    summary["audit"] = audited
    summary["metrics"] = list(_measured(measured, clean, outcomes, names, task, intervals))
    exported = None
    if exporting is not None:
        attacked = [(*key, runs[key], outcome) for key, outcome in zip(runs, outcomes, strict=True)]
        with torch.inference_mode(False), torch.enable_grad():
            exported = exporting.carry_out(victim, clean, attacked, summary["attack_success_rate"], names, intervals)
    return Evaluation(clean, tuple(outcomes), summary, exported)


def _exporting(asked: Any, read: Reader, requests: Sequence[AttackRequest], registry: Registry) -> "Exporting":
    from avrobust_core.api.exporting import Exporting  # not for an evaluation that writes nothing: it needs PyAV

    return Exporting(asked, read, requests, partial(_ready, read), registry)


def _refuse_model(model: object) -> None:
    """Refuse what is not a module, or has no gradients."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"the model is {name_of(model)}, no torch.nn.Module: wrap it in one")
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise ModelError(
            f"{name_of(model)} was built under torch.inference_mode, and has no gradients: build it outside"
        )


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


def _outcome(victim: Victim, read: Reader, request: AttackRequest, run: AttackRun) -> Outcome:
    """Attack all clips as one request asks, its front too."""
    attack, threat = run.attack, run.threat
    run = _ready(read, victim, run)
    predictions = read.predictions(victim, run)
    front = request.entry.front
    points = () if front is None or len(threat.modalities) != 2 else directions(threat.modalities, front)
    fronts = [(shares, read.predictions(victim, replace(run, threat=tilted(threat, shares)))) for shares in points]
    return Outcome(
        run.name,
        request.threat_name,
        threat.modalities,
        predictions,
        goal=run.goal,
        factors=run.factors,
        minimal=attack.minimal,
        bounded=attack.bounded,
        front=fronts,
    )


def _ready(read: Reader, victim: Victim, run: AttackRun) -> AttackRun:
    """The run after its attack has seen the clips that it prepares from."""
    preparation = run.attack.preparation
    if preparation is None:
        return run
    if preparation.split is not None:
        raise DataError(
            f"attack {run.name!r} asks to see the split {preparation.split!r} first, but a loader has no splits: "
            "configure it for the clips that are attacked"
        )
    return prepared(victim, run, lambda: rebatched(read.batches(), preparation.batch_size))


def _export_lines(exported: Mapping[str, Any] | None) -> Iterator[str]:
    """For people, what exported clips are worth."""
    if exported is None:
        return
    if "failed" in exported:
        yield f"not exported: {exported['failed']}"
        return
    for entry in exported["cells"][0]["attacks"]:
        still, fooled = entry["still_fooled"], entry["fooled"]
        worth = f"{still['count']} of {still['of']}" + (f" ({percent(still)} %)" if still["of"] else "")
        line = f"{entry['attack']} on {entry['threat']}, saved: still fooled {worth}; fooled before "
        line += f"{fooled['count']} of {fooled['of']}"
        yield line + (f"; {entry['beyond_budget']} beyond their budget" if entry["beyond_budget"] else "")
    yield f"exported to {exported['out']}"


def _measured(
    metrics: Sequence[tuple[str, Metric]],
    clean: Predictions,
    outcomes: Sequence[Outcome],
    classes: tuple[str, ...],
    task: Task,
    intervals: Intervals,
) -> Iterator[dict[str, Any]]:
    runs: list[tuple[str | None, str | None, Predictions]] = [(None, None, clean)]
    runs += [(outcome.attack, outcome.threat, outcome.predictions) for outcome in outcomes]
    for name, metric in metrics:
        for attack, threat, predictions in runs if metric.under_attack else runs[:1]:
            subject = subject_of(predictions, classes, task, intervals)
            found = measurement_to_json(
                checked_measurement(metric.measure(subject), f"metric {name!r}", len(subject.ids))
            )
            yield {"metric": name, "attack": attack, "threat": threat} | found
