"""Stop a command on SIGINT, SIGTERM or SIGHUP: tidily, and with a word on how to go on."""

import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from avrobust_core.cli.output import is_first_process
from avrobust_core.plain_text import plain_text

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_PAUSE = 0.3
"""Seconds between looks at whether a signal's exception was lost."""


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end; it passes wherever a KeyboardInterrupt passes."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def told(self, arguments: Sequence[str], *, resumes: bool) -> int:
        """Tell the user how to go on.

        Args:
            arguments: of the command that was stopped.
            resumes: whether it goes on where it stopped.

        Returns:
            The exit status, 128 + the signal's number.
        """
        how = "the same command goes on where it stopped" if resumes else "nothing of it is kept"
        import shlex  # only for a command that was stopped

        command = plain_text(shlex.join(["avrobust", *arguments]))
        if is_first_process():
            _write(f"avrobust: stopped by {signal.Signals(self.number).name}; {how}: {command}")
        return 128 + self.number


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise `Stopped` in the main thread at the first signal, so that files are tidied up; end at once at the second.

    Signals that are ignored, as SIGHUP under nohup, stay so. Processes that were forked off end at once, without a
    word. Once a signal has come, this process is about to end: what handles a second one stays, and however the
    work ends, it ends as stopped: what fails after a signal fails because of it.

    Raises:
        Stopped: by the first signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopping = _Stopping()
    earlier = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in earlier.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stopping)
    try:
        yield
        stopping.end()
    except Stopped:
        raise
    except BaseException:
        stopping.end()
        raise
    finally:
        if stopping.asked is None:
            for number, handler in earlier.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        stopping.over = True


class _Stopping:
    """The handler of the signals.

    An exception that is raised where Python cannot pass it on (a finaliser, a callback of fork), or that a plugin
    swallows, is lost: then it is raised again.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self.asked: int | None = None
        self.over = False
        self._raised: weakref.ref[Stopped] | None = None
        self._again = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:
            os._exit(128 + number)
        if self.asked is None:
            self.asked = number
            sys.unraisablehook = _silent(sys.unraisablehook)
            threading.Thread(target=self._watch, daemon=True).start()
        elif not self._again:
            if is_first_process():
                _write(f"avrobust: stopped at once by {signal.Signals(number).name}")
            os._exit(128 + number)
        self._again = False
        raise self._stopped(self.asked)

    def end(self) -> None:
        """The work ended by itself, or by another exception: if a signal came, that is why.

        Raises:
            Stopped: if one came.
        """
        if self.asked is not None:
            raise self._stopped(self.asked)

    def _stopped(self, number: int) -> Stopped:
        """The exception, held by nobody but those through whom it passes: not by a variable of a frame of its own."""
        stopped = Stopped(number)
        self._raised = weakref.ref(stopped)
        return stopped

    def _watch(self) -> None:
        while not self.over:
            time.sleep(_PAUSE)
            if self._raised is not None and self._raised() is None and not self.over:
                self._raised, self._again = None, True
                os.kill(self.process, self.asked or signal.SIGTERM)


def _silent(hook: Callable[[Any], object]) -> Callable[[Any], object]:
    """Python's report of an exception that it cannot pass on, but for ours: it is raised again."""

    def report(lost: Any) -> object:
        return None if isinstance(lost.exc_value, Stopped) else hook(lost)

    return report


def _write(line: str) -> None:
    """To standard error, which may be gone with the terminal that sent SIGHUP."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
