"""Any attack, among the points that a media file can keep: 16-bit samples of sound, 8 bits of a picture's colours."""

from collections.abc import Mapping

import torch

from avrobust_attacks.rounded.configs import RoundedConfig
from avrobust_core import (
    GRID_TOLERANCE,
    Attack,
    AttackResult,
    AvrobustError,
    BoundVictim,
    Grid,
    Inputs,
    Occasion,
    Passes,
    Region,
    grid_of,
    where_clips,
)

SHARES = (0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0)
"""The shares of a perturbation that are tried, one after the other, where the rounded clip leaves the region."""


class Rounded(Attack):
    """An attack that sees the model through a file, so that what it finds is still found once it is saved.

    The model is asked about rounded points only, and gradients pass the rounding by. Every value goes to the nearest
    one of the file's between it and the clean one, so that no norm grows. Values that are as in the clean clip go to
    the nearest. Where the clean clip is not on the file's grid, that alone may use up a small radius: the perturbation
    is then shortened, until the rounded clip is inside. What is returned succeeds both as it is and once more rounded.

    It attacks in linf and l2. Modalities that are not attacked are not rounded, nor are those whose bounds are not
    known. A start of the victim's and `last` are the inner attack's.

    Args:
        attack: that searches.

    Raises:
        AvrobustError: if it must see clips first, takes no notice of the radius, or attacks in neither linf nor l2.
    """

    def __init__(self, attack: Attack) -> None:
        if attack.preparation is not None or not attack.bounded:
            why = "must see a whole set of clips first" if attack.preparation else "takes no notice of the radius"
            raise AvrobustError(f"rounded cannot search with this attack: it {why}; name another one")
        self.attack = attack
        self.minimal = attack.minimal
        # In l1 and l0 few samples may change, and to round the others is a change, too.
        self.norms = attack.norms & {"linf", "l2"}  # type: ignore[misc]
        if not self.norms:
            raise AvrobustError(
                f"rounded searches in linf and l2, and this attack in {', '.join(sorted(attack.norms))}: name another"
            )

    def passes(self, occasion: Occasion) -> Passes | None:
        """The attack's own, and two looks at what it found."""
        found = self.attack.passes(occasion)
        return None if found is None else found + Passes(2)

    @torch.no_grad()
    def __call__(self, victim: BoundVictim) -> AttackResult:
        """Attack the clips of `victim`; see the class.

        Raises:
            AvrobustError: if features are attacked, or the perturbation must be the same at all times.
        """
        if victim.features:
            raise AvrobustError("rounded: the threat attacks features, which no media file keeps; attack the input")
        if any(ball.time is not None and ball.time.invariant for ball in victim.balls.values()):
            raise AvrobustError("rounded: a time_invariant change is no longer the same at all times once rounded")
        grids = {name: grid for name in victim.balls if (grid := _grid_of(victim, name)) is not None}
        seen = victim.seen_after(lambda region, x: _on_grid(grids, region, x))
        found = self.attack(seen.limited_to(self.attack.access))
        inputs = _inside(grids, victim.region, found.inputs)
        saved = {name: grids[name].nearest(x) if name in grids else x for name, x in inputs.items()}
        success = victim.fooled(victim.confirm(inputs)) & victim.fooled(victim.confirm(saved))
        if victim.settles:
            inputs = where_clips(success, inputs, victim.clean)
        return AttackResult(inputs, success, found.trace, found.last)


def rounded(config: RoundedConfig) -> Rounded:
    """The attack that is named, on the grids of files."""
    return Rounded(config.attack.build())


def _grid_of(victim: BoundVictim, name: str) -> Grid | None:
    media = victim.victim.media.get(name)
    return None if media is None else grid_of(media)


def _on_grid(grids: Mapping[str, Grid], region: Region, x: Inputs) -> dict[str, torch.Tensor]:
    clean = region.clean
    return {name: grids[name].towards(each, clean[name]) if name in grids else each for name, each in x.items()}


def _inside(grids: Mapping[str, Grid], region: Region, x: Inputs) -> dict[str, torch.Tensor]:
    """`x` (B, ...) on the grids and inside the region; off the grids by a rounding of float32, or where it must be."""
    clean = region.clean
    found = _on_grid(grids, region, x)
    for share in SHARES:
        outside = region.size(found) > 1 + GRID_TOLERANCE
        if not outside.any():
            break
        shorter = {name: clean[name] + share * (each - clean[name]) for name, each in x.items()}
        found = where_clips(outside, _on_grid(grids, region, shorter), found)
    return region.project(found)
