"""From a media file to arrays: one window of time, sound and picture alike, decoded with PyAV (FFmpeg)."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from avrobust_data.cache import Media
from avrobust_data.sinks import MediaError, PictureSink, Sink, SoundSink

DECODER_VERSION: Final = 1
"""Raised when the same file gives other arrays."""

_TICKS: Final = 1_000_000
"""Container times are in microseconds."""

_STATES_DURATION: Final = frozenset({"mov", "mp4", "matroska", "webm", "avi", "wav"})
"""Formats whose header says how long each file is; of others, FFmpeg may only have estimated it."""

_SLACK_SECONDS: Final = 0.1
"""How much earlier than stated a stream may end: encoders' padding, at most about two AAC frames at 44.1 kHz."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What is taken from a file.

    Attributes:
        seconds: its length; of a shorter file all is taken, from its start.
        centre: of a longer file the centre is taken, else the start.
        sample_rate: of the sound, in samples per second; None for no sound.
        frames: how many pictures; None for none.
        size: height and width of a picture in pixels.
        stretch: resize without regard to the aspect ratio, else crop to the central square.
    """

    seconds: float
    centre: bool = True
    sample_rate: int | None = None
    frames: int | None = None
    size: int = 0
    stretch: bool = False

    @property
    def samples(self) -> int:
        """Samples of sound in the window."""
        return round(self.seconds * (self.sample_rate or 0))


def decode(path: Path, window: Window) -> Media:
    """Decode the window of a file.

    Picture i of n is the one on show at (i + 1/2) / n of the window, by the timestamps. After the end of a shorter
    file comes silence, and its last picture is held.

    Returns:
        "audio": (1, T) float32 in [-1, 1], the mean of all channels; "video": (3, F, S, S) uint8, RGB.

    Raises:
        MediaError: if the file is missing, damaged, cut short, or lacks sound or picture; the message names it.
    """
    try:
        _check_file(path)
        return _decode(path, window)
    except MediaError as error:
        raise MediaError(f"{error} ({path})") from error.__cause__
    except av.FFmpegError as error:
        raise MediaError(f"it cannot be decoded: {error.strerror} ({path})") from error
    except (OSError, ValueError, ArithmeticError, MemoryError) as error:
        # what PyAV itself raises over streams that FFmpeg lets through: unknown formats, impossible sizes
        raise MediaError(f"it cannot be decoded: {type(error).__name__}: {error} ({path})") from error


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise MediaError("there is no such file")
    if path.stat().st_size == 0:
        raise MediaError("the file is empty")


def _open(path: Path) -> InputContainer:
    """Open a file and nothing else: a playlist in it may name no address and no device."""
    options: dict[str, Any] = {"container_options": {"protocol_whitelist": "file"}}
    if int(av.__version__.partition(".")[0]) < 19:  # later ones never fail over what encoding tags are in
        options["metadata_errors"] = "replace"
    return cast(InputContainer, av.open(os.fspath(path.absolute()), **options))


def _decode(path: Path, window: Window) -> Media:
    with _open(path) as container:
        if container.format.name == "tty":  # FFmpeg plays any text as a picture of a terminal
            raise MediaError("it is a text, no media file")
        start = (container.start_time or 0) / _TICKS
        if window.centre:
            start += max(0.0, (_duration(container, path) - window.seconds) / 2)
        sinks: dict[str, Sink] = {}
        if window.sample_rate is not None:
            sinks["audio"] = SoundSink(_sound_stream(container), start, window.samples, window.sample_rate)
        if window.frames is not None:
            stream = _picture_stream(container)
            sinks["video"] = PictureSink(
                stream, start, window.seconds, window.frames, size=window.size, stretch=window.stretch
            )
        _feed(container, list(sinks.values()))
        _check_whole(container, list(sinks.values()), start + window.seconds)
        return {name: sink.finish() for name, sink in sinks.items()}


def _feed(container: InputContainer, sinks: list[Sink]) -> None:
    """Decode in one pass, until each sink has what it needs."""
    by_stream = {sink.stream.index: sink for sink in sinks}
    for packet in container.demux([sink.stream for sink in sinks]):
        sink = by_stream[packet.stream.index]
        if sink.done:
            continue
        if packet.is_corrupt:
            raise MediaError("it is damaged or cut short: a packet is incomplete")
        for frame in packet.decode():
            if isinstance(frame, av.VideoFrame | av.AudioFrame) and frame.is_corrupt:
                raise MediaError(f"it is damaged at {frame.time or 0:.2f} s")
            sink.add(frame)
        if all(sink.done for sink in sinks):
            return


def _sound_stream(container: InputContainer) -> AudioStream:
    stream = container.streams.best("audio")
    if not isinstance(stream, AudioStream):
        raise MediaError("it has no sound")
    _use_one_thread(stream)
    return stream


def _picture_stream(container: InputContainer) -> VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream):
        raise MediaError("it has no picture")
    if stream.disposition & Disposition.attached_pic:
        raise MediaError("it has no moving picture, only cover art")
    _use_one_thread(stream)
    return stream


def _use_one_thread(stream: AudioStream | VideoStream) -> None:
    """Decode in the calling thread: clips are short, and the loader's processes share the cores already."""
    if stream.codec_context is None:
        raise MediaError(f"this FFmpeg has no decoder for its {stream.type}")
    stream.codec_context.thread_count = 1


def _duration(container: InputContainer, path: Path) -> float:
    """In seconds: as stated, or measured over all packets where nothing is stated."""
    if container.duration is not None and container.duration > 0:
        return container.duration / _TICKS
    with _open(path) as again:
        ends = [0.0, *_packet_ends(again)]
    return max(0.0, max(ends) - (container.start_time or 0) / _TICKS)


def _packet_ends(container: InputContainer) -> Iterator[float]:
    for packet in container.demux():
        if packet.pts is not None and packet.time_base is not None:
            yield float((packet.pts + (packet.duration or 0)) * packet.time_base)


def _check_whole(container: InputContainer, sinks: list[Sink], stop: float) -> None:
    """Compare where decoding ended with what the header states, inside the window.

    Raises:
        MediaError: if a stream is cut short.
    """
    if _STATES_DURATION.isdisjoint(container.format.name.split(",")):
        return
    stated_by_stream = [
        (sink, float((sink.stream.duration + (sink.stream.start_time or 0)) * sink.stream.time_base))
        for sink in sinks
        if sink.stream.duration is not None and sink.stream.time_base is not None
    ]
    whole = len(sinks) == len(container.streams.audio) + len(container.streams.video)
    if not stated_by_stream and whole and container.duration is not None:
        # Matroska states one duration, the longest stream's
        longest = max(sinks, key=lambda sink: sink.end)
        stated_by_stream = [(longest, (container.duration + (container.start_time or 0)) / _TICKS)]
    for sink, stated in stated_by_stream:
        if not sink.done and sink.end < min(stated, stop) - _SLACK_SECONDS - sink.step:
            raise MediaError(
                f"it is cut short: its header promises {stated:.2f} s of {sink.stream.type}, "
                f"decoding ends at {sink.end:.2f} s"
            )
