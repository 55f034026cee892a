"""What a run shows a person while it lasts: progress on stderr."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Monitor:
    """Progress of a run on stderr: a bar in a terminal, one line per finished step elsewhere, nothing when silent."""

    def __init__(self, *, silent: bool = False) -> None:
        self._console = Console(stderr=True, quiet=silent, highlight=False)
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    @contextmanager
    def task(self, label: str) -> Iterator[None]:
        """Show a step while it lasts; `update` moves its bar."""
        if not self._console.is_terminal or self._console.quiet:
            yield
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            self._progress, self._task = progress, progress.add_task(label, total=None)
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
        self._console.print(text, markup=False, soft_wrap=True)
