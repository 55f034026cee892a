import numpy as np
import pytest

from avrobust_core.attacks.goals import Goal
from avrobust_core.errors import ComponentError, RunError
from avrobust_core.evaluation.outcomes import Intervals, Outcome, groups_by_clip, summarise
from avrobust_core.evaluation.predictions import Predictions
from avrobust_core.study.plan import differences


def test_every_estimate_of_a_study_resamples_the_same_clips() -> None:
    intervals = Intervals(0.95, 500, seed=3)
    outcomes = np.random.default_rng(0).random(200) < 0.7
    assert intervals.mean(outcomes) == intervals.mean(outcomes)
    complement = intervals.mean(~outcomes)
    assert complement.low == pytest.approx(1 - intervals.mean(outcomes).high)


def test_a_share_among_some_clips_counts_only_them() -> None:
    intervals = Intervals(0.95, 500, seed=3)
    generator = np.random.default_rng(1)
    among = generator.random(400) < 0.5
    outcomes = generator.random(400) < 0.3
    assert intervals.share(outcomes & among, among) == intervals.mean(outcomes[among])


def test_a_share_among_no_clips_is_not_a_number() -> None:
    found = Intervals(0.95, 500, seed=3).share(np.zeros(5, bool), np.zeros(5, bool))
    assert found.n == 0
    assert found.to_json()["value"] is None


def test_differences_name_the_path_and_both_values() -> None:
    old = {"training": {"epochs": 8, "augment": []}, "seed": 0}
    new = {"training": {"epochs": 9, "augment": []}, "seed": 0, "fusion": "sum"}
    assert list(differences(old, new)) == ["fusion None -> sum", "training.epochs 8 -> 9"]


def predictions(margins, *, factor=None, targets=None, success=None, ids=None) -> Predictions:
    count = len(margins)
    return Predictions(
        ids=ids or tuple(f"c{i}" for i in range(count)),
        logits=np.zeros((count, 3), np.float32),
        targets=np.zeros(count, np.int64) if targets is None else np.asarray(targets),
        margins=np.asarray(margins, np.float32),
        norms={"audio": np.full(count, 0.25)},
        success=np.zeros(count, bool) if success is None else np.asarray(success),
        factor=np.full(count, np.inf) if factor is None else np.asarray(factor, np.float64),
        queries=np.full(count, 4),
        seconds=0.0,
    )


INTERVALS = Intervals(0.95, 200, seed=0)
CLEAN = predictions([1, 1, 1, 1, -1])


def test_a_curve_counts_a_clip_as_broken_from_its_factor_on() -> None:
    found = predictions([1, -1, -1, 1, -1], factor=[np.inf, 0.5, 1.0, 2.0, 0.25])
    outcome = Outcome("pgd", "both", ("audio",), found, factors=(0.25, 0.5, 1.0, 2.0))
    summary = summarise(CLEAN, [outcome], INTERVALS)
    curve = summary["curves"]["pgd"]["both"]
    assert [(point["factor"], point["value"]) for point in curve] == [(0.25, 0.8), (0.5, 0.6), (1.0, 0.4), (2.0, 0.2)]
    assert summary["robust_accuracy"]["pgd"]["both"]["value"] == 0.4
    assert summary["robust_accuracy"]["pgd"]["both"]["norms"] == {"audio": 0.25}
    assert summary["attack_success_rate"]["pgd"]["both"]["value"] == 0.5


def test_what_takes_no_notice_of_the_radius_is_left_out_of_the_worst_case() -> None:
    kept = [
        Outcome("pgd", "both", ("audio",), predictions([1, -1, 1, 1, -1])),
        Outcome("fgsm", "both", ("audio",), predictions([1, 1, -1, 1, -1])),
    ]
    beyond = [
        Outcome("drop", threat, ("audio",), predictions([-1, 1, 1, 1, -1]), bounded=False)
        for threat in ("both", "audio")
    ]
    found = summarise(CLEAN, [*kept, *beyond], INTERVALS)
    assert found["worst_case"]["both"]["value"] == 0.4
    assert list(found["worst_case"]) == ["both"]
    assert found["robust_accuracy"]["drop"]["both"]["value"] == 0.6


def test_the_median_size_is_of_clips_that_were_right_and_may_lie_beyond_the_search() -> None:
    found = predictions([1] * 5, factor=[0.2, 0.4, 0.6, np.inf, 0.0])
    outcome = Outcome("fmn", "both", ("audio",), found, minimal=True)
    size = summarise(CLEAN, [outcome], INTERVALS)["smallest_perturbation"]["fmn"]["both"]["median_size"]
    assert size["value"] == 0.4
    assert size["n"] == 4
    assert size["low"] == 0.2
    beyond = Outcome("fmn", "both", ("audio",), predictions([1] * 5, factor=[0.1, *[np.inf] * 4]), minimal=True)
    size = summarise(CLEAN, [beyond], INTERVALS)["smallest_perturbation"]["fmn"]["both"]["median_size"]
    assert size["value"] is None
    assert size["high"] is None


def test_a_front_gives_the_budget_of_each_modality_along_each_direction() -> None:
    directions = [({"audio": 1.0, "video": 0.0}, [0.5] * 5), ({"audio": 0.6, "video": 0.8}, [0.25] * 5)]
    front = [(shares, predictions([1] * 5, factor=factor)) for shares, factor in directions]
    outcome = Outcome("fmn", "both", ("audio", "video"), predictions([1] * 5), minimal=True, front=front)
    points = summarise(CLEAN, [outcome], INTERVALS)["fronts"]["fmn"]["both"]
    assert points[0]["budget"] == {"audio": 0.5, "video": 0.0}
    assert points[1]["budget"] == pytest.approx({"audio": 0.15, "video": 0.2})


def test_a_targeted_attack_succeeds_where_the_target_is_reached_among_clips_of_other_classes() -> None:
    found = predictions([1, -1, -1, 1, 1], targets=[0, 0, 0, 2, 2], success=[False, True, False, True, True])
    clean = predictions([1] * 5, targets=[0, 0, 0, 2, 2])
    outcome = Outcome("pgd", "both", ("audio",), found, goal=Goal("class", 2))
    rate = summarise(clean, [outcome], INTERVALS)["attack_success_rate"]["pgd"]["both"]
    assert rate["value"] == pytest.approx(1 / 3)
    assert rate["n"] == 3


def test_outcomes_of_other_clips_are_refused() -> None:
    other = predictions([1] * 5, ids=("a", "b", "c", "d", "e"))
    with pytest.raises(RunError, match="pgd/both: its predictions hold other clips"):
        summarise(CLEAN, [Outcome("pgd", "both", ("audio",), other)], INTERVALS)


def test_every_interval_is_over_groups_where_clips_have_them() -> None:
    generator = np.random.default_rng(0)
    ids = tuple(f"c{i}" for i in range(120))
    broken = np.repeat(np.arange(12) % 3 > 0, 10)  # all clips of a speaker, or none
    factor = np.where(broken, 0.2 + 0.6 * np.repeat(generator.random(12), 10), np.inf)
    clean = predictions(np.where(np.arange(120) % 15 == 0, -1, 1), ids=ids)
    found = predictions(np.where(broken, -1, 1), ids=ids, factor=factor)
    front = [({"audio": 1.0, "video": 0.0}, found)]
    outcome = Outcome("fmn", "both", ("audio",), found, factors=(0.5, 1.0), minimal=True, front=front)
    speakers = {clip_id: f"speaker {i // 10}" for i, clip_id in enumerate(ids)}
    # The order in which ids are mapped is of no matter.
    grouped = Intervals(0.95, 300, seed=0, grouping=dict(sorted(speakers.items())))
    plain, over = (summarise(clean, [outcome], intervals) for intervals in (Intervals(0.95, 300, seed=0), grouped))

    def estimates(summary):
        yield summary["robust_accuracy"]["fmn"]["both"]
        yield summary["attack_success_rate"]["fmn"]["both"]
        yield summary["worst_case"]["both"]
        yield summary["curves"]["fmn"]["both"][0]
        yield summary["smallest_perturbation"]["fmn"]["both"]["median_size"]
        yield summary["fronts"]["fmn"]["both"][0]["median_size"]

    assert over["clean_accuracy"]["groups"] == 12
    for clips, groups in zip(estimates(plain), estimates(over), strict=True):
        assert groups["value"] == clips["value"]
        assert (clips["groups"], groups["groups"]) == (None, 12)
        high = [np.inf if each["high"] is None else each["high"] for each in (clips, groups)]
        assert groups["low"] < clips["low"]
        assert high[1] >= high[0]


def test_a_data_set_that_states_too_few_groups_is_refused(blobs) -> None:
    class Short(blobs):
        def groups(self, split: str) -> list[str]:
            return ["a"] * 19

    with pytest.raises(ComponentError, match="groups of 19 clips of 'test', which has 20"):
        groups_by_clip(Short(), "test")
    assert groups_by_clip(blobs(), "test") == {}
