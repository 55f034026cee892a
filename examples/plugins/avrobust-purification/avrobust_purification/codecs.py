"""Codecs of sound and pictures: a clip written to memory and read back, with PyAV (FFmpeg)."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import av
import numpy as np
from numpy.typing import NDArray

Clip = NDArray[np.float32]

ENCODERS: Final = {"mp3": "libmp3lame", "aac": "aac", "opus": "libopus", "jpeg": "mjpeg", "h264": "libx264"}
"""FFmpeg's name of what writes each."""


class CodecFault(Exception):
    """FFmpeg refuses to write or read a clip, or gives another back than it was given."""


@dataclass(frozen=True, slots=True)
class SoundCodec:
    """A codec of sound; channels are coded one by one, as mono.

    Attributes:
        name: mp3, aac or opus.
        bit_rate: bits per second.
        rate: samples per second of the clips; a codec that does not take it gets the next higher one that it takes.
    """

    name: str
    bit_rate: int
    rate: int

    def __str__(self) -> str:
        return f"{self.name}:{self.bit_rate / 1000:g}k"

    def round_trip(self, clip: Clip) -> Clip:
        """From (C, T) in [-1, 1] to what the codec leaves of it.

        Raises:
            CodecFault: see there.
        """
        try:
            return np.stack([self._channel(channel) for channel in clip])
        except (av.FFmpegError, ValueError) as error:
            raise CodecFault(str(error)) from error

    def _channel(self, samples: Clip) -> Clip:
        content = io.BytesIO()
        with av.open(content, "w", format="matroska", container_options={"fflags": "+bitexact"}) as container:
            stream: Any = container.add_stream(ENCODERS[self.name], rate=self._taken(), layout="mono")
            stream.bit_rate = self.bit_rate
            stream.codec_context.open()  # then it knows the size of its frames
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = self.rate, 0, Fraction(1, self.rate)
            to = av.AudioResampler(
                format=stream.format.name,
                layout="mono",
                rate=stream.rate,
                frame_size=stream.codec_context.frame_size,
            )
            for piece in (*to.resample(frame), *to.resample(None)):
                container.mux(stream.encode(piece))
            container.mux(stream.encode(None))
        content.seek(0)
        with av.open(content, "r") as container:
            back = av.AudioResampler(format="fltp", layout="mono", rate=self.rate)
            found = [piece.to_ndarray()[0] for piece in self._pieces(container, back)]
        whole = np.concatenate(found) if found else np.zeros(0, np.float32)
        missing = len(samples) - len(whole)
        return np.pad(whole, (0, max(missing, 0)))[: len(samples)].astype(np.float32).clip(-1, 1)

    def _pieces(self, container: Any, back: av.AudioResampler) -> Iterator[av.AudioFrame]:
        for frame in container.decode(audio=0):
            yield from back.resample(frame)
        yield from back.resample(None)

    def _taken(self) -> int:
        taken = sorted(av.Codec(ENCODERS[self.name], "w").audio_rates or [self.rate])
        return next((rate for rate in taken if rate >= self.rate), taken[-1])


@dataclass(frozen=True, slots=True)
class PictureCodec:
    """A codec of pictures, with full resolution of colour, so that every size will do.

    Attributes:
        name: jpeg (each frame by itself) or h264.
        loss: FFmpeg's quantiser, 2 to 31, of jpeg; the constant rate factor, 0 to 51, of h264.
    """

    name: str
    loss: int

    def __str__(self) -> str:
        return f"{self.name}:{self.loss}"

    def round_trip(self, clip: Clip) -> Clip:
        """From (3, T, H, W) in [0, 1] to what the codec leaves of it, in steps of 1/255.

        Raises:
            CodecFault: see there.
        """
        frames = (clip.transpose(1, 2, 3, 0) * 255).round().clip(0, 255).astype(np.uint8)
        try:
            found = self._frames(np.ascontiguousarray(frames))
        except (av.FFmpegError, ValueError) as error:
            raise CodecFault(str(error)) from error
        if found.shape != frames.shape:
            raise CodecFault(f"{frames.shape} went in, and {found.shape} came out")
        return (found.astype(np.float32) / np.float32(255)).transpose(3, 0, 1, 2)

    def _frames(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        content = io.BytesIO()
        jpeg = self.name == "jpeg"
        options = {"qmin": f"{self.loss}", "qmax": f"{self.loss}"} if jpeg else {"crf": f"{self.loss}"}
        with av.open(content, "w", format="matroska", container_options={"fflags": "+bitexact"}) as container:
            stream: Any = container.add_stream(ENCODERS[self.name], rate=25, options=options)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuvj444p" if jpeg else "yuv444p"
            stream.codec_context.thread_count = 1  # with more, one clip would give other bytes
            for number, picture in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        content.seek(0)
        with av.open(content, "r") as container:
            pictures: list[Any] = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return np.stack(pictures)
