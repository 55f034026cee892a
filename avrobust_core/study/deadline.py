"""A limit on the time that work on one batch takes: what hangs is interrupted, and named.

On the main thread an alarm of the system raises an error in the Python code that runs: the evaluation fails, and the
others go on. Code in C is interrupted when it returns to Python. If it does not within `GRACE` seconds, the process
cannot be saved: a thread prints what was being done and where, and ends it; the same command goes on where it stopped.
Should even that thread get no turn, since the code in C holds Python's lock, faulthandler's own thread ends the process
after another `GRACE` seconds, and prints where. A process that is stopped or waits in the kernel cannot be ended so.
"""

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from avrobust_core.errors import BatchTimeout
from avrobust_core.plain_text import plain_text

GRACE = 60.0
"""Seconds that code in C is given to return to Python once its time is up."""


class _Expired(BaseException):
    """Raised in what hangs; no `except Exception` of it can take it for a fault of its own."""


@contextmanager
def limited(seconds: float | None, what: Callable[[], str], *, last_resort: bool = True) -> Iterator[None]:
    """Interrupt what takes longer.

    Args:
        seconds: the limit; None for none. Without effect outside the main thread.
        what: names the work: "pgd/both: batch 3 (clips a, b)".
        last_resort: whether to end the process if even that does not help. Costs 0.3 ms: too much for a training step.

    Raises:
        BatchTimeout: names the work, and the line of code that was interrupted.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    place = ""

    def expire(number: int, frame: FrameType | None) -> None:
        nonlocal place
        if frame is not None and not place:
            place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        raise _Expired

    def give_up() -> None:
        sys.stderr.write(plain_text(f"avrobust: error: {_message(seconds, what)}; code that does not return:") + "\n")
        sys.stderr.flush()
        faulthandler.dump_traceback(sys.__stderr__ or 2)
        os._exit(1)

    watch = threading.Timer(seconds + GRACE, give_up)
    watch.daemon = True
    earlier = signal.signal(signal.SIGALRM, expire)
    if last_resort:
        faulthandler.dump_traceback_later(seconds + 2 * GRACE, exit=True, file=sys.__stderr__ or 2)
        watch.start()
    signal.setitimer(signal.ITIMER_REAL, seconds, GRACE / 6)  # again and again: the first may have been swallowed
    try:
        yield
    except _Expired:
        signal.setitimer(signal.ITIMER_REAL, 0)
        where = f" at {place}" if place else ""
        raise BatchTimeout(
            f"{_message(seconds, what)}: it was interrupted{where}; look at it, or raise the limit"
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if last_resort:
            faulthandler.cancel_dump_traceback_later()
            watch.cancel()
        signal.signal(signal.SIGALRM, earlier)


def _message(seconds: float, what: Callable[[], str]) -> str:
    return f"{what()} took longer than the {seconds:g} s of engine.batch_timeout (null for no limit)"
