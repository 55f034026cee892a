"""The findings of the audit's checks, and the remedy for each kind of failure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

Status = Literal["passed", "failed", "not applicable"]

REMEDIES: Final[Mapping[str, str]] = {
    "probabilities": "return the logits before the last softmax or sigmoid",
    "class-order": "give the model's classes in the order of the targets, or the targets in the model's",
    "loader": "give the same clips, in the same order and without random transforms, at every reading",
    "randomness": "set evaluation.samples (evaluate: samples) to 8 or more, so that attacks face the mean of as "
    "many draws; or switch the randomness off",
    "modality-use": "claim nothing of attacks on this modality: the model decides without it",
    "inert-attack": "see that the attack is given the victim, moves its inputs and returns them",
    "inert-switch": "see that the attack moves every modality of its threat, and returns what it moved",
    "finite-gradient": "look for a division by 0, a log of 0 or a square root at 0 in the model",
    "zero-gradient": "attack with a smooth stand-in for the step that rounds, detaches or leaves torch (BPDA), or "
    "without gradients (square)",
    "gradient-truth": "correct the step whose backward pass is not the derivative of its forward pass, or attack "
    "without gradients (square)",
    "saturation": "attack the logits before the step that saturates, with `loss: margin` or `dlr`",
    "convergence": "give the attack more steps and restarts, or longer steps, or use apgd or an ensemble",
    "single-step": "the iterations do worse than their first step should: look at step size, projection and sign",
    "noise": "an attack that random noise beats does not work: look at its loss, its sign and its gradients",
    "black-box": "gradients mislead here, or too few steps were taken: attack with a smooth stand-in (BPDA), or "
    "without gradients (square)",
    "unbounded": "gradients mislead even without a limit: attack with a smooth stand-in (BPDA), or with square",
    "monotone": "report the smaller number, and give the attack more steps at the larger budget",
    "nesting": "report the smaller number: an attack on more modalities may do all that one on fewer does",
    "budget": "do not use the number: the perturbation is larger than the threat allows",
    "rounding": "attack the file format's own grid of values, or say that the perturbations exist in float32 only",
}
"""By check, what to do where it fails; docs/audit.md describes each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question that the audit has asked.

    Attributes:
        check: its name, a key of `REMEDIES`.
        status: what came out.
        message: what was found, with figures; or why the question could not be asked.
        attack, threat: whose number it is about; None for all.
        modality: the one that it is about; None for all.
        clips: the ids of the clips that speak against the number.
        figures: what the verdict rests on.
    """

    check: str
    status: Status
    message: str
    attack: str | None = None
    threat: str | None = None
    modality: str | None = None
    clips: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        remedy = {"remedy": REMEDIES[self.check]} if self.status == "failed" else {}
        return asdict(self) | {"clips": list(self.clips)} | remedy


def judged(
    check: str, failed: bool, finding: str, otherwise: str, *, clips: tuple[str, ...] = (), **about: Any
) -> Check:
    """The answer to a question: `finding`, with the clips that it names, if the check failed, else `otherwise`.

    Args:
        check: its name.
        failed: whether the number cannot be believed.
        finding: the message where it failed.
        otherwise: the message where it passed.
        clips: those that speak against the number.
        about: further attributes of the check.
    """
    if failed:
        return Check(check=check, status="failed", message=finding, clips=clips, **about)
    return Check(check=check, status="passed", message=otherwise, **about)


def not_applicable(check: str, why: str, *, attack: str | None = None, threat: str | None = None) -> Check:
    """A question that could not be asked."""
    return Check(check=check, status="not applicable", message=why, attack=attack, threat=threat)
