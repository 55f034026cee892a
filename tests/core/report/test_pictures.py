"""Pictures of clips: what they show is where and as strong as it was."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from avrobust_core.report.pictures import levels, magnification, png, side_by_side, spectrogram, spread


def test_a_constant_through_a_window_is_0_db_at_the_bottom_and_half_of_it_6_less() -> None:
    found = spectrogram(torch.ones(1, 4000), 40, 100)
    assert found.shape == (40, 100)
    middle = found[:, 20:80]
    assert middle[-1].mean().item() == pytest.approx(0, abs=0.1)
    assert middle[:-4].max() < -60
    assert (found - spectrogram(torch.full((2, 4000), 0.5), 40, 100))[-1, 50].item() == pytest.approx(6.02, abs=0.01)
    assert spectrogram(torch.zeros(1, 10), 40, 100).max() == pytest.approx(-200)


@pytest.mark.parametrize(
    ("largest", "span", "factor"), [(4 / 255, 1, 16), (1 / 32, 1, 16), (1, 1, 0.5), (1, 2, 1), (0, 1, 1)]
)
def test_a_difference_is_magnified_as_far_as_it_fits(largest: float, span: float, factor: float) -> None:
    assert magnification(torch.tensor([0.0, -largest]), span) == factor


def test_frames_are_spread_and_stand_from_left_to_right() -> None:
    assert [spread(*each) for each in ((8, 4), (3, 4), (1, 4), (16, 3))] == [[1, 3, 5, 7], [0, 1, 2], [0], [2, 8, 13]]
    frames = torch.tensor([0.0, 0.5, 2.0])[:, None, None, None].expand(3, 3, 2, 5)
    found = side_by_side(frames, 0, 1)
    assert found.shape == (2, 15, 3)
    assert found[0, ::5, 1].tolist() == [0, 128, 255]


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7)])
def test_png_keeps_what_it_is_given(shape: tuple[int, ...]) -> None:
    picture = levels(torch.rand(shape, generator=torch.Generator().manual_seed(0)), 0, 1)
    assert np.array_equal(np.array(Image.open(io.BytesIO(png(picture)))), picture)
