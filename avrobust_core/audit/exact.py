"""The model in float64, so that a difference of two outputs is a derivative and what saturates is still seen."""

from collections.abc import Collection, Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn

from avrobust_core.attacks.goals import BatchGoal
from avrobust_core.models.answers import logits_of
from avrobust_core.models.model import AVModel


class Exact:
    """A copy of a model in float64, or the model itself where it cannot be run in float64.

    Attributes:
        double: whether it is in float64; known after `prepare`, or the first call of `logits`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.double = False
        self._model = model
        self._tried = False

    def logits(self, inputs: Mapping[str, Tensor], features: Collection[str]) -> Tensor:
        """Logits (B, K), in float64 where the model can do it; differentiable."""
        self.prepare(inputs, features)
        return _logits(self._model, inputs, features, torch.float64 if self.double else torch.float32)

    def prepare(self, inputs: Mapping[str, Tensor], features: Collection[str]) -> None:
        """Make the copy, if that has not been tried, and see on one clip whether it answers as the model does."""
        if self._tried:
            return
        self._tried = True
        first = {name: x[:1] for name, x in inputs.items()}
        try:
            copied = deepcopy(self._model).double()
            with torch.no_grad():
                found = _logits(copied, first, features, torch.float64)
                same = _logits(self._model, first, features, torch.float32)
        except Exception:  # noqa: BLE001  # any reason will do: a constant in float32, a device without float64, memory
            return
        close = torch.allclose(found.float(), same.float(), rtol=1e-2, atol=1e-2 * float(same.abs().max()))
        if found.dtype == torch.float64 and close:
            self._model, self.double = copied, True


def _logits(model: nn.Module, inputs: Mapping[str, Tensor], features: Collection[str], dtype: torch.dtype) -> Tensor:
    """Logits (B, K) of the whole model; `features` names the modalities that are given behind the frontend."""
    given = {name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs.items()}
    return logits_of(model.classify(model.encode(given, features)) if isinstance(model, AVModel) else model(given))


def opened(outputs: Tensor) -> Tensor:
    """Outputs (B, K) that are probabilities as logits, others as they are: what saturated may be seen again."""
    if outputs.min() < 0 or outputs.max() > 1:
        return outputs
    tiny = torch.finfo(outputs.dtype).tiny
    if (outputs.sum(dim=1) - 1).abs().max() <= 1e-3:
        return outputs.clamp(min=tiny).log()
    return outputs.clamp(min=tiny).log() - (1 - outputs).clamp(min=tiny).log()


def rise(logits: Tensor, goal: BatchGoal) -> Tensor:
    """The objective of a probe, (B,): the log-odds against the clip's own classes; no clip is right where it is large.

    The log of the summed exponentials of the other classes less that of the clip's own: a smooth margin, which does
    not saturate, for one label as for several.
    """
    own = goal.own(logits)
    return logits.masked_fill(own, -torch.inf).logsumexp(dim=1) - logits.masked_fill(~own, -torch.inf).logsumexp(dim=1)
