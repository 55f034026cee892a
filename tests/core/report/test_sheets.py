"""Contact sheets: pictures as they are, sound as a spectrogram, a row for each class."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from avrobust_core import Clip, MediaSpec
from avrobust_core.report.sheets import CLASSES_PER_SHEET, drawn, write_sheets

AUDIO = MediaSpec(kind="audio", shape=(1, 16000), rate=16000, bounds=(-1, 1), time_axis=1)
VIDEO = MediaSpec(kind="video", shape=(3, 8, 16, 16), rate=8, bounds=(0, 1), time_axis=1)


def test_frames_stand_side_by_side_from_the_first_to_the_last() -> None:
    x = torch.zeros(3, 8, 16, 16)
    for frame in range(8):
        x[0, frame] = frame / 7
        x[1, frame, :8] = 1  # green above
    found = drawn(x, VIDEO)
    assert found.shape == (64, 256, 3)
    assert found[0, ::64, 0].tolist() == [round(255 * frame / 7) for frame in (1, 3, 5, 7)]
    assert found[0, 0, 1] == 255
    assert found[-1, 0, 1] == 0


def test_a_tone_is_a_line_at_its_height_while_it_sounds() -> None:
    t = torch.arange(16000) / 16000
    x = (0.5 * torch.sin(2 * torch.pi * 6000 * t) * (t >= 0.5))[None]
    found = drawn(x, AUDIO)[..., 0].astype(int)
    assert found.shape == (64, 256)
    rows = found[:, 140:].mean(axis=1)
    assert abs(int(rows.argmax()) - round(64 * (1 - 6000 / 8000))) <= 1, "low below: 6 kHz of 8 is a quarter from above"
    assert found[:, :100].max() < 40
    assert rows.max() > 230


def test_silence_missing_modalities_and_other_media_are_drawn_too() -> None:
    assert drawn(torch.zeros(1, 16000), AUDIO).shape == (64, 256, 3)
    assert drawn(torch.full((3, 2, 4, 4), float("nan")), VIDEO).min() == 255
    features = torch.arange(12.0).reshape(3, 4)
    found = drawn(features, MediaSpec(kind="features", shape=(3, 4)))
    assert (found[0, 0, 0], found[-1, -1, 0]) == (0, 255)
    assert drawn(torch.tensor(3.0), MediaSpec(kind="scalar", shape=())).shape == (64, 256, 3)
    assert drawn(torch.rand(1, 5, 9, 9), MediaSpec(kind="depth", shape=(1, 5, 9, 9))).shape == (64, 256, 3)


def test_each_class_has_its_row_and_many_classes_have_several_sheets(tmp_path: Path) -> None:
    def clip(i: int) -> Clip:
        return Clip(f"clip {i} ☃", {"video": torch.full((3, 8, 16, 16), i / 20)}, torch.tensor(0))

    shown = {f"class {i}": [clip(i)] * (1 + i % 2) for i in range(CLASSES_PER_SHEET + 2)}
    first, second = write_sheets(shown, {"video": VIDEO}, tmp_path)
    assert (first.name, second.name) == ("sheet-01.png", "sheet-02.png")
    sheet = np.asarray(Image.open(second))
    assert sheet.shape[1] == np.asarray(Image.open(first)).shape[1] == 2 * 264 + 8
    levels = {int(value) for value in np.unique(sheet)}
    assert {round(255 * 12 / 20), round(255 * 13 / 20)} <= levels
    assert round(255 * 11 / 20) not in {int(value) for value in np.unique(sheet[:, 8:264][40:60])}
