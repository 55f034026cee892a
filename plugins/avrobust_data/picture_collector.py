"""Collector of decoded pictures: squares at given times, upright."""

from functools import cached_property

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from avrobust_data.faults import MediaError
from avrobust_data.frame_times import first_time, refuse_restart
from avrobust_data.squares import Squarer
from avrobust_data.windows import Window

_TIE_SECONDS = 1e-6
"""A picture whose time is this close to the wanted one is on show already: timestamps are rounded."""


class PictureCollector:
    """Keeps the pictures on show at evenly spread times, resized.

    Args:
        stream: the stream.
        window: the span of its time.
        count: how many pictures F.
        size: height and width S of the result in pixels.
        stretch: resize without regard to the aspect ratio, else crop to the central square.
    """

    def __init__(self, stream: VideoStream, window: Window, count: int, *, size: int, stretch: bool) -> None:
        self.stream = stream
        self.begin: float | None = None
        self.end = first_time(stream)
        self.step = float(1 / stream.average_rate) if stream.average_rate else 0.0
        self._tick = float(stream.time_base or 0)
        self._start = window.start
        times = window.start + (np.arange(count) + 0.5) * (window.seconds / count)
        self._times = times if window.limit is None else np.minimum(times, window.limit - 2 * _TIE_SECONDS)
        self._held = int((self._times < times).sum())  # pictures that are the last one, held
        self._square = Squarer(size, stretch=stretch)
        self._pictures: list[NDArray[np.uint8]] = []
        self._count = 0  # of frames
        self._shown: av.VideoFrame | None = None  # the frame on show until the next one
        self._converted: NDArray[np.uint8] | None = None  # the same, resized, once it was needed

    @property
    def done(self) -> bool:
        """True if there is a picture for each time."""
        return len(self._pictures) == len(self._times)

    @property
    def padded(self) -> float:
        """The share of the pictures, once they are finished, that are the last one of the stream or segment, held."""
        return self._held / len(self._times)

    @property
    def moves(self) -> bool:
        """True if there was more than one picture."""
        return self._count > 1

    @property
    def early(self) -> bool:
        """True if decoding began at or before the window's beginning."""
        return self.begin is not None and self.begin <= self._start

    def add(self, frame: av.VideoFrame) -> None:
        """Take the next frame in order of presentation; without a timestamp, at the stream's average rate.

        Raises:
            MediaError: if the timestamps begin anew, so that nothing says where the frame belongs.
        """
        time = frame.time if frame.time is not None else self.end
        if self._shown is None:  # times before the first picture get the first
            self._shown, self.begin = frame, frame.time
        else:
            refuse_restart(self.end, time, "picture")
        while not self.done and self._times[len(self._pictures)] < time - _TIE_SECONDS:
            self._keep()
        self._shown, self._converted = frame, None
        self._count += 1
        self.end = time + (frame.duration * self._tick or self.step)

    def hold(self, until: float) -> None:
        """The last picture stays on show."""
        if self._shown is not None:
            self.end = max(self.end, until)

    def finish(self) -> NDArray[np.uint8]:
        """(3, F, S, S) uint8, RGB; the last picture is held to the end.

        Raises:
            MediaError: if there is no picture in the window.
        """
        if self._shown is None:
            raise MediaError("its video decodes to no pictures")
        if self.end <= self._start:
            raise MediaError("it has no picture in the part that is read")
        late = self._times[len(self._pictures) :] > self.end
        self._held = max(self._held, int(late.sum()))
        while not self.done:
            self._keep()
        return np.ascontiguousarray(np.stack(self._pictures).transpose(3, 0, 1, 2))

    def _keep(self) -> None:
        if self._converted is None:
            assert self._shown is not None
            self._converted = self._square(self._shown, self._pixel_aspect)
        self._pictures.append(self._converted)

    @cached_property
    def _pixel_aspect(self) -> float:
        """The container's word before the codec's, as FFmpeg's players have it."""
        return float(self.stream.sample_aspect_ratio or self.stream.codec_context.sample_aspect_ratio or 1)
