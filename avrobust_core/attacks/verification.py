"""The core's own check of whatever an attack returns: budget, bounds, untouched modalities, success."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from avrobust_core.attacks.attack import AttackResult
from avrobust_core.attacks.bound import BoundVictim
from avrobust_core.data.batches import Batch
from avrobust_core.data.readings import altered
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
        reached: the same on the CPU.
        logits: (B, K) of that pass.
        norms: by attacked modality, (B,) float64, measured again.
        size: (B,) float64, the smallest factor by which the threat must be scaled to hold the result.
    """

    success: Tensor
    reached: Tensor
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
    _check_form(name, bound, result)
    check = _Check(name, bound)
    _check_untouched(check, batch, pristine)
    norms = {modality: _check_modality(check, modality, x, bounded=bounded) for modality, x in result.inputs.items()}
    size = bound.region.size(result.inputs)
    if bounded and bound.region.kind == "shared":
        shared = f"left the shared l2 ball of {', '.join(bound.balls)}"
        check.refuse(size > 1 + NORM_TOLERANCE, lambda: f"{shared} (by a factor of up to {float(size.max()):.6g})")
    try:
        logits = bound.victim.logits({**batch.inputs, **result.inputs}, bound.features)
    except Exception:
        check.read()  # a model may fail on what should not be there
        raise
    # No comparison with NaN holds, so such a clip would pass for robust.
    state = f" as attack {name!r} left it"
    unanswered = partial(refuse_non_finite, bound.victim.model, logits, bound.ids, result.inputs, state=state)
    check.add(~logits.isfinite().all(dim=1), lambda flags: unanswered())
    if bound.victim.samples == 1:  # of a model with randomness of its own, two passes may well disagree
        _check_claims(check, batch, result.success, logits)
    success = bound.goal.reached(logits)
    return Verdict(success=success, reached=check.read(success), logits=logits, norms=norms, size=size)


class _Check:
    """Flags of what is wrong with clips, and what is to be done about it: asked of the device all at once.

    Each question by itself would make the host wait for the device, and the device, then, for the host.

    Args:
        name: the attack's.
        bound: the victim that it was given.
    """

    def __init__(self, name: str, bound: BoundVictim) -> None:
        self.name, self.bound = name, bound
        self._flags: list[Tensor] = []
        self._cures: list[Callable[[Tensor], None]] = []

    def add(self, flags: Tensor, cure: Callable[[Tensor], None]) -> None:
        """Note flags (B,) bool, or one for all clips, and what raises the error if there are any."""
        self._flags.append(flags.expand(len(self.bound)))
        self._cures.append(cure)

    def refuse(self, flags: Tensor, did: str | Callable[[], str]) -> None:
        """Note what the attack did to the clips of these flags, (B,) bool."""

        def violation(found: Tensor) -> None:
            what = did if isinstance(did, str) else did()
            raise AttackViolation(f"attack {self.name!r} {what}: {first_flagged(self.bound.ids, found)}")

        self.add(flags, violation)

    def read(self, *others: Tensor) -> Tensor:
        """Ask the device, and raise the error of the first flags that hold any; of others (B,), the last on the CPU.

        Raises:
            AttackViolation: or whatever a cure raises.
        """
        here = torch.stack([*self._flags, *others]).cpu()
        for found, cure in zip(here, self._cures, strict=False):
            if found.any():
                cure(found)
        last: Tensor = here[-1]
        return last


def _check_untouched(check: _Check, batch: Batch, pristine: Mapping[str, Tensor]) -> None:
    """Refuse an attack, or a model, that wrote into the clean clips."""
    bound = check.bound
    for modality, x in pristine.items():
        changed = altered(x, batch.inputs[modality])
        if modality in bound.balls and modality not in bound.features:
            changed = changed | altered(x, bound.clean[modality])
        check.add(changed, partial(_blame_for_writing, check, modality, pristine))
    for modality in sorted(bound.features):
        check.refuse(bound.balls[modality].altered(), f"changed the clean features of {modality} in place")


def _blame_for_writing(check: _Check, modality: str, pristine: Mapping[str, Tensor], flags: Tensor) -> None:
    del flags
    check.bound.victim.refuse_writes(pristine, set(check.bound.balls))  # then it was the model
    raise AttackViolation(f"attack {check.name!r} changed the clean {modality} of its batch in place")


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


def _check_claims(check: _Check, batch: Batch, claimed: Tensor, logits: Tensor) -> None:
    bound = check.bound
    share = bound.victim.rounding(logits.device)
    tolerance = share * logits.abs().amax(dim=1).clamp(min=1)
    false = claimed & (bound.goal.distance(logits) > tolerance)
    # If any is, it may be the model, whose first batch did not give it away.
    check.add(false, lambda flags: bound.victim.refuse_unsteady(batch))
    claims = "claims success where an independent forward pass finds that the goal is not reached"
    if not bound.exact:
        claims += (
            f" (its own passes are {bound.victim.precision}, this one is in float32: unless `victim.exact`, look at "
            "what succeeded again with `victim.confirm`, and claim what that finds)"
        )
    check.refuse(false, claims)


def _check_modality(check: _Check, modality: str, x: Tensor, *, bounded: bool) -> Tensor:
    ball = check.bound.balls[modality]
    clean = ball.center
    if x.shape != clean.shape or x.dtype != clean.dtype or x.device != clean.device:
        raise AttackViolation(
            f"attack {check.name!r} returned {modality} as {x.dtype} {tuple(x.shape)} on {x.device}, "
            f"not as {clean.dtype} {tuple(clean.shape)} on {clean.device}"
        )
    check.refuse(~torch.isfinite(x).flatten(1).all(dim=1), f"returned non-finite {modality}")
    why = "what its file is too short to hold stays as it is"
    check.refuse(ball.overruns(x), f"changed the padding of {modality} ({why})")
    norm = ball.measure(x)
    if bounded:
        left = f"left the {ball.norm} ball of {modality}"
        check.refuse(
            norm > ball.radius * (1 + NORM_TOLERANCE),
            lambda: f"{left} (by up to {float((norm - ball.radius).max()):.3g})",
        )
        how = "where, or in a way that, the budget does not allow (frames, time_invariant, cap)"
        check.refuse(ball.strays(x), f"changed {modality} {how}")
    low, high = ball.limits
    outside = ((x < low) | (x > high)).flatten(1).any(dim=1)
    check.refuse(outside, f"returned {modality} outside the bounds [{low}, {high}]")
    return norm
