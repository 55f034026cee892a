"""Files of weights: read without executing anything, within the sizes that they state, out of what wraps them."""

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from avrobust_core.errors import WeightsError
from avrobust_core.models.class_names import NAMES_IN_FILES, names_from
from avrobust_core.models.inert import HARMLESS, Inert
from avrobust_core.models.module_state import is_extra, pack_extra
from avrobust_core.plain_text import plain_text

_WRAPPERS: Final = ("model", "model_state", "state_dict", "model_state_dict", "net", "network", "weights", "params")
"""Keys under which training scripts keep the weights, beside optimiser and epoch."""

_AVERAGED: Final = ("model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "model_ema_state_dict", "ema")
"""Keys of weights averaged over training: taken only where there are no plain ones."""

_NOT_WEIGHTS: Final = re.compile("optim|sched|scaler|amp|loop|callback|hyper|config|args|random|rng|sampler|criterion")
"""Parts of the names of other states that hold tensors."""

_DEPTH: Final = 8
"""Wrappers inside one another that are opened at most."""

_RATIO: Final = 10
"""The largest ratio of a content to its file: torch.save does not compress, and weights hardly can be."""

_SPARE: Final = 1 << 24
"""Bytes (16 MiB) that small files may state beyond that ratio."""

_HEADER: Final = 100_000_000
"""Bytes of a safetensors header, at most: the format's own limit."""

_SHOWN: Final = 8
"""Names of one kind that an error lists."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by key: of a safetensors file, or of one that torch.save wrote.

    No pickle is executed. Beside tensors and plain data a file may hold what training scripts leave there, such as
    numpy arrays, a Namespace or paths (`inert.HARMLESS`): nothing is made of them. Any other object is refused. What
    wraps the weights ("model", "model_state", "state_dict", ...) is taken away; of a model and its average over
    training (EMA) the model is taken, and the average only where it is alone. Keys keep their prefixes, which
    `weights` compares with the module's. A module's extra state is given packed, as `module_state.pack_extra` does.

    Raises:
        WeightsError: if the file is missing, damaged, states more than it can hold, has what may not be loaded, no
            tensors, or several sets of them.
    """
    return read_with_classes(path)[0]


def read_with_classes(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    """As `read_checkpoint`, and the names of the classes, in order, where the file has them beside the weights.

    A safetensors file has them in its metadata, as JSON; one of torch.save beside or around the weights, or in "meta".
    They are a list of names, or names by position.
    """
    if path.is_dir():
        raise WeightsError(f"weights {path}: is a folder; name the file of weights in it")
    if not path.is_file():
        raise WeightsError(f"weights {path}: there is no such file")
    if _is_safetensors(path):
        content, around = _safetensors(path)
    else:
        content = around = _torch_file(path)
    content = _opened(content, path)
    state: dict[str, Tensor] = {}
    for key, value in content.items():
        if isinstance(value, Tensor):
            state[str(key)] = value
        elif is_extra(str(key)):
            state[str(key)] = pack_extra(str(key), value)
    if not any(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"weights {path}: there are no tensors in it, only {listed(content) or 'nothing'}")
    _refuse_unfounded(state, path)
    return state, _classes(around)


def _classes(around: Any) -> tuple[str, ...] | None:
    """The names of classes in what lies around the weights."""
    if not isinstance(around, Mapping):
        return None
    for place in (around, around.get("meta")):
        if isinstance(place, Mapping):
            found = (names_from(place.get(name)) for name in NAMES_IN_FILES)
            names = next((names for names in found if names), None)
            if names is not None:
                return names
    return None


def torch_load(path: Path, device: torch.device | str = "cpu", *, beside: Sequence[tuple[Any, str]] = ()) -> Any:
    """The content of a file that torch.save wrote, of which no pickle is executed, and no more than it can hold.

    Args:
        path: of a regular file.
        device: where tensors go.
        beside: names of other objects that may be in it, each with what stands for them.

    Raises:
        WeightsError: if the file is damaged, states more than it can hold, or has objects that are not named.
    """
    try:
        _check_sizes(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(beside)):
            warnings.simplefilter("ignore")  # of pickle protocols that end in an error here
            return torch.load(path, map_location=device, weights_only=True)
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:
        raise WeightsError(f"weights {path}: {_refusal(str(error))}") from error
    except MemoryError as error:
        raise WeightsError(f"weights {path}: it asks for more memory than there is: damaged, or no weights") from error
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to mean
        raise WeightsError(f"weights {path}: cannot be read, it is damaged or no weights ({_reason(error)})") from error


def _opened(content: Any, path: Path) -> Mapping[Any, Any]:
    """The mapping inside the wrappers that has the tensors."""
    for _ in range(_DEPTH):
        if not isinstance(content, Mapping):
            raise WeightsError(f"weights {path}: it holds {_kind(content)}, not tensors by key")
        inside = {str(name): value for name, value in content.items() if isinstance(value, Mapping)}
        chosen = _chosen(inside, path)
        if chosen is None or (any(isinstance(value, Tensor) for value in content.values()) and chosen not in _WRAPPERS):
            return content
        content = inside[chosen]
    raise WeightsError(f"weights {path}: more than {_DEPTH} wrappers lie around its weights; save the weights alone")


def _chosen(inside: Mapping[str, Mapping[Any, Any]], path: Path) -> str | None:
    """The name of the wrapper to open, if there is one."""
    holding = {name: value for name, value in inside.items() if _holds_tensors(value)}
    others = [name for name in holding if not _NOT_WEIGHTS.search(name.lower()) and name not in _AVERAGED]
    for names in (_WRAPPERS, _AVERAGED, others):
        found = [name for name in names if name in holding]
        if len(found) > 1:
            raise WeightsError(
                f"weights {path}: it holds {len(found)} sets of weights, {listed(found)}; save the one that is meant "
                "by itself"
            )
        if found:
            return found[0]
    return next((name for name in _WRAPPERS if name in inside), None)


def _holds_tensors(content: Mapping[Any, Any]) -> bool:
    """True if a mapping has tensors, itself or in a wrapper inside."""
    for _ in range(_DEPTH):
        if any(isinstance(value, Tensor) for value in content.values()):
            return True
        inside = (content.get(name) for name in (*_WRAPPERS, *_AVERAGED))
        content = next((value for value in inside if isinstance(value, Mapping)), {})
    return False


def _refuse_unfounded(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that are none, or that state more values than the file can hold: a view may repeat one value."""
    odd = [key for key, x in state.items() if x.layout != torch.strided or x.is_quantized or x.is_meta]
    if odd:
        raise WeightsError(
            f"weights {path}: {listed(odd)}: sparse, quantised or empty tensors are not read; save plain ones"
        )
    stated, limit = sum(x.numel() * x.element_size() for x in state.values()), _limit(path)
    if stated > limit:
        raise WeightsError(
            f"weights {path}: its tensors state {stated:,} bytes, and the file has {path.stat().st_size:,}: it is "
            "damaged, or no weights"
        )


def _limit(path: Path) -> int:
    return _RATIO * path.stat().st_size + _SPARE


def _check_sizes(path: Path) -> None:
    """Refuse an archive whose directory states more than the file can sensibly hold."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    names = {entry.filename.partition("/")[2] for entry in entries}
    if "constants.pkl" in names:
        raise WeightsError(
            f"weights {path}: is a TorchScript program, which is not executed; save its state_dict(), best as "
            "safetensors"
        )
    if "data.pkl" not in names:
        shown = listed([entry.filename for entry in entries])
        raise WeightsError(f"weights {path}: is an archive, but none of torch.save: it holds {shown or 'nothing'}")
    stated = sum(entry.file_size for entry in entries)
    if stated > _limit(path):
        raise WeightsError(
            f"weights {path}: the archive states {stated:,} bytes of content, and the file has "
            f"{path.stat().st_size:,}: that is more than weights can be compressed; it was not unpacked"
        )


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(9)
    named = path.suffix == ".safetensors"
    # Eight bytes of the header's length, then the header, which is JSON.
    return named or (len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") <= _HEADER)


def _safetensors(path: Path) -> tuple[Any, dict[str, Any]]:
    """The tensors, and what the metadata says in JSON."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(path, framework="pt") as file:
            stated: dict[str, str] = file.metadata() or {}
        return load_file(path), {key: _json(stated[key]) for key in NAMES_IN_FILES if key in stated}
    except Exception as error:  # SafetensorError, and what torch says of types that it does not have
        raise WeightsError(
            f"weights {path}: cannot be read as safetensors, it is damaged or something else ({_reason(error)})"
        ) from error


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _torch_file(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(f"weights {path}: is a pointer of Git LFS; fetch the file itself with `git lfs pull`")
    return torch_load(path, beside=HARMLESS)


def _refusal(text: str) -> str:
    """The reason for which torch refused a pickle, without its advice to execute it."""
    lines = [line.rpartition("WeightsUnpickler error:")[2].strip() for line in text.splitlines()]
    said = next((line for line in lines if line and "weights_only" not in line and "Weights only" not in line), "")
    found = re.search(r"(?:GLOBAL|function|class) [<']*([\w.]+)", said)
    if found and ("nsupported" in said or "Trying to" in said):
        name = plain_text(found[1], 100)
        return (
            f"refused: it holds {name}, and to make that again would execute code; save the weights alone, as "
            "model.state_dict() gives them, best as safetensors"
        )
    reason = plain_text(said or "its bytes are no pickle", 120).partition(" Please")[0]
    return (
        f"refused, since reading it would execute code, or it is damaged ({reason}); save the weights alone, best as "
        "safetensors"
    )


def _reason(error: Exception) -> str:
    return plain_text(error, 200) or type(error).__name__


def _kind(content: object) -> str:
    if isinstance(content, Inert):
        return "an object of another kind"
    return "one tensor" if isinstance(content, Tensor) else f"a {type(content).__name__}"


def listed(names: Collection[Any], longest: int = 80) -> str:
    """The first few of some names, each of so many characters at most."""
    shown = [plain_text(name, longest) for name in list(names)[:_SHOWN]]
    return ", ".join(shown) + (", ..." if len(names) > _SHOWN else "")
