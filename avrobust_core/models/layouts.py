"""Published layouts of weights: recognised by their keys, converted to a module's own."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

State = Mapping[str, Tensor]
"""Tensors by key."""


@dataclass(frozen=True, slots=True)
class Reached:
    """What a published network reached on clean clips, to be compared with what is found here.

    Attributes:
        metric: "accuracy", or a value of the metric `map`.
        value: in [0, 1].
        on: the clips, for messages: "AudioSet's evaluation segments".
    """

    metric: Literal["accuracy", "map"]
    value: float
    on: str


def unknown_classes(outputs: int) -> None:
    """Of a layout that does not say what its checkpoints tell apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointLayout:
    """A published layout of weights, and how it becomes a module's own.

    Attributes:
        name: whose layout it is, for messages: "PANNs".
        marks: keys that every such checkpoint has, and together no other.
        convert: from the checkpoint's tensors to those of the module, by the module's own keys. What it leaves out is
            not loaded (fixed front ends, say); keys that begin with "head." belong to the model's head.
        classes: from the number of outputs of a published head to its classes in order, such as `audioset_classes`;
            None where they are not known. A head is taken only if they are the data set's.
        reached: what the published network with the head of those classes reached; None where it is not known.
    """

    name: str
    marks: tuple[str, ...]
    convert: Callable[[State], State]
    classes: Callable[[int], Sequence[str] | None] = unknown_classes
    reached: Reached | None = None

    def recognises(self, state: State) -> bool:
        """True if a checkpoint has this layout."""
        return all(mark in state for mark in self.marks)


def renamed(rules: Iterable[tuple[str, str]], state: State, *, without: str | None = None) -> dict[str, Tensor]:
    """The tensors of a checkpoint under other keys.

    Args:
        rules: a regular expression and what it is replaced by, as `re.sub` takes them; each key goes through all of
            them in turn.
        state: the checkpoint's tensors.
        without: a regular expression; keys that begin with it are left out.
    """
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if without is None or not re.match(without, key):
            name = key
            for pattern, ours in rules:
                name = re.sub(pattern, ours, name)
            found[name] = value
    return found
