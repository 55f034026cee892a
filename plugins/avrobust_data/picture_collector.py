"""Collector of decoded pictures: squares at given times, upright."""

from collections.abc import Mapping
from typing import Any, cast

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from avrobust_data.faults import MediaError
from avrobust_data.frame_times import first_time, refuse_restart
from avrobust_data.windows import Window

_TIE_SECONDS = 1e-6
"""A picture whose time is this close to the wanted one is on show already: timestamps are rounded."""

_WIDEST_PIXEL = 20.0
"""Pixels that are said to be longer than this in one direction are a damaged header's."""

_WIDEST_PICTURE = 100.0
"""Pictures that are longer than this in one direction are a damaged header's, or made to exhaust memory."""

_ONE_THREAD = {"threads": 1} if int(av.__version__.partition(".")[0]) >= 17 else {}
"""For resizing; the loader's processes share the cores already. Earlier versions of PyAV have one only."""


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
        self._size = size
        self._stretch = stretch
        self._aspect: float | None = None  # of a pixel
        self._pictures: list[NDArray[np.uint8]] = []
        self._count = 0  # of frames
        self._shown: av.VideoFrame | None = None  # the frame on show until the next one
        self._converted: NDArray[np.uint8] | None = None  # the same, resized, once it was needed
        self._reformatter = VideoReformatter()

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
            self._converted = self._square(self._shown)
        self._pictures.append(self._converted)

    def _square(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """(S, S, 3), upright."""
        width = height = self._size
        if not self._stretch:
            if self._aspect is None:
                self._aspect = self._pixel_aspect()
            aspect = self._aspect * frame.width / frame.height
            if not 1 / _WIDEST_PICTURE <= aspect <= _WIDEST_PICTURE:
                raise MediaError(f"its pictures are {aspect:.4g} times as wide as high")
            width, height = max(width, round(width * aspect)), max(height, round(height / aspect))
        converted = self._reformatter.reformat(
            frame, width, height, format="rgb24", interpolation=Interpolation.BILINEAR, **_ONE_THREAD
        )
        resized = cast("NDArray[np.uint8]", converted.to_ndarray())
        left, top = (width - self._size) // 2, (height - self._size) // 2
        return _upright(resized[top : top + self._size, left : left + self._size], frame)

    def _pixel_aspect(self) -> float:
        """Width over height of a pixel: the container's word before the codec's, as FFmpeg's players have it."""
        aspect = float(self.stream.sample_aspect_ratio or self.stream.codec_context.sample_aspect_ratio or 1)
        if not 1 / _WIDEST_PIXEL <= aspect <= _WIDEST_PIXEL:
            raise MediaError(f"its pixels are said to be {aspect:.4g} times as wide as high")
        return aspect


def _upright(picture: NDArray[np.uint8], frame: av.VideoFrame) -> NDArray[np.uint8]:
    """A picture (H, W, 3) turned and mirrored as its display matrix says, if it has one.

    The matrix takes (x, y), to the right and down, to (a x + c y, b x + d y); scale does not matter here.

    Raises:
        MediaError: if the picture is to be turned by less than a quarter.
    """
    side_data = cast("Mapping[SideDataType, Any]", frame.side_data)
    stated = side_data.get(SideDataType.DISPLAYMATRIX)
    if stated is None:
        return picture
    a, b, _, c, d = np.frombuffer(stated, np.int32)[:5].astype(float)
    if not (a or b or c or d):  # never filled in: FFmpeg takes no notice of it
        return picture
    large = max(abs(a), abs(b), abs(c), abs(d)) / 100
    if max(abs(b), abs(c)) <= large < min(abs(a), abs(d)):
        across, down = a, d
    elif max(abs(a), abs(d)) <= large < min(abs(b), abs(c)):
        picture, across, down = picture.transpose(1, 0, 2), c, b
    else:
        raise MediaError("its pictures are to be turned by less than a quarter, or sheared")
    return picture[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]
