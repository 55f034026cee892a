"""Training augmentations: they choose the clips of an epoch, and change batches, encodings and losses."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from avrobust_core.data.batches import Batch, Encoded
from avrobust_core.data.media import MediaSpec, Task
from avrobust_core.models.model import AVModel
from avrobust_core.training.costs import Cost

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Gather = Callable[[Any], list[Any]]
"""From this process's object to those of all processes, in the order of their ranks; every process must call it."""


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """The state of training when an augmentation is called.

    Attributes:
        epoch: from 0.
        seed: of this fit; draw random numbers with `ClipDraws.of(seed, ids, f"{purpose}/{epoch}", device)`.
        model: the model in training mode; an `AVModel` in every study.
        classes: K.
        task: decides what targets look like.
        epochs: of the whole fit.
        replay: from 0, the number of times that this very batch was learned from before; see `Augmentation.replays`.
        media: the media of each modality; their bounds hold for what is learned from, too.
        cost: add to it what is spent beside the loop's own pass; `counting` does.
        scratch: a folder of this fit, which need not exist yet, for what should not lie in memory; all processes see
            it, a resumed fit finds it again, and it is deleted when the fit has ended. None where there is none.
        clips: the ids of all training clips, of which an epoch may leave some out and repeat others; the same in every
            epoch and process, also of a resumed fit. Empty where nobody says.
        labels: gives the labels of training clips by their ids, (n, K) of zeros and ones; None where the data set does
            not know them without reading its media (see `Dataset.label_matrix`).
    """

    epoch: int
    seed: int
    model: nn.Module
    classes: int
    task: Task
    epochs: int = 1
    replay: int = 0
    media: Mapping[str, MediaSpec] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    scratch: Path | None = None
    clips: Sequence[str] = ()
    labels: "Callable[[Sequence[str]], csr_array | None]" = lambda clips: None

    def read_by_model(self, modalities: Iterable[str]) -> list[str]:
        """Those of the modalities that the model reads; all of them if it does not say."""
        model = self.model
        return [name for name in modalities if not isinstance(model, AVModel) or name in model.modalities]

    def clipped(self, name: str, x: Tensor) -> Tensor:
        """Clips of one modality, with values outside the bounds of its media moved onto them."""
        spec = self.media.get(name)
        return x if spec is None or spec.bounds is None else x.clamp(*spec.bounds)


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """Training's own pass of a batch through the model, before the backward pass.

    Attributes:
        batch: the clips that were learned from, with the targets of the loss.
        encoded: the fusion's input, by modality; with gradients.
        logits: (B, K), with gradients.
    """

    batch: Batch
    encoded: Mapping[str, Encoded]
    logits: Tensor


@dataclass(eq=False)
class AugmentedStep:
    """One augmentation's part in one pass of training over one batch. Override what you need.

    A subclass holds what the hooks of this pass need; what outlives the pass belongs to the augmentation. The hooks
    are called in the order in which they stand here.

    Attributes:
        batch: with the inputs and targets that the next augmentation gets, and after the last one the model. Leaves
            that require a gradient have it in `after_backward`.
    """

    batch: Batch

    def encodings(self, encoded: Mapping[str, Encoded], targets: Tensor) -> tuple[Mapping[str, Encoded], Tensor]:
        """The encodings with other values, and the targets that then hold; neither is changed in place.

        They are those of the pass that training makes anyway, so that looking at them costs nothing.
        """
        return encoded, targets

    def loss(self, losses: Tensor, forward: ForwardPass) -> Tensor:
        """The losses (B,) that are minimised, from those of before; both differentiable."""
        return losses

    def after_backward(self) -> None:
        """Look at gradients: those of inputs in `batch` that are leaves."""

    def again(self, batch: Batch, step: TrainingStep) -> "AugmentedStep | None":
        """The next replay of the same batch, where it goes on from this one; None, as here, to begin anew."""
        return None


class Augmentation:
    """A way to learn from clips. Override what you need; a list of augmentations is applied in order, each time.

    In an epoch: `order`; then for each batch `begin`, and the hooks of the `AugmentedStep` that it returns; at last
    `end_epoch`. What is kept from one step to the next belongs into `state_dict`.

    Attributes:
        replays: optimiser steps on each batch; with several in one list, their product.
    """

    replays: int = 1

    @property
    def divided(self) -> bool:
        """Whether each process has a part of the state amid an epoch, so that no single one could save it then.

        By default of whatever has a state. Where it is not, a fit by several processes may be saved amid an epoch:
        after every process has called `state_dict`, whose result in the first one is kept.
        """
        return type(self).state_dict is not Augmentation.state_dict

    def order(self, clips: Sequence[str], step: TrainingStep) -> NDArray[np.int64] | None:
        """The clips of an epoch: (n,) positions within `clips`, read in this order; a clip may come more than once.

        None, as here, for the order as it is. A batch is a run of neighbours in this order, so that clips that belong
        together can meet. The same for every process; a function of the state and of `step` alone.

        Args:
            clips: ids of the training clips, in the order that the epoch would have.
            step: where training stands; its model is not to be called.
        """
        return None

    def begin(self, batch: Batch, step: TrainingStep) -> AugmentedStep:
        """Begin a pass over a batch: return its inputs and targets as they are to be, and the hooks of this pass.

        `batch` itself is not changed. Inputs stay within the media's bounds. Single-label targets may become soft:
        (B, K) float that sum to 1.
        """
        return AugmentedStep(batch)

    def end_epoch(self, step: TrainingStep, gather: Gather) -> None:
        """Learn from the epoch. Afterwards the state is the same in every process."""

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed fit needs: tensors, numbers, strings, lists and dicts; empty if nothing is kept."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` returned."""
