"""Collector of decoded sound: one channel of samples at one rate."""

from math import gcd
from typing import cast

import av
import numpy as np
from av.audio.stream import AudioStream
from numpy.typing import NDArray

from avrobust_data.downmix import Downmix, weights
from avrobust_data.faults import MediaError
from avrobust_data.frame_times import first_time, refuse_restart
from avrobust_data.windows import Window

_SLIP_SECONDS = 0.015
"""Sound this far from its timestamps is placed anew: above rounding and jitter, below a lost packet."""

_LEAD_SECONDS = 0.1
"""Sound is resampled from this much before the window on: far more than the resampler's filters reach."""

_BLOCK_SECONDS, _BLOCK_SHARE = 0.1, 0.1
"""Sound that ends this much before the window, whichever is less, is no shorter for it: encoders work in blocks."""

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
    def padded(self) -> float:
        """The share of the window behind the end of the sound, once it is finished; 0 for encoders' padding."""
        missing = 1 - self._filled / len(self._window)
        return missing if missing > min(_BLOCK_SECONDS * self._rate / len(self._window), _BLOCK_SHARE) else 0.0

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
            self._move(first_time(self.stream) if time is None else time)
            self._count_from_origin(frame)
        elif time is not None and abs(time - self._next) > _SLIP_SECONDS:
            refuse_restart(self._next, time, "sound")
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
