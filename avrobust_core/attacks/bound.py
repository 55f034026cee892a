"""A victim bound to a batch under a threat: what an attack is given, and asks."""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from avrobust_core.attacks.goals import BatchGoal
from avrobust_core.attacks.gradients import GradientRecord
from avrobust_core.attacks.model import AttackedModel
from avrobust_core.clip_draws import ClipDraws
from avrobust_core.data.batches import Encoded, select_inputs
from avrobust_core.data.media import Task
from avrobust_core.errors import AttackViolation
from avrobust_core.models.model import AVModel
from avrobust_core.threats.balls import Ball
from avrobust_core.threats.clips import Inputs
from avrobust_core.threats.regions import Region

Change = Callable[[Region, Inputs], Inputs]
"""From the region of some clips and points, by attacked modality, (b, ...) to those that the model is to see."""

Access = Literal["logits", "labels"]
"""What an attack is told of a point: logits, with gradients if it wants them; or only the class that comes first."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """The part of a batch that an attack has no business with.

    Attributes:
        fixed: raw inputs of the modalities that are not attacked; empty for an `AVModel`.
        encoded: encodings of the modalities that are not attacked.
        features: the attacked modalities that are attacked after the frontend.
    """

    fixed: Mapping[str, Tensor]
    encoded: Mapping[str, Encoded]
    features: frozenset[str]

    @property
    def encodings(self) -> dict[str, Tensor]:
        """The tensors of `encoded`, named for errors: what goes into the fusion again and again must stay as it is."""
        return {
            f"{part} of {name}": tensor
            for name, encoding in self.encoded.items()
            for part, tensor in (("tokens", encoding.tokens), ("pooled", encoding.pooled))
        }

    def select(self, index: Tensor) -> "Hidden":
        encoded = {name: encoding.select(index) for name, encoding in self.encoded.items()}
        return Hidden(select_inputs(self.fixed, index), encoded, self.features)


class BoundVictim:
    """A victim bound to a batch: a callable from the attacked modalities to logits.

    Attributes:
        region: what the attack may return: the threat, around these clips.
        factor: by which the threat's radii are multiplied in `region`.
        goal: what the attack wants; decides loss and success.
        ids: the clips' ids.
        start: a point of the region to begin from, where an attack under a smaller budget has been before; None if
            there was none. An attack is free to take no notice of it.
        gradients: which clips a gradient was asked for, and reached in which modality; shared with selections.
        unanswered: (B,) bool: for which clips the model once returned what is not finite; shared with selections. No
            comparison with NaN holds, so that an attack may take such a point for one that does not reach its goal.
    """

    def __init__(
        self, victim: AttackedModel, *, region: Region, goal: BatchGoal, ids: tuple[str, ...], hidden: Hidden
    ) -> None:
        self._victim = victim
        self._access: Access = "logits"
        self.region = region
        self.factor = 1.0
        self.goal = goal
        self.ids = ids
        self.start: Mapping[str, Tensor] | None = None
        self._hidden = hidden
        self._change: Change | None = None
        device = goal.labels.device
        self._queries = torch.zeros(len(ids), dtype=torch.int64, device=device)
        self.gradients = GradientRecord(region.balls, len(ids), device)
        self.unanswered = torch.zeros_like(self._queries, dtype=torch.bool)
        self._positions = torch.arange(len(ids), device=device)

    @property
    def queries(self) -> Tensor:
        """How many forward passes each clip has cost, (B,) int64: counted here, together with selections.

        To be read only: a copy, which no attack can set back. Nor can it assign another one.
        """
        return self._queries.clone()

    @property
    def victim(self) -> AttackedModel:
        """The model under attack.

        Raises:
            AttackViolation: if only labels may be asked for.
        """
        self._refuse_labels_only("the model itself")
        return self._victim

    @property
    def task(self) -> Task:
        """One label per clip, or several."""
        return self._victim.task

    @property
    def settles(self) -> bool:
        """True if one success is all there is to look for in a clip: one label per clip, of a `repeatable` model.

        With several labels the ranking counts beside the goal; where looks differ, a lucky one says nothing.
        """
        return self.task == "single-label" and self.repeatable

    @property
    def balls(self) -> dict[str, Ball]:
        """The region's balls, by attacked modality."""
        return self.region.balls

    @property
    def clean(self) -> dict[str, Tensor]:
        """The clean clips, attacked modalities only. Not to be changed in place."""
        return self.region.clean

    @property
    def device(self) -> torch.device:
        """The clips' device."""
        return self.goal.labels.device

    @property
    def features(self) -> frozenset[str]:
        """The attacked modalities that are attacked after the frontend."""
        return self._hidden.features

    @property
    def exact(self) -> bool:
        """True if calls are in float32; if not, successes must be looked at again with `confirm`."""
        return self._victim.precision == "32-true"

    @property
    def repeatable(self) -> bool:
        """True if two looks at one point agree: one forward pass stands for the model (`samples` is 1).

        Of a model with randomness of its own, the best of many looks is the luckiest: what an attack keeps must be told
        by looks that chose nothing, and it returns what it has found of every clip, for the core to look at afresh.
        """
        return self._victim.samples == 1

    def __len__(self) -> int:
        return len(self.ids)

    def __call__(self, perturbed: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, K) float32 of the batch with the attacked modalities replaced; differentiable in `perturbed`.

        Raises:
            AttackViolation: if only labels may be asked for.
        """
        self._refuse_labels_only("logits")
        watched = self.gradients.watch(perturbed, self._positions)
        with self._victim.lowered(self.device):
            logits = self._forward(watched).float()
        self.gradients.expect(logits, self._positions, self._victim.samples)
        return logits

    @torch.no_grad()
    def confirm(self, perturbed: Mapping[str, Tensor], readings: int = 1) -> Tensor:
        """As a call, in float32 whatever the precision of the attack, and without a gradient.

        Args:
            perturbed: by attacked modality, (B, ...).
            readings: passes of which the mean is taken, each of them of `samples`: for models with randomness of their
                own.

        Raises:
            AttackViolation: if only labels may be asked for.
        """
        self._refuse_labels_only("logits")
        if readings == 1:
            return self._forward(perturbed)
        return torch.stack([self._forward(perturbed) for _ in range(readings)]).mean(dim=0)

    @torch.no_grad()
    def labels(self, perturbed: Mapping[str, Tensor]) -> Tensor:
        """The class that comes first, and nothing else: what a model behind an interface tells.

        One query of each clip, in float32 whatever the precision of the attack. Of a model with randomness of its own
        it is the first class of the mean over `samples`.

        Args:
            perturbed: by attacked modality, (B, ...).

        Returns:
            (B, K) float32: 1 at the class of the highest logit, or at each of several that tie, and 0 elsewhere.
            `fooled` takes it for logits, and then says of every goal and task what it says of the logits themselves.
        """
        logits = self._forward(perturbed)
        return (logits >= logits.amax(dim=1, keepdim=True)).float()

    def loss(self, logits: Tensor) -> Tensor:
        """The classification loss per clip, (B,), that an attack raises."""
        return self.goal.loss(logits)

    def fooled(self, logits: Tensor) -> Tensor:
        """Flag the clips that are where the attack's goal wants them: (B,) bool, by their logits or `labels`."""
        return self.goal.reached(logits)

    def draws(self, purpose: str) -> ClipDraws:
        """Random numbers of each clip, from (seed, clip id, purpose), on the clips' device."""
        return ClipDraws.of(self._victim.seed, self.ids, purpose, self.device)

    def sample(self, purpose: str) -> dict[str, Tensor]:
        """A random point of the region for each clip, from (seed, clip id, purpose and modality)."""
        return self.region.sample(lambda name: self.draws(f"{purpose}/{name}"))

    def select(self, index: Tensor) -> Self:
        """The same victim bound to the clips at `index` (int64 positions); nothing is encoded again.

        With positions on the CPU no device is waited for. A clip that is named several times is bound as often, so that
        several points of it can be asked about in one pass; each costs it a query.
        """
        found = copy(self)
        found.ids = tuple(self.ids[i] for i in index.tolist())
        index = index.to(self.device, non_blocking=True)
        found.region = self.region.select(index)
        found.goal = self.goal.select(index)
        found.start = None if self.start is None else select_inputs(self.start, index)
        found._hidden = self._hidden.select(index)
        found._positions = self._positions[index]
        return found

    def scaled(self, factor: float, start: Mapping[str, Tensor] | None = None) -> Self:
        """The same victim with all radii multiplied by `factor`, to be attacked from `start`; nothing is encoded."""
        found = copy(self)
        found.region = self.region.scaled(factor)
        found.factor = self.factor * factor
        found.start = start
        return found

    def limited_to(self, access: Access) -> Self:
        """The same victim, of which an attack with this `access` can ask no more than that allows it.

        With "labels" there are `labels` alone: a call, `confirm` and `victim` raise. The core hands every attack its
        victim like this (`Attack.access`); one that runs others does so for its members.
        """
        if access == self._access or access == "logits":  # what was limited once stays so
            return self
        found = copy(self)
        found._access = access
        return found

    def seen_after(self, change: Change) -> Self:
        """The same victim, whose model sees every point after a change, such as rounding to what a file keeps.

        Gradients pass the change by (Athalye et al. 2018, "straight through"): they are those at the changed point. The
        change is not asked about the region's edges: what it makes of a point may lie outside.
        """
        found = copy(self)
        found._change = change
        return found

    def _forward(self, perturbed: Mapping[str, Tensor]) -> Tensor:
        # Added one by one: a clip may stand at several positions.
        self._queries.index_add_(0, self._positions, torch.full_like(self._positions, self._victim.samples))
        if self._change is not None:
            seen = self._change(self.region, {name: x.detach() for name, x in perturbed.items()})
            # The difference is exactly 0, and has the gradient.
            perturbed = {name: seen[name] + (x - x.detach()) for name, x in perturbed.items()}
        model, hidden = self._victim.model, self._hidden
        given = {**hidden.fixed, **perturbed, **hidden.encodings}

        def once() -> Any:
            if isinstance(model, AVModel):
                return model.classify({**hidden.encoded, **model.encode(perturbed, hidden.features)})
            return model(dict(given))

        with self._victim.within_memory(perturbed, once):
            logits = self._victim.mean_of(once, given)
        broken = ~logits.detach().isfinite().all(dim=1)  # waits for no device
        self.unanswered |= torch.zeros_like(self._queries).index_add_(0, self._positions, broken.long()) > 0
        return logits

    def _refuse_labels_only(self, what: str) -> None:
        if self._access == "labels":
            raise AttackViolation(
                f'an attack that states `access = "labels"` asked for {what}: ask `victim.labels(x)`, which '
                '`victim.fooled` takes; or state `access = "logits"`, if it needs more than labels'
            )
