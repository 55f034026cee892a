"""Encoders that torch compiles for the passes of attacks; in every other pass they are as they are."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from avrobust_core.blame import sentence
from avrobust_core.errors import ModelError
from avrobust_core.models.model import AVModel


class CompiledEncoders:
    """Compiled forms of a model's encoders, which take their places during a pass.

    An encoder is compiled at its first pass, once more for batches of another size, and then for batches of any.

    Args:
        model: whose encoders they are.
        names: of the encoders' modalities.
    """

    def __init__(self, model: AVModel, names: Collection[str] = ()) -> None:
        self._model = model
        self._forms: dict[str, Callable[..., Any]] = {}
        for name in names:
            self.add(name)

    def add(self, name: str) -> None:
        """Compile the encoder of a modality from now on."""
        self._forms[name] = _compiled(self._model.encoders[name], name)

    def remove(self, name: str) -> None:
        """Use the encoder of a modality as it is from now on."""
        del self._forms[name]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Compute with them inside."""
        encoders = [(vars(self._model.encoders[name]), form) for name, form in self._forms.items()]
        kept = [own.get("forward") for own, _ in encoders]
        for own, form in encoders:
            own["forward"] = form
        try:
            yield
        finally:
            for (own, _), forward in zip(encoders, kept, strict=True):
                if forward is None:
                    del own["forward"]
                else:
                    own["forward"] = forward


def _compiled(encoder: nn.Module, name: str) -> Callable[..., Any]:
    form = torch.compile(encoder.forward)

    def forward(*args: Any, **kwargs: Any) -> Any:
        try:
            return form(*args, **kwargs)
        except Exception as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            raise ModelError(
                f"torch.compile cannot compile the encoder of {name} ({type(encoder).__name__}): {sentence(error)}; "
                "set engine.attack_compile to false"
            ) from error

    return forward
