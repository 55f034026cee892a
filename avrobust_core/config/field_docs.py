"""Descriptions of a configuration's fields, from the docstrings below them, read when they are first asked for."""

import ast
import inspect
import sys
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler


@dataclass(frozen=True, slots=True)
class Phrase:
    """In a field's metadata: what it takes, in plain words, where a validator makes that more than its type says."""

    text: str


class Described(BaseModel):
    """Frozen, no unknown fields; the schema is built, and docstrings are read, at first use: listing needs neither."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    also_takes: ClassVar[str] = ""
    """Values that may stand for a map of its fields, in plain words."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> Any:
        describe(cls)
        return handler(source)


def describe(model: type[BaseModel]) -> None:
    """Give each field of a model, its bases' too, the docstring below it as its description, if it has none yet.

    Pydantic can do it by itself (`use_attribute_docstrings`), but at each class's creation, which is half of what a
    class costs: more than listing plugins may take. Where there is no source, nothing is described.
    """
    for base in model.__mro__:
        if not (issubclass(base, BaseModel) and base.__module__ in sys.modules):
            continue
        for name, text in _docstrings(base.__module__, base.__qualname__).items():
            field = model.__pydantic_fields__.get(name)
            if field is not None and field.description is None:
                field.description = text


@cache
def _docstrings(module: str, qualname: str) -> dict[str, str]:
    """By field, in one class body."""
    node: ast.AST = _parsed(module)
    for name in qualname.split("."):
        if name == "<locals>":
            continue
        found = [
            child
            for child in ast.iter_child_nodes(node)
            if isinstance(child, (ast.ClassDef, ast.FunctionDef)) and child.name == name
        ]
        if not found:
            return {}
        node = found[-1]
    body = getattr(node, "body", [])
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


@cache
def _parsed(module: str) -> ast.Module:
    try:
        return ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError, SyntaxError):  # no file, or none of Python's
        return ast.Module([], [])
