"""Layers of a model by their names: found, looked at, and replaced on the way to the logits."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

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
    """What layers return in one pass, by name: (B, ...), a clip's rows together where they are more than clips.

    Of a layer that is called several times it is what the last call returns.

    Args:
        model: whose layers they are.
        layers: their names.
        forward: the pass.
        clips: B.

    Raises:
        ModelError: if there is no such layer, it is not called, or it does not return one floating tensor with rows for
            each clip.
    """
    found: dict[str, Any] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        # A copy: what comes next may write into it, such as ReLU(inplace=True).
        return lambda _, __, output: found.update({name: output.clone() if isinstance(output, Tensor) else output})

    with ExitStack() as hooks:
        for name in layers:
            hooks.enter_context(find_layer(model, name).register_forward_hook(keep(name)))
        forward()
    return {name: _by_clip(found, name, clips) for name in layers}


@contextmanager
def replaced(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Let layers return given values whatever goes into them.

    Args:
        model: whose layers they are.
        values: by the layers' names, as `outputs_of` gives them.

    Raises:
        ModelError: if there is no such layer.
    """

    def give(value: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        return lambda _, __, output: value.to(output.dtype).reshape(output.shape).clone()

    with ExitStack() as hooks:
        for name, value in values.items():
            hooks.enter_context(find_layer(model, name).register_forward_hook(give(value)))
        yield


def _by_clip(found: Mapping[str, Any], name: str, clips: int) -> Tensor:
    if name not in found:
        raise ModelError(f"the model does not call its layer {name!r}: name one that it does")
    output = found[name]
    if not isinstance(output, Tensor) or not output.is_floating_point():
        what = output.dtype if isinstance(output, Tensor) else type(output).__name__
        raise ModelError(f"layer {name!r} returns {what}, not a tensor of floats: name a layer that does")
    rows = len(output) if output.ndim else 0
    if rows < clips or rows % clips:
        raise ModelError(
            f"layer {name!r} returns shape {tuple(output.shape)} for {clips} clips: name a layer whose first axis "
            "is that of the clips"
        )
    return output if rows == clips else output.reshape(clips, rows // clips, *output.shape[1:])
