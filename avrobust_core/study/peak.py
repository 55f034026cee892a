"""The most memory that was in use while something was done."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


@dataclass(slots=True)
class Peak:
    """Bytes: of this process in main memory, and on its accelerator; 0 where there is none."""

    host: int = 0
    device: int = 0


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure what the block uses at most: afterwards the peak that it is given holds it.

    In main memory that is all that the process holds then, what it held before among it; where the system cannot start
    anew (anywhere but on Linux), the most that the process has ever held.
    """
    found = Peak()
    on_cuda = device.type == "cuda"
    _give_back()
    with suppress(OSError):
        _RESET.write_text("5", encoding="ascii")  # the high-water mark falls to what is held now
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    try:
        yield found
    finally:
        found.host = _high_water()
        found.device = torch.cuda.max_memory_allocated(device) if on_cuda else 0


def _give_back() -> None:
    """Hand memory that was freed back to the system, or what the block takes of it would not show."""
    with suppress(OSError, AttributeError, TypeError):  # another C library than GNU's
        ctypes.CDLL(None).malloc_trim(0)


def _high_water() -> int:
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource  # not everywhere

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most
