"""Remove the prefixes that wrappers put before a checkpoint's keys, where that makes them a module's own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from torch import Tensor

from avrobust_core.models.layouts import State

_INSERTED: Final = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts that torch.compile, FSDP and activation checkpointing put into keys, at any place."""

_PARALLEL: Final = "module"
"""The prefix of DataParallel, DistributedDataParallel and AveragedModel."""

_PREFIXES: Final = (_PARALLEL, "model", "net", "network", "backbone", "encoder")
"""Prefixes of a network beside other keys in training scripts: Lightning's "model.", beside a loss's."""

_AVERAGED: Final = ("ema", "model_ema", "ema_model")
"""Prefixes of weights averaged over training, beside the plain ones."""

_AVERAGES: Final = "n_averaged"
"""AveragedModel's counter."""

_DEPTH: Final = 8
"""Prefixes before one another that are taken away at most."""


def agreeing(state: State, own: Mapping[str, Any], recognised: Callable[[State], bool] = lambda _: False) -> State:
    """A checkpoint by the keys that agree with a module's, without what wrappers put before and into them.

    Prefixes ("module.", "model.", "_orig_mod.", whatever all keys have in common) are taken away only where that makes
    more keys a module's own: a module with a child named "model" keeps it. Of plain weights beside averaged ones
    ("ema.", "model_ema.") the plain ones are kept.

    Args:
        state: by the file's keys.
        own: by the module's keys; with shapes.
        recognised: whether keys are those of a published layout.

    Returns:
        the first form whose keys are all that the module has, or a layout's; else that with the most of the module's.
    """
    best, most = state, -1
    for form in _forms(state, own):
        matches = sum(key in own and _shape(own[key]) == _shape(value) for key, value in form.items())
        if recognised(form) or (matches == len(own) and matches == len(form)):
            return form
        if matches > most:
            best, most = form, matches
    return best


def _forms(state: State, own: Mapping[str, Any]) -> Iterator[State]:
    """The state as it is, and with more and more taken away."""
    yield state
    bare = {_without(key, _INSERTED): key for key in own}  # the module itself may be compiled, too
    state = _keyed(_plain(state, own), lambda key: _without(key, _INSERTED)) or state
    for _ in range(_DEPTH):
        inner = _keyed(state, lambda key: _without(key, (_PARALLEL,)))
        for form in (state, inner):
            yield _keyed(form or state, lambda key: bare.get(key, key)) or state
        shorter = _without_first(state)
        if shorter is None:
            return
        state = shorter


def _without_first(state: State) -> State | None:
    """Without the first part of the keys: what all of them share, or a known prefix of some; None if there is none."""
    firsts = [key.partition(".")[0] for key in state if "." in key]
    shared = len(firsts) == len(state) and len(set(firsts)) == 1
    known = firsts[:1] if shared else [part for part in _PREFIXES if part in firsts]
    if not known:
        return None
    prefix = max(known, key=firsts.count) + "."
    return _keyed(state, lambda key: key.removeprefix(prefix))


def _plain(state: State, own: Mapping[str, Any]) -> State:
    """Without averaged weights beside plain ones, and without the counter of an average."""
    firsts = {key.partition(".")[0] for key in own}
    averaged = {key for key in state if key.partition(".")[0] in _AVERAGED and key.partition(".")[0] not in firsts}
    if len(averaged) == len(state):
        averaged = set()
    return {key: value for key, value in state.items() if key not in averaged and (key != _AVERAGES or key in own)}


def _keyed(state: State, rename: Callable[[str], str]) -> State | None:
    """The same under other keys; None if two would have one."""
    renamed = {rename(key): value for key, value in state.items()}
    return renamed if len(renamed) == len(state) else None


def _without(key: str, parts: Sequence[str]) -> str:
    return ".".join(part for part in key.split(".") if part not in parts)


def _shape(value: Any) -> Any:
    return value.shape if isinstance(value, Tensor) else None
