"""The input of an audit: a model, its results, and a way to read its clips again."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from avrobust_core.attacks.running import AttackRun
from avrobust_core.attacks.victim import Victim
from avrobust_core.data.batches import Batch
from avrobust_core.evaluation.outcomes import Intervals, Outcome
from avrobust_core.evaluation.predictions import Predictions
from avrobust_core.models.model import AVModel
from avrobust_core.randomness import derive_seed
from avrobust_core.threats.budgets import ThreatModel


@dataclass(frozen=True)
class Case:
    """A model with its results.

    Attributes:
        victim: the model; frozen while it is audited.
        clean: predictions on the clean clips.
        outcomes: of every attack under every threat.
        runs: by attack and threat, the attack and the threat as it was applied; those that touch nothing are absent.
        intervals: how the results' intervals are made.
        read: from ids of clips to a batch of them, in that order, on the model's device.
        batch_size: clips per pass.
        alike: (N,) bool: the clips that fit into one batch, of one shape; only they are read. None for all.
    """

    victim: Victim
    clean: Predictions
    outcomes: Sequence[Outcome]
    runs: Mapping[tuple[str, str], AttackRun]
    intervals: Intervals
    read: Callable[[Sequence[str]], Batch]
    batch_size: int
    alike: NDArray[np.bool_] | None = None

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """The positions of the clips that are alike, by a hash of their ids: checks take the first that suit them."""
        order = sorted(range(len(self.clean.ids)), key=lambda i: derive_seed("audit", self.clean.ids[i]))
        found = np.array(order, dtype=np.int64)
        return found if self.alike is None else found[self.alike[found]]

    @cached_property
    def modalities(self) -> list[str]:
        """The modalities that the model reads, sorted: those of the clips, of a model that does not say it."""
        model = self.victim.model
        given = model.modalities if isinstance(model, AVModel) else self.read(self.ids(self.order[:1])).inputs
        return sorted(given)

    def first(self, suited: NDArray[np.bool_], count: int | None = None) -> NDArray[np.int64]:
        """The positions of the first `count` clips, in the order of the hash, that are suited; of all for None."""
        return self.order[suited[self.order]][:count]

    def chunks(self, positions: Sequence[int] | NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Positions of clips in batches of `batch_size`."""
        for start in range(0, len(positions), self.batch_size):
            yield np.asarray(positions[start : start + self.batch_size], dtype=np.int64)

    def ids(self, positions: Iterable[int] | NDArray[np.int64]) -> tuple[str, ...]:
        """The clips' ids."""
        return tuple(self.clean.ids[i] for i in positions)

    @cached_property
    def attack_passes(self) -> int:
        """Forward and backward passes of single clips that all attacks together have cost."""
        return passes(self.attacked)

    @property
    def attacked(self) -> list[Outcome]:
        """The outcomes of threats that touch what the model reads."""
        return [outcome for outcome in self.outcomes if (outcome.attack, outcome.threat) in self.runs]

    def threat(self, outcome: Outcome) -> ThreatModel:
        """The threat model of an outcome, as it was applied."""
        return self.runs[outcome.attack, outcome.threat].threat

    @cached_property
    def standings(self) -> "list[Standing]":
        """The standing of every threat; threats of two names that mean the same to this model stand together."""
        grouped: dict[str, list[Outcome]] = {}
        for outcome in self.attacked:
            grouped.setdefault(self.threat(outcome).model_dump_json(), []).append(outcome)
        return [Standing(self, outcomes) for outcomes in grouped.values()]


class Standing:
    """The clips that all attacks under one threat have left of a model.

    Args:
        case: the model with its results.
        outcomes: of all attacks under the threat.

    Attributes:
        threat: the threat model as it was applied.
        names: of the threat in the spec.
        worst: the outcomes of the attacks that claim a worst case: inside the budget, at any other class.
        survived: (N,) bool: correct clean, and under every one of these attacks.
    """

    def __init__(self, case: Case, outcomes: Sequence[Outcome]) -> None:
        self.case = case
        self.outcomes = tuple(outcomes)
        self.threat = case.threat(outcomes[0])
        self.names = tuple(dict.fromkeys(outcome.threat for outcome in outcomes))
        self.worst = tuple(outcome for outcome in outcomes if outcome.bounded and not outcome.goal.targeted)
        self.survived = case.clean.correct.copy()
        for outcome in self.worst:
            self.survived &= outcome.predictions.correct
        self.survived &= np.isfinite(case.clean.margins)  # a clip that has every class cannot be broken

    @property
    def void(self) -> bool:
        """True if every budget is 0, so that nothing may change."""
        return all(budget.eps == 0 for _, budget in self.threat.items())

    @property
    def steps(self) -> int:
        """The most backward passes that a surviving clip has cost an attack; 0 if none uses gradients."""
        counted = [o.predictions.backwards[self.survived] for o in self.worst if o.predictions.backwards is not None]
        found = max((int(steps.max()) for steps in counted if steps.size), default=0)
        return found // self.case.victim.samples


def passes(outcomes: Iterable[Outcome]) -> int:
    """Forward and backward passes of single clips that attacks have cost; predictions that are shared count once."""
    distinct = {id(outcome.predictions): outcome.predictions for outcome in outcomes}.values()
    return sum(
        int(each.queries.sum()) + (0 if each.backwards is None else int(each.backwards.sum())) for each in distinct
    )
