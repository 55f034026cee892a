"""The cells of a study: models x training regimes x seeds, trimmed, each with the attacks that are run on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import product

from avrobust_core.spec.model import Pattern, Spec
from avrobust_core.threats.budgets import ThreatModel


@dataclass(frozen=True, slots=True)
class AttackPlan:
    """One attack under one threat model; both are names of the spec."""

    attack: str
    threat: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One model fitted in one regime from one seed, and what it is attacked with; names of the spec."""

    model: str
    training: str
    attacks: tuple[AttackPlan, ...]
    seed: int = 0


def expand(spec: Spec) -> tuple[Cell, ...]:
    """The cells that `include` and `exclude` leave, in the order of the spec, a model and regime's seeds together.

    A cell's attacks hold every threat of every attack, also those that touch no modality of its model:
    `attacked_modalities` tells.
    """
    plans = [
        AttackPlan(name, threat)
        for name, attack in spec.attacks.items()
        for threat in (spec.threats if attack.threats is None else attack.threats)
    ]
    cells = trim(spec.models, spec.training, plans, spec.include, spec.exclude)
    return tuple(replace(cell, seed=seed) for cell in cells for seed in spec.seeds)


def attacked_modalities(spec: Spec, cell: Cell, threat_name: str) -> ThreatModel | None:
    """The part of a threat that touches what the cell's model reads; None if it touches nothing of it.

    Raises:
        KeyError: if the spec has no such model or threat.
    """
    modalities = [modality_of(spec, encoder) for encoder in spec.models[cell.model].encoders]
    return spec.threats[threat_name].restricted(modalities)


def selecting(spec: Spec, model: str, training: str) -> tuple[AttackPlan, ThreatModel] | None:
    """The attack by which a regime selects an epoch of a model, and the part of its threat that touches the model.

    None where it selects otherwise, or the threat touches nothing that the model reads.

    Raises:
        KeyError: if the spec has no such model, regime or threat.
    """
    against = spec.training[training].against
    if against is None:
        return None
    plan = AttackPlan(*against.split("/"))
    applied = attacked_modalities(spec, Cell(model, training, ()), plan.threat)
    return None if applied is None else (plan, applied)


def modality_of(spec: Spec, encoder_name: str) -> str:
    """The modality that an encoder reads: as stated, or its own name.

    Raises:
        KeyError: if the spec has no such encoder.
    """
    return spec.encoders[encoder_name].modality or encoder_name


def trim(
    models: Iterable[str],
    training: Iterable[str],
    plans: Sequence[AttackPlan],
    include: Sequence[Pattern],
    exclude: Sequence[Pattern],
) -> tuple[Cell, ...]:
    """The product of models and regimes that the patterns leave, each cell with the plans that they leave."""
    return tuple(
        Cell(model, regime, tuple(plan for plan in plans if _kept(include, exclude, model, regime, plan)))
        for model, regime in product(models, training)
        if _kept(include, exclude, model, regime, None)
    )


def matches(pattern: Pattern, model: str, training: str, plan: AttackPlan | None) -> bool:
    """True if a pattern means this attack run, or, without a plan, this whole cell."""
    if trims_attacks(pattern) != (plan is not None):
        return False
    if not (fnmatchcase(model, pattern.model) and fnmatchcase(training, pattern.training)):
        return False
    if plan is None:
        return True
    return fnmatchcase(plan.attack, pattern.attack or "*") and fnmatchcase(plan.threat, pattern.threat or "*")


def trims_attacks(pattern: Pattern) -> bool:
    """True if a pattern trims attack runs only, and not whole cells."""
    return pattern.attack is not None or pattern.threat is not None


def _kept(
    include: Sequence[Pattern], exclude: Sequence[Pattern], model: str, training: str, plan: AttackPlan | None
) -> bool:
    """True if the patterns of this level, cells or attack runs, leave it."""
    wanted = [pattern for pattern in include if trims_attacks(pattern) == (plan is not None)]
    if wanted and not any(matches(pattern, model, training, plan) for pattern in wanted):
        return False
    return not any(matches(pattern, model, training, plan) for pattern in exclude)
