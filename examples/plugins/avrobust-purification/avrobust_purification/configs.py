"""The configuration of `purified`, and how a step is written; free of torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from pydantic import Field, field_validator

from avrobust_core import ComponentChoice, Config

STEPS: Final[Mapping[str, tuple[str, float, float, str]]] = MappingProxyType(
    {
        "mu-law": ("audio", 2, 16, "bits"),
        "pcm": ("audio", 2, 16, "bits"),
        "mp3": ("audio", 8000, 320_000, "bits per second"),
        "aac": ("audio", 8000, 320_000, "bits per second"),
        "opus": ("audio", 6000, 320_000, "bits per second"),
        "room": ("audio", 0.01, 10, "seconds in which it falls by 60 decibels, at most"),
        "jpeg": ("video", 2, 31, "FFmpeg's quantiser, 2 the finest"),
        "h264": ("video", 0, 51, "constant rate factor, 0 without loss"),
    }
)
"""Each step: the kind of media it is for, its number's lowest and highest value, and what the number is."""

_WRITTEN = re.compile(r"([a-z0-9-]+):(\d+(?:\.\d+)?)(k?)")


@dataclass(frozen=True, slots=True)
class Step:
    """A step as it is written: "mu-law:8", "opus:16k".

    Attributes:
        name: one of `STEPS`.
        number: see there.
    """

    name: str
    number: float

    @classmethod
    def of(cls, text: str) -> "Step":
        """The step that a text asks for.

        Raises:
            ValueError: says what is wrong with it, and what there is.
        """
        found = _WRITTEN.fullmatch(text)
        if found is None or found[1] not in STEPS:
            known = ", ".join(f"{name}:N" for name in STEPS)
            raise ValueError(f"{text!r} is no step; write a name and a number, such as mu-law:8 or opus:16k: {known}")
        number = float(found[2]) * (1000 if found[3] else 1)
        _, low, high, what = STEPS[found[1]]
        if not low <= number <= high:
            raise ValueError(f"{text!r}: the number of {found[1]} is {what}, from {low:g} to {high:g}")
        if what == "bits" and number % 1:
            raise ValueError(f"{text!r}: bits are a whole number")
        return cls(found[1], number)

    @property
    def kind(self) -> str:
        """The kind of media it is for."""
        return STEPS[self.name][0]


class EncoderChoice(ComponentChoice):
    """An encoder."""

    kind = "encoder"


class PurifiedConfig(Config):
    """Configuration of `purified`."""

    encoder: EncoderChoice
    """The encoder behind the purification."""
    steps: tuple[str, ...] = Field(min_length=1)
    """What sound or pictures pass through, in order. Sound: mu-law:BITS, pcm:BITS, mp3:RATE, aac:RATE, opus:RATE (in
    bits per second, such as 16k), room:SECONDS (a random room with at most so much reverberation, another in every
    pass). Pictures: jpeg:Q (FFmpeg's quantiser, 2 to 31), h264:CRF (0 to 51)."""
    backward: Literal["identity", "exact"] = "identity"
    """The derivative of steps that round or leave torch. identity: that of a step that does nothing (BPDA), so that
    attacks by gradients get through. exact: 0, as it is almost everywhere, which hides the model from attacks by
    gradients and makes nothing safer: only to show what that looks like. A room has its own derivative either way."""

    @field_validator("steps")
    @classmethod
    def _known(cls, steps: tuple[str, ...]) -> tuple[str, ...]:
        kinds = {Step.of(step).kind for step in steps}
        if len(kinds) > 1:
            raise ValueError("steps for sound and steps for pictures do not go together: give each modality its own")
        return steps
