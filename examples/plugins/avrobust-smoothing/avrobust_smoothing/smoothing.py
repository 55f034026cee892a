"""A classifier smoothed by noise: how often each class comes first for a clip under Gaussian noise of its own."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from avrobust_core import AvrobustError, ClipDraws, derive_seed

Forward = Callable[[Mapping[str, Tensor]], Tensor]
"""From raw inputs by modality, (b, ...), to logits (b, K)."""


class Smoothed:
    """The classes of clips under Gaussian noise; each draw of each clip has random numbers of its own.

    Neither the order of the clips, nor how many draws go through the model at once, nor how many there are in all
    changes what a draw is.

    Args:
        forward: the base classifier.
        sigma: standard deviation of the noise by modality, in its units. Noisy inputs are not cut at the media's
            bounds: a model that does so by itself is certified with it.
        seed: of the noise.
        batch_size: noisy clips in one pass.
    """

    def __init__(self, forward: Forward, sigma: Mapping[str, float], *, seed: int, batch_size: int) -> None:
        self.forward = forward
        self.sigma = dict(sigma)
        self.seed = seed
        self.batch_size = batch_size

    @torch.no_grad()
    def counts(self, inputs: Mapping[str, Tensor], clip_id: str, purpose: str, draws: int) -> Tensor:
        """How often each class comes first: (K,) int64 on the CPU, with a sum of `draws`.

        Args:
            inputs: one clip by modality, (1, ...).
            clip_id: whose random numbers.
            purpose: sets these draws apart from others of the clip.
            draws: how many.

        Raises:
            AvrobustError: if a logit is not finite.
        """
        total: Tensor | None = None
        for first in range(0, draws, self.batch_size):
            numbers = range(first, min(first + self.batch_size, draws))
            logits = self.forward(self.noisy(inputs, clip_id, purpose, numbers))
            if not bool(logits.isfinite().all()):
                raise AvrobustError(
                    f"the model's logits are not finite for clip {clip_id!r} under noise of {self.sigma}: a smaller "
                    "sigma may help, or a model that was trained with noise"
                )
            found = torch.bincount(logits.argmax(dim=1), minlength=logits.shape[1]).cpu()
            total = found if total is None else total + found
        assert total is not None
        return total

    def noisy(self, inputs: Mapping[str, Tensor], clip_id: str, purpose: str, numbers: range) -> dict[str, Tensor]:
        """A clip under some of its draws: by modality, (len(numbers), ...); those without a sigma as they are."""
        found = {}
        for name, x in inputs.items():
            several = x.expand(len(numbers), *x.shape[1:])
            if name in self.sigma:
                seeds = [derive_seed(self.seed, clip_id, f"{purpose}/{name}/{number}") for number in numbers]
                several = several + self.sigma[name] * gaussian(ClipDraws(seeds, x.device), x.shape[1:])
            found[name] = several
        return found


def gaussian(draws: ClipDraws, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers, (B, *shape) float32, by Box and Muller (1958) from uniform ones of 24 bits.

    They end at 5.8 standard deviations, beyond which one in 10^8 should lie. (`ClipDraws.noise` has 2^16 values and
    ends at 4.3, fine for an attack's directions; what is certified here rests on the noise being normal.)
    """
    samples = math.prod(shape)
    pairs = -(-samples // 2)
    length, angle = draws.uniform(2, pairs).unbind(dim=1)
    # 1 - u lies in (0, 1], so that the logarithm is finite; `log1p` keeps what is near 0.
    length = (-2 * torch.log1p(-length)).sqrt()
    angle = (2 * math.pi) * angle
    found = torch.cat((length * angle.cos(), length * angle.sin()), dim=1)[:, :samples]
    return found.reshape(len(draws), *shape)
