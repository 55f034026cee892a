"""Faults of a component's configuration in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from avrobust_core.config.suggest import did_you_mean
from avrobust_core.plain_text import shortened

Location = tuple[int | str, ...]

_LONGEST_INPUT = 60


def configuration_errors(config: type[BaseModel], error: ValidationError) -> list[tuple[Location, str]]:
    """The faults, each with its place in the configuration and a sentence, in the order in which pydantic found them.

    Unknown fields come with a suggestion, or else with the fields that there are.

    Args:
        config: the model that was validated.
        error: what its validation raised.
    """
    found: list[tuple[Location, str]] = []
    for detail in error.errors(include_url=False, include_context=False):
        location = detail["loc"]
        if detail["type"] == "extra_forbidden":
            name, known = str(location[-1]), _fields_at(config, location[:-1])
            there_are = f"; there are: {', '.join(known)}" if known else "; it has no fields"
            message = f"no such field{did_you_mean(name, known) or there_are}"
        elif detail["type"] == "missing":
            message = "required, but not given"
        else:
            message = f"{_sentence(detail['msg'])}, not {shortened(repr(detail['input']), _LONGEST_INPUT)}"
        found.append((location, message))
    return found


def location_text(location: Location) -> str:
    """A place as a path, such as `stages[2].width`; the configuration as a whole is `(as a whole)`."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text or "(as a whole)"


def _sentence(message: str) -> str:
    """The message without the capital and without pydantic's prefix for errors raised by a validator."""
    text = message.removeprefix("Value error, ").removeprefix("Assertion failed, ").rstrip(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _fields_at(config: type[BaseModel], location: Location) -> list[str]:
    """The names of the fields of the model at a place inside `config`."""
    from avrobust_core.config.fields import arms, below, field_names  # not for listing

    annotation: Any = config
    for part in location:
        # A place also holds the names of a union's members, which name no field.
        slot = below(annotation, part)
        named = (arm for arm in arms(annotation) if getattr(arm, "__name__", None) == part)
        annotation = next(named, annotation) if slot is None else slot.annotation
    return field_names(annotation)


def nested_models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that a field's annotation names, also inside unions, lists and mappings."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for argument in get_args(annotation):
        yield from nested_models(argument)
