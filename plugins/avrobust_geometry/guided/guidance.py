"""Guidance by the latent space of training: embeddings noted on the way, and a guide made of them between epochs."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from avrobust_core import Augmentation, Encoded, Gather, TrainingStep, derive_seed
from avrobust_geometry.configs import GuidedMixupConfig, GuidedWeightsConfig
from avrobust_geometry.guided.guide import Guide, make_guide
from avrobust_geometry.guided.notes import Notes, Projection


class Guided(Augmentation):
    """An augmentation that follows the density of the latent space.

    The embeddings are those that training has computed anyway: no clip passes through the model for its sake. They are
    noted in each pass, and at the end of an epoch a guide is made of them, among the clips of all processes.

    Args:
        config: every choice.
    """

    kept: ClassVar[dict[str, type[Any]]] = {"notes": Notes, "fresh": Notes, "guide": Guide}
    """The attributes that a state holds, and what they are."""

    def __init__(self, config: GuidedMixupConfig | GuidedWeightsConfig) -> None:
        self.config = config
        self.notes = Notes()
        self.fresh = Notes()
        self.projection = Projection(config.width)
        self.guide: Guide | None = None

    def as_it_is(self, epoch: int) -> bool:
        """Tell if the clips of an epoch are learned without guidance."""
        return epoch < self.config.warmup

    def embeddings(self, encoded: Mapping[str, Encoded], step: TrainingStep) -> dict[str, Tensor]:
        """The embeddings (B, E) by modality, as they are noted."""
        return {name: self.projection(name, found.pooled.detach(), step.seed) for name, found in encoded.items()}

    def end_epoch(self, step: TrainingStep, gather: Gather) -> None:
        """A new guide from what all processes have noted."""
        after = step.epoch + 1 - self.config.warmup
        due = after >= 0 and after % self.config.refresh == 0 and step.epoch + 1 < step.epochs
        self.notes.merge(gather(self.fresh))
        self.fresh = Notes()
        if due and len(self.notes) > 1:
            seed = derive_seed(step.seed, "guided-mixup", "guide", step.epoch) % (1 << 32)
            device = next(step.model.parameters()).device
            self.guide = make_guide(self.notes, step.classes, self.config, seed, device)

    def state_dict(self) -> dict[str, Any]:
        """Notes and guide."""
        return {name: None if (kept := getattr(self, name)) is None else kept.state_dict() for name in self.kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        for name, kind in self.kept.items():
            setattr(self, name, None if state[name] is None else kind.of(state[name]))


def weights_of(ids: Sequence[str], weights: Mapping[str, float], losses: Tensor) -> Tensor:
    """The weights of B clips, like their losses (B,); 1 for clips of which nothing is known."""
    return torch.tensor([weights.get(clip_id, 1.0) for clip_id in ids]).to(losses, non_blocking=True)
