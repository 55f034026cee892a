"""The arguments of `evaluate`: attacks, threats, bounds and classes by name, refused in plain words."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from avrobust_core.attacks.attack import Attack
from avrobust_core.attacks.model import AttackPrecision
from avrobust_core.attacks.running import AttackRun, refuse_norms
from avrobust_core.config.errors import configuration_errors, location_text
from avrobust_core.config.suggest import did_you_mean
from avrobust_core.data.media import MediaSpec, Task
from avrobust_core.errors import AvrobustError, ComponentError, DataError
from avrobust_core.metrics.metric import Metric
from avrobust_core.registry.choices import configure
from avrobust_core.registry.registry import Registry
from avrobust_core.spec.entries import entry_goal, refuse_front
from avrobust_core.spec.model import AttackEntry
from avrobust_core.threats.budgets import Budget, ThreatModel

M = TypeVar("M", bound=BaseModel)

Asked = str | Attack | Mapping[str, Any]
"""An attack: a component's name; one that is built already; or a map as in a spec: use, with, goal, curve, front."""


def named_attacks(attacks: Any) -> dict[str, Asked]:
    """Attacks by name: as they were named, or else by component or class, numbered where one comes again.

    Args:
        attacks: a map by name, a sequence of what an attack may be, or one alone.

    Raises:
        ComponentError: if one is not an attack, or one name is given twice.
    """
    if isinstance(attacks, Mapping):
        return {str(name): _asked(str(name), attack) for name, attack in attacks.items()}
    if isinstance(attacks, (str, Attack)):
        attacks = [attacks]
    if not isinstance(attacks, Iterable):
        raise ComponentError(f"attacks are {type(attacks).__name__}, not names, attacks, or a map from names to them")
    found: dict[str, Asked] = {}
    for attack in attacks:
        if isinstance(attack, str) and attack in found:
            raise ComponentError(f"attack {attack!r} is asked for twice: give a map from names of your own to attacks")
        name = attack if isinstance(attack, str) else _own_name(attack)
        numbered = chain([name], (f"{name}-{number}" for number in count(2)))
        free = next(each for each in numbered if each not in found)
        found[free] = _asked(free, attack)
    return found


@dataclass(frozen=True, slots=True)
class AttackRequest:
    """One attack under one threat.

    Attributes:
        name: the attack's.
        attack: built.
        entry: as in a spec.
        threat_name: the threat's.
        threat: the budgets of what may change.
    """

    name: str
    attack: Attack
    entry: AttackEntry
    threat_name: str
    threat: ThreatModel

    def run(self, classes: Sequence[str]) -> AttackRun:
        """The run of this attack on a model with these classes."""
        goal = entry_goal(self.name, self.entry, classes)
        return AttackRun(self.name, self.attack, self.threat, goal, self.entry.factors)


def attack_requests(attacks: Any, threats: Mapping[str, ThreatModel], registry: Registry) -> list[AttackRequest]:
    """Every attack under each of its threats, built.

    Args:
        attacks: as `evaluate` is given them.
        threats: by name.
        registry: of the attacks that are named.

    Raises:
        ComponentError: if there is no such component, its configuration or its entry does not fit, or it does not
            support a threat's norm.
        DataError: if it names a threat that there is not.
    """
    found = []
    for name, asked in named_attacks(attacks).items():
        attack, entry = _built(name, asked, registry)
        refuse_front(name, entry, attack)
        for threat in _threats_of(entry, name, threats):
            refuse_norms(name, attack, threat, threats[threat])
            found.append(AttackRequest(name, attack, entry, threat, threats[threat]))
    return found


def _built(name: str, asked: Asked, registry: Registry) -> tuple[Attack, AttackEntry]:
    """The attack, and its entry as in a spec."""
    if isinstance(asked, Attack):
        return asked, AttackEntry(use=name)
    entry = validated(AttackEntry, {"use": asked} if isinstance(asked, str) else dict(asked), f"attack {name!r}")
    return entry.configured(registry).build(), entry


def _threats_of(entry: AttackEntry, name: str, threats: Mapping[str, ThreatModel]) -> list[str]:
    """The names of the threats under which an attack is run."""
    asked = list(threats) if entry.threats is None else entry.threats
    unknown = [threat for threat in asked if threat not in threats]
    if unknown:
        raise DataError(f"attack {name!r}: there is no threat {', '.join(unknown)}; there are: {', '.join(threats)}")
    return asked


def named_threats(threats: Any, modalities: Sequence[str]) -> dict[str, ThreatModel]:
    """Threat models by name.

    Args:
        threats: by name, as `ThreatModel` or as in a spec.
        modalities: those that the loader gives.

    Raises:
        DataError: if one is not a threat model, or attacks a modality that the loader does not give; names it.
    """
    if not isinstance(threats, Mapping) or isinstance(threats, BaseModel):
        raise DataError(
            f"threats are {type(threats).__name__}, not a map from names to threats: "
            '{"audio": {"audio": {"norm": "linf", "eps": 0.002}}}'
        )
    found = {}
    for name, threat in threats.items():
        what = f"threat {str(name)!r}"
        if not isinstance(threat, (ThreatModel, Mapping)):
            raise DataError(f"{what} is {type(threat).__name__}, not a map from modalities to budgets")
        applied = threat if isinstance(threat, ThreatModel) else _threat(what, threat)
        for modality in applied.modalities:
            if modality not in modalities:
                raise DataError(
                    f"{what} attacks {modality!r}, but the batch has only: {', '.join(sorted(modalities))}"
                    f"{did_you_mean(modality, modalities)}"
                )
        found[str(name)] = applied
    return found


def media_of(
    media: Mapping[str, MediaSpec] | None,
    bounds: Mapping[str, tuple[float, float]] | None,
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, MediaSpec]:
    """The media of each modality: as stated, or else from its shape and its bounds.

    Args:
        media: as stated; None if nothing was.
        bounds: lowest and highest value of modalities, where `media` is None.
        shapes: of one clip of each modality that the loader gives.

    Raises:
        DataError: if bounds or media are of a modality that the loader does not give, or are none.
    """
    for what, stated in (("media", media or {}), ("bounds", bounds or {})):
        if not isinstance(stated, Mapping):
            raise DataError(f"{what} are {type(stated).__name__}, not a map by modality")
        for name in stated:
            if name not in shapes:
                raise DataError(
                    f"{what} are stated for {name!r}, which the loader does not give; it gives: "
                    f"{', '.join(sorted(shapes))}{did_you_mean(str(name), shapes)}"
                )
    if media and bounds:
        raise DataError("media and bounds are both stated: a MediaSpec has bounds of its own; leave `bounds` out")
    if media:
        for name, spec in media.items():
            if not isinstance(spec, MediaSpec):
                raise DataError(f"media of {name!r} are {type(spec).__name__}, not a MediaSpec")
        return dict(media)
    limits = {name: _limits(name, pair) for name, pair in (bounds or {}).items()}
    return {name: MediaSpec(kind=name, shape=shape, bounds=limits.get(name)) for name, shape in shapes.items()}


def class_names(classes: Any) -> tuple[str, ...] | None:
    """The classes' names; None if none are given.

    Raises:
        DataError: if they are not a sequence of names, or one comes twice.
    """
    if classes is None:
        return None
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        raise DataError(f"classes are {classes!r}, not the classes' names in the order of the model's logits")
    names = tuple(map(str, classes))
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise DataError(f"class {twice[0]!r} is named twice")
    return names


def named_metrics(metrics: Any, registry: Registry) -> list[tuple[str, Metric]]:
    """Metrics by name, built, in order.

    Raises:
        ComponentError: if one is neither a name nor a metric, or there is no such component.
        DataError: if one asks for what a loader does not have.
    """
    found: list[tuple[str, Metric]] = []
    for asked in [metrics] if isinstance(metrics, (str, Metric)) else metrics:
        if not isinstance(asked, (str, Metric)):
            raise ComponentError(f"a metric is {_described(asked)}, not a name or a Metric")
        name = asked if isinstance(asked, str) else type(asked).__name__
        metric = configure(registry, "metric", asked, {}).build() if isinstance(asked, str) else asked
        if metric.latents or metric.probes:
            raise DataError(
                f"metric {name!r} reads the latent space of whole splits, and a loader has none: measure it in a "
                "study, or on embeddings, with `avrobust measure`"
            )
        found.append((name, metric))
    return found


def check_settings(*, task: str, samples: int, precision: str, confidence: float, resamples: int) -> None:
    """Refuse settings of `evaluate` that mean nothing.

    Raises:
        AvrobustError: names the setting, what it is and what it may be.
    """
    for name, value, choices in (("task", task, get_args(Task)), ("precision", precision, get_args(AttackPrecision))):
        if value not in choices:
            raise AvrobustError(f"{name} is {value!r}, not {' or '.join(map(repr, choices))}")
    for name, number in (("samples", samples), ("resamples", resamples)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise AvrobustError(f"{name} is {number!r}, not a whole number of at least 1")
    if isinstance(confidence, bool) or not isinstance(confidence, (int, float)) or not 0 < confidence < 1:
        raise AvrobustError(f"confidence is {confidence!r}, not a number between 0 and 1, such as 0.95")


def _threat(what: str, given: Mapping[str, Any]) -> ThreatModel:
    fields = sorted({"eps", "norm"} & set(given))
    if fields:
        raise DataError(
            f"{what} has {' and '.join(fields)} where modalities are expected; a threat is a map from modalities to "
            'budgets: {"audio": {"norm": "linf", "eps": 0.002}}'
        )
    budgets = {}
    for modality, budget in given.items():
        if modality == "kind" or isinstance(budget, Budget):
            budgets[modality] = budget
            continue
        if not isinstance(budget, Mapping):
            raise DataError(
                f"{what}: the budget of {modality!r} is {_described(budget)}, not a map, such as {{'eps': 1}}"
            )
        budgets[modality] = validated(Budget, dict(budget), f"{what}, {modality}", DataError)
    return validated(ThreatModel, budgets, what, DataError)


def _own_name(attack: object) -> str:
    if isinstance(attack, Mapping) and isinstance(attack.get("use"), str):
        return str(attack["use"])
    return type(attack).__name__


def _asked(name: str, attack: object) -> Asked:
    if not isinstance(attack, (str, Attack, Mapping)):
        what = f"{attack.__name__}, a class: build it first" if isinstance(attack, type) else _described(attack)
        raise ComponentError(
            f"attack {name!r} is {what}; it must be a component's name, an Attack, or a map as in a spec"
        )
    return attack


def _described(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def validated(model: type[M], data: Any, what: str, error_type: type[AvrobustError] = ComponentError) -> M:
    """`data` as a model of pydantic's.

    Args:
        model: the class.
        data: its fields.
        what: they are of, for the error.
        error_type: of the error.

    Raises:
        AvrobustError: of this type; says each field's fault.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        faults = configuration_errors(model, error)
        told: dict[str, str] = {}
        for location, message in sorted(faults, key=lambda fault: -len(fault[0])):
            # A value that may be of several kinds has a fault for each: the one that got farthest speaks for all.
            field = location_text(location[:1]) if location else ""
            told.setdefault(field, f"{field}: {message}" if field else message)
        raise error_type(f"{what}: {'; '.join(told.values())}") from error


def _limits(name: str, pair: object) -> tuple[float, float]:
    try:
        low, high = (float(value) for value in pair)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        low = high = math.nan
    if not low < high:
        raise DataError(
            f"bounds of {name!r} are {pair!r}, not (lowest, highest), two numbers, the first below the second"
        )
    return low, high
