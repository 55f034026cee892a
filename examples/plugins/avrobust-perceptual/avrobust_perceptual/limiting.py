"""Limits of one modality, and points of a region drawn back until they hold them."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from avrobust_core import AvrobustError, MediaSpec, Region, per_clip
from avrobust_perceptual.configs import Limits
from avrobust_perceptual.masking import Masking, Threshold
from avrobust_perceptual.pictures import flicker, ssim

HALVINGS = 12
"""Steps of the search for the longest perturbation that is similar enough: to 1 / 4096 of its length."""

SAFETY = 1e-3
"""The share of a limit, or the dB, that rounding to float32 may use up."""


class Limiter(Protocol):
    """The limits of one modality of one batch of clips."""

    def shaped(self, x: Tensor) -> Tensor:
        """Points (B, ...) moved towards what the limits allow; they need not hold them yet."""

    def factor(self, x: Tensor) -> Tensor:
        """The factor in [0, 1] of the perturbations of `x` at which the limits hold: (B,) float64."""


class SoundLimiter:
    """Keeps a perturbation below the masking threshold of its clip.

    Args:
        clean: (B, ..., T).
        masking: for the sound's rate.
        excess_db: how far above the threshold anything may be.
    """

    def __init__(self, clean: Tensor, masking: Masking, excess_db: float) -> None:
        self.clean = clean
        self.masking = masking
        self.excess_db = excess_db - SAFETY
        self.threshold: Threshold = masking.threshold(clean)

    def shaped(self, x: Tensor) -> Tensor:
        quieter = self.masking.below(x.double() - self.clean, self.threshold, self.excess_db)
        return (self.clean + quieter).to(x.dtype)

    def factor(self, x: Tensor) -> Tensor:
        return self.masking.shrink(x.double() - self.clean, self.threshold, self.excess_db)


class PictureLimiter:
    """Keeps pictures similar to those of the clean clip, and a perturbation still enough.

    Args:
        clean: (B, C, T, H, W) in [0, 1].
        least_ssim: the lowest similarity; None for any.
        most_flicker: in 8-bit steps; None for any.
    """

    def __init__(self, clean: Tensor, least_ssim: float | None, most_flicker: float | None) -> None:
        self.clean = clean
        self.least_ssim = None if least_ssim is None else least_ssim + (1 - least_ssim) * SAFETY
        self.most_flicker = None if most_flicker is None else most_flicker * (1 - SAFETY)

    def shaped(self, x: Tensor) -> Tensor:
        return x

    def factor(self, x: Tensor) -> Tensor:
        change = x.double() - self.clean
        found = torch.ones(len(x), dtype=torch.float64, device=x.device)
        if self.most_flicker is not None:
            found = found.minimum(self.most_flicker / flicker(change).clamp(min=1e-12))
        if self.least_ssim is not None:
            found = longest_similar(self.clean, change, self.least_ssim, found)
        return found


def longest_similar(clean: Tensor, change: Tensor, least: float, longest: Tensor) -> Tensor:
    """The factor up to `longest`, found by halving, at which a change leaves pictures similar enough.

    Args:
        clean: (B, C, T, H, W) in [0, 1].
        change: likewise, float64.
        least: the lowest similarity.
        longest: (B,) float64.

    Returns:
        (B,) float64: at each of these the similarity was looked at, or it is 0.
    """

    def enough(factor: Tensor) -> Tensor:
        return ssim(clean, clean + per_clip(factor, change) * change) >= least

    whole = enough(longest)
    low, high = torch.zeros_like(longest), longest
    for _ in range(0 if bool(whole.all()) else HALVINGS):
        middle = (low + high) / 2
        holds = enough(middle)
        low, high = torch.where(holds, middle, low), torch.where(holds, high, middle)
    return torch.where(whole, longest, low)


def limiter_of(name: str, clean: Tensor, limits: Limits, rate: float | None) -> Limiter:
    """The limiter of a modality.

    Args:
        name: of the modality, for errors.
        clean: (B, ...).
        limits: of it.
        rate: of sound, in Hz.

    Raises:
        AvrobustError: if it is nothing that the limits speak of, or the sample rate is not known.
    """
    if limits.excess_db is not None:
        return SoundLimiter(clean, masking_of(name, rate), limits.excess_db)
    refuse_no_pictures(name, clean)
    return PictureLimiter(clean, limits.ssim, limits.flicker)


def masking_of(name: str, rate: float | None) -> Masking:
    """The masking in sound of a rate in Hz.

    Raises:
        AvrobustError: if its sample rate is not known or too low.
    """
    if rate is None:
        raise AvrobustError(f"the sample rate of {name} is not known: give `rate`, in Hz, or a data set that states it")
    try:
        return Masking(rate)
    except ValueError as error:
        raise AvrobustError(f"{name}: {error}") from error


def refuse_no_pictures(name: str, x: Tensor) -> None:
    """Raise an AvrobustError unless these are clips of pictures (B, C, T, H, W)."""
    if x.dim() != 5:
        raise AvrobustError(
            f"SSIM and flicker are of pictures (B, C, T, H, W), and {name} has the shape {tuple(x.shape)}"
        )


def rate_of(media: Mapping[str, MediaSpec], name: str, stated: float | None) -> float | None:
    """The sample rate of a modality: what the data set states, or else what the configuration does.

    Raises:
        AvrobustError: if the two contradict each other.
    """
    known = media[name].rate if name in media else None
    if known is not None and stated is not None and known != stated:
        raise AvrobustError(
            f"rate: {stated:g} Hz are stated, but {name} of the data set has {known:g} Hz; leave `rate` out"
        )
    return stated if known is None else known


def drawn_back(region: Region, limiters: Mapping[str, Limiter], x: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Points inside the region and all limits: shaped, projected, and each perturbation shortened where it must be.

    A shorter perturbation stays inside: regions and bounds are convex, and hold the clean clip.
    """
    shaped = {name: limiters[name].shaped(each) if name in limiters else each for name, each in x.items()}
    inside = region.project(shaped)
    found = dict(inside)
    for name, limiter in limiters.items():
        clean, new = region.clean[name], inside[name]
        factor = limiter.factor(new)
        shorter = (clean + per_clip(factor, new) * (new.double() - clean)).to(new.dtype)
        found[name] = torch.where(per_clip(factor < 1, new), shorter, new)
    return found
