"""What is wrong with a spec, and where: one record per mistake, one error for all of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from avrobust_core.errors import AvrobustError
from avrobust_core.spec.nodes import Place
from avrobust_core.suggest import closest


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a spec.

    Attributes:
        message: what is wrong, in one line.
        source: the file as the user named it, or the `--set` argument.
        line: from 1; 0 if the source as a whole is meant.
        column: from 1, in characters; 0 if the source as a whole is meant.
        text: the source line.
        hint: what to do about it; may be empty.
    """

    message: str
    source: str
    line: int = 0
    column: int = 0
    text: str = ""
    hint: str = ""

    @classmethod
    def at(cls, place: Place, message: str, hint: str = "") -> Problem:
        """The problem at this place."""
        return cls(message, place.source, place.line, place.column, place.text, hint)

    def render(self) -> str:
        """`file:line:column: message`, the source line with a caret under the column, and the hint."""
        if not self.line:
            return "\n".join([f"{self.source}: {self.message}", *self._hint_lines()])
        lines = [f"{self.source}:{self.line}:{self.column}: {self.message}"]
        if self.text.strip():
            lines += [f"    {self.text.rstrip()}", f"    {_indent_to(self.text, self.column)}^"]
        return "\n".join(lines + self._hint_lines())

    def _hint_lines(self) -> list[str]:
        return [f"    {self.hint}"] if self.hint else []


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
        return "\n".join([*(problem.render() for problem in self.problems), summary])


def in_order(problems: Iterable[Problem], sources: Sequence[str]) -> tuple[Problem, ...]:
    """The problems without repetitions, by source in the order of `sources`, then by position."""
    rank = {source: index for index, source in enumerate(sources)}
    unique = dict.fromkeys(problems)
    return tuple(sorted(unique, key=lambda p: (rank.get(p.source, len(rank)), p.line, p.column)))


def suggestion(name: str, known: Iterable[str], label: str = "there is") -> str:
    """A hint for an unknown name: the nearest known one, or else all of them."""
    names = list(known)
    near = closest(name, names, 1)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"{label}: {', '.join(names)}" if names else ""


def _indent_to(text: str, column: int) -> str:
    """White space as wide as what stands before the column; a tab stays one, a wide character takes two."""
    before = text[: column - 1].ljust(column - 1)
    return "".join("\t" if c == "\t" else " " * _width(c) for c in before)


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
