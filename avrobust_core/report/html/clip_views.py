"""Exported clips as the page shows and plays them: frames, spectrograms, what an attack changed, and the sound."""

import base64
import io
import math
import wave
from collections.abc import Iterator, Mapping
from typing import Final

import torch
from torch import Tensor

from avrobust_core.data.grids import grid_of
from avrobust_core.report.html.view import Media
from avrobust_core.report.likeness import psnr_db, snr_db
from avrobust_core.report.media_files import Form
from avrobust_core.report.pictures import (
    Pixels,
    levels,
    magnification,
    png,
    resized,
    side_by_side,
    spectrogram,
    spread,
)

FRAMES: Final = 4
SIZE: Final = 80
"""Of a frame at most, and of a spectrogram's height, in pixels."""
RANGE_DB: Final = 80
"""From black to white in a spectrogram."""
LONGEST_SOUND: Final = 384 * 2**10
"""Bytes of sound of 16 bits that a player in the page may hold: 12 s at 16 kHz."""


class ClipViews:
    """Draws clips of one form.

    Args:
        form: of the clips.
    """

    def __init__(self, form: Form) -> None:
        self.form = form

    def clean(self, clip: Mapping[str, Tensor], name: str) -> Iterator[Media]:
        """A clean clip: frames, spectrogram, player.

        Args:
            clip: by modality: sound (1, T), pictures (3, F, S, S).
            name: for those who do not see the pictures.
        """
        form = self.form
        if form.pictures is not None:
            yield _image(
                self._frames(_smaller(self._chosen(clip[form.pictures]))),
                f"clean: {self._which()}",
                f"{name}, clean: {self._which()}, side by side",
            )
        if form.sound is not None:
            decibels = self._spectrogram(clip[form.sound])
            yield _image(
                _grey(decibels, float(decibels.max())),
                f"clean: 0 to {form.sample_rate / 2000:g} kHz, upwards, over {float(form.seconds):g} s; white is the "
                f"loudest, black {RANGE_DB} dB less",
                f"{name}, clean: spectrogram of its sound",
            )
            yield from self._player(clip[form.sound], "clean", name)

    def attacked(self, clean: Mapping[str, Tensor], attacked: Mapping[str, Tensor], name: str) -> Iterator[Media]:
        """What an attack made of a clip, where it changed anything: as `clean`, and the difference."""
        form = self.form
        if form.pictures is not None and not torch.equal(clean[form.pictures], attacked[form.pictures]):
            yield from self._pictures(clean[form.pictures], attacked[form.pictures], name)
        if form.sound is not None and not torch.equal(clean[form.sound], attacked[form.sound]):
            yield from self._sound(clean[form.sound], attacked[form.sound], name)

    def likeness(self, clean: Mapping[str, Tensor], attacked: Mapping[str, Tensor]) -> dict[str, str]:
        """SNR of the sound and PSNR of the pictures, in words."""
        form = self.form
        found: dict[str, str] = {}
        if form.sound is not None:
            found[f"SNR of {form.sound}"] = _decibels(snr_db(clean[form.sound], attacked[form.sound]))
        if form.pictures is not None:
            low, high = self._bounds()
            ratio = psnr_db(clean[form.pictures], attacked[form.pictures], high - low)
            found[f"PSNR of {form.pictures}"] = _decibels(ratio)
        return found

    def too_long(self) -> str | None:
        """Why there is no player; None if there is one."""
        size = 0 if self.form.sound is None else 2 * self.form.media[self.form.sound].shape[1]
        if size <= LONGEST_SOUND:
            return None
        return (
            f"There are no players: {float(self.form.seconds):g} s of sound are {size / 2**20:.1f} MiB a clip, more "
            "than the page has room for. The exported files have the sound."
        )

    def _pictures(self, clean: Tensor, attacked: Tensor, name: str) -> Iterator[Media]:
        low, high = self._bounds()
        factor = magnification(attacked - clean, high - low)
        difference = self._chosen(attacked) - self._chosen(clean)
        small = torch.nn.functional.interpolate(difference, _size(difference), mode="nearest")  # a mean would hide it
        yield _image(
            self._frames(_smaller(self._chosen(attacked))),
            "attacked: the same frames",
            f"{name}: {self._which()}, side by side",
        )
        yield _image(
            self._frames((low + high) / 2 + factor * small),
            f"difference x {factor:g}; grey is none",
            f"{name}: what was changed in these frames, times {factor:g}, grey where nothing was",
        )

    def _sound(self, clean: Tensor, attacked: Tensor, name: str) -> Iterator[Media]:
        before, after = self._spectrogram(clean), self._spectrogram(attacked)
        change = self._spectrogram(attacked - clean)
        loudest, most = float(before.max()), float(change.max())
        yield _image(
            _grey(after, loudest), "attacked, on the clean clip's scale", f"{name}: spectrogram of the attacked sound"
        )
        yield _image(
            _grey(change, most),
            f"difference: white is {most - loudest:+.0f} dB against the clean clip's loudest, black {RANGE_DB} dB less",
            f"{name}: spectrogram of what was changed in the sound",
        )
        yield from self._player(attacked, "attacked", name)

    def _player(self, heard: Tensor, version: str, name: str) -> Iterator[Media]:
        if self.too_long() is None:
            yield Media("sound", _uri("audio/wav", self._wav(heard)), f"{version} sound", f"{name}: {version} sound")

    def _wav(self, heard: Tensor) -> bytes:
        """The sound as a WAV file of 16 bits."""
        assert self.form.sound is not None
        grid = grid_of(self.form.media[self.form.sound])
        assert grid is not None
        file = io.BytesIO()
        with wave.open(file, "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(self.form.sample_rate)
            out.writeframes(grid.index(heard).numpy().astype("<i2").tobytes())
        return file.getvalue()

    def _spectrogram(self, heard: Tensor) -> Tensor:
        return spectrogram(heard, SIZE, FRAMES * SIZE)

    def _chosen(self, seen: Tensor) -> Tensor:
        """The frames that are shown, (N, 3, S, S), of pictures (3, F, S, S)."""
        return seen[:, spread(self.form.frames, FRAMES)].movedim(0, 1)

    def _frames(self, frames: Tensor) -> Pixels:
        return side_by_side(frames, *self._bounds())

    def _bounds(self) -> tuple[float, float]:
        assert self.form.pictures is not None
        bounds = self.form.media[self.form.pictures].bounds
        assert bounds is not None
        return bounds

    def _which(self) -> str:
        """The frames that are shown, in words."""
        count = self.form.frames
        shown = ", ".join(str(i + 1) for i in spread(count, FRAMES))
        return f"frame {shown} of {count}" if count == 1 else f"frames {shown} of {count}"


def _size(frames: Tensor) -> tuple[int, int]:
    side = min(SIZE, frames.shape[-1])
    return side, side


def _smaller(frames: Tensor) -> Tensor:
    return resized(frames, _size(frames))


def _grey(decibels: Tensor, loudest: float) -> Pixels:
    return levels(decibels, loudest - RANGE_DB, loudest)


def _image(picture: Pixels, label: str, about: str) -> Media:
    return Media("image", _uri("image/png", png(picture)), label, about)


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _decibels(ratio: float) -> str:
    return f"{ratio:.1f} dB" if math.isfinite(ratio) else "unchanged" if ratio > 0 else "the clean clip is silent"
