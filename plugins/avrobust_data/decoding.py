"""From a media file to arrays: one window of time, sound and picture alike, decoded with PyAV (FFmpeg)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import av
from av.container import InputContainer
from av.stream import Disposition

from avrobust_data.cache import Media
from avrobust_data.collectors import Collector
from avrobust_data.configs import DecodingConfig
from avrobust_data.containers import end_of, is_open_ended, lacks_its_end, open_file, states_length
from avrobust_data.faults import MediaError
from avrobust_data.guard import DECODER_LIMITS, TooSlow, Watch, refuse_size
from avrobust_data.picture_collector import PictureCollector
from avrobust_data.seeking import add_frames, feed_from, first_frame, packets_for, targets_before
from avrobust_data.sound_collector import SoundCollector
from avrobust_data.windows import Place, Window, window_of

DECODER_VERSION: Final = 4
"""Raised when the same file gives other arrays, or attacks may change another part of them."""

_ONE_LENGTH: Final = frozenset({"asf", "flv", "matroska", "webm"})
"""Formats whose header states one length for all streams."""

_SLACK_SECONDS: Final = 0.1
"""A stream may end this much earlier than stated: encoders' padding, at most about two AAC frames at 44.1 kHz."""


def decode(
    path: Path,
    config: DecodingConfig,
    begin: float | None = None,
    end: float | None = None,
    share: float | None = None,
) -> Media:
    """Decode of a file what a configuration asks for: a window of its time, or all of a shorter file.

    Args:
        path: the file.
        config: what is asked for.
        begin: where the clip begins in the file, in seconds from the file's own beginning; by default there.
        end: where it ends, likewise; by default at the file's end. Nothing behind it becomes part of the clip.
        share: where the window lies in a longer clip, from 0 (at its beginning) to 1 (at its end); by default where the
            configuration says, and in the middle where that leaves it to chance.

    Sound and pictures stand where their timestamps put them. Picture i of n is the one on show at (i + 1/2) / n of the
    window, upright and with square pixels. Where sound is missing, in a gap or after the end of a shorter file or
    segment, there is silence; where a picture is missing, the last one is held.

    What lies well before the window is not decoded, in formats that can be sought in. The result is that of decoding
    from the start, up to rounding; but codecs that fill bands with noise of their own (AAC may) draw another noise.

    Returns:
        "audio": (1, T) float32 in [-1, 1], mixed as `config.downmix` says; "video": (3, F, S, S) uint8, RGB. `padded`
        says what share of each is silence or a held picture after its end; sound may end 0.1 s early for nothing.

    Raises:
        MediaError: if the file is missing, damaged, cut short, or lacks sound or picture; if the segment is not in it;
            if it takes too long, or its pictures are too large. The message names it.
    """
    watch = Watch(config.clip_timeout)
    with naming(path, watch):
        place: Place = "start" if config.window == "start" else "centre"
        return _decode(path, config, begin, end, place if share is None else share, watch)


@contextmanager
def naming(path: Path, watch: Watch) -> Iterator[None]:
    """Make one sentence of what goes wrong while a file is read, with its name.

    Raises:
        MediaError: in place of what was raised.
    """
    try:
        yield
    except MediaError as error:
        raise type(error)(f"{error} ({path})") from error.__cause__
    except av.ExitError as error:  # FFmpeg was interrupted
        raise TooSlow(f"to read it takes more than {watch.seconds:g} s (clip_timeout) ({path})") from error
    except av.FFmpegError as error:
        raise MediaError(f"it cannot be decoded: {error.strerror} ({path})") from error
    except (OSError, ValueError, ArithmeticError, MemoryError) as error:
        # PyAV itself raises these over streams that FFmpeg lets through: unknown formats, impossible sizes
        raise MediaError(f"it cannot be decoded: {type(error).__name__}: {error} ({path})") from error


def _decode(
    path: Path, config: DecodingConfig, begin: float | None, end: float | None, place: Place, watch: Watch
) -> Media:
    with open_file(path, watch) as container:
        streams = _streams(container, config)
        window = window_of(container, path, place, config.seconds, begin, end, watch)
        targets = targets_before(container, window, "audio" in streams)
        first = first_frame(container, streams["audio"], watch) if targets and "audio" in streams else None
        for target in targets:
            collectors = _collectors(streams, config, window)
            if feed_from(target, container, collectors, first, window, watch):
                return _finish(container, path, config, window, collectors)
        if not targets:
            return _read(container, path, config, window, watch)
    with open_file(path, watch) as container:
        return _read(container, path, config, window, watch)


def _read(container: InputContainer, path: Path, config: DecodingConfig, window: Window, watch: Watch) -> Media:
    """Decode from the start of the file."""
    streams = _streams(container, config)
    collectors = _collectors(streams, config, window)
    for packet, collector in packets_for(container, collectors, watch):
        if packet.is_corrupt and not is_open_ended(path):  # the last packet of an open-ended file may be cut
            raise MediaError("it is damaged or cut short: a packet is incomplete")
        add_frames(packet, collector)
    return _finish(container, path, config, window, collectors)


def _streams(container: InputContainer, config: DecodingConfig) -> dict[str, Any]:
    return {name: _stream(container, name) for name in config.modalities}


def _collectors(streams: Mapping[str, Any], config: DecodingConfig, window: Window) -> list[Collector]:
    collectors: list[Collector] = []
    if "audio" in streams:
        samples = round(config.seconds * config.sample_rate)
        collectors.append(SoundCollector(streams["audio"], window, samples, config.sample_rate, config.downmix))
    if "video" in streams:
        stretch = config.resize == "stretch"
        collectors.append(PictureCollector(streams["video"], window, config.frames, size=config.size, stretch=stretch))
    return collectors


def _finish(
    container: InputContainer, path: Path, config: DecodingConfig, window: Window, collectors: list[Collector]
) -> Media:
    """The arrays, once all that is needed was decoded.

    Raises:
        MediaError: if the file ended too early, or has nothing in the window.
    """
    if (config.window != "start" or not all(each.done for each in collectors)) and lacks_its_end(path):
        raise MediaError("it is cut short: its last bytes are missing")
    if states_length(container, path):
        _check_whole(container, collectors, window.stop)
    last = max(each.end for each in collectors)
    if window.first < window.begin and last <= window.start and not any(each.done for each in collectors):
        raise MediaError(
            f"the segment begins at {window.begin - window.first:.2f} s, where the file has ended: "
            f"it is {last - window.first:.2f} s long"
        )
    _refuse_early_end(collectors, window)
    media = Media({each.stream.type: each.finish() for each in collectors})
    media.padded = {each.stream.type: each.padded for each in collectors if each.padded}
    return media


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
    if kind == "video":
        refuse_size(stream.width, stream.height)
    stream.codec_context.thread_count = 1
    stream.codec_context.options = dict(DECODER_LIMITS)
    return stream


def _refuse_early_end(collectors: list[Collector], window: Window) -> None:
    """Refuse a picture that stops while the sound goes on, so that a held one would fill most of the window.

    A file with a single picture is left: that clip is of one picture throughout.

    Raises:
        MediaError: states both ends.
    """
    pictures = [each for each in collectors if isinstance(each, PictureCollector) and not each.done and each.moves]
    sounds = [each for each in collectors if isinstance(each, SoundCollector)]
    for picture, sound in zip(pictures, sounds, strict=False):
        heard = min(sound.end, window.stop) - window.start
        if window.start < picture.end < window.start + heard / 2:
            raise MediaError(
                f"its picture ends at {picture.end - window.first:.2f} s, "
                f"its sound at {sound.end - window.first:.2f} s or later"
            )


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
