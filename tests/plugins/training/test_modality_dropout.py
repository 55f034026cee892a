"""Modality dropout: one modality at most, as often as asked, and never the only one."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from avrobust_core import DataError
from avrobust_core.testing import LinearOracle


def test_at_most_one_modality_is_dropped_as_often_as_asked(stand, make):
    given = stand(clips=20)
    augment = make("modality-dropout", probability={"audio": 0.1, "video": 0.6})
    counts = {"audio": 0, "video": 0}
    for epoch in range(60):
        found = augment.begin(given.batch, given.step(epoch)).batch
        zero = {name: (x == 0).flatten(1).all(dim=1) for name, x in found.inputs.items()}
        assert not (zero["audio"] & zero["video"]).any()
        for name, x in found.inputs.items():
            counts[name] += int(zero[name].sum())
            assert torch.equal(x[~zero[name]], given.batch.inputs[name][~zero[name]])
        assert torch.equal(found.targets, given.batch.targets)
    assert 0.07 < counts["audio"] / 1200 < 0.13
    assert 0.55 < counts["video"] / 1200 < 0.65


def test_zero_is_the_nearest_value_within_the_bounds(stand, make, features):
    media = {"audio": features["audio"], "other": replace(features["audio"], bounds=(-3.0, -1.0))}
    given = stand(media)
    found = make("modality-dropout", probability={"audio": 0.5, "other": 0.5}).begin(given.batch, given.step()).batch
    audio = (found.inputs["audio"] == 0.5).flatten(1).all(dim=1)
    other = (found.inputs["other"] == -1).flatten(1).all(dim=1)
    assert (audio ^ other).all()
    assert audio.any()
    assert other.any()


def test_it_may_be_replaced_by_another_clips(stand, make):
    given = stand()
    for epoch in range(10):
        found = (
            make("modality-dropout", probability={"audio": 1}, fill="clip").begin(given.batch, given.step(epoch)).batch
        )
        for i, x in enumerate(found.inputs["audio"]):
            same = [j for j in range(8) if torch.equal(x, given.batch.inputs["audio"][j])]
            assert len(same) == 1
            assert same[0] != i
        assert torch.equal(found.inputs["video"], given.batch.inputs["video"])


def test_the_only_modality_that_a_model_reads_is_never_dropped(stand, make, features):
    augment = make("modality-dropout", probability={"audio": 1})
    given = stand(features)
    assert augment.begin(given.batch, given.step()).batch is given.batch
    given = stand(model=LinearOracle.random({"audio": (1, 800)}, classes=4))
    assert augment.begin(given.batch, given.step()).batch is given.batch


def test_mistakes_are_named(stand, make):
    given = stand()
    with pytest.raises(DataError, match="names depth"):
        make("modality-dropout", probability={"depth": 0.1}).begin(given.batch, given.step())
    with pytest.raises(ValidationError, match=r"adds up to 1\.2"):
        make("modality-dropout", probability={"audio": 0.6, "video": 0.6})
