"""A model under attack: frozen, asked for logits as the border lets them in, tried once."""

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from avrobust_core.data.batches import Batch
from avrobust_core.data.media import MediaSpec, Task
from avrobust_core.data.readings import same_bits
from avrobust_core.errors import AvrobustWarning, DataError
from avrobust_core.models.answers import ask, name_of, refuse_non_finite, refuse_written, rounding
from avrobust_core.models.compiling import CompiledEncoders
from avrobust_core.models.constant import StandIns, constant_weights
from avrobust_core.models.model import AVModel
from avrobust_core.models.recurrence import differentiable_recurrence
from avrobust_core.models.sparing import Sparing
from avrobust_core.models.trial import refuse_unsteady

AttackPrecision = Literal["32-true", "bf16-mixed"]


@dataclass(eq=False, repr=False)
class AttackedModel:
    """A model under attack: evaluation mode, parameters without gradients, both restored by `frozen`.

    Args:
        model: an `AVModel`, or any module from a dict of modalities to logits (B, K).
        media: what each modality is; its bounds limit every perturbation.
        task: decides loss and success.
        seed: of the random numbers that attacks draw per clip.
        samples: forward passes whose mean logits stand for the model: more than 1 for a model with randomness of its
            own, so that gradients are in expectation over it (EoT, Athalye et al. 2018).
        precision: of the attacks' own forward and backward passes; what they find is confirmed in float32.
        classes: how many logits it must return; None for as many as it returns first.
        compiled: of its encoders, those that are compiled for the attacks' own passes; None for none.
    """

    model: nn.Module
    _: KW_ONLY
    media: Mapping[str, MediaSpec]
    task: Task
    seed: int = 0
    samples: int = 1
    precision: AttackPrecision = "32-true"
    classes: int | None = None
    compiled: CompiledEncoders | None = None

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, not {self.samples}")
        self._answered: set[torch.dtype] = set()
        self._tried = False
        self._stand_ins: StandIns | None = None
        self._spares = False
        self._sparing: Sparing | None = None

    @contextmanager
    def frozen(self) -> "Iterator[None]":
        """Evaluation mode and no parameter gradients inside; every flag as it was afterwards.

        Torch's own recurrent layers on a GPU are in training mode without dropout; see `differentiable_recurrence`.
        """
        modes = [(module, module.training) for module in self.model.modules()]
        flags = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        self.model.eval()
        try:
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            with differentiable_recurrence(self.model), constant_weights():
                yield
        finally:
            self._stand_ins = None
            for module, mode in modes:
                module.training = mode
            for parameter, flag in flags:
                parameter.requires_grad_(flag)

    @contextmanager
    def lowered(self, device: torch.device) -> "Iterator[None]":
        """The attacks' own passes inside: in bfloat16 with weights that were cast once, and by compiled encoders."""
        # Where memory is spared, what is computed again are parts of encoders: these are as they are.
        compiled = nullcontext() if self.compiled is None or self._spares else self.compiled.in_place()
        if self.precision == "32-true":
            with compiled:
                yield
            return
        if self._stand_ins is None or not self._stand_ins.fits():
            self._stand_ins = StandIns(self.model, torch.bfloat16)
        with torch.autocast(device.type, dtype=torch.bfloat16), self._stand_ins.in_place(), compiled:
            yield

    def spare(self) -> bool:
        """From now on take as little memory as can be: a gradient then costs up to two forward passes more.

        Returns:
            False if that is so already, or cannot be: a model with randomness of its own would draw other numbers when
            it computes again what it did not keep.
        """
        if self._spares or self.samples > 1:
            return False
        self._spares = True
        warnings.warn(
            f"the device's memory does not hold {name_of(self.model)} and one clip: attacks keep the ends of its "
            "stages only, and compute the rest again for each gradient, which takes longer",
            AvrobustWarning,
            stacklevel=2,
        )
        return True

    @contextmanager
    def within_memory(self, inputs: Mapping[str, Tensor], forward: Callable[[], Any]) -> "Iterator[None]":
        """Passes that keep little, once `spare` was called; others as they are.

        Args:
            inputs: what goes into the pass.
            forward: the pass.
        """
        if not (self._spares and torch.is_grad_enabled() and any(x.requires_grad for x in inputs.values())):
            yield
            return
        if self._sparing is None:
            self._sparing = Sparing(self.model, forward)
        with self._sparing.in_place():
            yield

    @torch.no_grad()
    def logits(self, inputs: Mapping[str, Tensor], features: Collection[str] = ()) -> Tensor:
        """Plain forward passes of the whole model in float32, their mean over `samples`: (B, K).

        Args:
            inputs: by modality.
            features: the modalities whose inputs are features after the frontend.

        Raises:
            ModelError: if the model returns no logits; see `models.answers`.
        """
        if features:
            model = self.audio_visual()
            return self.mean_of(lambda: model.classify(model.encode(inputs, features)), inputs)
        return self.mean_of(lambda: self.model(dict(inputs)), inputs)

    def ask(self, forward: Callable[[], Any], inputs: Mapping[str, Tensor]) -> Tensor:
        """One forward pass as the border lets it in: logits (B, K) float32, differentiable; waits for no device.

        Args:
            forward: the pass.
            inputs: what goes into it, each (B, ...).

        Raises:
            ModelError: if the model returns no logits, or other than before, or writes into its inputs.
        """
        found = ask(self.model, forward, inputs, self.classes)
        self.classes = found.shape[1]
        self._answered.add(found.dtype)
        return found.float()

    @torch.no_grad()
    def clean_logits(self, batch: Batch) -> Tensor:
        """The logits (B, K) of clean clips, with all that can be told of the model by them.

        The first batch is the model's trial: of one that answers otherwise when it is asked again, no attack could say
        anything, unless `samples` are taken.

        Raises:
            ModelError: if the model returns no logits, or some that are not finite; writes into its inputs; has
                randomness of its own while `samples` is 1; or lets an answer depend on other clips of the batch.
        """
        logits = self.logits_unwritten(batch.inputs)
        refuse_non_finite(self.model, logits, batch.ids, batch.inputs)
        if self.samples == 1 and not self._tried:
            self.refuse_unsteady(batch)
        self._tried = True
        return logits

    def refuse_unsteady(self, batch: Batch) -> None:
        """Try whether the model answers alike twice, on a few clips.

        Raises:
            ModelError: if it does not; see `models.trial`.
        """
        refuse_unsteady(self.model, self.logits, batch, self.rounding(batch.targets.device))

    def logits_unwritten(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """As `logits`, and the inputs are compared with what they were, bit for bit.

        Raises:
            ModelError: if they are no longer the same.
        """
        given = {name: x.clone() for name, x in inputs.items()}
        logits = self.logits(given)
        self._refuse_written(inputs, given)
        return logits

    def refuse_writes(self, inputs: Mapping[str, Tensor], attacked: Collection[str]) -> None:
        """Try whether the model writes into what an attack asks it about, with gradients and without.

        Args:
            inputs: by modality, raw.
            attacked: the modalities that need a gradient.

        Raises:
            ModelError: if it does.
        """
        self.logits_unwritten(inputs)
        given = {name: x.clone().requires_grad_(name in attacked) for name, x in inputs.items()}
        with torch.enable_grad():
            self.ask(lambda: self.model(dict(given)), given)
        self._refuse_written(inputs, given)

    def _refuse_written(self, inputs: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
        refuse_written(self.model, [name for name, x in inputs.items() if not same_bits(x, given[name])])

    def rounding(self, device: torch.device) -> float:
        """The difference that two passes over one clip may have, as a share of the largest logit."""
        return rounding(self.model, self._answered, device)

    def mean_of(self, forward: Callable[[], Any], inputs: Mapping[str, Tensor]) -> Tensor:
        """The mean of `samples` forward passes, each as `ask` lets it in."""
        if self.samples == 1:
            return self.ask(forward, inputs)
        return torch.stack([self.ask(forward, inputs) for _ in range(self.samples)]).mean(dim=0)

    def audio_visual(self) -> AVModel:
        """The model, if it has frontends whose features can be attacked.

        Raises:
            DataError: if it has none.
        """
        if not isinstance(self.model, AVModel):
            raise DataError(
                f"the threat attacks features, but {type(self.model).__name__} is not an avrobust_core.AVModel with "
                "encoders and frontends: attack the input, or wrap the model"
            )
        return self.model
