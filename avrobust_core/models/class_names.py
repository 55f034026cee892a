"""The classes of a classifier that was trained elsewhere: their names in order, and whether they are the data set's."""

import csv
import json
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from torch import nn

from avrobust_core.errors import AvrobustWarning, WeightsError
from avrobust_core.models.layouts import State
from avrobust_core.plain_text import plain_text

Said = Literal["trusted", "new"] | Path | None
"""What a spec says of the classes in a file of weights: the data set's, others, a file of their names; or nothing."""

NAMES_IN_FILES: Final = ("classes", "class_names", "CLASSES")
"""Names under which files hold the names of their classes, beside the weights or under "meta"."""

_SHOWN: Final = 3
"""Positions that an error shows."""

_REMEDIES: Final = (
    "give the data set its classes in the file's order, or say `classes: trusted` beside `weights` if they are the "
    "same all the same, or `classes: new` for a head with initial weights"
)


class Offered(NamedTuple):
    """A classifier in a file of weights.

    Attributes:
        state: by the keys of the model's head; empty if the file has none, or none apart from the rest.
        source: the file, for messages.
        stated: the names of its classes as the file or its layout states them; None if neither does.
    """

    state: State
    source: Path
    stated: Sequence[str] | None


def audioset_classes(outputs: int) -> tuple[str, ...] | None:
    """AudioSet's 527 classes, in the order of its class_labels_indices.csv; None for another number of outputs.

    Source: display names of that table (Gemmeke et al., "Audio Set", 2017), as the distribution epanns 0.1.5 has it.
    """
    return _published("audioset", outputs)


def kinetics_classes(outputs: int) -> tuple[str, ...] | None:
    """The 400 classes of Kinetics-400, in alphabetical order, as published networks have them; None for another number.

    Source: Kay et al., "The Kinetics Human Action Video Dataset", 2017; the list as torchvision's weights have it.
    """
    return _published("kinetics-400", outputs)


def read_class_names(path: Path) -> tuple[str, ...]:
    """The names of a file, in order.

    Args:
        path: a CSV table with a header and the column `display_name`, as AudioSet's class_labels_indices.csv, or
            `name`, in the order of the column `index` if there is one; JSON, a list of names, positions by name or
            names by position; or plain text, one name a line.

    Raises:
        WeightsError: if it cannot be read, or has no names, or one twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            names = names_from(json.loads(text))
        elif path.suffix.lower() == ".csv":
            names = _from_table(text)
        else:
            names = names_from([line.strip() for line in text.splitlines() if line.strip()])
    except (OSError, ValueError, csv.Error) as error:
        raise WeightsError(f"class names {path}: cannot be read ({plain_text(error, 200)})") from error
    if not names or len({*names}) != len(names):
        what = "one is there twice" if names else "it is no list of names, and no table with a column display_name"
        raise WeightsError(f"class names {path}: {what}")
    return names


def names_from(value: Any) -> tuple[str, ...] | None:
    """A list of names, positions by name, or names by position, as names in order; None of anything else."""
    if isinstance(value, Mapping):
        pairs = [(k, v) if str(k).isdecimal() else (v, k) for k, v in value.items()]
        if not all(str(position).isdecimal() for position, _ in pairs):
            return None
        pairs.sort(key=lambda pair: int(pair[0]))
        if [int(position) for position, _ in pairs] != list(range(len(pairs))):
            return None
        value = [str(name).strip('"') for _, name in pairs]  # PyTorchVideo's table of Kinetics has quotes in its names
    if isinstance(value, Sequence) and value and all(isinstance(name, str) for name in value):
        return None if isinstance(value, str) else tuple(value)
    return None


def takes_head(model: str, head: nn.Module, offered: Offered, said: Said, classes: Sequence[str]) -> bool:
    """Whether a model takes a file's own classifier: if its classes are the data set's, in their order.

    Args:
        model: for messages.
        head: the model's.
        offered: the file's.
        said: what the spec says of the file's classes, which goes before what is stated.
        classes: the data set's.

    Raises:
        WeightsError: if they are others, or in another order; shows the first. Or if the spec says something of a head
            that the file does not have.
    """
    state, source, stated = offered
    own = {key: value.shape for key, value in head.state_dict().items()}
    apart = bool(own)
    if own != {key: value.shape for key, value in state.items()}:
        found = "other layers" if state else "none"
        outputs = {value.shape[0] for key, value in state.items() if key in own and value.shape != own[key]}
        if len(outputs) == 1 and own.keys() == state.keys():
            found = f"one of {outputs.pop()} outputs"
        about = f"model {model!r} needs a head of {len(classes)} outputs, one for each class; {source} has {found}"
        if said == "trusted" or isinstance(said, Path):
            raise WeightsError(f"{about}: leave `classes` away, or say `classes: new`, for a head with initial weights")
        if state and said is None:
            _note(f"{about}: its head starts from initial weights")
        return False
    if said == "new" and apart:
        return False
    if said == "trusted":
        return True
    if said == "new":
        raise WeightsError(f"model {model!r}: `classes: new` needs a head apart from the rest, and it has none")
    names = read_class_names(said) if said is not None else stated
    if names is None:
        unknown = f"model {model!r}: it is not known in which order the {len(classes)} classes of {source} are"
        remedy = f"if they are the data set's ({_few(classes)}), say `classes: trusted` beside `weights`"
        if not apart:
            raise WeightsError(f"{unknown}; {remedy}")
        _note(f"{unknown}, so that its head is not taken, and starts from initial weights; {remedy}")
        return False
    _refuse_others(model, tuple(names), tuple(classes), str(source) if said is None else f"{source} (by {said})")
    return True


def _refuse_others(model: str, theirs: tuple[str, ...], ours: tuple[str, ...], source: str) -> None:
    if theirs == ours:
        return
    if len(theirs) != len(ours):
        raise WeightsError(
            f"model {model!r}: {source} has {len(theirs)} classes ({_few(theirs)}), the data set {len(ours)} "
            f"({_few(ours)}); {_REMEDIES}"
        )
    places = [k for k, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b]
    shown = ", ".join(f"{k}: {_name(theirs[k])}, not {_name(ours[k])}" for k in places[:_SHOWN])
    more = f", and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    why = ""
    if {*theirs} == {*ours}:
        why = "; they are the same in another order"
    elif all(theirs[k].casefold() == ours[k].casefold() for k in places):
        why = "; they differ in case alone"
    elif ours == tuple(map(str, range(len(ours)))):
        why = "; the data set's are numbers: trusted, if they are the positions in the file's list"
    raise WeightsError(
        f"model {model!r}: the classes of {source} are not the data set's; of {len(ours)} differ {len(places)}, at "
        f"positions {shown}{more}{why}; {_REMEDIES}"
    )


def _few(names: Sequence[str]) -> str:
    shown = names if len(names) <= 4 else (names[0], names[1], "...", names[-1])
    return ", ".join(plain_text(name, 60) for name in shown)


def _name(name: str) -> str:
    return repr(plain_text(name, 60))


def _note(text: str) -> None:
    warnings.warn(text, AvrobustWarning, stacklevel=4)


def _from_table(text: str) -> tuple[str, ...] | None:
    rows = list(csv.DictReader(text.splitlines(), skipinitialspace=True))
    column = next((name for name in ("display_name", "name") if rows and name in rows[0]), None)
    if column is None:
        return None
    if "index" in rows[0]:
        return names_from({row["index"]: row[column] for row in rows})
    return tuple(row[column] for row in rows)


@cache
def _list(name: str) -> tuple[str, ...]:
    text = files("avrobust_core.models").joinpath("names", f"{name}.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def _published(name: str, outputs: int) -> tuple[str, ...] | None:
    names = _list(name)
    return names if len(names) == outputs else None
