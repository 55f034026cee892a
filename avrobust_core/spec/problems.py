"""Mistakes in a spec and their places: one record per mistake, one error for all of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from avrobust_core.config.suggest import closest
from avrobust_core.errors import AvrobustError
from avrobust_core.spec.nodes import Place

_MOST_SHOWN: Final = 100
_LONGEST: Final = 400
"""Characters of a message; a line of the source is shown around its column."""
_AROUND: Final = 100
_MOST_COMPARED: Final = 300
"""Names that a misspelled one is compared with."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a spec.

    Attributes:
        place: the mistake's place; line 0 if the source as a whole is meant.
        message: what is wrong, in one line.
        hint: what to do about it; may be empty.
    """

    place: Place
    message: str
    hint: str = ""

    def render(self) -> str:
        """`file:line:column: message`, the source line with a caret under the column, and the hint.

        Long lines are cut, and what cannot be printed is written as an escape.
        """
        place, hint = self.place, [f"    {_cut(self.hint)}"] if self.hint else []
        source = _cut(place.source)
        if not place.line:
            return "\n".join([f"{source}: {_cut(self.message)}", *hint])
        lines = [f"{source}:{place.line}:{place.column}: {_cut(self.message)}"]
        if place.text.strip():
            text, column = _window(place.text.rstrip(), place.column)
            lines += [f"    {text}", f"    {_indent_to(text, column)}^"]
        return "\n".join(lines + hint)


class SpecError(AvrobustError):
    """A spec cannot be used; every mistake that was found is in `problems`.

    Args:
        problems: at least one, in the order in which they are to be shown.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        count = len(self.problems)
        summary = f"{count} problems" if count != 1 else "1 problem"
        if count > _MOST_SHOWN:
            summary += f", of which the first {_MOST_SHOWN} are shown"
        return "\n".join([*(problem.render() for problem in self.problems[:_MOST_SHOWN]), summary])


def in_order(problems: Iterable[Problem], sources: Sequence[str]) -> tuple[Problem, ...]:
    """The problems without repetitions, by source in the order of `sources`, then by position."""
    rank = {source: index for index, source in enumerate(sources)}

    def position(problem: Problem) -> tuple[int, int, int]:
        return rank.get(problem.place.source, len(rank)), problem.place.line, problem.place.column

    return tuple(sorted(dict.fromkeys(problems), key=position))


def suggestion(name: str, known: Iterable[str], label: str = "there is") -> str:
    """A hint for an unknown name: the nearest known one, or else all of them."""
    names = list(known)
    near = closest(name, names[:_MOST_COMPARED], 1)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"{label}: {', '.join(names)}" if names else ""


def _cut(text: str) -> str:
    """One line that a terminal can show, its middle left out if it is long."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    half = _LONGEST // 2
    return shown if len(shown) <= _LONGEST else f"{shown[:half]} ... {shown[-half:]}"


def _window(text: str, column: int) -> tuple[str, int]:
    """The text around a column of a line, in characters that a terminal can show, and the column in it."""
    long = len(text) > 2 * _AROUND
    start = column - _AROUND if long and column > 2 * _AROUND else 0
    shown = text[start : max(column, start) + _AROUND] if long else text
    head, tail = "..." if start else "", "..." if start + len(shown) < len(text) else ""
    plain = "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in shown)
    return f"{head}{plain}{tail}", column - start + len(head)


def _indent_to(text: str, column: int) -> str:
    """White space as wide as what stands before the column; a tab stays one, a wide character takes two."""
    before = text[: column - 1].ljust(column - 1)
    return "".join("\t" if c == "\t" else " " * _width(c) for c in before)


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
