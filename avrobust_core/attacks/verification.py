"""The core's own check of whatever an attack returns: budget, bounds, untouched modalities, success."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from avrobust_core.attacks.attack import AttackResult
from avrobust_core.attacks.bound import BoundVictim
from avrobust_core.data.batches import Batch
from avrobust_core.data.readings import same_bits
from avrobust_core.errors import AttackViolation
from avrobust_core.models.answers import refuse_non_finite
from avrobust_core.threats.clips import first_flagged

NORM_TOLERANCE = 1e-6
"""A norm may exceed its radius by this share: the rounding of float64 sums, nothing more."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The core's findings of its check of an attack's result.

    Attributes:
        success: (B,) bool, whether the goal is reached, by an independent forward pass of the whole model.
        logits: (B, K) of that pass.
        norms: by attacked modality, (B,) float64, measured again.
        size: (B,) float64, the smallest factor by which the threat must be scaled to hold the result.
    """

    success: Tensor
    logits: Tensor
    norms: dict[str, Tensor]
    size: Tensor


def verify(
    name: str,
    batch: Batch,
    pristine: Mapping[str, Tensor],
    bound: BoundVictim,
    result: AttackResult,
    *,
    bounded: bool = True,
) -> Verdict:
    """Check one attack's result on one batch.

    Args:
        name: the attack's, for the error.
        batch: what was attacked; no other tensors of it than these are given to the model.
        pristine: the same inputs, apart from what model and attack were given.
        bound: the victim bound to `batch`, as given to the attack.
        result: what the attack returned.
        bounded: whether the result must lie inside the region; bounds and untouched modalities are checked anyway.

    Raises:
        AttackViolation: names the attack, the modality, the clips and the excess.
        ModelError: if it was the model that wrote into the clips, or if its logits are NaN or infinite on the result.
    """
    _check_untouched(name, batch, pristine, bound)
    _check_form(name, bound, result)
    norms = {
        modality: _check_modality(name, modality, bound, x, bounded=bounded) for modality, x in result.inputs.items()
    }
    size = bound.region.size(result.inputs)
    if bounded and bound.region.kind == "shared":
        excess = f"(by a factor of up to {float(size.max()):.6g})"
        _reject(name, bound, size > 1 + NORM_TOLERANCE, f"left the shared l2 ball of {', '.join(bound.balls)} {excess}")
    logits = bound.victim.logits({**batch.inputs, **result.inputs}, bound.features)
    # No comparison with NaN holds, so such a clip would pass for robust.
    refuse_non_finite(bound.victim.model, logits, bound.ids, result.inputs, state=f" as attack {name!r} left it")
    if bound.victim.samples == 1:  # of a model with randomness of its own, two passes may well disagree
        _check_claims(name, batch, bound, result.success, logits)
    return Verdict(success=bound.goal.reached(logits), logits=logits, norms=norms, size=size)


def _check_untouched(name: str, batch: Batch, pristine: Mapping[str, Tensor], bound: BoundVictim) -> None:
    """Refuse an attack, or a model, that wrote into the clean clips."""
    for modality, x in pristine.items():
        clean = bound.clean[modality] if modality in bound.balls and modality not in bound.features else x
        if not same_bits(x, batch.inputs[modality]) or not same_bits(x, clean):
            bound.victim.refuse_writes(pristine, set(bound.balls))  # then it was the model
            raise AttackViolation(f"attack {name!r} changed the clean {modality} of its batch in place")
    for modality in sorted(bound.features):
        _reject(name, bound, bound.balls[modality].altered(), f"changed the clean features of {modality} in place")


def _check_form(name: str, bound: BoundVictim, result: AttackResult) -> None:
    """Refuse a result that lacks a modality, has one too many, or says success in another form."""
    extra = sorted(set(result.inputs) - set(bound.balls))
    if extra:
        raise AttackViolation(
            f"attack {name!r} returned {', '.join(extra)}, which the threat does not allow it to touch"
        )
    absent = sorted(set(bound.balls) - set(result.inputs))
    if absent:
        raise AttackViolation(f"attack {name!r} did not return the attacked modality {', '.join(absent)}")
    if tuple(result.success.shape) != (len(bound),) or result.success.dtype != torch.bool:
        raise AttackViolation(
            f"attack {name!r} returned success as {result.success.dtype} of shape {tuple(result.success.shape)}, "
            f"not as torch.bool of shape ({len(bound)},)"
        )


def _check_claims(name: str, batch: Batch, bound: BoundVictim, claimed: Tensor, logits: Tensor) -> None:
    share = bound.victim.rounding(logits.device)
    tolerance = share * logits.abs().amax(dim=1).clamp(min=1)
    false = claimed & (bound.goal.distance(logits) > tolerance)
    if false.any():
        bound.victim.refuse_unsteady(batch)  # then it was the model, whose first batch did not give it away
    _reject(name, bound, false, "claims success where an independent forward pass finds that the goal is not reached")


def _check_modality(name: str, modality: str, bound: BoundVictim, x: Tensor, *, bounded: bool) -> Tensor:
    ball = bound.balls[modality]
    clean = ball.center
    if x.shape != clean.shape or x.dtype != clean.dtype or x.device != clean.device:
        raise AttackViolation(
            f"attack {name!r} returned {modality} as {x.dtype} {tuple(x.shape)} on {x.device}, "
            f"not as {clean.dtype} {tuple(clean.shape)} on {clean.device}"
        )
    _reject(name, bound, ~torch.isfinite(x).flatten(1).all(dim=1), f"returned non-finite {modality}")
    why = "what its file is too short to hold stays as it is"
    _reject(name, bound, ball.overruns(x), f"changed the padding of {modality} ({why})")
    norm = ball.measure(x)
    if bounded:
        beyond, worst = norm > ball.radius * (1 + NORM_TOLERANCE), float((norm - ball.radius).max())
        _reject(name, bound, beyond, f"left the {ball.norm} ball of {modality} (by up to {worst:.3g})")
        how = "where, or in a way that, the budget does not allow (frames, time_invariant, cap)"
        _reject(name, bound, ball.strays(x), f"changed {modality} {how}")
    low, high = ball.limits
    outside = ((x < low) | (x > high)).flatten(1).any(dim=1)
    _reject(name, bound, outside, f"returned {modality} outside the bounds [{low}, {high}]")
    return norm


def _reject(name: str, bound: BoundVictim, bad: Tensor, did: str) -> None:
    if bad.any():
        raise AttackViolation(f"attack {name!r} {did}: {first_flagged(bound.ids, bad)}")
