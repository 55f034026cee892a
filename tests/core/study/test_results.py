import numpy as np
import pytest

from avrobust_core.study.plan import differences
from avrobust_core.study.results import Intervals


def test_every_estimate_of_a_study_resamples_the_same_clips() -> None:
    intervals = Intervals(0.95, 500, seed=3)
    outcomes = np.random.default_rng(0).random(200) < 0.7
    assert intervals.mean(outcomes) == intervals.mean(outcomes)
    complement = intervals.mean(~outcomes)
    assert complement.low == pytest.approx(1 - intervals.mean(outcomes).high)


def test_a_share_among_some_clips_is_the_ratio_and_counts_only_them() -> None:
    intervals = Intervals(0.95, 500, seed=3)
    generator = np.random.default_rng(1)
    among = generator.random(400) < 0.5
    outcomes = generator.random(400) < 0.3
    found = intervals.share(outcomes & among, among)
    assert found.value == pytest.approx(outcomes[among].mean())
    assert found.n == among.sum()
    assert found.low < found.value < found.high
    width_of_plain_mean = 2 * 1.96 * (0.3 * 0.7 / among.sum()) ** 0.5
    assert found.high - found.low == pytest.approx(width_of_plain_mean, rel=0.25)


def test_a_share_among_no_clips_is_not_a_number() -> None:
    found = Intervals(0.95, 500, seed=3).share(np.zeros(5, bool), np.zeros(5, bool))
    assert found.n == 0
    assert found.to_json()["value"] is None


def test_differences_name_the_path_and_both_values() -> None:
    old = {"training": {"epochs": 8, "augment": []}, "seed": 0}
    new = {"training": {"epochs": 9, "augment": []}, "seed": 0, "fusion": "sum"}
    assert list(differences(old, new)) == ["fusion None -> sum", "training.epochs 8 -> 9"]
