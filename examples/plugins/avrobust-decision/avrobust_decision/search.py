"""What is known of a search by labels alone: the smallest change of each clip that has reached the goal so far."""

import torch
from torch import Tensor

from avrobust_core import BoundVictim, Inputs, select_inputs, where_clips


class Search:
    """Asks for labels, and keeps of each clip the smallest point that reaches the goal.

    Attributes:
        victim: all clips.
        best: by attacked modality, (B, ...); the clean clips at first.
        size: (B,) float64: of `best`, as the region measures it; infinite where nothing has reached the goal.
    """

    def __init__(self, victim: BoundVictim) -> None:
        self.victim = victim
        self.best = {name: x.clone() for name, x in victim.clean.items()}
        self.size = torch.full((len(victim),), torch.inf, dtype=torch.float64, device=victim.device)

    @property
    def known(self) -> Tensor:
        """Positions of the clips with a point to go on from, a change of some size: int64 on the CPU."""
        return ((self.size > 0) & self.size.isfinite()).nonzero().squeeze(1).cpu()

    def ask(self, clips: Tensor, part: BoundVictim, x: Inputs) -> Tensor:
        """Ask about points, one query of each, and keep those that are the best of their clips.

        Args:
            clips: (b,) int64 on the CPU: whose points they are, among all; a clip may have several.
            part: the victim of these.
            x: by attacked modality, (b, ...).

        Returns:
            (b,) bool: the goal is reached.
        """
        reached = part.fooled(part.labels(x))
        size = torch.where(reached, part.region.size(x), torch.inf)
        clips = clips.to(size.device)
        least = torch.full_like(self.size, torch.inf).scatter_reduce(0, clips, size, "amin")
        places = torch.arange(len(size), device=size.device)
        is_best = reached & (size == least[clips]) & (size < self.size[clips])
        # Of equals the first, so that nothing depends on how a device orders writes.
        first = clips.new_full((len(self.size),), len(size)).scatter_reduce(
            0, clips, torch.where(is_best, places, len(size)), "amin"
        )
        found = (first < len(size)).nonzero().squeeze(1)
        chosen = first[found]
        for name, best in self.best.items():
            best.index_copy_(0, found, x[name].index_select(0, chosen).to(best.dtype))
        self.size.index_copy_(0, found, size.index_select(0, chosen))
        return reached

    def bisect(self, clips: Tensor, at: Inputs, looks: int) -> None:
        """Shrink points that reach the goal: halve the size to which the region cuts them, as the label allows.

        In l2 the cut is the segment to the clean clip, in linf all that is longer is made as long as the size.

        Args:
            clips: (b,) int64 on the CPU, each once.
            at: by attacked modality, (b, ...); not to be changed.
            looks: how often.
        """
        part = self.victim.select(clips)
        high = part.region.size(at)
        low = torch.zeros_like(high)
        for _ in range(looks):
            middle = (low + high) / 2
            reached = self.ask(clips, part, part.region.within(at, middle))
            low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)

    def within_reach(self, factors: tuple[float, ...]) -> tuple[dict[str, Tensor], Tensor]:
        """The best points inside the region, each asked about once more as it is returned; else the clean clips.

        Args:
            factors: by which they are made longer, one after the other, where the projection has cost the goal.

        Returns:
            By attacked modality (B, ...), and (B,) bool: the goal is reached.
        """
        device = self.size.device
        found = {name: x.clone() for name, x in self.victim.clean.items()}
        success = torch.zeros_like(self.size, dtype=torch.bool)
        left = self.size.isfinite().nonzero().squeeze(1).cpu()
        for factor in factors:
            if not len(left):
                break
            part, there = self.victim.select(left), left.to(device)
            x = part.region.stretched(select_inputs(self.best, there), self.size[there] * factor)
            x = part.region.project(x)
            # Of a point beyond the edge it is not the point that was found, but it may still do.
            reached = part.fooled(part.labels(x))
            kept = where_clips(reached, x, part.clean)
            for name, into in found.items():
                into.index_copy_(0, there, kept[name])
            success[there] = reached
            left = left[~reached.cpu()]
        return found, success
