"""Any attack, kept below what is heard and seen."""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from avrobust_core import (
    Attack,
    AttackResult,
    AvrobustError,
    AvrobustWarning,
    BoundVictim,
    Inputs,
    Occasion,
    Passes,
    Region,
    where_clips,
)
from avrobust_perceptual.configs import ImperceptibleConfig, Limits
from avrobust_perceptual.limiting import Limiter, drawn_back, limiter_of, rate_of


class Imperceptible(Attack):
    """An attack whose perturbations keep to perceptual limits beside the threat's budget.

    The model is asked about points inside the limits only, and gradients pass the way there by (Athalye et al. 2018,
    "straight through"). Sound: what is above the masking threshold of the clean clip is turned down, bin by bin.
    Pictures: the perturbation is shortened until SSIM and flicker hold. The factors of a curve scale the threat's
    radii, not the limits. A start of the victim's and `last` are the inner attack's.

    Args:
        attack: that searches.
        limits: by modality.
        rate: of sound whose rate the data set does not state, in Hz.

    Raises:
        AvrobustError: if the attack must see clips first, takes no notice of the radius, or looks for the smallest
            perturbation, whose size the limits would change.
    """

    def __init__(self, attack: Attack, limits: Mapping[str, Limits], rate: float | None = None) -> None:
        reasons = {
            "must see a whole set of clips first": attack.preparation is not None,
            "takes no notice of the radius": not attack.bounded,
            "looks for the smallest perturbation, which is another question": attack.minimal,
        }
        for reason, holds in reasons.items():
            if holds:
                raise AvrobustError(f"imperceptible cannot search with this attack: it {reason}; name another one")
        self.attack = attack
        self.limits = limits
        self.rate = rate
        # To shorten a perturbation leaves an l0 one what it is, but not one that counts frames of sound once filtered.
        self.norms = attack.norms - {"l0"}  # type: ignore[misc]
        if not self.norms:
            raise AvrobustError("imperceptible does not attack in l0, and this attack in nothing else: name another")

    def passes(self, occasion: Occasion) -> Passes | None:
        """The attack's own, and a look at what it found."""
        found = self.attack.passes(occasion)
        return None if found is None else found + Passes(1)

    @torch.no_grad()
    def __call__(self, victim: BoundVictim) -> AttackResult:
        """Attack the clips of `victim`; see the class.

        Raises:
            AvrobustError: if a modality with limits is attacked in features, is not what its limits speak of, or is
                sound of unknown rate.
        """
        unknown = sorted(self.limits.keys() - victim.victim.media.keys())
        if unknown:
            known = ", ".join(sorted(victim.victim.media))
            warnings.warn(
                f"imperceptible: limits of {', '.join(unknown)} bind nothing: the data set has {known}",
                AvrobustWarning,
                stacklevel=2,
            )
        limits = {name: self.limits[name] for name in victim.balls if name in self.limits}
        if unheard := sorted(victim.features & limits.keys()):
            raise AvrobustError(
                f"imperceptible: the threat attacks features of {', '.join(unheard)}, which nobody hears or sees; "
                "attack the input"
            )
        within = _Within(limits, {name: rate_of(victim.victim.media, name, self.rate) for name in limits})
        found = self.attack(victim.seen_after(within))
        inputs = within(victim.region, found.inputs)
        success = victim.fooled(victim.confirm(inputs))
        if victim.settles:
            inputs = where_clips(success, inputs, victim.clean)
        return AttackResult(inputs, success, found.trace, found.last)


class _Within:
    """From points of a region to such that hold the limits; what it knows of the last clips it keeps.

    Args:
        limits: by modality.
        rates: of the sample, by modality.
    """

    def __init__(self, limits: Mapping[str, Limits], rates: Mapping[str, float | None]) -> None:
        self._limits = limits
        self._rates = rates
        self._known: dict[str, tuple[Tensor, Limiter]] = {}

    def __call__(self, region: Region, x: Inputs) -> dict[str, Tensor]:
        clean = region.clean
        return drawn_back(region, {name: self._limiter(name, clean[name]) for name in self._limits}, x)

    def _limiter(self, name: str, clean: Tensor) -> Limiter:
        known = self._known.get(name)
        if known is None or known[0] is not clean:  # an attack goes on with fewer clips, which are another tensor
            known = (clean, limiter_of(name, clean, self._limits[name], self._rates[name]))
            self._known[name] = known
        return known[1]


def imperceptible(config: ImperceptibleConfig) -> Imperceptible:
    """The attack that is named, inside the limits."""
    return Imperceptible(config.attack.build(), config.limits, config.rate)
