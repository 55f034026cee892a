"""Text for a terminal, free of markup and control characters, and a run's progress on stderr."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from avrobust_core.plain_text import plain_lines, plain_text


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


class Monitor:
    """Progress of a run on stderr: a bar in a terminal, one line per finished step elsewhere, nothing when silent."""

    def __init__(self, *, silent: bool = False) -> None:
        self._console = TextConsole(stderr=True, quiet=silent)
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    @contextmanager
    def task(self, label: str) -> Iterator[None]:
        """Show a step while it lasts; `update` moves its bar."""
        if not self._console.is_terminal or self._console.quiet:
            yield
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            self._progress, self._task = progress, progress.add_task(plain_text(label), total=None)
            try:
                yield
            finally:
                self._progress = self._task = None

    def update(self, done: int, total: int) -> None:
        """Set the bar of the step that is shown."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total)

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(plain_text(text), soft_wrap=True)
