"""The victim: a model under attack that can be bound to a batch under a threat."""

from typing import cast

import torch

from avrobust_core.attacks.bound import BoundVictim, Hidden
from avrobust_core.attacks.goals import Goal, batch_goal
from avrobust_core.attacks.model import AttackedModel
from avrobust_core.data.batches import Batch, Encoded
from avrobust_core.errors import DataError
from avrobust_core.models.base_classes import Encoder
from avrobust_core.models.model import AVModel
from avrobust_core.threats.balls import Ball
from avrobust_core.threats.budgets import ThreatModel
from avrobust_core.threats.clips import first_flagged
from avrobust_core.threats.regions import REGIONS, make_ball


class Victim(AttackedModel):
    """A model under attack, whole: see `AttackedModel` for its arguments."""

    def bind(self, batch: Batch, threat: ThreatModel, goal: Goal | None = None) -> BoundVictim:
        """Bind to a batch; the modalities that `threat` does not name are encoded here, once.

        Args:
            batch: the clips.
            threat: what may be changed.
            goal: the attack's goal; by default any other class.

        Raises:
            DataError: if the batch lacks an attacked modality, a clean clip is outside its bounds, or the threat asks
                for features or time where the model or the data set has none.
        """
        features = frozenset(name for name, budget in threat.items() if budget.space == "features")
        balls = {name: self._ball(batch, threat, name) for name in threat.modalities}
        fixed = {name: x for name, x in batch.inputs.items() if name not in balls}
        encoded: dict[str, Encoded] = {}
        if isinstance(self.model, AVModel):
            with torch.no_grad():
                encoded = self.model.encode(fixed)
            fixed = {}
        goal = goal or Goal()
        logits = self.logits(batch.inputs) if goal.targeted else torch.empty(len(batch), 0, device=batch.targets.device)
        found = batch_goal(goal, logits, batch.targets, self.task, batch.ids, self.seed)
        return BoundVictim(
            self, region=REGIONS[threat.kind](balls), goal=found, ids=batch.ids, hidden=Hidden(fixed, encoded, features)
        )

    def _ball(self, batch: Batch, threat: ThreatModel, name: str) -> Ball:
        budget = threat[name]
        if name not in batch.inputs:
            raise DataError(f"the threat attacks {name!r}, but the batch has only: {', '.join(sorted(batch.inputs))}")
        spec = self.media.get(name)
        clean = batch.inputs[name]
        if budget.space == "input":
            bounds, time_axis = (spec.bounds, spec.time_axis) if spec is not None else (None, None)
        else:  # the media's bounds say nothing of features
            model = self.audio_visual()
            if name not in model.encoders:
                raise DataError(f"the threat attacks features of {name!r}, which the model does not read")
            if budget.needs_time and model.windows.count > 1:
                raise DataError(
                    f"the threat speaks of time in the features of {name!r}, and the model has features of "
                    f"{model.windows.count} windows, each with a time of its own: state the threat on the input"
                )
            with torch.no_grad():
                clean = model.features(name, clean)
            bounds, time_axis = None, cast(Encoder, model.encoders[name]).time_axis
        ball = make_ball(clean, budget, bounds, time_axis)
        _check_bounds(name, ball, batch.ids)
        return ball


def _check_bounds(modality: str, ball: Ball, ids: tuple[str, ...]) -> None:
    low, high = ball.limits
    flat = ball.center.flatten(1)
    lowest, highest = flat.amin(dim=1), flat.amax(dim=1)
    outside = ~((lowest >= low) & (highest <= high) & lowest.isfinite() & highest.isfinite())  # true of NaN, too
    if not outside.any():
        return
    infinite = ~(lowest.isfinite() & highest.isfinite())
    if infinite.any():
        raise DataError(
            f"the threat attacks {modality}, but its values are NaN or infinite: {first_flagged(ids, infinite)}; leave "
            "these clips out, or give them values: NaN may stand for what a clip lacks only where no threat attacks it"
        )
    raise DataError(
        f"{modality}: clean clips outside the bounds [{low}, {high}]: {first_flagged(ids, outside)}; "
        "mend the data set, or state the bounds it really has"
    )
