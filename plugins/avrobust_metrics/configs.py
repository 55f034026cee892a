"""The metrics' configurations; free of numpy."""

from typing import Annotated

from pydantic import Field, field_validator

from avrobust_core import Config


class AccuracyConfig(Config):
    """Configuration of `accuracy`."""

    top: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 5)
    """Each k for which top-k accuracy is measured, single-label only; a k that is not below the number of classes is
    left out, because every clip would count as correct."""

    @field_validator("top")
    @classmethod
    def _distinct(cls, top: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(top)) != len(top):
            raise ValueError(f"top: {list(top)} names a k twice")
        return tuple(sorted(top))


class MapConfig(Config):
    """Configuration of `map`; it has no options."""
