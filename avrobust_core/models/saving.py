"""A cell's own files of weights: written whole or not at all, read back into a model of the same layout."""

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor, nn

from avrobust_core.errors import RunError, WeightsError
from avrobust_core.files import write_atomically
from avrobust_core.models.module_state import plain_state, take_state
from avrobust_core.plain_text import plain_text


def save_weights(model: nn.Module, path: Path, classes: Sequence[str] | None = None) -> None:
    """Write a model's parameters, buffers and extra state as safetensors, whole or not at all.

    Args:
        model: to be written.
        path: of the file.
        classes: what its logits stand for, in order; written beside the weights.

    Raises:
        WeightsError: if the model has what cannot be written; see `plain_state`.
    """
    metadata = {"classes": json.dumps(list(classes))} if classes is not None else None
    content = save(plain_state(model), metadata)
    write_atomically(path, lambda file: file.write(content))


def load_weights(model: nn.Module, path: Path) -> None:
    """Read what `save_weights` wrote into a model of the same layout.

    Raises:
        RunError: if the file is damaged or belongs to another layout; lists the keys.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except Exception as error:
        raise RunError(
            f"{path}: cannot be read ({plain_text(error, 200)}); delete the cell's folder to fit it again"
        ) from error
    own = model.state_dict().keys()
    problems = [
        f"{what} {', '.join(plain_text(key, 100) for key in sorted(keys)[:8])}"
        for what, keys in (("without", own - tensors.keys()), ("with unknown", tensors.keys() - own))
        if keys
    ]
    if problems:
        raise RunError(f"{path}: belongs to another model, {' and '.join(problems)}; delete the cell's folder")
    try:
        take_state(model, tensors)
    except (RuntimeError, WeightsError) as error:
        raise RunError(f"{path}: {plain_text(error)}; delete the cell's folder to fit it again") from error
