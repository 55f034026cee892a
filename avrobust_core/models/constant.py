"""Weights that stay as they are for a while: what is worked out of them, or cast to a lower precision, is made once."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import torch
from torch import Tensor, nn

CAST: Final = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
"""Layers that compute in autocast's lower precision, whose weights it casts anew in each pass: it keeps casts only of
weights that learn."""

Made = tuple[Tensor, ...]

_Kept = dict[tuple[Any, ...], tuple[Sequence[Tensor], Made]]

_kept: ContextVar[_Kept | None] = ContextVar("kept", default=None)
_stand_ins: ContextVar["StandIns | None"] = ContextVar("stand_ins", default=None)


@contextmanager
def constant_weights() -> Iterator[None]:
    """Keep what `made_once` makes until the block ends; an outer block's is left alone."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def made_once(weights: Sequence[Tensor], make: Callable[[], Made]) -> Made:
    """What a layer works out of its weights in each pass, the same in all of them while they are constant.

    Inside `constant_weights` it is made once, in float32, and under autocast cast once, too. It is made anew where a
    weight has a gradient, was written into since, or is another tensor; and in each pass that torch compiles, as a part
    of it.

    Args:
        weights: all that it depends on.
        make: it, from the layer's present weights.
    """
    kept = _kept.get()
    if (
        kept is None
        or torch.compiler.is_compiling()
        or (torch.is_grad_enabled() and any(weight.requires_grad for weight in weights))
    ):
        return make()
    device = weights[0].device.type
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    key = (low, *((id(weight), *_state(weight)) for weight in weights))
    if key not in kept:
        stand_ins = _stand_ins.get()
        # Not a tensor of inference mode, which could not be kept for a backward pass.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
            if stand_ins is None:
                made = make()
            else:
                with stand_ins.away():
                    made = make()
            kept[key] = weights, tuple(x if low is None else x.to(low) for x in made)
    return kept[key][1]


class StandIns:
    """Casts of the weights of a model's convolutions and linear maps, which take their places during a pass.

    They are what autocast would make of them, bit for bit, made once and not in each pass.

    Args:
        model: whose weights have no gradients.
        dtype: of the casts.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        cast: dict[int, Tensor] = {}
        self._places: list[tuple[dict[str, Any], str, nn.Parameter, Tensor]] = []
        for module in model.modules():
            if isinstance(module, CAST):
                for name, weight in module._parameters.items():
                    if weight is not None and weight.dtype == torch.float32 and not weight.requires_grad:
                        low = cast.setdefault(id(weight), weight.detach().to(dtype))
                        self._places.append((module._parameters, name, weight, low))
        self._versions = self._seen()

    def fits(self) -> bool:
        """True if no weight was replaced, or written into, since they were made."""
        return self._versions == self._seen() and all(held[name] is weight for held, name, weight, _ in self._places)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Compute with them inside."""
        token = _stand_ins.set(self)
        try:
            self._put(low=True)
            yield
        finally:
            self._put(low=False)
            _stand_ins.reset(token)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Compute with the weights themselves inside, within `in_place`."""
        self._put(low=False)
        try:
            yield
        finally:
            self._put(low=True)

    def _put(self, *, low: bool) -> None:
        for held, name, weight, cast in self._places:
            held[name] = cast if low else weight

    def _seen(self) -> list[tuple[int, ...]]:
        return [_state(weight) for _, _, weight, _ in self._places]


def _state(weight: Tensor) -> tuple[int, ...]:
    """What changes when a weight is written into, or laid out otherwise in memory."""
    return weight._version, *weight.stride()
