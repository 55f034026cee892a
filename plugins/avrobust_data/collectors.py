"""Collectors of decoded frames: sound as samples of one rate, pictures as squares at given times."""

from collections.abc import Mapping
from math import gcd
from typing import Any, cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from avrobust_data.downmix import Downmix, weights
from avrobust_data.faults import MediaError
from avrobust_data.windows import Window

_TIE_SECONDS = 1e-6
"""A picture whose time is this close to the wanted one is on show already: timestamps are rounded."""

_SLIP_SECONDS = 0.015
"""Sound this far from its timestamps is placed anew: above rounding and jitter, below a lost packet."""

_BACK_SECONDS = 1.0
"""Timestamps may go back this far, as some writers do by a frame or two; beyond it, they have begun anew."""

_WIDEST_PIXEL = 20.0
"""Pixels that are said to be longer than this in one direction are a damaged header's."""

_WIDEST_PICTURE = 100.0
"""Pictures that are longer than this in one direction are a damaged header's, or made to exhaust memory."""

_LEAD_SECONDS = 0.1
"""Sound is resampled from this much before the window on: far more than the resampler's filters reach."""

_ONE_THREAD = {"threads": 1} if int(av.__version__.partition(".")[0]) >= 17 else {}
"""For resizing; the loader's processes share the cores already. Earlier versions of PyAV have one only."""

_FULL_SCALE = {
    **dict.fromkeys(("u8", "u8p"), (128.0, np.float32(1 << 7))),
    **dict.fromkeys(("s16", "s16p"), (0.0, np.float32(1 << 15))),
    **dict.fromkeys(("s32", "s32p"), (0.0, np.float32(1 << 31))),
    **dict.fromkeys(("flt", "fltp", "dbl", "dblp"), (0.0, np.float32(1))),
}
"""By format of samples, its zero and its full scale."""

_FRAGILE_PLANES = 8
"""From so many planes on, PyAV 18 looks for more behind the last one, and the process crashes."""

_LOUDEST = 16.0
"""Samples beyond it are no overshoot: decoders and mixes exceed full scale by a few times at most."""


class SoundCollector:
    """Resamples, mixes the channels down to one, and keeps the window; silent where there is no sound.

    Frames are joined without a seam as long as their timestamps agree with their lengths. Where they do not, packets
    were lost, or written twice: what follows is placed by its own timestamp, and what is there already stays.

    Frames long before the window are counted, not resampled. The resampler then starts at one of the samples that it
    would have met in phase: the window is the same, bit for bit, as if all had been resampled.

    The mix is made here, because libswresample mixes two channels down with 0.71 each where its output is float: 3 dB
    too loud, and above full scale. Frames of eight planes, over which PyAV crashes, are interleaved before.

    Args:
        stream: the stream.
        window: the span of its time.
        samples: in the window.
        rate: wanted samples per second.
        downmix: how one channel is made of several.
    """

    def __init__(
        self, stream: AudioStream, window: Window, samples: int, rate: int, downmix: Downmix = "weighted"
    ) -> None:
        self.stream = stream
        self.begin: float | None = None
        self.end = 0.0
        self.step = 0.0
        self._start = window.start
        self._rate = rate
        self._downmix = downmix
        self._begun = False  # whether the mix is resampled by now
        self._resampler: av.AudioResampler | None = None  # of the mix, if its rate is not the wanted one
        self._converter = av.AudioResampler(format="flt")
        self._form: tuple[str, str, int] | None = None  # of the frames that are taken now
        self._weights: NDArray[np.float32] | None = None  # of their channels
        self._window = np.zeros(samples, np.float32)
        self._limit = min(samples, round((window.stop - window.start) * rate))
        self._position: int | None = None  # of the next resampled sample, counted from the window's start
        self._passed = 0  # samples that were counted only since then
        self._filled = 0  # the end of the window's settled part
        self._next = 0.0  # when the next frame starts if it follows without a gap
        self._origin: tuple[float, int, int] | None = None
        self._heard = False

    @property
    def done(self) -> bool:
        """True if the window is full."""
        return self._position is not None and self._position >= self._limit

    @property
    def early(self) -> bool:
        """True if decoding began early enough for the window to be what it is if all is decoded."""
        return self.begin is not None and self.begin <= self._start - _LEAD_SECONDS

    def begin_from(self, frame: av.AudioFrame) -> None:
        """Be told of the stream's first frame before a seek: later ones count from there.

        Timestamps are often rounded, to a millisecond in Matroska; a whole number of frames since the first is not.
        """
        if frame.time is not None:
            self._origin = frame.time, frame.samples, frame.sample_rate

    def add(self, frame: av.AudioFrame) -> None:
        """Take the next frame in order of presentation; one without a timestamp follows the last.

        Raises:
            MediaError: if the timestamps begin anew, so that nothing says where the frame belongs.
        """
        time = frame.time
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._position is None:
            self.begin = time
            self._move(_first(self.stream) if time is None else time)
            self._count_from_origin(frame)
        elif time is not None and abs(time - self._next) > _SLIP_SECONDS:
            _refuse_restart(self._next, time, "sound")
            self._drain()
            self._move(time)
        if form != self._form:
            if self._form is not None:
                self._drain()
            self._form = form
            self._converter = av.AudioResampler(format="flt")
            self._weights = weights([channel.name for channel in frame.layout.channels], self._downmix)
        self.step = frame.samples / frame.sample_rate
        self._next += self.step
        if not self._begun and self._next < self._start - _LEAD_SECONDS:
            self._passed += frame.samples
            self.end = self._next
            return
        mix = self._mix(frame)
        if not self._begun:
            mix = np.concatenate([self._begin_in_phase(frame.sample_rate), mix])
        if self._resampler is None:
            self._place(mix)
        else:
            piece = av.AudioFrame.from_ndarray(mix[None], format="fltp", layout="mono")
            piece.sample_rate = frame.sample_rate
            for resampled in self._resampler.resample(piece):
                self._place(resampled.to_ndarray()[0])

    def hold(self, until: float) -> None:
        """Nothing: what is missing is seen by the next timestamp."""

    def finish(self) -> NDArray[np.float32]:
        """(1, T) float32 in [-1, 1], clamped: lossy codecs and resampling overshoot.

        Raises:
            MediaError: if there is no sample in the window, or one that is not a number, or far too large.
        """
        if self._position is None:
            raise MediaError("its sound decodes to no samples")
        self._drain()
        if not self._heard:
            raise MediaError("it has no sound in the part that is read")
        if not np.isfinite(self._window).all():
            raise MediaError("its sound has samples that are not finite numbers")
        peak = float(np.abs(self._window).max())
        if peak > _LOUDEST:
            raise MediaError(
                f"its sound reaches {peak:.0f}, where samples lie between -1 and 1: it looks like whole numbers that "
                "were written as floats; divide them by 32768 (of 16 bits), and write it anew"
            )
        return np.clip(self._window, -1, 1)[None]

    def _move(self, time: float) -> None:
        """Go on at another time of the stream."""
        self._next = time
        self._position = round((time - self._start) * self._rate)
        self._passed = 0

    def _count_from_origin(self, frame: av.AudioFrame) -> None:
        """Place the first frame after a seek by the number of samples since the stream's first frame."""
        if self._origin is None or frame.time is None or self._origin[2] != frame.sample_rate:
            return
        time, samples, rate = self._origin
        apart = (frame.time - time) * rate
        # the blocks of Vorbis have several lengths, all multiples of 64 samples
        step = 64 if self.stream.codec_context.name == "vorbis" else frame.samples
        whole = samples + round((apart - samples) / step) * step
        tick = 1 + rate * float(frame.time_base or 0)
        stated = frame.time
        self._move(time)
        self._next = stated
        self._passed = max(0, whole if abs(whole - apart) <= tick else round(apart))

    def _begin_in_phase(self, rate: int) -> NDArray[np.float32]:
        """Begin to resample, at a sample that falls onto one of the result's: with this silence before the frame."""
        self._begun = True
        if rate != self._rate:
            self._resampler = av.AudioResampler(format="fltp", rate=self._rate)
        assert self._position is not None
        over = self._passed % (rate // gcd(rate, self._rate))
        self._position += (self._passed - over) * self._rate // rate
        self._passed = 0
        return np.zeros(over, np.float32)

    def _drain(self) -> None:
        """Take what the resampler still holds; frames after it need a new one."""
        if self._resampler is not None:
            for resampled in self._resampler.resample(None):
                self._place(resampled.to_ndarray()[0])
        elif self._passed and self._position is not None and self._form is not None:
            self._position += round(self._passed * self._rate / self._form[2])
            self._passed = 0
        self._resampler = self._form = None
        self._begun = False

    def _place(self, samples: NDArray[np.float32]) -> None:
        """Put the next samples of the wanted rate where they belong."""
        assert self._position is not None
        low, high = max(self._position, self._filled), min(self._position + len(samples), self._limit)
        if low < high:
            self._window[low:high] = samples[low - self._position : high - self._position]
            self._filled = high
            self._heard = True
        self._position += len(samples)
        self.end = self._start + self._position / self._rate

    def _mix(self, frame: av.AudioFrame) -> NDArray[np.float32]:
        """(N,) of a frame of N samples in several channels."""
        count = frame.layout.nb_channels
        if count < _FRAGILE_PLANES and frame.format.name in _FULL_SCALE:
            zero, one = _FULL_SCALE[frame.format.name]
            raw = frame.to_ndarray()
            samples = (raw if frame.format.is_planar else raw.reshape(-1, count).T).astype(np.float32)
            if one != 1:
                samples = (samples - zero) / one
        else:
            pieces = [piece.to_ndarray().reshape(-1, count) for piece in self._converter.resample(frame)]
            samples = np.concatenate([np.zeros((0, count), np.float32), *pieces]).T
        if self._weights is not None:
            return cast("NDArray[np.float32]", self._weights @ samples)
        return cast("NDArray[np.float32]", samples[0] if count == 1 else samples.mean(axis=0))


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
        self.end = _first(stream)
        self.step = float(1 / stream.average_rate) if stream.average_rate else 0.0
        self._tick = float(stream.time_base or 0)
        self._start = window.start
        times = window.start + (np.arange(count) + 0.5) * (window.seconds / count)
        self._times = times if window.limit is None else np.minimum(times, window.limit - 2 * _TIE_SECONDS)
        self._size = size
        self._stretch = stretch
        self._aspect: float | None = None  # of a pixel
        self._pictures: list[NDArray[np.uint8]] = []
        self._shown: av.VideoFrame | None = None  # the frame on show until the next one
        self._converted: NDArray[np.uint8] | None = None  # the same, resized, once it was needed
        self._reformatter = VideoReformatter()

    @property
    def done(self) -> bool:
        """True if there is a picture for each time."""
        return len(self._pictures) == len(self._times)

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
            _refuse_restart(self.end, time, "picture")
        while not self.done and self._times[len(self._pictures)] < time - _TIE_SECONDS:
            self._keep()
        self._shown, self._converted = frame, None
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


Collector = SoundCollector | PictureCollector
"""Takes the frames of one stream.

`done` says that no later frame can change the result, `begin` where the first frame began (None: no frame yet, or one
without a timestamp), `early` that this was early enough for the result to be right, `end` where the last frame ended,
in the stream's time in seconds, `step` how long one frame is in seconds, as far as it is known.
"""


def _first(stream: AudioStream | VideoStream) -> float:
    """The start of a stream, in seconds, for a first frame without a timestamp."""
    return float((stream.start_time or 0) * (stream.time_base or 0))


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


def _refuse_restart(known: float, time: float, what: str) -> None:
    """Refuse timestamps that begin anew, as where two recordings stand one behind the other in one file."""
    if time < known - _BACK_SECONDS:
        raise MediaError(
            f"the timestamps of its {what} go back from {known:.2f} to {time:.2f} s; rewrite it with FFmpeg, which "
            "makes them new"
        )
