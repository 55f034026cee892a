"""Decoding a clip wherever it lies: in one file, in one for the sound and one for the pictures, in images."""

from pathlib import Path
from typing import Final

from avrobust_data.cache import Media
from avrobust_data.configs import DecodingConfig
from avrobust_data.containers import duration_of, open_file
from avrobust_data.decoding import decode, naming
from avrobust_data.faults import MediaError
from avrobust_data.guard import Watch
from avrobust_data.images import decode_folder, length_of_folder

_TIMES_AS_LONG: Final = 2.0
"""Of sound and pictures, neither may last longer than so many times the other: they would not be one clip's."""


def decode_clip(
    path: Path,
    sound: Path | None,
    config: DecodingConfig,
    begin: float | None = None,
    end: float | None = None,
    share: float | None = None,
) -> Media:
    """Decode a clip as `decode` does a file, also where its sound and its pictures are apart.

    Both then count from their own beginnings, and the same window is read of both: its place is found in the longer
    one. `clip_timeout` is for each of the two.

    Args:
        path: the file with the pictures, or the folder of images; with the sound, too, if `sound` is None.
        sound: the file with the sound; None for `path`.
        config: what is asked for.
        begin: where the clip begins, as for `decode`.
        end: where it ends, likewise.
        share: where the window lies in a longer clip, likewise.

    Raises:
        MediaError: as from `decode`; or if sound or pictures last more than twice as long as the other.
    """
    if sound is None or sound == path or len(config.modalities) == 1:
        only = sound if sound is not None and "audio" in config.modalities else path
        return _decoded(only, config, begin, end, share)
    place, begin = _place(config, share), begin or 0.0
    length = _common_length(path, sound, config)
    stop = length if end is None else min(end, length)
    begin += max(0.0, stop - begin - config.seconds) * place
    heard, seen = (config.model_copy(update={"modalities": (name,)}) for name in ("audio", "video"))
    sounds, pictures = _decoded(sound, heard, begin, end, 0.0), _decoded(path, seen, begin, end, 0.0)
    media = Media(sounds | pictures)
    media.padded = {**sounds.padded, **pictures.padded}
    return media


def length_of(path: Path, config: DecodingConfig) -> float | None:
    """Seconds that a file or a folder of images lasts; None of a single image.

    Raises:
        MediaError: if it cannot be read.
    """
    watch = Watch(config.clip_timeout)
    with naming(path, watch):
        if path.is_dir():
            return length_of_folder(path, config)
        with open_file(path, watch) as container:
            return duration_of(container, path, watch)


def _decoded(path: Path, config: DecodingConfig, begin: float | None, end: float | None, share: float | None) -> Media:
    """Of one file or folder what is asked for."""
    if not path.is_dir():
        return decode(path, config, begin, end, share)
    watch = Watch(config.clip_timeout)
    with naming(path, watch):
        if "audio" in config.modalities:
            raise MediaError("it is a folder, which has no sound: name the file of the sound beside it")
        return decode_folder(path, config, begin or 0.0, end, _place(config, share), watch)


def _place(config: DecodingConfig, share: float | None) -> float:
    if share is not None:
        return share
    return 0.0 if config.window == "start" else 0.5


def _common_length(path: Path, sound: Path, config: DecodingConfig) -> float:
    """Seconds that the longer of the two lasts; a single image lasts as long as the sound."""
    heard, seen = length_of(sound, config), length_of(path, config)
    if seen is None or heard is None:
        return seen or heard or 0.0
    if not 1 / _TIMES_AS_LONG <= (seen or 1e-6) / (heard or 1e-6) <= _TIMES_AS_LONG:
        rate = f" at frame_rate {config.frame_rate:g}" if path.is_dir() and config.frame_rate is not None else ""
        raise MediaError(
            f"its pictures last {seen:.2f} s{rate}, its sound {heard:.2f} s: they are not one clip's "
            f"({path} and {sound})"
        )
    return max(seen, heard)
