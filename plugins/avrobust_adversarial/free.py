"""Free adversarial training: the gradient that moves the weights moves the clips, too."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_adversarial.ascent import drawn
from avrobust_adversarial.configs import FreeAtConfig
from avrobust_adversarial.crafting import to_attack
from avrobust_adversarial.memory import Memory
from avrobust_adversarial.threats import Threats, part_of, put, rows
from avrobust_core import (
    Augmentation,
    AugmentedStep,
    AvrobustError,
    Batch,
    BoundVictim,
    Gather,
    Region,
    ThreatModel,
    TrainingStep,
    Victim,
    derive_seed,
    per_clip,
)

Start = Callable[[BoundVictim, ThreatModel, Tensor], Mapping[str, Tensor]]
"""From clips bound under a threat, and their positions in the batch, to perturbed clips by attacked modality."""

Mix = Callable[[BoundVictim, Mapping[str, Tensor], Tensor], Mapping[str, Tensor]]
"""From bound clips, their vertices, and their positions in the batch to points between them."""


class FreeTraining(Augmentation):
    """Free adversarial training (Shafahi et al. 2019, arXiv 1904.12843, algorithm 1).

    Each batch is learned from `replays` times. Each time, the backward pass that training makes anyway also gives the
    gradient of the inputs, by which the perturbation moves one step, to be learned from next: no pass is added.

    The paper begins each batch with the last perturbation of the batch before, whatever its clips are. Here it begins
    at a random point of the region, each clip's own, so that nothing of a clip depends on other batches and a fit that
    was stopped goes on to the same weights.

    With a memory it begins where the clip's own perturbation ended when the clip was last learned from, an epoch before
    as a rule, and so grows over epochs at no cost but that memory: after ATTA (Zheng et al. 2020, arXiv 1912.11969),
    which adds gradient steps of its own.

    The loss is that of the whole regime, in training mode: with soft targets, or after a mix-up that comes later in the
    list, it is what the perturbation raises. Nothing in the list may cut the way of the gradient.

    Args:
        config: of `free-at`. Every clip is attacked.
    """

    def __init__(self, config: FreeAtConfig) -> None:
        self.threats = Threats(config.all_threats, purpose="free-at", warmup=config.warmup)
        self.replays = config.replays
        self.step_size = config.step_size
        self.memory = Memory(config.bits or 8) if config.memory else None

    @property
    def divided(self) -> bool:
        """Not where perturbations lie in files, which all processes share, or none are kept."""
        return self.memory is not None and not self.memory.in_files

    def order(self, clips: Sequence[str], step: TrainingStep) -> NDArray[np.int64] | None:
        """The order as it is; the memory gets a place for each clip."""
        if self.memory is not None:
            self.memory.begin_epoch(clips, step)
        return None

    def begin(self, batch: Batch, step: TrainingStep) -> AugmentedStep:
        """The batch with perturbed inputs, inside their region, which require a gradient; the same targets.

        Raises:
            DataError: if a threat names a modality that the data set does not have, or a clip is outside its bounds.
        """
        return self.perturb(batch, step, lambda bound, threat, index: self.start(bound, step))

    def perturb(
        self, batch: Batch, step: TrainingStep, start: Start, mix: Mix = lambda bound, vertices, index: vertices
    ) -> "Perturbed":
        """Perturb a batch.

        Args:
            batch: the clips.
            step: where training stands.
            start: gives the vertices.
            mix: gives the points that are learned from; by default the vertices themselves.
        """
        inputs, vertices = dict(batch.inputs), dict(batch.inputs)
        parts: list[Part] = []
        seed = derive_seed(step.seed, self.threats.purpose, step.epoch)
        victim = Victim(step.model, media=step.media, task=step.task, seed=seed)
        for threat, index in self.threats.assigned(batch, step):
            chosen = to_attack(part_of(batch, index), step.task)
            # The other modalities are left out, or binding would encode them.
            clean = replace(chosen, inputs={name: chosen.inputs[name] for name in threat.modalities})
            bound = victim.bind(clean, threat)
            found = start(bound, threat, index)
            vertices = put(vertices, index, found)
            inputs = put(inputs, index, mix(bound, found, index))
            parts.append(Part(bound.region, index, bound.ids))
        attacked = sorted({name for part in parts for name in part.region.balls})
        leaves = {name: inputs[name].detach().requires_grad_() for name in attacked}
        vertices = {name: vertices[name].detach() for name in attacked}
        return Perturbed(replace(batch, inputs=inputs | leaves), self, step, leaves, vertices, parts)

    def end_epoch(self, step: TrainingStep, gather: Gather) -> None:
        """Take over what other processes keep of the clips that they have learned from."""
        if self.memory is not None:
            self.memory.end_epoch(gather)

    def state_dict(self) -> dict[str, Any]:
        """The perturbation of each clip, or that it lies in the folder of the fit."""
        return {} if self.memory is None else self.memory.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        if self.memory is not None:
            self.memory.load_state_dict(state)

    def start(self, bound: BoundVictim, step: TrainingStep) -> dict[str, Tensor]:
        """The start of each clip: its last perturbation, if there is one, or a random point."""
        if self.memory is None:
            return drawn(bound)
        kept = {name: self.memory.read(name, bound.ids, clean, step.epoch) for name, clean in bound.clean.items()}
        # Drawing takes time: nothing is drawn where all of it would be thrown away.
        if all(len(places) == len(bound) for _, places in kept.values()):
            # With `window: random` another part of a clip may be padding.
            start = {name: ball.unpadded(kept[name][0]).add_(ball.center) for name, ball in bound.balls.items()}
            if self.threats.constant and self.memory.shrinks:  # what was kept was inside, and so is this
                return {name: step.clipped(name, x) for name, x in start.items()}
            return within(start, bound.region)
        start = drawn(bound)
        for name, (delta, places) in kept.items():
            clean = bound.clean[name]
            index = torch.tensor(places, dtype=torch.int64).to(clean.device, non_blocking=True)
            start[name] = start[name].index_copy(0, index, clean.index_select(0, index) + delta)
        return within(start, bound.region)


@dataclass(frozen=True, slots=True)
class Part:
    """The clips of a batch that fall under one threat.

    Attributes:
        region: in which they are perturbed.
        index: (n,) int64 positions in the batch.
        ids: of these clips.
    """

    region: Region
    index: Tensor
    ids: tuple[str, ...]


@dataclass(eq=False)
class Perturbed(AugmentedStep):
    """A pass whose gradient moves the perturbation.

    Attributes:
        leaves: the inputs that are learned from, by attacked modality.
        vertices: the perturbed inputs, which the gradient of `leaves` moves.
        parts: the clips under each threat.
        delta: the perturbation that the pass leaves for the next replay, by attacked modality; empty without one.
    """

    free: FreeTraining
    step: TrainingStep
    leaves: dict[str, Tensor]
    vertices: dict[str, Tensor]
    parts: list[Part]
    delta: dict[str, Tensor] = field(init=False, default_factory=dict)

    @torch.no_grad()
    def after_backward(self) -> None:
        """Move the perturbation by the gradient of the inputs.

        Raises:
            AvrobustError: if there is none.
        """
        gradients = {name: self._gradient(name, leaf) for name, leaf in self.leaves.items()}
        memory, again = self.free.memory, self.free.replays > 1
        if again:
            self.delta = {name: torch.zeros_like(leaf) for name, leaf in self.leaves.items()}
        for part in self.parts:
            region, index = part.region, part.index
            x = {name: rows(self.vertices[name], index) for name in region.balls}
            step = region.step(x, {name: rows(gradients[name], index) for name in x}, self.free.step_size)
            moved = {name: each.sub_(region.clean[name]) for name, each in within(step, region).items()}
            if again:
                self.delta = put(self.delta, index, moved)
            if memory is not None:
                for name, each in moved.items():
                    memory.write(name, part.ids, each, self.step.epoch)

    def again(self, batch: Batch, step: TrainingStep) -> AugmentedStep:
        def moved(bound: BoundVictim, threat: ThreatModel, index: Tensor) -> Mapping[str, Tensor]:
            return within({name: c + rows(self.delta[name], index) for name, c in bound.clean.items()}, bound.region)

        return self.free.perturb(batch, step, moved)

    def _gradient(self, name: str, leaf: Tensor) -> Tensor:
        """The gradient of each clip, 0 where it is not finite: in float16 a scaled gradient may well overflow."""
        if leaf.grad is None:
            purpose = self.free.threats.purpose
            raise AvrobustError(
                f"{purpose}: no gradient reached {name}: an augmentation that comes later in the list, such as "
                f"adversarial, cut its way; list {purpose} last"
            )
        found = leaf.grad.flatten(1).sum(dim=1).isfinite()
        if found.device.type == "cpu" and bool(found.all()):  # elsewhere, to ask would wait for the device
            return leaf.grad
        return torch.where(per_clip(found, leaf), leaf.grad, 0)


def within(x: Mapping[str, Tensor], region: Region) -> dict[str, Tensor]:
    """The nearest point of the region, but for the last bits, for which training need not care."""
    some = next(iter(region.balls.values()))
    return region.within(x, torch.ones_like(some.radius))
