"""Reading packets: from the start of a file, or from shortly before a window on."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import av
from av.container import InputContainer

from avrobust_data.collectors import Collector
from avrobust_data.faults import MediaError
from avrobust_data.guard import TooSlow, Watch
from avrobust_data.sound_collector import SoundCollector
from avrobust_data.windows import Window

_SOUGHT: Final = frozenset(
    {"aiff", "asf", "avi", "flac", "flv", "matroska", "mov", "mp3", "mpegts", "nut", "ogg", "w64", "wav"}
)
"""Formats whose timestamps after a seek are those that they have without; of others they may be estimates."""

_RUN_UP: Final = 0.5
"""Seconds of sound that are decoded before the window: what codecs carry from frame to frame has then settled (Opus
asks for 0.08; MP3 of few bits borrows them from 0.25 before; HE-AAC states upper bands by what changed in them)."""

_BACK: Final = (0.0, 4.0, 20.0)
"""Where a seek ends behind the window's beginning, or not at a keyframe, the next aims this many seconds earlier."""

_WORTH: Final = 1.0
"""What lies before the run-up must be longer than this, in seconds, or a seek costs more than it saves."""


def packets_for(
    container: InputContainer, collectors: Sequence[Collector], watch: Watch
) -> Iterator[tuple[Any, Collector]]:
    """The packets of the collectors' streams, each with the collector that needs it, until none needs more.

    Raises:
        MediaError: if the time is up.
    """
    by_stream = {collector.stream.index: collector for collector in collectors}
    for packet in container.demux([collector.stream for collector in collectors]):
        watch.look()
        collector = by_stream[packet.stream.index]
        if not collector.done:
            yield packet, collector
            if all(each.done for each in collectors):
                return


def add_frames(packet: Any, collector: Collector) -> None:
    """Decode a packet, and give its frames to a collector.

    Raises:
        MediaError: if a frame is damaged, or the collector refuses it.
        av.FFmpegError: if it cannot be decoded.
    """
    if packet.size == 0 and packet.pts is not None:  # "the last picture again"; to a decoder it would be the end
        collector.hold(float((packet.pts + (packet.duration or 0)) * packet.time_base))
        return
    frames: list[Any] = packet.decode()
    for frame in frames:
        if frame.is_corrupt:
            raise MediaError(f"it is damaged at {frame.time or 0:.2f} s")
        collector.add(frame)


def targets_before(container: InputContainer, window: Window, heard: bool) -> list[float]:
    """Where to seek to for a window, in seconds as timestamps count, one to be tried after the other; often nowhere.

    Args:
        container: the file.
        window: what is read.
        heard: whether sound is.
    """
    if _SOUGHT.isdisjoint(container.format.name.split(",")):
        return []
    targets = [window.start - _RUN_UP * heard - back for back in _BACK]
    return [target for target in targets if target > window.first + _WORTH]


def first_frame(container: InputContainer, stream: Any, watch: Watch) -> av.AudioFrame | None:
    """The first frame of sound in a file that was just opened; None if it cannot be decoded."""
    try:
        for packet in container.demux(stream):
            watch.look()
            frames: list[av.AudioFrame] = packet.decode()
            if frames:
                return frames[0]
    except av.ExitError:
        raise
    except av.FFmpegError:
        return None
    return None


def feed_from(
    target: float,
    container: InputContainer,
    collectors: Sequence[Collector],
    first: av.AudioFrame | None,
    window: Window,
    watch: Watch,
) -> bool:
    """Seek to the last keyframe before a time, and decode from there on.

    Args:
        target: the time, in seconds as timestamps count.
        container: the file.
        collectors: new ones, which get the frames.
        first: the first frame of its sound, if sound is read.
        window: what is read.
        watch: over the time that it takes.

    Returns:
        True if the collectors have what they would have got from the start of the file. False if the seek failed,
        ended behind the window's beginning, or met damage: the file is to be read from its start, which says what is
        wrong with it, if anything is.

    Raises:
        MediaError: if the time is up.
    """
    seconds = {each.stream.index: float(each.stream.time_base or 0) for each in collectors}
    leading = next((each.stream for each in collectors if not isinstance(each, SoundCollector)), None)
    at_keyframe = set()
    try:
        if leading is not None and leading.time_base:
            container.seek(int(target / leading.time_base), stream=leading)
        else:
            container.seek(int(target * av.time_base))
        for collector in collectors:
            if isinstance(collector, SoundCollector):
                if first is None:
                    return False
                collector.begin_from(first)
        for packet, collector in packets_for(container, collectors, watch):
            if isinstance(collector, SoundCollector):
                if packet.pts is not None and packet.pts * seconds[packet.stream.index] < window.start - _RUN_UP:
                    continue
            elif packet.is_keyframe:
                at_keyframe.add(collector)
            elif collector not in at_keyframe and packet.size:
                continue
            if packet.is_corrupt:
                return False
            add_frames(packet, collector)
            if not (collector.early or collector.begin is None):
                return False
    except (TooSlow, av.ExitError):
        raise
    except (MediaError, av.FFmpegError):
        return False
    return all(each.early for each in collectors)
