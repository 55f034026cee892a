"""The cost of training: passes of clips through the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from avrobust_core.models.model import AVModel


@dataclass(slots=True)
class Cost:
    """Passes through the model, in clips: one clip through the whole model once is one forward.

    The training loop counts its own; an augmentation adds what it spends beside.

    Attributes:
        forwards: forward passes.
        backwards: backward passes.
    """

    forwards: int = 0
    backwards: int = 0


@contextmanager
def counting(model: nn.Module, cost: Cost) -> Iterator[None]:
    """Count the clips that go through the whole model inside the block, and the gradients taken through those passes.

    A gradient is counted when it is taken, be it after the block.
    """

    def went_back(gradient: Tensor) -> None:
        cost.backwards += len(gradient) // rows

    def went_through(module: nn.Module, args: object, logits: Tensor) -> None:
        cost.forwards += len(logits) // rows
        if logits.requires_grad:
            logits.register_hook(went_back)  # type: ignore[no-untyped-call]

    # The head sees each window of a clip, and all windows together are one pass.
    last, rows = (model.head, model.windows.count) if isinstance(model, AVModel) else (model, 1)
    handle = last.register_forward_hook(went_through)
    try:
        yield
    finally:
        handle.remove()
