"""One training pass: a batch through the augmentations and the model to losses, and the order of an epoch's clips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from avrobust_core.data.batches import Batch, Encoded
from avrobust_core.errors import AvrobustError
from avrobust_core.models.answers import unwritten
from avrobust_core.models.objectives import classification_loss
from avrobust_core.training.augmentations import Augmentation, AugmentedStep, ForwardPass, Gather, TrainingStep


@dataclass(frozen=True, slots=True)
class Learned:
    """The result of one pass.

    Attributes:
        losses: (B,), with gradients: to be minimised.
        forward: the pass through the model.
        augmented: each augmentation's part in it.
    """

    losses: Tensor
    forward: ForwardPass
    augmented: Sequence[AugmentedStep]

    def after_backward(self) -> None:
        """Let the augmentations look at gradients."""
        for augmented in self.augmented:
            augmented.after_backward()


class Learner:
    """A model in training, with its augmentations.

    Args:
        model: as it is called: wrapped for precision and processes.
        augmentations: applied in order.
    """

    def __init__(self, model: nn.Module, augmentations: Sequence[Augmentation]) -> None:
        self.model = model
        self.augmentations = augmentations
        self.replays = prod(augment.replays for augment in augmentations)

    @property
    def divided(self) -> bool:
        """Whether, amid an epoch, no single process has the state of all augmentations."""
        return any(augment.divided for augment in self.augmentations)

    def order(self, positions: Sequence[int], ids: Sequence[str], step: TrainingStep) -> list[int]:
        """The clips of an epoch in the order in which the augmentations want them.

        Args:
            positions: of the epoch's clips, in the order that it would have.
            ids: of the same clips.
            step: where training stands.

        Raises:
            AvrobustError: if an augmentation asks for another number of clips, or for one that is not there.
        """
        found = list(positions)
        names = list(ids)
        for augment in self.augmentations:
            wanted = augment.order(names, step)
            if wanted is None:
                continue
            wanted = np.asarray(wanted)
            if wanted.shape != (len(found),) or wanted.min() < 0 or wanted.max() >= len(found):
                raise AvrobustError(
                    f"{type(augment).__name__}.order gave positions of shape {wanted.shape}; it must give "
                    f"{len(found)} positions from 0 to {len(found) - 1}: a plugin's fault"
                )
            found, names = [found[i] for i in wanted], [names[i] for i in wanted]
        return found

    def learn(self, batch: Batch, step: TrainingStep, earlier: Learned | None = None) -> Learned:
        """One forward pass, with everything that the augmentations do before, within and after it.

        Args:
            batch: the clips.
            step: where training stands.
            earlier: the pass before, where this is a replay of the same batch.

        Raises:
            ModelError: if the model returns no logits, or writes into its inputs in place.
        """
        augmented: list[AugmentedStep] = []
        for i, augment in enumerate(self.augmentations):
            again = earlier.augmented[i].again(batch, step) if earlier is not None else None
            augmented.append(augment.begin(batch, step) if again is None else again)
            batch = augmented[-1].batch
        encoded: Mapping[str, Encoded] = {}
        targets = batch.targets

        def between(found: Mapping[str, Encoded]) -> Mapping[str, Encoded]:
            nonlocal encoded, targets
            encoded = found
            for each in augmented:
                encoded, targets = each.encodings(encoded, targets)
            return encoded

        with unwritten(step.model, batch.inputs):
            # A model that is not augmented need not know `between`.
            logits = cast(Tensor, self.model(batch.inputs, **({"between": between} if augmented else {})))
        forward = ForwardPass(replace(batch, targets=targets), encoded, logits)
        losses = classification_loss(logits, targets, step.task)
        for each in augmented:
            losses = each.loss(losses, forward)
        return Learned(losses, forward, augmented)

    def end_epoch(self, step: TrainingStep, gather: Gather) -> None:
        """Let the augmentations learn from the epoch."""
        for augment in self.augmentations:
            augment.end_epoch(step, gather)

    def state_dict(self) -> list[dict[str, Any]]:
        """The state of each augmentation."""
        return [augment.state_dict() for augment in self.augmentations]

    def load_state_dict(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Restore what `state_dict` returned."""
        for augment, state in zip(self.augmentations, states, strict=True):
            if state:
                augment.load_state_dict(state)
