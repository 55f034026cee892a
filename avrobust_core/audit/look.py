"""The clips looked at under one threat, and the summary of what probes find of them."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core.attacks.bound import BoundVictim
from avrobust_core.audit.case import Case, Standing
from avrobust_core.audit.checks import Check
from avrobust_core.audit.drops import Drop
from avrobust_core.audit.exact import Exact
from avrobust_core.audit.meter import Meter
from avrobust_core.audit.model_checks import Behaviour
from avrobust_core.naming import first_of
from avrobust_core.threats.budgets import ThreatModel

FEWEST_CLIPS = 2
"""The fewest clips that must have a fault, beside the share below."""

FAULTY_SHARE = 0.1

Flags = dict[int, bool]
"""A finding by the position of the clip."""


class Look:
    """The clips that all attacks under one threat have left, put to the audit's probes.

    Args:
        case: the model with its results.
        standing: what they have left.
        known: what is known of the model by itself.
        exact: the model in float64.
        meter: what may be spent.
        clips: how many clips may be looked at.

    Attributes:
        survivors: positions of the clips that no attack broke, at most `clips`, in the order of their hash.
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
        self.drops: dict[str, Drop] = {}

    def bound(self, positions: NDArray[np.int64], threat: ThreatModel | None = None) -> BoundVictim:
        """The model, bound to the clips at some positions, under this threat or another."""
        batch = self.case.read(self.case.ids(positions))
        return self.case.victim.bind(batch, self.standing.threat if threat is None else threat)

    def probe(
        self,
        into: Flags,
        positions: NDArray[np.int64] | Sequence[int],
        broken: Callable[[BoundVictim], Tensor],
        threat: ThreatModel | None = None,
    ) -> None:
        """Put a probe to clips, batch by batch and at the meter's cost.

        Args:
            into: by position, filled with whether the probe breaks the clip.
            positions: of the clips.
            broken: the probe, from bound clips to (B,) bool.
            threat: as of `bound`.
        """
        for chunk in self.case.chunks(positions):
            bound = self.bound(chunk, threat)
            try:
                note(into, chunk, broken(bound))
            finally:
                self.meter.count(bound)

    def ids(self, seen: Flags) -> tuple[str, ...]:
        return self.case.ids(i for i, flag in seen.items() if flag)

    def many(self, seen: Flags, share: float = FAULTY_SHARE) -> bool:
        count = sum(seen.values())
        return count >= max(min(FEWEST_CLIPS, len(self.survivors)), share * len(seen)) and count > 0

    def tally(self, seen: Flags) -> Drop:
        survivors = int(self.standing.survived.sum())
        unseen = survivors - int(self.standing.survived[self.case.order].sum())
        return Drop(float(self.standing.survived.mean()), survivors - unseen, len(seen), sum(seen.values()), unseen)

    def drop(self, check: str, seen: Flags, what: str) -> Check:
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


def note(into: Flags, positions: NDArray[np.int64], flags: Tensor) -> None:
    """Keep what was seen of clips, by position."""
    into.update(zip(positions.tolist(), flags.tolist(), strict=True))
