"""CutMix: spans of time that stay in step, boxes, and targets that count what was replaced."""

from dataclasses import replace

import pytest
import torch

from avrobust_core import Batch, DataError


def ids_as_values(given):
    """The same clips, each value of which says which clip it is of."""
    inputs = {
        name: torch.arange(len(x)).float().view(-1, *[1] * (x.dim() - 1)).expand_as(x).clone()
        for name, x in given.batch.inputs.items()
    }
    return Batch(inputs, given.batch.targets, given.batch.ids)


@pytest.mark.parametrize("task", ["single-label", "multi-label"])
def test_the_same_span_of_time_is_replaced_in_every_modality(stand, make, task):
    given = stand(task=task)
    batch = ids_as_values(given)
    shares = []
    for epoch in range(12):
        found = make("cutmix", alpha=1).begin(batch, given.step(epoch)).batch
        for i in range(8):
            audio, video = found.inputs["audio"][i, 0], found.inputs["video"][i]
            assert (video == video[:1, :, :1, :1]).all()
            frames = video[0, :, 0, 0]
            assert torch.equal(audio, frames.repeat_interleave(80))  # 80 samples a frame
            other = frames != i
            edges = (other[1:] != other[:-1]).sum() + other[0] + other[-1]
            assert edges <= 2  # one span
            share = other.float().mean()
            shares.append(share.item())
            j = int(frames[other][0]) if share else i
            torch.testing.assert_close(found.targets[i], (1 - share) * given.soft[i] + share * given.soft[j])
    assert min(shares) == 0
    assert max(shares) == 1
    assert 0.35 < sum(shares) / len(shares) < 0.65


def test_spans_reach_both_ends_of_a_clip_alike(stand, make):
    given = stand()
    batch = ids_as_values(given)
    replaced = torch.zeros(10)
    for epoch in range(60):
        frames = make("cutmix", alpha=1).begin(batch, given.step(epoch)).batch.inputs["video"][:, 0, :, 0, 0]
        replaced += (frames != torch.arange(8).unsqueeze(1)).float().mean(dim=0)
    assert replaced.min() > 0.2 * replaced.max()  # the middle is in more spans than the ends
    assert (replaced - replaced.flip(0)).abs().max() < 0.2 * replaced.max()


def test_a_box_of_pictures_is_replaced_in_all_frames_and_halves_the_targets_share(stand, make):
    given = stand()
    batch = ids_as_values(given)
    found = make("cutmix", alpha=1, axis="space").begin(batch, given.step()).batch
    assert torch.equal(found.inputs["audio"], batch.inputs["audio"])
    boxes = 0
    for i in range(8):
        video = found.inputs["video"][i]
        assert (video == video[:1, :1]).all()
        other = video[0, 0] != i
        rows, columns = other.any(dim=1), other.any(dim=0)
        assert torch.equal(other, rows.unsqueeze(1) & columns)
        share = other.float().mean()
        boxes += bool(0 < share < 1)
        j = int(video[0, 0][other][0]) if share else i
        torch.testing.assert_close(found.targets[i], (1 - share / 2) * given.soft[i] + share / 2 * given.soft[j])
    assert boxes > 3


def test_boxes_are_as_large_as_the_papers(stand, make, features):
    given = stand(features)
    batch = ids_as_values(given)
    augment = make("cutmix", alpha=1, axis="time-frequency")
    other = [
        augment.begin(batch, given.step(epoch)).batch.inputs["audio"] != torch.arange(8).view(8, 1, 1, 1)
        for epoch in range(80)
    ]
    # Sides a = sqrt(1 - ratio), the ratio uniform; what is left of one at the edge is a - a^2 / 4 on average.
    assert abs(torch.cat(other).float().mean() - (1 / 2 - 1 / 5 + 1 / 48)) < 0.03


def test_a_box_of_features_is_of_frames_and_bands(stand, make, features):
    given = stand(features)
    batch = ids_as_values(given)
    found = make("cutmix", alpha=1, axis="time-frequency").begin(batch, given.step()).batch
    other = found.inputs["audio"][:, 0] != torch.arange(8).view(8, 1, 1)
    for i in range(8):
        assert torch.equal(other[i], other[i].any(dim=1).unsqueeze(1) & other[i].any(dim=0))
    assert (other.any(dim=2).float().mean(dim=1) < 1).any()
    assert (other.any(dim=1).float().mean(dim=1) < 1).any()
    kept = found.targets[torch.arange(8), given.batch.targets]
    partners = [int(found.inputs["audio"][i, 0][other[i]][0]) if other[i].any() else i for i in range(8)]
    own = torch.tensor([given.batch.targets[j] == given.batch.targets[i] for i, j in enumerate(partners)])
    expected = torch.where(own, torch.ones(8), 1 - other.flatten(1).float().mean(dim=1))
    torch.testing.assert_close(kept, expected)


def test_it_refuses_clips_without_the_axis(stand, make, features):
    given = stand()
    with pytest.raises(DataError, match=r"time-frequency needs .* axis: time"):
        make("cutmix", axis="time-frequency").begin(given.batch, given.step())
    given = stand(features)
    with pytest.raises(DataError, match="space needs"):
        make("cutmix", axis="space").begin(given.batch, given.step())
    given = stand({"audio": replace(features["audio"], time_axis=None)})
    with pytest.raises(DataError, match="time_axis"):
        make("cutmix").begin(given.batch, given.step())


def test_the_union_of_labels_holds_those_of_which_something_is_left(stand, make):
    given = stand(task="multi-label")
    batch = ids_as_values(given)
    found = make("cutmix", alpha=0.05, labels="union").begin(batch, given.step()).batch
    for i in range(8):
        there = sorted({int(v) for v in found.inputs["video"][i].unique()})
        assert torch.equal(found.targets[i], given.soft[there].amax(dim=0))
