"""The window of a file's time that a clip is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from av.container import InputContainer

from avrobust_data.containers import duration_of, start_of
from avrobust_data.faults import MediaError
from avrobust_data.guard import Watch

Place = Literal["centre", "start"] | float
"""Where a window is in what it is taken from: in the middle, at the beginning, or at a share of the way, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Window:
    """A span of a file's time, in seconds as its timestamps count.

    Attributes:
        start: where it begins.
        seconds: its length.
        limit: where the segment ends that it lies in: what is later in the file is not the clip's, even if it is in
            the window. None for the file's end.
        begin: where the segment begins.
        first: where the file begins.
    """

    start: float
    seconds: float
    limit: float | None
    begin: float
    first: float

    @property
    def stop(self) -> float:
        """Where the last of the clip's media may end."""
        end = self.start + self.seconds
        return end if self.limit is None else min(end, self.limit)


def window_of(
    container: InputContainer,
    path: Path,
    place: Place,
    seconds: float,
    begin: float | None,
    end: float | None,
    watch: Watch,
) -> Window:
    """The window of `seconds` at a place of a segment, or of the whole file.

    Args:
        container: the opened file.
        path: the file.
        place: in the segment.
        seconds: length of the window.
        begin: where the segment begins, in seconds from the file's own beginning; None for there.
        end: where it ends, likewise; None for the file's end.
        watch: over the time that it takes.

    Raises:
        MediaError: if the segment is empty.
    """
    first = start_of(container)
    begin = begin or 0.0
    if end is not None and end <= begin:
        raise MediaError(f"the segment from {begin:.2f} to {end:.2f} s is empty")
    start = first + begin
    if place != "start":
        stop = duration_of(container, path, watch)
        stop = stop if end is None else min(end, stop)
        start += max(0.0, stop - begin - seconds) * (0.5 if place == "centre" else place)
    return Window(start, seconds, None if end is None else first + end, first + begin, first)
