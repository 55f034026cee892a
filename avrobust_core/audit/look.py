"""What is looked at under one threat, what its probes have seen so far, and what they tell together."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core.audit.case import Case, Standing
from avrobust_core.audit.checks import Check
from avrobust_core.audit.drops import Drop
from avrobust_core.audit.exact import Exact
from avrobust_core.audit.meter import Meter
from avrobust_core.audit.model_checks import Behaviour
from avrobust_core.audit.probes import Ask
from avrobust_core.naming import first_of
from avrobust_core.victim import BoundVictim

FEWEST_CLIPS = 2
"""Of a clip's fault, so many clips must have it, and the share below."""

FAULTY_SHARE = 0.1


@dataclass(slots=True)
class Probed:
    """What the probes of one threat have seen, by position of the clip.

    Attributes:
        noise: broken by a random corner of the region.
        single: broken by the first step of the climb.
        climbed: broken by the climb.
        finite: loss and gradient are finite.
        hidden: by modality: no gradient reaches it, though moving it moves the outputs.
        untrue: by modality: its gradient is not the derivative.
        flat: no modality has a gradient in float32, and one has in float64.
        reopened: of those, broken by a climb in float64.
        behind: of the hidden, broken by a climb with a stand-in for what hides the gradient.
        searched: broken by the random search.
        free: broken by the climb without a limit.
        steps, queries: of the climb, and of the search.
    """

    noise: dict[int, bool] = field(default_factory=dict)
    single: dict[int, bool] = field(default_factory=dict)
    climbed: dict[int, bool] = field(default_factory=dict)
    finite: dict[int, bool] = field(default_factory=dict)
    hidden: dict[str, dict[int, bool]] = field(default_factory=dict)
    untrue: dict[str, dict[int, bool]] = field(default_factory=dict)
    flat: dict[int, bool] = field(default_factory=dict)
    reopened: dict[int, bool] = field(default_factory=dict)
    behind: dict[int, bool] = field(default_factory=dict)
    searched: dict[int, bool] = field(default_factory=dict)
    free: dict[int, bool] = field(default_factory=dict)
    steps: int = 0
    queries: int = 0


class Look:
    """What all attacks under one threat have left, and what the audit's probes see of it.

    Args:
        case: the model with its results.
        standing: what they have left.
        known: what is known of the model by itself.
        exact: the model in float64.
        meter: what may be spent.
        clips: how many clips may be looked at.

    Attributes:
        survivors: positions of the clips that no attack broke, at most `clips`, in the order of their hash.
        found: what the probes have seen.
        drops: by probe, what it has taken off the robust accuracy.
    """

    def __init__(
        self, case: Case, standing: Standing, known: Behaviour, exact: Exact, meter: Meter, clips: int
    ) -> None:
        self.case = case
        self.standing = standing
        self.known = known
        self.exact = exact
        self.meter = meter
        self.survivors = case.first(standing.survived, clips)
        self.found = Probed()
        self.drops: dict[str, Drop] = {}

    def ids(self, seen: Mapping[int, bool]) -> tuple[str, ...]:
        return self.case.ids(np.array([i for i, flag in seen.items() if flag], dtype=np.int64))

    def many(self, seen: Mapping[int, bool], share: float = FAULTY_SHARE) -> bool:
        count = sum(seen.values())
        return count >= max(min(FEWEST_CLIPS, len(self.survivors)), share * len(seen)) and count > 0

    def tally(self, seen: Mapping[int, bool]) -> Drop:
        survivors = int(self.standing.survived.sum())
        unseen = survivors - int(self.standing.survived[self.case.order].sum())
        return Drop(self.standing.robust, survivors - unseen, len(seen), sum(seen.values()), unseen)

    def drop(self, check: str, seen: Mapping[int, bool], what: str) -> Check:
        drop = self.tally(seen)
        self.drops[check] = drop
        ids = self.ids(seen)
        return Check(
            check=check,
            status="failed" if drop.established else "passed",
            message=f"{what} {drop.broken} of {drop.probed} clips that every attack left robust"
            + (f" ({first_of(ids)})" if ids else "")
            + (
                f": not {100 * drop.robust:.1f} % are robust but about {100 * drop.expected:.1f}, at most "
                f"{100 * drop.at_most:.1f}"
                if drop.established
                else ""
            ),
            clips=ids,
            figures=drop.figures(),
        )


def asker(bound: BoundVictim) -> Ask:
    """The model as a probe asks it: some of the clips of a bound victim."""

    def ask(alive: Tensor, x: Mapping[str, Tensor]) -> Tensor:
        return (bound if len(alive) == len(bound) else bound.select(alive))(x)

    return ask


def note(into: dict[int, bool], positions: NDArray[np.int64], flags: Tensor) -> None:
    """Keep what was seen of clips, by position."""
    into.update(zip(positions.tolist(), flags.tolist(), strict=True))
