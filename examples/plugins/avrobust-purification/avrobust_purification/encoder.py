"""`purified`: an encoder whose frontend begins with a purification."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from avrobust_core import CheckpointLayout, DataError, Encoded, Encoder, MediaSpec, State
from avrobust_purification.configs import PurifiedConfig, Step
from avrobust_purification.purification import Purification
from avrobust_purification.steps import make_step

BOUNDS = {"audio": (-1, 1), "video": (0, 1)}


class Purified(Encoder):
    """An encoder that reads what a purification has left of a clip.

    The purification is part of the frontend, so that budgets are stated on the clip as it comes, and attacks see its
    effect. Training goes through it, too. Weights of the inner encoder have the keys `inner....`; its published layouts
    are read as they are.

    Args:
        inner: the encoder behind it.
        steps: see `PurifiedConfig.steps`.
        media: of the modality.
        exact: whether steps that round have their own derivative, 0, instead of that of a step that does nothing.

    Raises:
        DataError: if a step is for other media, the bounds are not those of sound or pictures, or a codec does not take
            these clips.
    """

    def __init__(self, inner: Encoder, steps: Sequence[Step], media: MediaSpec, *, exact: bool = False) -> None:
        super().__init__()
        for step in steps:
            if media.kind != step.kind or media.bounds != BOUNDS[step.kind]:
                raise DataError(
                    f"step {step.name} purifies media of the kind {step.kind!r} within {BOUNDS[step.kind]}, not "
                    f"{media.kind!r} within {media.bounds}: leave it out, or give it another modality"
                )
        self.inner = inner
        self.dims = inner.dims
        self.time_axis = inner.time_axis
        self.frontend = Behind(Purification([make_step(step, media) for step in steps], exact=exact), inner.frontend)
        self.layouts = tuple(map(_inside, inner.layouts))

    def encode(self, features: Tensor) -> Encoded:
        """What the inner encoder makes of its features."""
        return self.inner.encode(features)

    def make_head(self, classes: int) -> nn.Module | None:
        """The inner encoder's."""
        return self.inner.make_head(classes)


class Behind(nn.Module):
    """A purification, and then the inner encoder's frontend.

    Args:
        purification: from clips to clips.
        frontend: from clips to features. It is registered where it belongs, in the inner encoder, and not here: its
            parameters must not be there twice.
    """

    def __init__(self, purification: nn.Module, frontend: nn.Module) -> None:
        super().__init__()
        self.purification = purification
        self._frontend = (frontend,)

    def forward(self, x: Tensor) -> Tensor:
        """From clips (B, ...) to features (B, ...)."""
        found: Tensor = self._frontend[0](self.purification(x))
        return found


def purified(config: PurifiedConfig, media: MediaSpec) -> Purified:
    """Build the inner encoder for the same media, and put the purification before it.

    Raises:
        DataError: see `Purified`.
    """
    steps = [Step.of(step) for step in config.steps]
    return Purified(config.encoder.build(media), steps, media, exact=config.backward == "exact")


def _inside(layout: CheckpointLayout) -> CheckpointLayout:
    """The layout, for an encoder that is inside another."""

    def convert(state: State) -> State:
        found = layout.convert(state)
        return {key if key.startswith("head.") else f"inner.{key}": value for key, value in found.items()}

    return replace(layout, convert=convert)
