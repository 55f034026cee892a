"""A stand-in for steps of a model that pass no gradient on: the same outputs, with the identity's gradient (BPDA)."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_ROUNDING: Final = frozenset(
    function
    for name in ("round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "heaviside")
    for function in (getattr(torch, name), getattr(Tensor, name, None))
    if function is not None
)
_DIVIDING: Final = frozenset({torch.floor_divide, Tensor.floor_divide, Tensor.__floordiv__})
_DETACHING: Final = frozenset({torch.detach, Tensor.detach, Tensor.data.__get__})  # type: ignore[attr-defined]
_SWITCHING: Final = frozenset({torch._C._set_grad_enabled})


class StraightThrough(TorchFunctionMode):
    """Inside, rounding and signs pass gradients on as the identity does, and nothing detaches (Bengio et al. 2013).

    Outputs are what they are without it: as an attack's way to a point it is sound, whatever the gradient means. What
    leaves torch, such as numpy, is beyond it.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DETACHING and args:
            return args[0]
        if func in _SWITCHING and args and not args[0]:  # no_grad: go on as before
            return func(torch.is_grad_enabled())
        if func not in _ROUNDING | _DIVIDING or not (isinstance(args[0], Tensor) and args[0].requires_grad):
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            smooth = args[0] / args[1] if func in _DIVIDING else args[0]
            return smooth + (func(args[0].detach(), *args[1:], **kwargs) - smooth).detach()
