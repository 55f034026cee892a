"""The model in float64, so that a difference of two outputs is a derivative and what saturates is still seen."""

from collections.abc import Collection, Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn

from avrobust_core.border import answers
from avrobust_core.goals import Goal
from avrobust_core.model import AVModel


class Exact:
    """A copy of a model in float64, or the model itself where it cannot be run in float64.

    Attributes:
        double: whether it is in float64.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._copy: nn.Module | None = None
        self._tried = False

    def logits(self, inputs: Mapping[str, Tensor], features: Collection[str]) -> Tensor:
        """Logits (B, K), in float64 where the model can do it; differentiable."""
        self.prepare(inputs, features)
        if self._copy is None:
            return logits_of(self._model, {name: x.float() for name, x in inputs.items()}, features)
        return logits_of(self._copy, _double(inputs), features)

    def prepare(self, inputs: Mapping[str, Tensor], features: Collection[str]) -> None:
        """Make the copy, if that has not been tried, and see on one clip whether it answers as the model does."""
        if not self._tried:
            self._tried = True
            self._copy = self._doubled(inputs, features)

    @property
    def double(self) -> bool:
        """Whether the outputs are in float64; known after `prepare`, or the first call of `logits`."""
        return self._copy is not None

    def _doubled(self, inputs: Mapping[str, Tensor], features: Collection[str]) -> nn.Module | None:
        try:
            copied = deepcopy(self._model).double()
            first = {name: x[:1] for name, x in inputs.items()}
            with torch.no_grad():
                found = logits_of(copied, _double(first), features)
                same = logits_of(self._model, {name: x.float() for name, x in first.items()}, features)
        except Exception:  # noqa: BLE001  # any reason will do: a constant in float32, a device without float64, memory
            return None
        close = torch.allclose(found.float(), same.float(), rtol=1e-2, atol=1e-2 * float(same.abs().max()))
        return copied if found.dtype == torch.float64 and close else None


def logits_of(model: nn.Module, inputs: Mapping[str, Tensor], features: Collection[str]) -> Tensor:
    """Logits (B, K) of the whole model; `features` names the modalities that are given behind the frontend."""
    answer = model.classify(model.encode(inputs, features)) if isinstance(model, AVModel) else model(dict(inputs))
    return answers.logits_of(answer)


def opened(outputs: Tensor) -> Tensor:
    """Outputs (B, K) that are probabilities as logits, others as they are: what saturated may be seen again."""
    if outputs.min() < 0 or outputs.max() > 1:
        return outputs
    tiny = torch.finfo(outputs.dtype).tiny
    if (outputs.sum(dim=1) - 1).abs().max() <= 1e-3:
        return outputs.clamp(min=tiny).log()
    return outputs.clamp(min=tiny).log() - (1 - outputs).clamp(min=tiny).log()


def rise(logits: Tensor, goal: Goal) -> Tensor:
    """What a probe raises, (B,): the log-odds against the clip's own classes; no clip is right where it is large.

    The log of the summed exponentials of the other classes less that of the clip's own: a smooth margin, which does
    not saturate, for one label as for several.
    """
    own = (
        goal.labels > 0.5 if goal.task == "multi-label" else nn.functional.one_hot(goal.labels, logits.shape[1]).bool()
    )
    return logits.masked_fill(own, -torch.inf).logsumexp(dim=1) - logits.masked_fill(~own, -torch.inf).logsumexp(dim=1)


def _double(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}
