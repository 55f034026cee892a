"""Recurrent layers in evaluation mode whose gradients cuDNN refuses: as in evaluation, under the name of training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from torch import nn

_FORWARDS: Final = (nn.RNN.forward, nn.LSTM.forward, nn.GRU.forward)


@contextmanager
def differentiable_recurrence(model: nn.Module, device: str = "cuda") -> Iterator[None]:
    """Let gradients pass recurrent layers of a model in evaluation mode.

    On a GPU, cuDNN keeps what it needs for the gradient only in training mode, and refuses the backward pass in any
    other. In torch's own RNN, LSTM and GRU that mode decides on nothing but dropout between layers: with dropout 0 it
    gives what evaluation gives. So only these are in training mode here, with dropout 0; one with a
    forward of its own may do more in that mode, and is left alone.

    Args:
        model: in evaluation mode.
        device: the kind of device on which layers are looked for.
    """
    before = [
        (module, module.training, module.dropout)
        for module in model.modules()
        if isinstance(module, nn.RNNBase)
        and type(module).forward in _FORWARDS
        and any(parameter.device.type == device for parameter in module.parameters())
    ]
    try:
        for layer, _, _ in before:
            layer.training, layer.dropout = True, 0.0
        yield
    finally:
        for layer, training, dropout in before:
            layer.training, layer.dropout = training, dropout
