"""Contact sheets: a few clips of each class at a glance, pictures as they are and sound as spectrograms."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from avrobust_core.data.batches import Clip
from avrobust_core.data.media import MediaSpec
from avrobust_core.errors import AvrobustError
from avrobust_core.files import write_atomically
from avrobust_core.plain_text import plain_text
from avrobust_core.report.pictures import Pixels, levels, resized, side_by_side, spectrogram, spread

CLASSES_PER_SHEET: Final = 12

_WIDTH, _HEIGHT, _GAP, _LINE = 256, 64, 8, 14
"""Of a picture strip or a spectrogram; between them; and of a line of text, in pixels."""

_FRAMES: Final = 4
_FLOOR_DB: Final = -80.0
_SILENT_DB: Final = -120.0
"""Below it the loudest sound is none, and shown as such."""


def write_sheets(shown: Mapping[str, Sequence[Clip]], media: Mapping[str, MediaSpec], folder: Path) -> list[Path]:
    """Write sheets of `CLASSES_PER_SHEET` classes each, a row for each class.

    Args:
        shown: clips by class.
        media: what each modality is.
        folder: receives sheet-01.png and so on.

    Raises:
        AvrobustError: if Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise AvrobustError("contact sheets need Pillow: pip install 'avrobust[sheet]'") from error
    names = list(shown)
    written = []
    cell = (_WIDTH + _GAP, _LINE + len(media) * (_HEIGHT + _GAP))
    for number, start in enumerate(range(0, len(names), CLASSES_PER_SHEET), 1):
        page = names[start : start + CLASSES_PER_SHEET]
        columns = max(len(shown[name]) for name in page)
        sheet = Image.new("RGB", (columns * cell[0] + _GAP, len(page) * (cell[1] + _LINE) + _GAP), "white")
        pen = ImageDraw.Draw(sheet)
        for row, name in enumerate(page):
            top = _GAP + row * (cell[1] + _LINE)
            pen.text((_GAP, top), _text(name, 80), fill="black")
            for column, clip in enumerate(shown[name]):
                left = _GAP + column * cell[0]
                pen.text((left, top + _LINE), _text(clip.id, 40), fill="gray")
                for place, (modality, spec) in enumerate(media.items()):
                    below = top + 2 * _LINE + place * (_HEIGHT + _GAP)
                    sheet.paste(Image.fromarray(drawn(clip.inputs[modality], spec)), (left, below))
        path = folder / f"sheet-{number:02d}.png"
        write_atomically(path, lambda file, sheet=sheet: sheet.save(file, "png"))  # type: ignore[misc]
        written.append(path)
    return written


def drawn(x: Tensor, spec: MediaSpec) -> Pixels:
    """One clip's modality as a picture of 64 rows and at most 256 columns, (H, W, 3) uint8.

    Pictures (3, T, H, W) become frames side by side, spread over the clip; sound (C, T) becomes the spectrogram of the
    channels' mean, low below, 80 dB from black to white; anything else its values, from the lowest to the highest.
    """
    if not bool(torch.isfinite(x).all()):  # a modality that this clip lacks
        return np.full((_HEIGHT, _WIDTH, 3), 255, np.uint8)
    if x.dim() == 4 and x.shape[0] == 3:
        low, high = spec.bounds or _range(x)
        frames = x[:, spread(x.shape[1], _FRAMES)].movedim(0, 1)
        return side_by_side(resized(frames, (_HEIGHT, _WIDTH // _FRAMES)), low, high)
    if x.dim() == 2 and x.shape[1] >= 8 * _HEIGHT and x.shape[0] < _HEIGHT:
        values = spectrogram(x, _HEIGHT, _WIDTH)
        high = max(float(values.max()), _SILENT_DB)
        return _grey(values, high + _FLOOR_DB, high)
    values = x.reshape(-1, x.shape[-1]) if x.dim() else x.reshape(1, 1)
    return _grey(resized(values[None, None], (_HEIGHT, _WIDTH))[0, 0], *_range(values))


def _grey(values: Tensor, low: float, high: float) -> Pixels:
    return np.repeat(levels(values, low, high)[..., None], 3, axis=2)


def _range(x: Tensor) -> tuple[float, float]:
    return (float(x.min()), float(x.max())) if x.numel() else (0.0, 1.0)


def _text(text: str, length: int) -> str:
    """Text that Pillow's own font can show."""
    return plain_text(text, length).encode("latin-1", "replace").decode("latin-1")
