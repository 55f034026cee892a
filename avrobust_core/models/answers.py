"""The answers of a model: its logits, unwrapped and checked; anything else is refused in one sentence."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from avrobust_core.caveats import Caveat
from avrobust_core.data.media import Task
from avrobust_core.errors import AvrobustError, ModelError
from avrobust_core.naming import clips_named
from avrobust_core.plain_text import plain_text

MARGIN_TOLERANCE = 1e-4
"""Largest difference of two passes over one clip, as a share of the largest logit, or of 1 if all logits are below it:
batching moves the last bits, and two logits that meet at 0 leave no size to take a share of."""

TF32_TOLERANCE = 1e-2
"""The same where a GPU may multiply in TF32, which keeps 10 bits of each factor: PyTorch's default for convolutions."""

ROUNDINGS = 4
"""The same for models that compute in float16 or bfloat16, in units of that type's last bit."""

SUM_TOLERANCE = 5e-3
"""Largest distance from 1 of the sum of a row of probabilities, all of them rounded to bfloat16."""

_LONGEST_REASON = 300

_ONE_LOGIT = (
    "two classes need two logits: wrap the model in one that returns "
    "`torch.cat([torch.zeros_like(z), z], dim=1)` of its logit z (B, 1), so that the sign of z tells the class"
)


def name_of(model: object) -> str:
    """The name of a model in errors: that of its class, or of the module that it was made of."""
    title = getattr(model, "title", None)
    return title if isinstance(title, str) else type(model).__name__


def logits_of(answer: Any, *, of: str = "the model", classes: int | None = None) -> Tensor:
    """The logits in what a model returns.

    Taken are: a tensor; an object with `.logits` (an output of Hugging Face's transformers, a named tuple); a mapping
    with the key "logits"; a tuple or list whose first element is or holds the logits, if no other element may be them:
    a floating tensor (B, K), K as many as there are classes, or at least 2.

    Args:
        answer: what the model returned.
        of: the model's name, for the error.
        classes: K where it is known; tells logits from embeddings in a tuple.

    Raises:
        ModelError: if there are no logits in it, or it cannot be told which they are; lists what is there.
    """
    if isinstance(answer, Tensor):
        return answer
    held = answer.get("logits") if isinstance(answer, Mapping) else getattr(answer, "logits", None)
    if held is None and isinstance(answer, (tuple, list)) and answer:
        others = [other for other in answer[1:] if _may_be_logits(other, classes)]
        if others:
            raise ModelError(
                f"{of} returns {_described(answer)}, and which of them are the logits cannot be told: wrap it in a "
                "module that returns the logits alone"
            )
        held = answer[0] if isinstance(answer[0], Tensor) else logits_of(answer[0], of=of, classes=classes)
    if not isinstance(held, Tensor):
        raise ModelError(
            f"{of} returns {_described(answer)}; wanted are logits, a tensor (B, K), or what holds them as `.logits`, "
            "as ['logits'] or as its first element"
        )
    return held


def ask(
    model: nn.Module, forward: Callable[[], Any], inputs: Mapping[str, Tensor], classes: int | None = None
) -> Tensor:
    """One forward pass, looked at without waiting for a device: its logits (B, K), floating, in the model's own type.

    Args:
        model: whose pass it is, for errors.
        forward: the pass.
        inputs: what goes into it, by modality, each (B, ...).
        classes: K where it is known.

    Raises:
        ModelError: if the model fails, writes into its inputs in place (as far as torch's counters tell), or returns no
            logits of this shape.
    """
    with unwritten(model, inputs):
        try:
            answer = forward()
        except (AvrobustError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise ModelError(_failed(model, inputs, error)) from error
    clips = len(next(iter(inputs.values())))
    return check_logits(logits_of(answer, of=name_of(model), classes=classes), name_of(model), clips, classes)


@contextmanager
def unwritten(model: nn.Module, inputs: Mapping[str, Tensor]) -> Iterator[None]:
    """Refuse a model that writes into its inputs during the block, as far as torch's own counters tell: for nothing.

    Raises:
        ModelError: names model and modalities.
    """
    counted = {name: x._version for name, x in inputs.items() if not x.is_inference()}
    yield
    refuse_written(model, [name for name, before in counted.items() if inputs[name]._version != before])


def check_logits(logits: Tensor, name: str, clips: int, classes: int | None = None) -> Tensor:
    """The same logits, if their type and shape will do; their values are not looked at.

    Args:
        logits: to be (B, K), floating, K at least 2.
        name: the model's.
        clips: B.
        classes: K where it is known.

    Raises:
        ModelError: says what was returned, and what was wanted.
    """
    shape = tuple(logits.shape)
    wanted = f"({clips}, {'K' if classes is None else classes})"
    seen = f"{name} returns {logits.dtype} of shape {shape} for {clips} clips"
    if classes is not None and classes < 2:
        raise ModelError(f"{name} is to tell {classes} class from none; a classifier needs at least 2 classes")
    if not logits.is_floating_point():
        raise ModelError(f"{seen}; wanted are floating logits {wanted}, before any argmax or rounding")
    if shape in {(clips,), (clips, 1)} and (classes is None or classes == 2):
        raise ModelError(f"{seen}, one logit per clip; {_ONE_LOGIT}")
    if len(shape) != 2 or shape[0] != clips or shape[1] < 2:
        raise ModelError(f"{seen}; wanted are logits {wanted}, one row per clip and one column per class")
    if classes is not None and shape[1] != classes:
        raise ModelError(f"{seen}; wanted are logits {wanted}, since there are {classes} classes")
    return logits


def refuse_written(model: nn.Module, modalities: Collection[str]) -> None:
    """Refuse a model that has written into these inputs.

    Raises:
        ModelError: names model and modalities.
    """
    if modalities:
        raise ModelError(
            f"{name_of(model)} writes into its inputs in place ({', '.join(modalities)}), so that the next pass over "
            "the same clips would see others: let it change a copy, x = x.clone(), or use operations without `_`"
        )


def refuse_non_finite(
    model: nn.Module,
    logits: Tensor,
    ids: Sequence[str],
    inputs: Mapping[str, Tensor],
    *,
    state: str = "",
    what: str = "logits",
) -> None:
    """Refuse logits (B, K) that are NaN or infinite: no comparison with them means anything.

    Args:
        model: whose they are.
        logits: to be looked at.
        ids: the clips'.
        inputs: what the model was given, by modality: what is odd about it is said.
        state: what the clips have been through, for the error; nothing for clean ones.
        what: what `logits` are: a layer (B, F), perhaps.

    Raises:
        ModelError: names model and clips.
    """
    bad = ~logits.isfinite().all(dim=1)
    if not bad.any():
        return
    odd = [hint for name, x in inputs.items() if (hint := _oddity(name, x[bad])) is not None]
    hint = f" ({'; '.join(odd)})" if odd else ""
    refuse_unanswered(model, bad, ids, state + hint, what=what)


def refuse_unanswered(
    model: nn.Module, bad: Tensor, ids: Sequence[str], state: str = "", *, what: str = "logits"
) -> None:
    """Refuse a model that returned what is not finite.

    Args:
        model: which.
        bad: (B,) bool: for which clips.
        ids: the clips'.
        state: where that was, or what is odd about the clips.
        what: what it returned.

    Raises:
        ModelError: names model and clips.
    """
    if not bad.any():
        return
    names = [ids[i] for i in bad.nonzero().flatten().tolist()]
    raise ModelError(
        f"{name_of(model)} returns {what} that are NaN or infinite for {clips_named(names)}{state}: look for a "
        "division by 0, the logarithm of 0 or weights that are not finite"
    )


def rounding(model: nn.Module, answered: Collection[torch.dtype], device: torch.device) -> float:
    """Largest difference of two passes over the same clip, as a share of the largest logit; see `MARGIN_TOLERANCE`.

    Args:
        model: its parameters' types count.
        answered: the types of logits that it has returned.
        device: where it computes.
    """
    tf32 = device.type == "cuda" and (torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
    own = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    coarse = [ROUNDINGS * torch.finfo(dtype).eps for dtype in {*own, *answered} if dtype.itemsize < 4]
    return max([TF32_TOLERANCE if tf32 else MARGIN_TOLERANCE, *coarse])


def probabilities(logits: NDArray[Any] | Tensor, task: Task) -> bool:
    """True if what a model returned, (N, K), are probabilities instead of logits.

    All are in [0, 1], and with one label per clip each row sums to 1 within rounding.
    """
    values = np.asarray(logits.detach().cpu().float() if isinstance(logits, Tensor) else logits, dtype=np.float64)
    if not values.size or values.min() < 0 or values.max() > 1 + SUM_TOLERANCE:
        return False
    return task == "multi-label" or bool(np.all(np.abs(values.sum(axis=1) - 1) <= SUM_TOLERANCE))


def probability_caveats(logits: NDArray[Any] | Tensor, task: Task) -> list[Caveat]:
    """A caveat if these clean "logits" (N, K) are `probabilities`, or labels; none otherwise."""
    if not probabilities(logits, task):
        return []
    if task == "single-label" and _labels(logits):
        return [
            Caveat(
                check="labels",
                message="what the model returns are labels (1 for one class, 0 for all others), or probabilities that "
                "saturate: attacks by logits or gradients have nothing to climb, and what they leave robust says "
                'nothing; only attacks by labels alone (`access` is "labels") tell something, and that is what can be '
                "broken within their queries",
            )
        ]
    seen, undo = ("sum to 1", "softmax") if task == "single-label" else ("look like a sigmoid's", "sigmoid")
    return [
        Caveat(
            check="probabilities",
            message=f"what the model returns are probabilities (all in [0, 1], and they {seen}), no logits: where they "
            "saturate their gradients vanish, so that attacks stand still and robust accuracy comes out too high; "
            f"return what goes into the {undo}",
        )
    ]


def _labels(logits: NDArray[Any] | Tensor) -> bool:
    """True if all of these probabilities are 0 or 1."""
    values = np.asarray(logits.detach().cpu().float() if isinstance(logits, Tensor) else logits)
    return bool(np.isin(values, (0, 1)).all())


def _may_be_logits(x: object, classes: int | None) -> bool:
    if not isinstance(x, Tensor) or x.dim() != 2 or not x.is_floating_point():
        return False
    return x.shape[1] >= 2 if classes is None else x.shape[1] == classes


def _described(answer: object) -> str:
    """An answer in a few words: types and shapes."""
    if isinstance(answer, Tensor):
        return f"{str(answer.dtype).removeprefix('torch.')} {tuple(answer.shape)}"
    if isinstance(answer, Mapping):
        return f"{type(answer).__name__} with {', '.join(repr(str(key)) for key in list(answer)[:8]) or 'nothing'}"
    if isinstance(answer, (tuple, list)):
        return f"{type(answer).__name__} of {', '.join(_described(x) for x in answer[:4]) or 'nothing'}"
    return type(answer).__name__


def _failed(model: nn.Module, inputs: Mapping[str, Tensor], error: Exception) -> str:
    given = ", ".join(f"{name} {_described(x)}" for name, x in inputs.items())
    reason = plain_text(error, _LONGEST_REASON)
    own = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()} - {torch.float32}
    types = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in own))
    hint = f"; its parameters are {types}: let it cast its inputs, or make it float32 with .float()" if own else ""
    return f"{name_of(model)} fails on what it is given ({given}): {type(error).__name__}: {reason}{hint}"


def _oddity(name: str, x: Tensor) -> str | None:
    """The oddity of one modality of clips (B, ...) that the model cannot answer; None if there is none."""
    flat = x.flatten(1)
    if x.is_floating_point() and bool((~flat.isfinite()).any()):
        return f"{name} there is not finite"
    if flat.shape[1] > 1 and bool((flat == flat[:, :1]).all()):
        return f"{name} there is one and the same value"
    return None
