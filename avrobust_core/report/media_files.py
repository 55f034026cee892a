"""Clips as media files: lossless, or coded at a given rate, written with PyAV (FFmpeg)."""

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import av
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core.config.suggest import did_you_mean
from avrobust_core.data.grids import grid_of
from avrobust_core.data.media import MediaSpec
from avrobust_core.errors import RunError
from avrobust_core.files import write_atomically
from avrobust_core.report.pictures import png

SOUND: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"pcm16": ("pcm_s16le",), "float32": ("pcm_f32le",), "aac": ("aac",), "opus": ("libopus",)}
)
PICTURES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"ffv1": ("ffv1",), "h264": ("libx264", "libopenh264")}
)
"""The codings that there are, and FFmpeg's encoders of each: the first one that is there is taken."""

_LOSSLESS: Final = frozenset({"pcm16", "float32", "ffv1"})

_THOUSANDS: Final = {"": 1, "k": 1000, "M": 1_000_000}


@dataclass(frozen=True, slots=True)
class Coding:
    """A way to write sound, or pictures.

    Attributes:
        name: one of those in `SOUND` or `PICTURES`.
        encoder: FFmpeg's name of what writes it.
        rate: bits per second; None if nothing is lost.
    """

    name: str
    encoder: str
    rate: int | None

    @classmethod
    def of(cls, text: str, known: Mapping[str, tuple[str, ...]]) -> "Coding":
        """The coding that a text asks for: "pcm16", "aac:64k", "h264:1.5M".

        Args:
            text: a name of `known`, with bits per second where something is lost.
            known: `SOUND` or `PICTURES`.

        Raises:
            RunError: if there is none of that name, its rate is missing or none, or this FFmpeg has no encoder for it.
        """
        name, _, stated = text.partition(":")
        if name not in known:
            raise RunError(f"{name!r} is no coding; there are: {', '.join(known)}{did_you_mean(name, known)}")
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([kM]?)", stated)
        rate = None if found is None else round(float(found[1]) * _THOUSANDS[found[2]])
        if name in _LOSSLESS and stated:
            raise RunError(f"{text!r}: {name} loses nothing, and so has no rate; write {name}")
        if name not in _LOSSLESS and not rate:
            raise RunError(f"{text!r}: {name} needs bits per second, such as {name}:64k")
        return cls(name, next(filter(_encodes, known[name]), None) or _refuse(name, known[name]), rate)

    @property
    def lossless(self) -> bool:
        """True if what is read is what was rounded, bit for bit."""
        return self.rate is None

    def __str__(self) -> str:
        return self.name if self.rate is None else f"{self.name}:{self.rate / 1000:g}k"


def _encodes(encoder: str) -> bool:
    try:
        av.Codec(encoder, "w")
    except (av.codec.codec.UnknownCodecError, ValueError):
        return False
    return True


def _refuse(name: str, encoders: tuple[str, ...]) -> str:
    raise RunError(f"this PyAV {av.__version__} has no encoder for {name} ({' or '.join(encoders)}); install another")


@dataclass(frozen=True, slots=True)
class Form:
    """The form of the clips of a data set, as media files have it.

    Attributes:
        sound: the modality that is sound, one channel in [-1, 1]; None if there is none.
        pictures: the modality that is square pictures in red, green and blue, in [0, 1]; None if there is none.
        media: of both.
    """

    sound: str | None
    pictures: str | None
    media: Mapping[str, MediaSpec]

    @classmethod
    def of(cls, media: Mapping[str, MediaSpec]) -> "Form":
        """The form of a data set's clips.

        Raises:
            RunError: names the modality that no media file holds, or none that is read back as it was.
        """
        found: dict[str, str] = {}
        for name, spec in media.items():
            heard = len(spec.shape) == 2 and spec.shape[0] == 1 and spec.bounds == (-1, 1)
            seen = len(spec.shape) == 4 and spec.shape[0] == 3 and spec.shape[2] == spec.shape[3]
            kind = "sound" if heard else "pictures" if seen and spec.bounds == (0, 1) else None
            if kind is not None and spec.rate is None:
                per_second = "samples" if heard else "pictures"
                raise RunError(f"{name} cannot be exported: its {per_second} per second are unknown; state its `rate`")
            if kind is None or kind in found:
                raise RunError(
                    f"{name} cannot be exported: its clips are {spec.kind} of shape {spec.shape} in {spec.bounds}, and "
                    "a media file here holds one channel of sound in (-1, 1) and square pictures (3, T, H, H) in (0, 1)"
                )
            found[kind] = name
        return cls(found.get("sound"), found.get("pictures"), media)

    @property
    def sample_rate(self) -> int:
        """Samples of sound per second."""
        assert self.sound is not None
        return round(self.media[self.sound].rate or 0)

    @property
    def seconds(self) -> Fraction:
        """The length of a clip."""
        if self.sound is not None:
            return Fraction(self.media[self.sound].shape[1], self.sample_rate)
        assert self.pictures is not None
        return self.frames / Fraction(self.media[self.pictures].rate or 0).limit_denominator(10_000)

    @property
    def frames(self) -> int:
        """Pictures in a clip."""
        assert self.pictures is not None
        return self.media[self.pictures].shape[1]

    def settings(self) -> dict[str, Any]:
        """The fields of the data set `clips` that read these clips as they are."""
        settings: dict[str, Any] = {"modalities": list(self.media), "seconds": float(self.seconds), "window": "start"}
        if self.sound is not None:
            settings["sample_rate"] = self.sample_rate
        if self.pictures is not None:
            settings |= {"frames": self.frames, "size": self.media[self.pictures].shape[2]}
        return settings

    def kept(self, clip: Mapping[str, Tensor], sound: Coding) -> dict[str, Tensor]:
        """A clip as a file without loss keeps it: by modality, float32."""
        found = {}
        for name, x in clip.items():
            grid = None if name == self.sound and sound.name == "float32" else grid_of(self.media[name])
            found[name] = x if grid is None else grid.nearest(x)
        return found


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes clips of one form.

    Attributes:
        form: of the clips.
        sound, pictures: how they are written.
        separate: whether pictures are also written one by one, as PNG.
    """

    form: Form
    sound: Coding
    pictures: Coding
    separate: bool = False

    def write(self, clip: Mapping[str, Tensor], folder: Path, name: str) -> dict[str, str]:
        """Write a clip: one file with all of it, and beside it its sound as WAV, its pictures as PNG if asked for.

        Args:
            clip: by modality: sound (1, T), pictures (3, F, S, S).
            folder: is made.
            name: of the files, without an ending.

        Returns:
            The files' names: `path` of the whole clip, `wav`, `png`; empty where there is none.

        Raises:
            RunError: if an encoder refuses; says what, and what FFmpeg says.
        """
        folder.mkdir(parents=True, exist_ok=True)
        form = self.form
        heard = None if form.sound is None else clip[form.sound]
        seen = None if form.pictures is None else _colours(clip[form.pictures], form.media[form.pictures])
        if seen is not None and not self.pictures.lossless and seen.shape[1] % 2:
            raise RunError(
                f"{self.pictures} takes pictures of an even number of pixels, and these are {seen.shape[1]} pixels "
                "high; choose ffv1"
            )
        names = {"path": f"{name}.mkv", "wav": "", "png": ""}
        if seen is None and self.sound.lossless:
            names["path"] = f"{name}.wav"
        elif heard is not None and self.sound.lossless:
            names["wav"] = f"{name}.wav"
        try:
            self._whole(folder / names["path"], heard, seen)
            if names["wav"]:
                self._whole(folder / names["wav"], heard, None)
        except (av.FFmpegError, ValueError) as error:
            what = f"{name} cannot be written as {self.sound} and {self.pictures}"
            raise RunError(f"{what}: FFmpeg says {error}; choose other codings or rates") from error
        if seen is not None and self.separate:
            names["png"] = name
            _write_pictures(folder / name, seen)
        return names

    def _whole(self, path: Path, heard: Tensor | None, seen: NDArray[np.uint8] | None) -> None:
        kind = "wav" if path.suffix == ".wav" else "matroska"
        same = {"fflags": "+bitexact"}  # no version and no random number: the same clip gives the same bytes
        content = io.BytesIO()  # FFmpeg itself passes over a full disk without a word
        with av.open(content, "w", format=kind, container_options=same) as container:
            pictures = None if seen is None else self._picture_stream(container)
            sound = None if heard is None else self._sound_stream(container)
            if seen is not None and pictures is not None:
                for packet in _picture_packets(pictures, seen):
                    container.mux(packet)
            if heard is not None and sound is not None:
                for packet in self._sound_packets(sound, heard):
                    container.mux(packet)
        write_atomically(path, lambda file: file.write(content.getbuffer()))

    def _picture_stream(self, container: Any) -> Any:
        form, per_second = self.form, self.form.frames / self.form.seconds
        stream = container.add_stream(self.pictures.encoder, rate=per_second)
        assert form.pictures is not None
        stream.width = stream.height = form.media[form.pictures].shape[2]
        stream.pix_fmt = "bgr0" if self.pictures.lossless else "yuv420p"
        stream.codec_context.time_base = 1 / per_second
        if self.pictures.rate is not None:
            stream.bit_rate = self.pictures.rate
        stream.codec_context.thread_count = 1
        return stream

    def _sound_stream(self, container: Any) -> Any:
        stream = container.add_stream(self.sound.encoder, rate=self._rate(), layout="mono")
        if self.sound.rate is not None:
            stream.bit_rate = self.sound.rate
        return stream

    def _rate(self) -> int:
        """Samples per second in the file: of an encoder that takes a few rates only, the next higher one."""
        wanted = self.form.sample_rate
        taken = sorted(av.Codec(self.sound.encoder, "w").audio_rates or [wanted])
        return next((rate for rate in taken if rate >= wanted), taken[-1])

    def _sound_packets(self, stream: Any, heard: Tensor) -> Iterator[Any]:
        """Packets of samples, in the encoder's own format, rate and size of frames."""
        rate = self.form.sample_rate
        if self.sound.name == "pcm16":
            assert self.form.sound is not None
            grid = grid_of(self.form.media[self.form.sound])
            assert grid is not None
            samples, kind = grid.index(heard).numpy().astype(np.int16), "s16"
        else:
            samples, kind = heard.numpy(), "flt"
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format=kind, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        if self.sound.lossless:
            yield from stream.encode(frame)
        else:
            if not stream.codec_context.is_open:
                stream.codec_context.open()  # then it knows the size of its frames
            sizes = stream.codec_context.frame_size
            to = av.AudioResampler(format=stream.format.name, layout="mono", rate=stream.rate, frame_size=sizes)
            for piece in (*to.resample(frame), *to.resample(None)):
                yield from stream.encode(piece)
        yield from stream.encode(None)


def _colours(x: Tensor, spec: MediaSpec) -> NDArray[np.uint8]:
    """(F, S, S, 3) of pictures (3, F, S, S)."""
    grid = grid_of(spec)
    assert grid is not None
    return np.ascontiguousarray(grid.index(x).permute(1, 2, 3, 0).numpy().astype(np.uint8))


def _picture_packets(stream: Any, seen: NDArray[np.uint8]) -> Iterator[Any]:
    for number, picture in enumerate(seen):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = number, stream.codec_context.time_base
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _write_pictures(folder: Path, seen: NDArray[np.uint8]) -> None:
    folder.mkdir()
    for number, picture in enumerate(seen):
        (folder / f"{number:04}.png").write_bytes(png(picture))
