"""Text for a terminal, free of markup and control characters, and progress on stderr with the time that is left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from avrobust_core.plain_text import plain_lines, plain_text

PAUSE = 60.0
"""Seconds between two lines of one step's progress where there is no terminal."""


class TextConsole(Console):
    """A rich console that takes every string, also a table's headings, cells and title, as plain text.

    Names of specs, labels, clips and plugins, and what libraries say in errors, all pass through it: `[/x]` and
    `:warning:` are printed as they stand, escapes and control characters not at all, and no line is endless.

    Args:
        options: of rich's Console.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich's, of the plain text."""
        return super().render_str(plain_lines(text), **options)


class Pace:
    """How long a step will still take, at the pace that it has kept since it was first asked.

    Args:
        clock: gives the time in seconds; by default the system's, which no change of date moves.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.clock = clock or monotonic
        self._first: tuple[float, int] | None = None

    def left(self, done: int, total: int) -> str:
        """The time that is left, in words; none yet at the first call, whose work may be of an earlier command."""
        now = self.clock()
        if self._first is None or done < self._first[1]:
            self._first = now, done
        began, before = self._first
        if done <= before or done >= total:
            return ""
        return f"about {in_words((now - began) / (done - before) * (total - done))} left"


def in_words(seconds: float) -> str:
    """A length of time, in the two largest units at most: "40 s", "12 min", "3 h 5 min", "2 d 4 h"."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = (
        f"{days} d" if days else "",
        f"{hours} h" if hours else "",
        f"{minutes} min" if minutes and not days else "",
    )
    return " ".join(filter(None, parts))


class Monitor:
    """Progress on stderr: a bar with the time left in a terminal, lines elsewhere, nothing when silent.

    Without a terminal a step is a line when it begins; one that takes long says every minute how far it is.
    """

    def __init__(self, *, silent: bool = False) -> None:
        self._console = TextConsole(stderr=True, quiet=silent)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._label = ""
        self._pace = Pace()
        self._said = 0.0

    @contextmanager
    def task(self, label: str) -> Iterator[None]:
        """Show a step while it lasts; `update` moves its bar."""
        self._label, self._pace, self._said = label, Pace(), monotonic()
        try:
            if self._console.is_terminal and not self._console.quiet:
                with self._bar(label):
                    yield
            else:
                yield
        finally:
            self._label = ""

    @contextmanager
    def _bar(self, label: str) -> Iterator[None]:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}", markup=False),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            self._progress, self._task = progress, progress.add_task(plain_text(label), total=None, left="")
            try:
                yield
            finally:
                self._progress = self._task = None

    def update(self, done: int, total: int) -> None:
        """Tell how much of the step that is shown is done."""
        left = self._pace.left(done, total)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total, left=left)
        elif self._label and left and monotonic() - self._said >= PAUSE:
            self._said = monotonic()
            self.say(f"{self._label}: {done} of {total}, {left}")

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(plain_text(text), soft_wrap=True)
