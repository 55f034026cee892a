"""Passes that keep little for the backward pass: the ends of a model's stages, from which the rest is made again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from avrobust_core.models.model import AVModel

LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
"""Modules that are lists of stages, not stages themselves."""


class Sparing:
    """A model whose stages keep nothing but their inputs for the backward pass, which runs them a second time.

    Stages are the parts of the encoders, or of any other model, that have parameters, and again the parts of those: so
    that memory grows with the stages' number and with the largest part of one, not with all that lies between (Chen et
    al. 2016, "Training deep nets with sublinear memory cost", arXiv 1604.06174). Gradients are the same to rounding.

    Args:
        model: in evaluation mode.
        forward: a pass through it. It is run once, without gradients, to see which stages write into their inputs: a
            second run of those would begin with something else, so that they are left as they are.
    """

    def __init__(self, model: nn.Module, forward: Callable[[], object]) -> None:
        whole = list(model.encoders.values()) if isinstance(model, AVModel) else [model]
        stages = [stage for part in whole for stage in _parts(part)]
        stages += [part for stage in stages for part in _parts(stage)]
        self._stages = _pure(list(dict.fromkeys(stages)), forward)
        self._there = False

    def __len__(self) -> int:
        return len(self._stages)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Passes with gradients inside are sparing."""
        if self._there:
            yield
            return
        self._there = True
        kept = [(stage, vars(stage).get("forward")) for stage in self._stages]
        for stage in self._stages:
            vars(stage)["forward"] = self._twice(stage.forward)
        try:
            yield
        finally:
            self._there = False
            for stage, own in kept:
                if own is None:
                    del vars(stage)["forward"]
                else:
                    vars(stage)["forward"] = own

    def _twice(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with self.in_place():  # the second time the pass is over; and the stage's own parts are as they were then
                return forward(*args, **kwargs)

        def sparing(*args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return forward(*args, **kwargs)
            return checkpoint(run, *args, use_reentrant=False, **kwargs)

        return sparing


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, LISTS):
            yield from _parts(child)
        elif any(True for _ in child.parameters()):
            yield child


@torch.no_grad()
def _pure(stages: list[nn.Module], forward: Callable[[], object]) -> list[nn.Module]:
    """Those of the stages that were called, and wrote into none of their inputs."""
    versions: dict[int, list[int]] = {}
    found: dict[nn.Module, bool] = {}

    def before(stage: nn.Module, args: tuple[Any, ...]) -> None:
        versions[id(stage)] = [x._version for x in args if isinstance(x, Tensor)]

    def after(stage: nn.Module, args: tuple[Any, ...], _: object) -> None:
        same = versions[id(stage)] == [x._version for x in args if isinstance(x, Tensor)]
        found[stage] = found.get(stage, True) and same

    handles = [stage.register_forward_pre_hook(before) for stage in stages]
    handles += [stage.register_forward_hook(after) for stage in stages]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return [stage for stage in stages if found.get(stage, False)]
