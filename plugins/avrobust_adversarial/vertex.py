"""Vertex mix-up: a clip is mixed with its own adversarial vertex, and its target is softened by as much."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from avrobust_adversarial.ascent import ascend, label_loss
from avrobust_adversarial.configs import VertexMixupConfig
from avrobust_adversarial.crafting import crafting, to_attack
from avrobust_adversarial.free import FreeTraining
from avrobust_adversarial.memory import Memory
from avrobust_adversarial.threats import ALL_SEEDS, Threats, part_of, rows
from avrobust_core import (
    AugmentedStep,
    Batch,
    BoundVictim,
    ThreatModel,
    TrainingStep,
    derive_seed,
    per_clip,
    soft_targets,
)


class VertexMixup(FreeTraining):
    """Adversarial vertex mix-up (Lee et al. 2020, arXiv 2003.02484) at the price of standard training.

    A clip's vertex is the perturbed clip. Learned from is clean + ratio (vertex - clean), the ratio being drawn anew
    for each clip in each epoch, and the target softened by the ratio. The paper's vertex lies beyond the budget, at
    gamma times the perturbation that PGD finds; here it lies in the threat's region, which is to be wider than the
    radii that are to be withstood. The paper spends PGD's steps on it; here it is remembered from epoch to epoch
    (ATTA, Zheng et al. 2020, arXiv 1912.11969), and training's own gradient at the mixed clip moves it (free training,
    Shafahi et al. 2019, arXiv 1904.12843). `steps` of its own may be added.

    Args:
        config: of `vertex-mixup`. Every clip is attacked.
    """

    def __init__(self, config: VertexMixupConfig) -> None:
        self.threats = Threats(config.all_threats, purpose="vertex-mixup", warmup=config.warmup)
        self.replays = 1
        self.step_size = config.step_size
        self.memory = Memory(config.bits)
        self.config = config

    def begin(self, batch: Batch, step: TrainingStep) -> AugmentedStep:
        """The batch between its clips and their vertices, inside the region; targets (B, K) float, softened.

        Raises:
            DataError: if a threat names a modality that the data set does not have, or a clip is outside its bounds.
            AvrobustError: with `steps`, if no gradient reaches the attacked modalities.
        """
        ratios = self.ratios(batch, step)

        def start(bound: BoundVictim, threat: ThreatModel, index: Tensor) -> Mapping[str, Tensor]:
            begun = self.start(bound, step)
            return self._climbed(part_of(batch, index), threat, begun, step) if self.config.steps else begun

        def mix(bound: BoundVictim, vertices: Mapping[str, Tensor], index: Tensor) -> Mapping[str, Tensor]:
            clean = bound.clean
            return {
                name: torch.lerp(clean[name], x, per_clip(rows(ratios[name], index), x)) for name, x in vertices.items()
            }

        mixed = self.perturb(batch, step, start, mix)
        share = torch.zeros(len(batch), device=batch.targets.device)
        for part in mixed.parts:
            share[part.index] = torch.stack([ratios[name][part.index] for name in part.region.balls]).mean(dim=0)
        targets = softened(soft_targets(batch.targets, step.classes), self.config.softening * share)
        mixed.batch = replace(mixed.batch, targets=targets)
        return mixed

    def ratios(self, batch: Batch, step: TrainingStep) -> dict[str, Tensor]:
        """The vertices' part in the clips of an epoch, (B,) float32 in [0, 1], by modality."""
        low, high = self.config.ratio

        def drawn(purpose: str) -> Tensor:
            shares = [derive_seed(step.seed, clip_id, purpose) / ALL_SEEDS for clip_id in batch.ids]
            ratios = low + (high - low) * torch.tensor(shares)
            return ratios.to(batch.targets.device, non_blocking=True)

        purpose = f"vertex-mixup/{step.epoch}"
        if self.config.together:
            return dict.fromkeys(batch.inputs, drawn(purpose))
        return {name: drawn(f"{purpose}/{name}") for name in batch.inputs}

    def _climbed(
        self, part: Batch, threat: ThreatModel, begun: Mapping[str, Tensor], step: TrainingStep
    ) -> dict[str, Tensor]:
        """Vertices after steps of their own."""
        with crafting(step, "vertex-mixup") as victim:
            bound = victim.bind(to_attack(part, step.task), threat)
            return ascend(bound, label_loss(bound.goal), begun, steps=self.config.steps, step_size=self.step_size)


def softened(targets: Tensor, share: Tensor) -> Tensor:
    """Targets that keep their sum, a part of which moves to the classes that the clip does not have.

    Args:
        targets: (B, K) in [0, 1].
        share: (B,) in [0, 1], the part.
    """
    share = per_clip(share, targets)
    lacks = 1 - targets
    spread = targets.sum(dim=1, keepdim=True) / lacks.sum(dim=1, keepdim=True).clamp_min(
        torch.finfo(targets.dtype).tiny
    )
    return torch.lerp(targets, (lacks * spread).clamp(max=1), share)
