"""What takes up decoded frames: sound into samples of one rate, pictures into squares at given times."""

from typing import Any, Protocol, cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

_TIE_SECONDS = 1e-6
"""A picture whose time is this close to the wanted one is on show already: timestamps are rounded."""


class MediaError(Exception):
    """A file cannot be used; the message is one clause that says why."""


class Sink(Protocol):
    """Takes the frames of one stream.

    Attributes:
        stream: the stream.
        done: no later frame can change the result.
        end: where the last frame ended, in the stream's time, in seconds.
        step: the length of one frame in seconds, as far as it is known.
    """

    stream: Any
    end: float
    step: float

    @property
    def done(self) -> bool: ...

    def add(self, frame: Any) -> None:
        """Take the next frame in order of presentation."""

    def finish(self) -> NDArray[Any]:
        """The result, after the last frame.

        Raises:
            MediaError: if the window has nothing in it.
        """


class SoundSink:
    """Resamples, takes the mean of the channels, and keeps the window.

    The mean is taken here, because libswresample mixes two channels down with 0.71 each where its output is float:
    3 dB too loud, and above full scale.

    Args:
        stream: the stream.
        start: of the window, in the stream's time, in seconds.
        samples: in the window.
        rate: wanted samples per second.
    """

    def __init__(self, stream: AudioStream, start: float, samples: int, rate: int) -> None:
        self.stream = stream
        self.end = 0.0
        self.step = 0.0
        self._start = start
        self._rate = rate
        self._resampler = av.AudioResampler(format="fltp", rate=rate)
        self._window = np.zeros(samples, np.float32)
        self._position: int | None = None  # of the next sample, counted from the window's start
        self._heard = False

    @property
    def done(self) -> bool:
        """Whether the window is full."""
        return self._position is not None and self._position >= len(self._window)

    def add(self, frame: av.AudioFrame) -> None:
        """Take the next frame; frames are joined as they come, placed by the first one's timestamp."""
        if self._position is None:
            began = frame.time if frame.time is not None else self._start
            self._position = round((began - self._start) * self._rate)
        self.step = frame.samples / frame.sample_rate
        self._place(frame)

    def finish(self) -> NDArray[np.float32]:
        """(1, T) float32 in [-1, 1], clamped: lossy codecs and resampling overshoot.

        Raises:
            MediaError: if there is no sample in the window, or one that is not a number.
        """
        if self._position is None:
            raise MediaError("its sound decodes to no samples")
        self._place(None)
        if not self._heard:
            raise MediaError("it has no sound in the part that is read")
        if not np.isfinite(self._window).all():
            raise MediaError("its sound has samples that are not finite numbers")
        return np.clip(self._window, -1, 1)[None]

    def _place(self, frame: av.AudioFrame | None) -> None:
        """Put the resampled frame, or with None what the resampler still holds, where it belongs."""
        assert self._position is not None
        for piece in self._resampler.resample(frame):
            samples = piece.to_ndarray().mean(axis=0, dtype=np.float32)
            low, high = max(self._position, 0), min(self._position + len(samples), len(self._window))
            if low < high:
                self._window[low:high] = samples[low - self._position : high - self._position]
                self._heard = True
            self._position += len(samples)
        self.end = self._start + self._position / self._rate


class PictureSink:
    """Keeps the pictures on show at evenly spread times, resized.

    Args:
        stream: the stream.
        start: of the window, in the stream's time, in seconds.
        seconds: length of the window.
        count: how many pictures F.
        size: height and width S of the result in pixels.
        stretch: resize without regard to the aspect ratio, else crop to the central square.
    """

    def __init__(
        self, stream: VideoStream, start: float, seconds: float, count: int, *, size: int, stretch: bool
    ) -> None:
        self.stream = stream
        self.end = 0.0
        self.step = float(1 / stream.average_rate) if stream.average_rate else 0.0
        self._start = start
        self._times = start + (np.arange(count) + 0.5) * (seconds / count)
        self._size = size
        self._stretch = stretch
        self._pictures: list[NDArray[np.uint8]] = []
        self._shown: av.VideoFrame | None = None  # the frame on show until the next one
        self._converted: NDArray[np.uint8] | None = None  # the same, resized, once it was needed
        self._reformatter = VideoReformatter()

    @property
    def done(self) -> bool:
        """Whether there is a picture for each time."""
        return len(self._pictures) == len(self._times)

    def add(self, frame: av.VideoFrame) -> None:
        """Take the next frame; one without a timestamp follows the last at the stream's average rate."""
        time = frame.time if frame.time is not None else self.end
        if self._shown is None:  # what is wanted before the first picture gets the first
            self._shown = frame
        while not self.done and self._times[len(self._pictures)] < time - _TIE_SECONDS:
            self._keep()
        self._shown, self._converted = frame, None
        lasts = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else self.step
        self.end = time + lasts

    def finish(self) -> NDArray[np.uint8]:
        """(3, F, S, S) uint8, RGB; the last picture is held to the end.

        Raises:
            MediaError: if there is no picture in the window.
        """
        if self._shown is None:
            raise MediaError("its video decodes to no pictures")
        if self.end <= self._start:
            raise MediaError("it has no picture in the part that is read")
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
            aspect = float(self.stream.codec_context.sample_aspect_ratio or 1) * frame.width / frame.height
            width, height = max(width, round(width * aspect)), max(height, round(height / aspect))
        resized = self._reformatter.reformat(
            frame, width, height, format="rgb24", interpolation=Interpolation.BILINEAR
        ).to_ndarray()
        left, top = (width - self._size) // 2, (height - self._size) // 2
        square = resized[top : top + self._size, left : left + self._size]
        return cast(NDArray[np.uint8], np.rot90(square, round(frame.rotation / 90)))
