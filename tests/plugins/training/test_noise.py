"""Noise on raw clips: its size, its bounds, its seeds."""

import pytest
import torch
from pydantic import ValidationError
from scipy.stats import kstest, norm, uniform

from avrobust_core import DataError


def test_gaussian_and_uniform_noise_have_the_scale_that_is_asked_for(stand, make):
    given = stand()
    inside = given.batch.inputs["audio"].abs() < 0.9
    for distribution, cdf in (("gaussian", norm(0, 0.01).cdf), ("uniform", uniform(-0.01, 0.02).cdf)):
        found = make("noise", scale={"audio": 0.01}, distribution=distribution).begin(given.batch, given.step()).batch
        noise = (found.inputs["audio"] - given.batch.inputs["audio"])[inside]
        assert kstest(noise.numpy(), cdf).pvalue > 1e-3
        assert torch.equal(found.inputs["video"], given.batch.inputs["video"])
        assert torch.equal(found.targets, given.batch.targets)


def test_what_leaves_the_bounds_is_clipped(stand, make):
    given = stand()
    found = make("noise", scale={"audio": 5, "video": 5}).begin(given.batch, given.step()).batch.inputs
    assert (found["audio"].min(), found["audio"].max()) == (-1, 1)
    assert (found["video"].min(), found["video"].max()) == (0, 1)


def test_a_clip_has_the_same_noise_in_whatever_batch(stand, make):
    given = stand()
    augment = make("noise", scale={"audio": 0.1, "video": 0.1})
    whole = augment.begin(given.batch, given.step()).batch
    some = augment.begin(given.batch.select(torch.tensor([5, 2])), given.step()).batch
    assert torch.equal(some.inputs["video"], whole.inputs["video"][[5, 2]])
    assert not torch.equal(augment.begin(given.batch, given.step(1)).batch.inputs["audio"], whole.inputs["audio"])


def test_a_clip_that_is_twice_in_a_batch_has_other_noise_each_time(stand, make):
    given = stand()
    twice = given.batch.select(torch.tensor([3, 3]))
    found = make("noise", scale={"audio": 0.1}).begin(twice, given.step()).batch.inputs["audio"]
    assert not torch.equal(found[0], found[1])


def test_a_modality_that_is_not_there_is_named(stand, make):
    given = stand()
    with pytest.raises(DataError, match=r"names depth; the clips have audio, video"):
        make("noise", scale={"depth": 0.1}).begin(given.batch, given.step())


def test_configuration(make):
    for wrong in ({}, {"scale": {}}, {"scale": {"audio": 0}}, {"scale": {"audio": 1}, "distribution": "cauchy"}):
        with pytest.raises(ValidationError):
            make("noise", **wrong)
