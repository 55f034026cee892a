"""Subjects of the checks of attacks: an attack that can be made anew, and the cases that it is set."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from avrobust_core.attacks.attack import Attack, AttackResult
from avrobust_core.attacks.bound import BoundVictim
from avrobust_core.attacks.goals import Goal
from avrobust_core.attacks.model import AttackPrecision
from avrobust_core.attacks.passes import Occasion
from avrobust_core.attacks.verification import Verdict, verify
from avrobust_core.attacks.victim import Victim
from avrobust_core.data.batches import Batch
from avrobust_core.data.media import MediaSpec, Task
from avrobust_core.errors import AttackViolation, AvrobustError
from avrobust_core.registry.loading import one_line
from avrobust_core.testing.oracles import LinearProblem
from avrobust_core.testing.running import CheckFailed, NotApplicable, Renewable
from avrobust_core.threats.budgets import NormName, ThreatModel

NORMS: tuple[NormName, ...] = ("linf", "l2", "l1", "l0")
"""In the order in which a check that needs only one of them chooses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """All that an attack is set: a model, clips, a threat, a goal.

    Attributes:
        model: an `AVModel`, or any module from a dict of modalities to logits.
        batch: the clips.
        media: of each modality.
        threat: the limits of the attack.
        task, goal, samples, precision: see `Victim` and its `bind`.
    """

    model: nn.Module
    batch: Batch
    media: Mapping[str, MediaSpec]
    threat: ThreatModel
    task: Task = "single-label"
    goal: Goal = field(default_factory=Goal)
    samples: int = 1
    precision: AttackPrecision = "32-true"

    @classmethod
    def of(
        cls,
        problem: LinearProblem,
        threat: ThreatModel,
        wrap: Callable[[nn.Module], nn.Module] = lambda oracle: oracle,
        **more: Any,
    ) -> Case:
        """The case of a linear problem: a copy of its clips, and of its oracle, wrapped into another model if asked."""
        return cls(
            model=wrap(copy.deepcopy(problem.oracle)),
            batch=problem.batch.copied("cpu"),
            media=problem.media,
            threat=threat,
            **more,
        )

    def with_several_labels(self, classes: int) -> Case:
        """The same case with multi-hot targets."""
        hot = nn.functional.one_hot(self.batch.targets, classes).float()
        return replace(self, batch=replace(self.batch, targets=hot), task="multi-label")

    def victim(self) -> Victim:
        """The model under attack."""
        return Victim(self.model, media=self.media, task=self.task, samples=self.samples, precision=self.precision)


@dataclass(frozen=True, slots=True)
class Trial:
    """The outcome of an attack on a case.

    Attributes:
        result: the attack's own.
        bound: the victim that it attacked.
        verdict: the core's.
    """

    result: AttackResult
    bound: BoundVictim
    verdict: Verdict

    @property
    def success(self) -> Tensor:
        """(B,) bool, by the core's own forward pass."""
        return self.verdict.success

    @property
    def broken(self) -> int:
        """The number of clips that the attack broke."""
        return int(self.verdict.success.sum())

    def __str__(self) -> str:
        return f"{self.broken} of {len(self.success)} clips"

    def require_some(self, what: str = "clips") -> None:
        """Refuse a trial that broke no clip, where a check needs some for a comparison.

        Raises:
            NotApplicable: names what these clips are.
        """
        if self.broken == 0:
            raise NotApplicable(f"it breaks none of the {what} that this check needs for a comparison")

    def changed(self, modality: str) -> Tensor:
        """Flag clips that were changed in a modality, by one bit at least: (B,) bool."""
        x, clean = self.result.inputs[modality], self.bound.clean[modality]
        return (x != clean).flatten(1).any(dim=1)


@dataclass(frozen=True, slots=True)
class AttackSubject(Renewable[Attack]):
    """An attack that is checked."""

    @property
    def norms(self) -> tuple[NormName, ...]:
        """The norms that it attacks in.

        Raises:
            CheckFailed: if it names none that there is.
        """
        declared = self.make().norms
        found = tuple(norm for norm in NORMS if norm in declared)
        if not found:
            raise CheckFailed(f"norms = {sorted(declared)!r} names no norm that a budget can have: {', '.join(NORMS)}")
        return found

    @property
    def norm(self) -> NormName:
        """The norm of those checks that need only one."""
        return self.norms[0]

    @property
    def minimal(self) -> bool:
        """True if it looks for the smallest perturbation."""
        return self.make().minimal

    @property
    def bounded(self) -> bool:
        """True if it keeps to the threat's radius."""
        return self.make().bounded

    def require_bounded(self) -> None:
        """Refuse an attack that takes no notice of the radius.

        Raises:
            NotApplicable: if it does not.
        """
        if not self.bounded:
            raise NotApplicable("it takes no notice of the radius (bounded = False)")

    def prepared(self, case: Case) -> Attack:
        """The attack, shown the case's clips if it must see some before it attacks."""
        attack = self.make()
        if attack.preparation is None:
            return attack
        victim, size = case.victim(), attack.preparation.batch_size

        def victims() -> Iterator[BoundVictim]:
            for index in torch.split(torch.arange(len(case.batch)), size):
                yield victim.bind(case.batch.select(index), case.threat, case.goal).limited_to(attack.access)

        with victim.frozen(), _explained():
            return attack.prepare(victims)

    @contextmanager
    def engaged(self, case: Case, attack: Attack | None = None) -> Iterator[tuple[Attack, BoundVictim]]:
        """The attack, prepared, and the victim that it is about to be called with, frozen inside the block.

        A refusal (any `AvrobustError`) raised in the block becomes `NotApplicable`, every other error `CheckFailed`.
        """
        if attack is None:
            attack = self.prepared(case)
        victim = case.victim()
        with victim.frozen(), _explained():
            yield attack, victim.bind(case.batch, case.threat, case.goal)

    def run(self, case: Case, attack: Attack | None = None) -> Trial:
        """Attack a case as the core does, and verify the result.

        Args:
            case: the model, clips and threat.
            attack: one that is prepared already.

        Raises:
            CheckFailed: if the attack raised, or what it returned is not within the threat, or not what it claims, or
                it took other passes than it states.
            NotApplicable: if it refuses the case: any `AvrobustError` of its own.
        """
        pristine = {name: x.clone() for name, x in case.batch.inputs.items()}
        with self.engaged(case, attack) as (attack, bound):
            result = attack(bound.limited_to(attack.access))
            if not isinstance(result, AttackResult):
                raise CheckFailed(f"it returned {type(result).__name__}, not an avrobust_core.AttackResult")
            verdict = verify(self.name, case.batch, pristine, bound, result, bounded=attack.bounded)
        refuse_other_passes(attack, bound, case, classes=verdict.logits.shape[1])
        return Trial(result, bound, verdict)


def refuse_other_passes(attack: Attack, bound: BoundVictim, case: Case, classes: int) -> None:
    """Refuse an attack that took more passes than it states, or others where it states how many exactly.

    Args:
        attack: as it was called.
        bound: the victim that it was called with, once.
        case: that it was set.
        classes: K.

    Raises:
        CheckFailed: says how many, of which clip.
    """
    stated = attack.passes(
        Occasion(
            classes=classes,
            task=case.task,
            norms=frozenset(bound.region.norms),
            targeted=case.goal.targeted,
            started=bound.start is not None,
            repeatable=bound.repeatable,
            exact=bound.exact,
        )
    )
    if stated is None:
        return
    for what, most, counted in (
        ("forward", stated.forwards, bound.queries),
        ("backward", stated.backwards, bound.gradients.passes),
    ):
        most *= case.samples
        wrong = (counted != most) if stated.exact else (counted > most)
        if wrong.any():
            clip = int(wrong.nonzero()[0])
            raise CheckFailed(
                f"it took {int(counted[clip])} {what} passes of clip {bound.ids[clip]!r}, and its `passes` states "
                f"{'exactly' if stated.exact else 'at most'} {most}: what a study is foretold to cost would be wrong"
            )


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (CheckFailed, NotApplicable):
        raise
    except AttackViolation as error:
        raise CheckFailed(
            f"{error}. The core checks every result again and refuses this one: mend what the attack returns"
        ) from error
    except AvrobustError as error:
        raise NotApplicable(f"the attack refuses: {error}") from error
    except Exception as error:
        raise CheckFailed(
            f"it raised {one_line(error)}. An attack must take every case that its norms allow, or refuse it with an "
            "AvrobustError that says why"
        ) from error
