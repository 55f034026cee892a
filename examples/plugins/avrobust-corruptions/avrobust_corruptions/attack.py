"""`corruption`: the attacked modalities as they would be in the rain, in a crowd, ... at the price of two queries."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from avrobust_core import (
    Attack,
    AttackResult,
    AvrobustError,
    Ball,
    BoundVictim,
    MediaSpec,
    Occasion,
    Passes,
    where_clips,
)
from avrobust_corruptions.configs import CorruptionConfig
from avrobust_corruptions.kinds import KINDS
from avrobust_corruptions.scene import DEFAULT_RATE, MOMENTS, Scene


class Corruption(Attack):
    """Sound and picture of every clip corrupted at once, whatever the threat's radius.

    A clip's corruption depends on the study's seed, the clip's id, the kind and the severity, and on nothing else; its
    severities are of the same events. The threat names the modalities; where it names both, what is heard and what is
    seen come of one course of events.

    Every clip is returned as the corruption left it, but for those that the model gets right with it and without: there
    the clean clip stands, as for every attack that failed, and the prediction is as right. So the column `correct` of a
    cell's samples is the plain accuracy on corrupted clips, lucky ones included. The report's robust accuracy counts
    clips that are right both clean and corrupted, as it does for every attack.

    Args:
        config: kind and severity.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1", "l0"})
    bounded = False

    def __init__(self, config: CorruptionConfig) -> None:
        self.config = config

    def passes(self, occasion: Occasion) -> Passes:
        """One look at the corrupted clip; where a success settles a clip, one at the clean clip besides."""
        return Passes(2 if occasion.settles else 1)

    @torch.no_grad()
    def __call__(self, victim: BoundVictim) -> AttackResult:
        """Corrupt the clips of `victim`; see the class.

        Raises:
            AvrobustError: if a modality is neither sound nor pictures, is attacked as features, or has no bounds.
        """
        corrupted = self.corrupt(victim)
        success = victim.fooled(victim.confirm(corrupted))
        if not victim.settles:
            return AttackResult(corrupted, success)
        wrong = victim.fooled(victim.confirm(victim.clean))
        return AttackResult(where_clips(success | wrong, corrupted, victim.clean), success)

    def corrupt(self, victim: BoundVictim) -> dict[str, Tensor]:
        """The attacked modalities after the corruption, within their bounds, padding as it was: each (B, ...).

        Raises:
            AvrobustError: as a call.
        """
        config, found = self.config, {}
        purpose = f"corruption/{config.kind}"  # the same events at every severity, only stronger
        course = smooth(victim.draws(f"{purpose}/course").uniform(MOMENTS))
        for name, ball in victim.balls.items():
            media = self._media(victim, name)
            scene = Scene(
                severity=config.severity,
                course=course,
                draws=lambda what, own=f"{purpose}/{name}": victim.draws(f"{own}/{what}"),  # type: ignore[misc]
                rate=media.rate or DEFAULT_RATE,
            )
            found[name] = _corrupted(ball, media, scene, config)
        return found

    def _media(self, victim: BoundVictim, name: str) -> MediaSpec:
        media = victim.victim.media.get(name)
        if media is None or media.kind not in ("audio", "video"):
            kind = "nothing is known" if media is None else f"the kind is {media.kind!r}"
            raise AvrobustError(
                f"corruption corrupts media of the kinds 'audio' and 'video', and of {name} {kind}: leave it out of "
                "the threat, or state its MediaSpec"
            )
        if name in victim.features:
            raise AvrobustError(
                f"corruption corrupts raw sound and pictures, and the threat attacks features of {name}: drop "
                "`space: features` from its budget"
            )
        if not all(map(math.isfinite, victim.balls[name].limits)):
            raise AvrobustError(
                f"corruption needs to know what full scale is, and {name} has no bounds: state `bounds` in its budget, "
                "or in the data set's MediaSpec"
            )
        return media


def smooth(course: Tensor) -> Tensor:
    """A course (B, n) in [0, 1) without its jumps: each moment the mean of itself and its neighbours."""
    padded = torch.cat((course[:, :1], course, course[:, -1:]), dim=1)
    return (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) / 3


def _corrupted(ball: Ball, media: MediaSpec, scene: Scene, config: CorruptionConfig) -> Tensor:
    clean = ball.center
    low, high = ball.limits
    kind, own = KINDS[config.kind], _own_share(ball)
    if media.kind == "audio":
        middle, half = (low + high) / 2, (high - low) / 2
        x = (clean - middle) / half
        new = kind.sound(x.reshape(len(x), -1, x.shape[-1]), scene, own).reshape(x.shape) * half + middle
    else:
        x = (clean - low) / (high - low)
        new = kind.picture(x.reshape(_as_video(x)), scene).reshape(x.shape) * (high - low) + low
    new = new.to(clean).clamp(low, high)
    if ball.time is not None and ball.time.partial:
        new = torch.where(ball.time.free(clean), new, clean)
    return new.contiguous()


def _own_share(ball: Ball) -> Tensor | None:
    """The share of each clip's time that is its own, (B,) float32; None where no clip is padded."""
    if ball.time is None or ball.time.own is None:
        return None
    return ball.time.own.float() / ball.center.shape[ball.time.axis]


def _as_video(x: Tensor) -> tuple[int, ...]:
    """The shape (B, C, T, H, W) of pictures (B, C, T, H, W), (B, C, H, W), (B, H, W) or (B, W)."""
    clips, *shape = x.shape
    if len(shape) == 3:
        shape.insert(1, 1)
    ones = [1] * (4 - len(shape))
    return (clips, *ones, *shape)
