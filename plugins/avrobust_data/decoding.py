"""From a media file to arrays: one window of time, sound and picture alike, decoded with PyAV (FFmpeg)."""

from pathlib import Path
from typing import Any, Final, Literal

import av
from av.container import InputContainer
from av.stream import Disposition

from avrobust_data.cache import Media
from avrobust_data.collectors import Collector, MediaError, PictureCollector, SoundCollector
from avrobust_data.configs import DecodingConfig
from avrobust_data.containers import (
    duration_of,
    end_of,
    is_open_ended,
    lacks_its_end,
    open_file,
    start_of,
    states_length,
)

DECODER_VERSION: Final = 2
"""Raised when the same file gives other arrays."""

_ONE_LENGTH: Final = frozenset({"asf", "flv", "matroska", "webm"})
"""Formats whose header states one length for all streams."""

_SLACK_SECONDS: Final = 0.1
"""A stream may end this much earlier than stated: encoders' padding, at most about two AAC frames at 44.1 kHz."""


def decode(path: Path, config: DecodingConfig, begin: float | None = None, end: float | None = None) -> Media:
    """Decode of a file what a configuration asks for: a window of its time, or all of a shorter file.

    Args:
        path: the file.
        config: what is asked for.
        begin: where the clip begins in the file, in seconds from the file's own beginning; by default there.
        end: where it ends, likewise; by default at the file's end.

    Sound and pictures stand where their timestamps put them. Picture i of n is the one on show at (i + 1/2) / n of the
    window, upright and with square pixels. Where sound is missing, in a gap or after the end of a shorter file, there
    is silence; where a picture is missing, the last one is held.

    Returns:
        "audio": (1, T) float32 in [-1, 1], the mean of all channels; "video": (3, F, S, S) uint8, RGB.

    Raises:
        MediaError: if the file is missing, damaged, cut short, or lacks sound or picture; the message names it.
    """
    try:
        return _decode(path, config, begin or 0.0, end)
    except MediaError as error:
        raise MediaError(f"{error} ({path})") from error.__cause__
    except av.FFmpegError as error:
        raise MediaError(f"it cannot be decoded: {error.strerror} ({path})") from error
    except (OSError, ValueError, ArithmeticError, MemoryError) as error:
        # PyAV itself raises these over streams that FFmpeg lets through: unknown formats, impossible sizes
        raise MediaError(f"it cannot be decoded: {type(error).__name__}: {error} ({path})") from error


def _decode(path: Path, config: DecodingConfig, begin: float, end: float | None) -> Media:
    centre = config.crop == "centre"
    with open_file(path) as container:
        start = start_of(container) + begin
        if centre:
            length = (duration_of(container, path) if end is None else end) - begin
            start += max(0.0, (length - config.seconds) / 2)
        collectors: dict[str, Collector] = {}
        if "audio" in config.modalities:
            samples = round(config.seconds * config.sample_rate)
            collectors["audio"] = SoundCollector(_stream(container, "audio"), start, samples, config.sample_rate)
        if "video" in config.modalities:
            stream, stretch = _stream(container, "video"), config.resize == "stretch"
            collectors["video"] = PictureCollector(
                stream, start, config.seconds, config.frames, size=config.size, stretch=stretch
            )
        _feed(container, list(collectors.values()), is_open_ended(path))
        if (centre or not all(collector.done for collector in collectors.values())) and lacks_its_end(path):
            raise MediaError("it is cut short: its last bytes are missing")
        if states_length(container, path):
            _check_whole(container, list(collectors.values()), start + config.seconds)
        return {name: collector.finish() for name, collector in collectors.items()}


def _feed(container: InputContainer, collectors: list[Collector], open_ended: bool) -> None:
    """Decode in one pass, until no collector needs more; the last packet of an open-ended file may be cut."""
    by_stream = {collector.stream.index: collector for collector in collectors}
    for packet in container.demux([collector.stream for collector in collectors]):
        collector = by_stream[packet.stream.index]
        if collector.done:
            continue
        if packet.size == 0 and packet.pts is not None:  # "the last picture again"; to a decoder it would be the end
            collector.hold(float((packet.pts + (packet.duration or 0)) * packet.time_base))
            continue
        if packet.is_corrupt and not open_ended:
            raise MediaError("it is damaged or cut short: a packet is incomplete")
        frames: list[Any] = packet.decode()
        for frame in frames:
            if frame.is_corrupt:
                raise MediaError(f"it is damaged at {frame.time or 0:.2f} s")
            collector.add(frame)
        if all(collector.done for collector in collectors):
            return


def _stream(container: InputContainer, kind: Literal["audio", "video"]) -> Any:
    """The stream that players choose, to be decoded in the calling thread.

    Clips are short, and the loader's processes share the cores already.
    """
    stream: Any = container.streams.best(kind)
    if stream is None:
        raise MediaError(f"it has no {'sound' if kind == 'audio' else 'picture'}")
    if stream.disposition & Disposition.attached_pic:
        raise MediaError("it has no moving picture, only cover art")
    if stream.codec_context is None:
        raise MediaError(f"this FFmpeg has no decoder for its {kind}")
    stream.codec_context.thread_count = 1
    return stream


def _check_whole(container: InputContainer, collectors: list[Collector], stop: float) -> None:
    """Compare where decoding ended with what the header states, inside the window.

    Raises:
        MediaError: if a stream is cut short.
    """
    whole = len(collectors) == len(container.streams.audio) + len(container.streams.video)
    if not _ONE_LENGTH.isdisjoint(container.format.name.split(",")):
        # the longest stream's; where that one is not read, nothing is known of the others
        stated_ends = [(max(collectors, key=lambda each: each.end), end_of(container) if whole else None)]
    else:
        stated_ends = [(collector, end_of(collector.stream)) for collector in collectors]
    for collector, stated in stated_ends:
        if (
            stated is not None
            and not collector.done
            and collector.end < min(stated, stop) - _SLACK_SECONDS - collector.step
        ):
            raise MediaError(
                f"it is cut short: its header promises {stated:.2f} s of {collector.stream.type}, "
                f"decoding ends at {collector.end:.2f} s"
            )
