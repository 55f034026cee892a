"""The victim: a model under attack that can be bound to a batch under a threat."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from avrobust_core.attacks.bound import BoundVictim, Hidden
from avrobust_core.attacks.goals import Goal, batch_goal
from avrobust_core.attacks.model import AttackedModel
from avrobust_core.data.batches import Batch, Encoded
from avrobust_core.errors import DataError
from avrobust_core.models.base_classes import Encoder
from avrobust_core.models.model import AVModel
from avrobust_core.threats.balls import Ball, TimeConstraint
from avrobust_core.threats.budgets import ThreatModel
from avrobust_core.threats.clips import first_flagged
from avrobust_core.threats.regions import REGIONS, batch_axis, make_ball, own_steps


class Victim(AttackedModel):
    """A model under attack, whole: see `AttackedModel` for its arguments."""

    def bind(self, batch: Batch, threat: ThreatModel, goal: Goal | None = None) -> BoundVictim:
        """Bind to a batch; the modalities that `threat` does not name are encoded here, once.

        Args:
            batch: the clips.
            threat: what may be changed.
            goal: the attack's goal; by default any other class.

        Raises:
            DataError: if the batch lacks an attacked modality, a clean clip is outside its bounds, the threat asks for
                features or time where the model or the data set has none, or a clip is padded along an axis of time
                that the data set does not state.
        """
        features = frozenset(name for name, budget in threat.items() if budget.space == "features")
        balls = {name: self._ball(batch, threat, name) for name in threat.modalities}
        _check_bounds(balls, batch.ids)
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
        clean, padded = batch.inputs[name], batch.padding_of(name)
        bounds, time_axis = (spec.bounds, spec.time_axis) if spec is not None else (None, None)
        if budget.space == "features":  # the media's bounds say nothing of them
            model = self.audio_visual()
            if name not in model.encoders:
                raise DataError(f"the threat attacks features of {name!r}, which the model does not read")
            if budget.needs_time and model.windows.count > 1:
                raise DataError(
                    f"the threat speaks of time in the features of {name!r}, and the model has features of "
                    f"{model.windows.count} windows, each with a time of its own: state the threat on the input"
                )
            raw, raw_axis = clean, time_axis
            bounds, time_axis = None, cast(Encoder, model.encoders[name]).time_axis
            with torch.no_grad():
                clean = model.features(name, raw)
                if time_axis is None or model.windows.count > 1:
                    padded = ()  # no axis of these features is the clip's time
                elif padded:
                    others = model.features(name, _own_replaced(raw, batch_axis(raw, raw_axis), padded))
                    padded = _padded_features(clean, others, time_axis, padded)
        return make_ball(clean, budget, bounds, time_axis, padded)


def _own_replaced(raw: Tensor, axis: int, padded: Sequence[float]) -> Tensor:
    """Clips (B, ...), padded along an axis, with noise in the place of what is their own: the same for all."""
    own = torch.tensor(own_steps(padded, raw.shape[axis]), device=raw.device)
    noise = torch.rand(raw.shape[1:], generator=torch.Generator().manual_seed(0)).to(raw)
    return torch.where(TimeConstraint(axis, raw.shape[axis], own=own).free(raw), noise, raw)


def _padded_features(features: Tensor, others: Tensor, axis: int, padded: Sequence[float]) -> tuple[float, ...]:
    """Of each clip, the share of its features' time, at the end, that its own part has no part in.

    It is asked for, not counted: a frontend may look ahead, or cut and fill up clips by itself.

    Args:
        features: of the clips, (B, ...).
        others: of clips with the same padding and nothing else in common, likewise.
        axis: of time, without the batch.
        padded: the share of each clip's time that is padding.
    """
    changed = (others != features).movedim(batch_axis(features, axis), 1).flatten(2).any(dim=2)
    steps = changed.shape[1]
    ends = (changed * torch.arange(1, steps + 1, device=changed.device)).amax(dim=1).tolist()
    return tuple(1 - end / steps if share else 0.0 for end, share in zip(ends, padded, strict=True))


def _check_bounds(balls: Mapping[str, Ball], ids: tuple[str, ...]) -> None:
    outside, infinite = {}, {}
    for modality, ball in balls.items():
        low, high = ball.limits
        flat = ball.center.flatten(1)
        lowest, highest = flat.amin(dim=1), flat.amax(dim=1)
        infinite[modality] = ~(lowest.isfinite() & highest.isfinite())
        outside[modality] = ~((lowest >= low) & (highest <= high)) | infinite[modality]  # true of NaN, too
    if not torch.stack(list(outside.values())).any():  # one wait for the device, whatever is attacked
        return
    for modality, flags in outside.items():
        if infinite[modality].any():
            raise DataError(
                f"the threat attacks {modality}, but its values are NaN or infinite: "
                f"{first_flagged(ids, infinite[modality])}; leave these clips out, or give them values: NaN may stand "
                "for what a clip lacks only where no threat attacks it"
            )
        if flags.any():
            low, high = balls[modality].limits
            raise DataError(
                f"{modality}: clean clips outside the bounds [{low}, {high}]: {first_flagged(ids, flags)}; "
                "mend the data set, or state the bounds it really has"
            )
