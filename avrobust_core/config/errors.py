"""Say in plain lines what is wrong with a component's configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from avrobust_core.config.suggest import closest, did_you_mean

Location = tuple[int | str, ...]

_LONGEST_INPUT = 60


def configuration_errors(config: type[BaseModel], error: ValidationError) -> list[tuple[Location, str]]:
    """Return each fault as its place in the configuration and a sentence, in the order pydantic found them.

    Unknown fields come with a suggestion, or else with the fields that there are.

    Args:
        config: the model that was validated.
        error: what its validation raised.
    """
    found: list[tuple[Location, str]] = []
    for detail in error.errors(include_url=False, include_context=False):
        location = detail["loc"]
        if detail["type"] == "extra_forbidden":
            known = list(_fields_at(config, location[:-1]))
            message = f"no such field{_instead(str(location[-1]), known)}"
        elif detail["type"] == "missing":
            message = "required, but not given"
        else:
            message = f"{_sentence(detail['msg'])}, not {_shown(detail['input'])}"
        found.append((location, message))
    return found


def location_text(location: Location) -> str:
    """Write a place as a path, such as `stages[2].width`; the configuration as a whole is `(as a whole)`."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text or "(as a whole)"


def _instead(name: str, known: list[str]) -> str:
    if closest(name, known):
        return did_you_mean(name, known)
    return f"; there are: {', '.join(known)}" if known else "; it has no fields"


def _sentence(message: str) -> str:
    """Drop pydantic's prefix for errors raised by a validator, and the capital."""
    text = message.removeprefix("Value error, ").removeprefix("Assertion failed, ").rstrip(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_INPUT else f"{text[: _LONGEST_INPUT - 3]}..."


def _fields_at(config: type[BaseModel], location: Location) -> Iterator[str]:
    """Yield the names of the fields of the model at a place inside `config`."""
    models = [config]
    for part in location:
        # A place also holds list indices, dictionary keys and the names of a union's members: those name no field.
        fields = [model.model_fields.get(str(part)) or _by_alias(model, str(part)) for model in models]
        inner = [nested for field in fields if field is not None for nested in nested_models(field.annotation)]
        named = [model for model in models if model.__name__ == part]
        models = inner or named or models
    for model in models:
        for name, field in model.model_fields.items():
            yield field.alias or name


def _by_alias(model: type[BaseModel], alias: str) -> Any:
    return next((field for field in model.model_fields.values() if field.alias == alias), None)


def nested_models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that a field's annotation names, also inside unions, lists and mappings."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for argument in get_args(annotation):
        yield from nested_models(argument)
