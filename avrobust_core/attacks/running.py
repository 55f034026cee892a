"""One attack on one batch, under one threat and over a range of its budgets: carried out, verified, summed up."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from avrobust_core.attacks.attack import Attack, AttackResult
from avrobust_core.attacks.bound import BoundVictim
from avrobust_core.attacks.goals import Goal
from avrobust_core.attacks.verification import NORM_TOLERANCE, Verdict, verify
from avrobust_core.attacks.victim import Victim
from avrobust_core.data.batches import Batch, select_inputs
from avrobust_core.errors import ComponentError
from avrobust_core.models.answers import refuse_unanswered
from avrobust_core.threats.budgets import ThreatModel
from avrobust_core.threats.clips import per_clip, where_clips


@dataclass(frozen=True, slots=True)
class AttackRun:
    """One attack under one threat.

    Attributes:
        name: for errors.
        attack: the attack, prepared if it has a preparation.
        threat: what it may do.
        goal: what it wants.
        factors: of the threat's radii, ascending, 1 among them: the budgets of the curve.
    """

    name: str
    attack: Attack
    threat: ThreatModel
    goal: Goal = field(default_factory=Goal)
    factors: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if 1.0 not in self.factors or list(self.factors) != sorted(set(self.factors)) or self.factors[0] <= 0:
            raise ValueError(f"factors {self.factors}: positive, ascending, each once, 1 among them")


@dataclass(frozen=True, slots=True)
class Attacked:
    """A batch after an attack: under the threat at factor 1, and from which factor on its clips are broken.

    Attributes:
        inputs: by attacked modality, verified.
        logits: (B, K), by an independent forward pass.
        success: (B,) bool: the goal is reached.
        norms: by attacked modality, (B,) float64.
        factor: (B,) float64: the smallest factor tried at which the goal is reached, or, with an attack that looks for
            the smallest perturbation, the size of the one it found; infinite where none is.
        queries: (B,) int64: forward passes.
        no_gradient: by attacked modality, (B,) bool: the attack asked for gradients, and all of them were zero.
        backwards: (B,) int64: backward passes.
    """

    inputs: Mapping[str, Tensor]
    logits: Tensor
    success: Tensor
    norms: Mapping[str, Tensor]
    factor: Tensor
    queries: Tensor
    no_gradient: Mapping[str, Tensor]
    backwards: Tensor


def attack_batch(victim: Victim, batch: Batch, run: AttackRun) -> Attacked:
    """Attack one batch; whatever the attack returns is verified.

    A curve is one sweep: budgets in ascending order, each begun where the last one ended, and only on the clips that
    no smaller one has broken (with several labels per clip on all, since their ranking is never settled; of a model
    with randomness of its own on all, since a lucky look settles nothing). So a clip that is broken at a budget is
    broken at every larger one. An attack that looks for the smallest perturbation runs once, under the largest.

    Raises:
        AttackViolation: if the attack broke its threat model.
        ModelError: if the model returned what is not finite wherever the attack looked.
    """
    pristine, batch = batch.inputs, batch.copied(batch.targets.device)  # the batch's own tensors may be the caller's
    bound = victim.bind(batch, run.threat, run.goal)
    found = (_search if run.attack.minimal else _sweep)(batch, pristine, bound, run)
    refuse_unanswered(victim.model, bound.unanswered, batch.ids, f" where attack {run.name!r} looked")
    return found


def moved_by(victim: Victim, batch: Batch, run: AttackRun) -> dict[str, Tensor]:
    """The attacked modalities as the attack leaves them, verified, to be tried on other models; at factor 1.

    A clip that fooled the victim is as it did; any other stands where the search ended, if the attack says where.

    Raises:
        AttackViolation: if the attack broke its threat model.
    """
    pristine, batch = batch.inputs, batch.copied(batch.targets.device)
    bound = victim.bind(batch, run.threat, run.goal)
    result = run.attack(bound.limited_to(run.attack.access))
    inputs = dict(result.inputs)
    if result.last is not None:
        inputs = where_clips(result.success, inputs, result.last)
    verify(run.name, batch, pristine, bound, AttackResult(inputs, result.success), bounded=run.attack.bounded)
    return inputs


def _search(batch: Batch, pristine: Mapping[str, Tensor], bound: BoundVictim, run: AttackRun) -> Attacked:
    limit = run.factors[-1]
    widest = bound if limit == 1 else bound.scaled(limit)
    result = run.attack(widest.limited_to(run.attack.access))
    verdict = verify(run.name, batch, pristine, widest, result, bounded=run.attack.bounded)
    size = bound.region.size(result.inputs)
    found = _State(bound, len(batch), verdict.logits)
    within = size <= 1 + NORM_TOLERANCE
    found.take(torch.arange(len(batch), device=bound.device), result.inputs, verdict, within)
    found.factor = torch.where(verdict.success, size, torch.inf)
    # Under no larger budget than the threat's own the check has held it inside: to ask would wait for the device.
    if (limit > 1 or not run.attack.bounded) and not within.all():
        # At factor 1 these clips are as they were.
        found.logits = torch.where(within.unsqueeze(1), found.logits, bound.victim.logits(batch.inputs))
        found.success = torch.where(within, found.success, bound.goal.reached(found.logits))
    return found.attacked(bound)


def _sweep(batch: Batch, pristine: Mapping[str, Tensor], bound: BoundVictim, run: AttackRun) -> Attacked:
    state: _State | None = None
    alive = torch.arange(len(batch))  # on the CPU: clips are chosen by it without a wait for the device
    current = dict(bound.clean)
    for factor in run.factors:
        if not len(alive):
            break
        start = None if state is None else current
        part = bound if start is None and factor == 1 else bound.scaled(factor, start)
        part_batch, part_pristine = batch, pristine
        if len(alive) < len(batch):
            part = part.select(alive)
            part_batch = batch.select(alive)
            part_pristine = select_inputs(pristine, alive)
        result = run.attack(part.limited_to(run.attack.access))
        verdict = verify(run.name, part_batch, part_pristine, part, result, bounded=run.attack.bounded)
        if state is None:
            state = _State(bound, len(batch), verdict.logits)
        at = alive.to(bound.device, non_blocking=True)
        state.factor[at] = torch.minimum(
            state.factor[at], torch.where(verdict.success, factor, torch.inf).to(torch.float64)
        )
        if factor <= 1:
            # With several labels all clips go on: one broken under a smaller budget is not whole under a larger one.
            lost = state.success[at] & ~verdict.success if bound.repeatable else torch.zeros_like(verdict.success)
            state.take(at, result.inputs, verdict, ~lost)
        for name, x in (result.last or result.inputs).items():
            current[name] = current[name].index_copy(0, at, x)
        if bound.settles:
            alive = alive[~verdict.reached]
    assert state is not None
    return state.attacked(bound)


class _State:
    """The results so far of all clips of a batch while an attack goes on."""

    def __init__(self, bound: BoundVictim, clips: int, like: Tensor) -> None:
        device = bound.device
        self.inputs = {name: x.clone() for name, x in bound.clean.items()}
        self.logits = torch.zeros_like(like[:1]).repeat(clips, 1)
        self.success = torch.zeros(clips, dtype=torch.bool, device=device)
        self.norms = {name: torch.zeros(clips, dtype=torch.float64, device=device) for name in bound.balls}
        self.factor = torch.full((clips,), torch.inf, dtype=torch.float64, device=device)

    def take(self, index: Tensor, inputs: Mapping[str, Tensor], verdict: Verdict, where: Tensor) -> None:
        """Note the results of the clips at `index`, of those for which `where` is true."""

        def put(into: Tensor, found: Tensor) -> None:
            into.index_copy_(0, index, torch.where(per_clip(where, found), found, into.index_select(0, index)))

        put(self.logits, verdict.logits)
        put(self.success, verdict.success)
        for name, x in inputs.items():
            put(self.inputs[name], x)
            put(self.norms[name], verdict.norms[name])

    def attacked(self, bound: BoundVictim) -> Attacked:
        record = bound.gradients
        return Attacked(**vars(self), queries=bound.queries, no_gradient=record.missing, backwards=record.passes)


def prepared(victim: Victim, run: AttackRun, batches: Callable[[], Iterable[Batch]]) -> AttackRun:
    """The run with its attack shown the clips that it must see first; the run itself where there are none.

    Args:
        victim: frozen.
        run: as asked for.
        batches: gives all those clips, in batches of the size that the attack's preparation states.
    """
    if run.attack.preparation is None:
        return run
    return replace(
        run,
        attack=run.attack.prepare(
            lambda: (victim.bind(batch, run.threat, run.goal).limited_to(run.attack.access) for batch in batches())
        ),
    )


def refuse_norms(name: str, attack: Attack, threat_name: str, threat: ThreatModel) -> None:
    """Refuse an attack that does not support a norm of its threat.

    Raises:
        ComponentError: names attack, threat, modality and norm.
    """
    for modality, budget in threat.items():
        if budget.norm not in attack.norms:
            raise ComponentError(
                f"attack {name!r} cannot attack {modality} in {budget.norm} (threat {threat_name!r}); it supports: "
                f"{', '.join(sorted(attack.norms))}"
            )
