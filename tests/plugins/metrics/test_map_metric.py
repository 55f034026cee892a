"""Mean average precision: the weighted form equals scikit-learn's, and the published figures come out."""

from dataclasses import replace

import numpy as np
import pytest
from avrobust_metrics.configs import MapConfig
from avrobust_metrics.mean_average_precision import MeanAveragePrecision, d_prime, log_odds
from avrobust_metrics.ranking import ClassRanking
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from sklearn.metrics import average_precision_score, roc_auc_score

from avrobust_core import Subject

MAP = MeanAveragePrecision(MapConfig())


def subject(logits, targets, task, **kwargs):
    logits = np.asarray(logits, dtype=np.float32)
    return Subject(
        ids=tuple(f"c{i}" for i in range(len(logits))),
        logits=logits,
        targets=np.asarray(targets),
        classes=tuple(f"class-{i}" for i in range(logits.shape[1])),
        task=task,
        **kwargs,
    )


def several(n=300, k=6, share=0.2, seed=0):
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, k)) < share).astype(np.float32)
    return subject(rng.normal(size=(n, k)) + targets, targets, "multi-label")


@settings(max_examples=150)
@given(data=st.data())
def test_weighted_ap_and_auc_equal_scikit_learn(data):
    n = data.draw(st.integers(2, 25))
    tied = data.draw(st.booleans())
    score = st.integers(-2, 2) if tied else st.floats(-5, 5, width=32)
    scores = np.array(data.draw(st.lists(score, min_size=n, max_size=n)), dtype=np.float32)
    positive = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    assume(positive.any() and not positive.all())
    weight = data.draw(st.sampled_from([st.integers(0, 3), st.floats(0, 10)]))
    weights = np.array(data.draw(st.lists(weight, min_size=n * 3, max_size=n * 3)), dtype=np.float64).reshape(n, 3)
    weights[weights < 1e-3] = 0
    ap, auc = ClassRanking(scores, positive).evaluate(weights)
    for r in range(3):
        w = weights[:, r]
        if not (w[positive].any() and w[~positive].any()):
            assert np.isnan(ap[r])
            assert np.isnan(auc[r])
            continue
        assert ap[r] == pytest.approx(average_precision_score(positive, scores, sample_weight=w), abs=1e-9)
        assert auc[r] == pytest.approx(roc_auc_score(positive, scores, sample_weight=w), abs=1e-9)


def test_counts_in_float32_are_as_good_as_float64():
    rng = np.random.default_rng(1)
    positive = rng.random(5000) < 0.3
    ranking = ClassRanking(rng.normal(size=5000) + positive, positive)
    weights = rng.multinomial(5000, np.full(5000, 1 / 5000), size=20).T
    exact = ranking.evaluate(np.ascontiguousarray(weights, dtype=np.float64))
    np.testing.assert_allclose(ranking.evaluate(np.ascontiguousarray(weights, dtype=np.float32)), exact, rtol=2e-5)


def test_point_estimates_are_scikit_learns():
    measured = several()
    found = MAP.measure(measured)
    ap = average_precision_score(measured.targets, measured.logits, average=None)
    auc = roc_auc_score(measured.targets, measured.logits, average=None)
    assert found.values["map"].value == pytest.approx(ap.mean())
    assert found.values["auc"].value == pytest.approx(auc.mean())
    assert found.values["d-prime"].value == pytest.approx(d_prime(auc.mean()))
    assert list(found.per_class["ap"].values()) == pytest.approx(ap.tolist())
    assert list(found.per_class["auc"].values()) == pytest.approx(auc.tolist())
    for estimate in found.values.values():
        assert estimate.low < estimate.value < estimate.high
        assert estimate.method == "bootstrap"
        assert estimate.n == 300


def test_one_label_per_clip_is_one_hot_and_ranks_by_probability():
    rng = np.random.default_rng(2)
    targets = rng.integers(5, size=200)
    logits = (rng.normal(size=(200, 5)) + np.eye(5)[targets]).astype(np.float32)
    found = MAP.measure(subject(logits, targets, "single-label"))
    probability = log_softmax(logits.astype(np.float64), axis=1)
    expected = average_precision_score(np.eye(5)[targets], probability, average="macro")
    assert found.values["map"].value == pytest.approx(expected)
    # A shift of all logits of a clip says nothing, and must change nothing.
    shifted = MAP.measure(subject(logits + rng.integers(-64, 64, size=(200, 1)), targets, "single-label"))
    assert shifted.values["map"].value == pytest.approx(expected, abs=1e-4)


def test_sure_predictions_do_not_tie():
    rng = np.random.default_rng(3)
    z = rng.normal(size=(50, 4)) * 3
    p = np.exp(log_softmax(z, axis=1))
    np.testing.assert_allclose(log_odds(z), np.log(p / (1 - p)), rtol=1e-7, atol=1e-9)
    with np.errstate(all="raise", under="ignore"):
        sure = log_odds(np.array([[60.0, 0.0, 0.0], [50.0, 0.0, 0.0], [-60.0, 0.0, -60.0]]))
    assert sure[0, 0] == pytest.approx(60 - np.log(2))
    assert sure[1, 0] == pytest.approx(50 - np.log(2))
    assert sure[2, 0] == pytest.approx(-60)


@pytest.mark.parametrize(
    ("auc", "expected"), [(0.9706, 2.672), (0.978, 2.847), (0.966, 2.574), (0.907, 1.869), (0.5, 0.0)]
)
def test_d_prime_of_the_recorded_audioset_results(auc, expected):
    assert d_prime(auc) == pytest.approx(expected, abs=0.012)  # the AUCs are recorded to three figures


def test_d_prime_to_the_last_recorded_figure():
    assert round(d_prime(0.9706), 3) == 2.672


def test_d_prime_at_the_ends():
    assert d_prime(1.0) == float("inf")
    assert d_prime(0.0) == float("-inf")
    assert np.isnan(d_prime(float("nan")))


def test_classes_that_cannot_be_measured_are_left_out_and_shown():
    measured = several(k=5)
    targets = measured.targets.copy()
    targets[:, 1], targets[:, 3] = 0, 1
    found = MAP.measure(subject(measured.logits, targets, "multi-label"))
    for name in ("ap", "auc"):
        missing = [c for c, value in found.per_class[name].items() if np.isnan(value)]
        assert missing == ["class-1", "class-3"]
    kept = [0, 2, 4]
    expected = average_precision_score(targets[:, kept], measured.logits[:, kept], average="macro")
    assert found.values["map"].value == pytest.approx(expected)
    assert found.details == {
        "classes": 5,
        "classes_measured": 3,
        "classes_without_positives": ["class-1"],
        "classes_without_negatives": ["class-3"],
        "notes": [
            "2 of 5 classes are left out of the means: 1 with no positive among the clips, "
            "1 with no negative among the clips"
        ],
    }


def test_where_every_class_can_be_measured_nothing_is_said():
    assert "notes" not in MAP.measure(several()).details


def test_the_interval_is_over_groups_where_clips_have_them():
    measured = several(n=300)
    groups = tuple(f"speaker {i // 10}" for i in range(300))
    repeated = subject(
        np.repeat(measured.logits[:30], 10, axis=0), np.repeat(measured.targets[:30], 10, axis=0), measured.task
    )
    clips, over = (MAP.measure(each).values for each in (repeated, replace(repeated, groups=groups)))
    for name in ("map", "auc"):
        assert over[name].value == clips[name].value
        assert over[name].groups == 30
        width = {key: each[name].high - each[name].low for key, each in (("c", clips), ("g", over))}
        assert width["g"] > 2 * width["c"], "ten copies of a clip are one"


def test_one_group_has_no_interval():
    found = MAP.measure(replace(several(n=50), groups=("speaker",) * 50)).values
    assert {each.method for each in found.values()} == {"none"}
    assert np.isnan([end for each in found.values() for end in (each.low, each.high)]).all()


def test_without_a_class_to_measure_there_is_no_number():
    found = MAP.measure(subject(np.zeros((3, 2)), np.ones((3, 2)), "multi-label"))
    assert found.values["map"].method == "none"
    assert all(np.isnan(e.value) and np.isnan(e.low) for e in found.values.values())


def test_a_perfect_ranking_has_a_d_prime_without_end():
    targets = np.repeat(np.arange(3), 10)
    found = MAP.measure(subject(np.eye(3)[targets] * 5, targets, "single-label"))
    assert found.values["map"].value == pytest.approx(1)
    assert found.values["map"].high == 1
    assert found.values["d-prime"].value == float("inf")
    assert found.values["d-prime"].to_json()["value"] is None


@pytest.mark.parametrize("sign", [1, -1])
def test_the_interval_of_a_perfect_ranking_is_that_of_so_few_clips(sign):
    own = np.zeros((40, 2), dtype=np.float32)
    own[:4, 0] = own[4:9, 1] = 1
    found = MAP.measure(subject(sign * own, own, "multi-label")).values
    outcomes = int(4 / (1 / 4 + 1 / 5))  # the positives: 4 and 5, of equal weight by class
    edge = 0.025 ** (1 / outcomes)
    auc, dprime = found["auc"], found["d-prime"]
    ends = (edge, 1.0) if sign > 0 else (0.0, 1 - edge)
    assert (auc.low, auc.high) == pytest.approx(ends)
    assert auc.method == "clopper-pearson"
    assert np.isfinite(dprime.low if sign > 0 else dprime.high)
    assert (found["map"].method == "clopper-pearson") == (sign > 0)
    nearly = own.copy()
    nearly[20, 0] = 1
    assert MAP.measure(subject(nearly, own, "multi-label")).values["auc"].method == "bootstrap"


def test_of_groups_those_count_that_have_any():
    own = np.zeros((40, 1), dtype=np.float32)
    own[:20] = 1
    alone = MAP.measure(subject(own, own, "multi-label")).values["map"].low
    assert alone == pytest.approx(0.025 ** (1 / 20))
    groups = tuple(f"speaker-{i // 4}" for i in range(40))  # five of them have the positives
    assert MAP.measure(subject(own, own, "multi-label", groups=groups)).values["map"].low <= 0.025 ** (1 / 5) + 1e-12
    mostly = np.ones((40, 1), dtype=np.float32)
    mostly[:3] = 0
    found = MAP.measure(subject(mostly, mostly, "multi-label")).values["map"]
    assert found.low == pytest.approx(0.025 ** (1 / 3)), "the fewer of positives and negatives count"


def test_the_interval_is_the_same_whatever_the_chunks(monkeypatch):
    from avrobust_core.statistics import intervals as statistics

    whole = MAP.measure(several())
    monkeypatch.setattr(statistics, "CHUNK_ELEMENTS", 300 * 7)
    chunked = MAP.measure(several())
    for name, estimate in whole.values.items():
        assert chunked.values[name].low == pytest.approx(estimate.low, abs=1e-12)
        assert chunked.values[name].high == pytest.approx(estimate.high, abs=1e-12)


def test_where_positives_are_few_the_interval_still_holds_the_estimate():
    """Plain percentiles lie above it here: a resample holds positives twice, at one rank."""
    for seed in range(5):
        found = MAP.measure(several(n=2000, k=60, share=0.004, seed=seed)).values["map"]
        assert found.low < found.value < found.high


@pytest.mark.slow
def test_intervals_cover_the_mean_map_of_test_sets_of_this_size():
    def one(seed):
        return several(n=400, k=20, share=0.03, seed=seed)

    def score(s):
        keep = s.targets.any(axis=0)
        return average_precision_score(s.targets[:, keep], s.logits[:, keep], average="macro")

    truth = np.mean([score(one(seed)) for seed in range(10_000, 10_600)])
    hits = 0
    for seed in range(200):
        s = one(seed)
        found = MAP.measure(subject(s.logits, s.targets, s.task, resamples=400, seed=seed))
        hits += found.values["map"].low <= truth <= found.values["map"].high
    assert hits / 200 > 0.89
