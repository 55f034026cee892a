"""Random crops: a box of the picture, the same in all frames and modalities, read by bilinear interpolation."""

from dataclasses import replace

import pytest
import torch
from avrobust_training.random_resized_crop import cropped
from torch.nn import functional as F

from avrobust_core import Batch, DataError


def ramps(clips: int, frames: int, height: int, width: int) -> torch.Tensor:
    """(B, 2, T, H, W): the share of the width, and of the height, at which a pixel's centre is."""
    across = ((torch.arange(width) + 0.5) / width).expand(height, width)
    down = ((torch.arange(height) + 0.5) / height).unsqueeze(1).expand(height, width)
    return torch.stack((across, down)).unsqueeze(1).expand(clips, 2, frames, height, width).contiguous()


def box_of(x: torch.Tensor) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the box from which a crop of `ramps`, (2, H, W), was taken."""
    columns, rows = x[0, 0], x[1, :, 0]
    across, down = columns[4] - columns[3], rows[3] - rows[2]  # amid the picture, where nothing meets the border
    left = columns[3] - 3.5 * across
    top = rows[2] - 2.5 * down
    return tuple(float(v) for v in (left, top, left + across * len(columns), top + down * len(rows)))


def test_a_box_is_what_bilinear_interpolation_gives() -> None:
    x = ramps(3, 2, 6, 8)
    boxes = torch.tensor([[0.25, 0.1, 0.75, 0.9], [0.9, 0.0, 0.2, 1.0], [0.0, 0.0, 1.0, 1.0]])
    found = cropped(x, boxes)
    for clip, (left, top, right, bottom) in zip(found, boxes.tolist(), strict=True):
        across = left + (right - left) * (torch.arange(8) + 0.5) / 8
        down = top + (bottom - top) * (torch.arange(6) + 0.5) / 6
        # pixels beyond the centres of the outermost ones are the outermost ones
        assert torch.allclose(clip[0], across.clamp(0.5 / 8, 7.5 / 8).expand(2, 6, 8), atol=1e-6)
        assert torch.allclose(clip[1], down.clamp(0.5 / 6, 5.5 / 6)[:, None].expand(2, 6, 8), atol=1e-6)
    assert torch.allclose(found[2], x[2], atol=1e-6)


def test_half_of_a_picture_is_as_interpolate_enlarges_it() -> None:
    x = torch.rand(1, 3, 2, 8, 8)
    found = cropped(F.pad(x, (4, 4, 4, 4), mode="constant"), torch.tensor([[0.25, 0.25, 0.75, 0.75]]))
    wanted = F.interpolate(x.flatten(1, 2), scale_factor=2, mode="bilinear").unflatten(1, (3, 2))
    assert torch.allclose(found[..., 1:-1, 1:-1], wanted[..., 1:-1, 1:-1], atol=1e-6)


def test_boxes_have_the_sizes_shapes_and_places_that_were_asked_for(stand, make) -> None:
    given = stand(clips=20)
    batch = Batch(given.batch.inputs | {"video": ramps(20, 10, 6, 8)}, given.batch.targets, given.batch.ids)
    augment = make("random-resized-crop", scale=0.4, ratio=1.5, flip=0.3)
    areas, ratios, mirrored, lefts = [], [], 0, []
    for epoch in range(20):
        found = augment.begin(batch, given.step(epoch)).batch
        assert torch.equal(found.inputs["audio"], batch.inputs["audio"])
        assert torch.equal(found.targets, batch.targets)
        for clip in found.inputs["video"]:
            assert torch.equal(clip, clip[:, :1].expand_as(clip))  # the same in all frames
            left, top, right, bottom = box_of(clip[:, 0])
            mirrored += right < left
            left, right = sorted((left, right))
            assert -1e-4 <= left <= right <= 1 + 1e-4
            assert -1e-4 <= top <= bottom <= 1 + 1e-4
            areas.append((right - left) * (bottom - top))
            ratios.append((right - left) * 8 / ((bottom - top) * 6))
            lefts.append(left / (1 - (right - left)) if right - left < 0.9 else 0.5)
    assert 0.39 < min(areas) < 0.45
    assert 0.8 < max(areas) <= 1.001
    assert 1 / 1.51 < min(ratios) < 0.75
    assert 1.33 < max(ratios) < 1.51
    assert 0.23 < mirrored / 400 < 0.37
    assert min(lefts) < 0.1
    assert max(lefts) > 0.9


def test_modalities_with_pictures_share_a_box(stand, make) -> None:
    given = stand()
    media = given.media | {"depth": replace(given.media["video"], kind="depth", shape=(2, 10, 6, 8))}
    given = stand(media)
    both = {"video": ramps(8, 10, 6, 8), "depth": ramps(8, 10, 6, 8)}
    batch = Batch(given.batch.inputs | both, given.batch.targets, given.batch.ids)
    found = make("random-resized-crop").begin(batch, given.step()).batch.inputs
    assert torch.equal(found["video"], found["depth"])
    alone = make("random-resized-crop", modalities=["depth"]).begin(batch, given.step()).batch.inputs
    assert torch.equal(alone["video"], both["video"])
    assert torch.equal(alone["depth"], found["depth"])


def test_a_shape_that_never_fits_leaves_the_whole_picture(stand, make) -> None:
    given = stand()
    batch = Batch({"video": ramps(8, 1, 6, 8)}, given.batch.targets, given.batch.ids)
    found = make("random-resized-crop", scale=1, flip=0).begin(batch, given.step()).batch.inputs["video"]
    assert torch.allclose(found, batch.inputs["video"], atol=1e-6)


def test_clips_without_pictures_are_refused(stand, make, features) -> None:
    given = stand()
    with pytest.raises(DataError, match="audio has no pictures"):
        make("random-resized-crop", modalities=["audio"]).begin(given.batch, given.step())
    with pytest.raises(DataError, match="modalities names depth"):
        make("random-resized-crop", modalities=["depth"]).begin(given.batch, given.step())
    given = stand(features)
    with pytest.raises(DataError, match="every modality has no pictures"):
        make("random-resized-crop").begin(given.batch, given.step())
