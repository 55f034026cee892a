"""Padding after an augmentation: a clip's own where it is changed by itself, what both lack where two are mixed."""

from dataclasses import replace

import pytest

PADDED = ({"audio": 0.5, "video": 0.25}, *({"audio": 0.25, "video": 0.25},) * 6, {})


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("noise", {"scale": {"audio": 0.1}}),
        ("specaugment", {}),
        ("random-resized-crop", {}),
        ("modality-dropout", {"probability": {"audio": 0.9}}),
    ],
)
def test_a_clip_that_is_changed_by_itself_keeps_its_padding(stand, make, name, given):
    clips = stand()
    assert make(name, **given).begin(replace(clips.batch, padded=PADDED), clips.step()).batch.padded == PADDED


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("mixup", {"alpha": 1.0}),
        ("mixup", {"alpha": 1.0, "together": False}),
        ("manifold-mixup", {"layers": ["input"]}),
        ("cutmix", {}),
        ("modality-dropout", {"probability": {"audio": 0.9}, "fill": "clip"}),
    ],
)
def test_of_clips_that_are_mixed_padding_is_what_both_lack(stand, make, name, given):
    clips = stand()
    found = make(name, **given).begin(replace(clips.batch, padded=PADDED), clips.step()).batch.padded
    assert found[0] != PADDED[0], "no partner is padded so long"
    for own, left in zip(PADDED, found, strict=True):
        assert all(share in (0.25, own[modality]) for modality, share in left.items())
    assert found[7] == {}
    assert any(clip == {"audio": 0.25, "video": 0.25} for clip in found[1:7])
