"""Layers of a model by their names: found, looked at, and replaced on the way to the logits."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from avrobust_core.config.suggest import did_you_mean
from avrobust_core.errors import ModelError


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """The layer of that name, as `torch.nn.Module.named_modules` gives it.

    Args:
        model: whose layer it is.
        name: such as "encoders.audio.conv_block2" or "fusion.hidden".

    Raises:
        ModelError: if there is none; names near ones, or those that there are.
    """
    known: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    if name and name in known:
        return known[name]
    there = name
    while there not in known:
        there = there.rpartition(".")[0]
    inside = ", ".join(child for child, _ in known[there].named_children()) or "no layers inside"
    hint = did_you_mean(name, known) or f"; {there or 'it'} has: {inside}"
    raise ModelError(f"the model has no layer {name!r}{hint}")


def outputs_of(
    model: nn.Module, layers: Collection[str], forward: Callable[[], object], clips: int
) -> dict[str, Tensor]:
    """What layers return in one pass, by name: (B, D), all numbers of a clip side by side.

    A layer may return one tensor or several, whose first axis is that of the clips, or of all rows of the first clip,
    then of the second, such as frames. Of a layer that is called several times it is what the last call returns.

    Args:
        model: whose layers they are.
        layers: their names.
        forward: the pass.
        clips: B.

    Raises:
        ModelError: if there is no such layer, it is not called, or it returns anything else.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            rows = [part.reshape(clips, -1) for part in _tensors(output, name, clips)]
            # A copy: what comes next may write into the output, such as ReLU(inplace=True).
            found[name] = torch.cat(rows, dim=1) if len(rows) > 1 else rows[0].clone()

        return hook

    with ExitStack() as hooks:
        for name in layers:
            hooks.enter_context(find_layer(model, name).register_forward_hook(keep(name)))
        forward()
    for name in layers:
        if name not in found:
            raise ModelError(f"the model does not call its layer {name!r}: name one that it does")
    return found


@contextmanager
def replaced(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Let layers return given values whatever goes into them.

    Args:
        model: whose layers they are.
        values: by the layers' names, (B, D) each, as `outputs_of` gives them.

    Raises:
        ModelError: if there is no such layer.
    """

    def give(name: str, value: Tensor) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            parts = _tensors(output, name, len(value))
            widths = [part.numel() // len(value) for part in parts]
            if sum(widths) != value.shape[1]:  # of a call before the last, which had other things to do
                return output
            split = torch.split(value, widths, dim=1)
            given = [x.to(part.dtype).reshape(part.shape).clone() for x, part in zip(split, parts, strict=True)]
            return given[0] if isinstance(output, Tensor) else type(output)(given)

        return hook

    with ExitStack() as hooks:
        for name, value in values.items():
            hooks.enter_context(find_layer(model, name).register_forward_hook(give(name, value)))
        yield


def _tensors(output: Any, name: str, clips: int) -> list[Tensor]:
    """The tensors that a layer returns, each with a clip's rows one after the other."""
    parts = list(output) if type(output) in (tuple, list) else [output]
    for part in parts:
        if not isinstance(part, Tensor) or not part.is_floating_point():
            what = part.dtype if isinstance(part, Tensor) else type(part).__name__
            raise ModelError(f"layer {name!r} returns {what}, not tensors of floats: name a layer that does")
        if not part.ndim or len(part) < clips or len(part) % clips:
            raise ModelError(
                f"layer {name!r} returns shape {tuple(part.shape)} for {clips} clips: name a layer whose first axis is "
                "that of the clips"
            )
    return parts
