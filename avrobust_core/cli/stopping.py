"""How a command is stopped by SIGINT, SIGTERM and SIGHUP: tidily, and with a word on how to go on."""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from avrobust_core.plain_text import plain_text

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end; it passes wherever a KeyboardInterrupt passes."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def told(self, arguments: Sequence[str], *, resumes: bool) -> int:
        """Say how to go on.

        Args:
            arguments: of the command that was stopped.
            resumes: whether it goes on where it stopped.

        Returns:
            The exit status, 128 + the signal's number.
        """
        how = "the same command goes on where it stopped" if resumes else "nothing of it is kept"
        command = plain_text(shlex.join(["avrobust", *arguments]))
        if os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0":  # once for all processes of a run
            _write(f"avrobust: stopped by {signal.Signals(self.number).name}; {how}: {command}")
        return 128 + self.number


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise `Stopped` in the main thread at the first signal, so that files are tidied up; end at once at the second.

    Signals that are ignored, as SIGHUP under nohup, stay so. Processes that were forked off end at once, without a
    word. Once a signal has come, this process is about to end: what handles a second one stays.

    Raises:
        Stopped: by the first signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = os.getpid()
    asked: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:
            os._exit(128 + number)
        asked.append(number)
        if len(asked) > 1:
            _write(f"avrobust: stopped at once by {signal.Signals(number).name}")
            os._exit(128 + number)
        raise Stopped(number)

    earlier = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in earlier.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in earlier.items() if not asked else ():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _write(line: str) -> None:
    """To standard error, which may be gone with the terminal that sent SIGHUP."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
