"""Which models are set beside one another for Theorem 1, over which clips, and what is counted."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike
from scipy.stats import beta, binomtest

from avrobust_core.evaluation.outcomes import Intervals
from avrobust_core.spec.model import Spec
from avrobust_core.study.overturning import overturned
from avrobust_core.study.pooling import CellKey, ClipOutcomes, Condition

INTERVALS = Intervals(0.95, 400, seed=0)
CLEAN: Condition = (None, None)
CLIPS = 40


def spec(**changes: Any) -> Spec:
    budgets = {name: {"norm": "linf", "eps": 0.1} for name in ("sound", "video")}
    data: dict[str, Any] = {
        "version": 1,
        "name": "s",
        "data": "toy",
        "encoders": {"ears": {"use": "cnn", "modality": "sound"}, "video": "cnn", "other": {"use": "cnn"}},
        "models": {
            "heard": {"encoders": ["ears"]},
            "both": {"encoders": ["video", "ears"], "fusion": "concat"},
            "seen-otherwise": {"encoders": ["other"]},
        },
        "training": {"plain": {"epochs": 1}},
        "threats": {
            "sound": {"sound": budgets["sound"]},
            "video": {"video": budgets["video"]},
            "both": budgets,
        },
        "attacks": {"pgd": "pgd"},
    }
    return Spec.model_validate(data | changes)


def outcomes(right: dict[Condition, ArrayLike], **fields: Any) -> ClipOutcomes:
    """Outcomes of clips c0, c1, ...: a clip that is wrong when clean is wrong under attack."""
    found = {condition: np.asarray(own, dtype=bool) for condition, own in right.items()}
    found = {condition: own & found[CLEAN] for condition, own in found.items()}
    ids = fields.pop("ids", tuple(f"c{i}" for i in range(len(found[CLEAN]))))
    return ClipOutcomes(ids, found, frozenset(), **fields)


def drawn(seed: int, *conditions: Condition, **fields: Any) -> ClipOutcomes:
    generator = np.random.default_rng(seed)
    right: dict[Condition, ArrayLike] = {CLEAN: generator.random(CLIPS) < 0.9}
    for condition in conditions:
        right[condition] = generator.random(CLIPS) < 0.6
    return outcomes(right, **fields)


EVERY = [(attack, threat) for attack in ("pgd", "fgsm") for threat in ("sound", "video", "both")]


def pair(fused: ClipOutcomes, own: ClipOutcomes, seed: int = 0) -> dict[CellKey, ClipOutcomes]:
    return {("both", "plain", seed): fused, ("heard", "plain", seed): own}


def test_a_share_is_of_the_clips_that_both_get_right_clean() -> None:
    #                                only fused | only own | neither | both | fused wrong | own wrong | both wrong
    fused = outcomes({CLEAN: [1, 1, 1, 1, 1, 1, 0, 1, 0], ("pgd", "sound"): [0, 0, 0, 1, 1, 0, 0, 0, 0]})
    own = outcomes({CLEAN: [1, 1, 1, 1, 1, 1, 1, 0, 0], ("pgd", "sound"): [1, 1, 1, 0, 1, 0, 1, 0, 0]})
    (found,) = overturned(spec(), pair(fused, own), INTERVALS)
    names = {"modality": "sound", "fused": {"model": "both", "training": "plain"}}
    names |= {"own": {"model": "heard", "training": "plain"}, "attack": "pgd", "threat": "sound"}
    counts = {"seeds": [0], "clips": 9, "left_out_clips": 0, "both_right": 6}
    assert {name: found[name] for name in (*names, *counts)} == names | counts
    assert found["only_fused"]["value"] == pytest.approx(3 / 6)
    assert found["only_own"]["value"] == pytest.approx(1 / 6)
    assert found["only_fused"]["low"] == pytest.approx(beta.ppf(0.025, 3, 4))
    assert found["only_fused"]["high"] == pytest.approx(beta.ppf(0.975, 4, 3))
    assert found["p"] == found["p_holm"] == pytest.approx(binomtest(1, 4).pvalue)


def test_only_threats_of_that_modality_alone_count_and_only_its_own_encoders_classifier() -> None:
    models = spec().model_dump()["models"]
    asked = spec(models={"seen": {"encoders": ["video"]}, **models})
    cells: dict[CellKey, ClipOutcomes] = {
        (model, "plain", 0): drawn(place, *EVERY) for place, model in enumerate(asked.models)
    }
    found = overturned(asked, cells, INTERVALS)
    named = [(item["own"]["model"], item["modality"], item["attack"], item["threat"]) for item in found]
    assert named == [
        (own, modality, attack, modality)
        for own, modality in (("seen", "video"), ("heard", "sound"))
        for attack in ("pgd", "fgsm", "worst_case")
    ]
    assert {item["fused"]["model"] for item in found} == {"both"}
    sorted_p = sorted(item["p"] for item in found)
    assert min(item["p_holm"] for item in found) == pytest.approx(min(1, len(found) * sorted_p[0]))


def test_a_threat_of_two_modalities_counts_where_the_fused_model_reads_only_one_of_them() -> None:
    third = {"use": "cnn", "modality": "depth"}
    encoders = spec().model_dump()["encoders"] | {"depth": third}
    encoders = {name: {"use": "cnn", "modality": entry.get("modality")} for name, entry in encoders.items()}
    models = {"heard": {"encoders": ["ears"]}, "both": {"encoders": ["depth", "ears"], "fusion": "concat"}}
    found = overturned(spec(encoders=encoders, models=models), pair(drawn(0, *EVERY), drawn(1, *EVERY)), INTERVALS)
    assert {item["threat"] for item in found} == {"sound", "both"}


def test_in_the_worst_case_any_attack_that_keeps_to_the_radii_breaks() -> None:
    attacks = (("pgd", "sound"), ("fgsm", "sound"), ("cw", "sound"))
    free = frozenset({("cw", "sound")})
    fused, own = (drawn(seed, *attacks, unbounded=free) for seed in (0, 1))
    found = {item["attack"]: item for item in overturned(spec(), pair(fused, own), INTERVALS)}
    assert list(found) == ["pgd", "fgsm", "worst_case"]
    both_right = fused.right[CLEAN] & own.right[CLEAN]
    kept = [each.right["pgd", "sound"] & each.right["fgsm", "sound"] for each in (fused, own)]
    assert found["worst_case"]["only_fused"]["value"] == pytest.approx((kept[1] & ~kept[0])[both_right].mean())


def test_with_several_seeds_a_clip_counts_in_each_and_its_seeds_are_drawn_together() -> None:
    single = pair(drawn(0, ("pgd", "sound")), drawn(1, ("pgd", "sound")))
    (one,) = overturned(spec(), single, INTERVALS)
    again = single | {(model, training, 5): found for (model, training, _), found in single.items()}
    (two,) = overturned(spec(seed=[0, 5, 7]), again, INTERVALS)
    assert two["seeds"] == [0, 5]
    assert (two["clips"], two["both_right"]) == (CLIPS, 2 * one["both_right"])
    for share in ("only_fused", "only_own"):
        assert two[share]["value"] == one[share]["value"]
        assert two[share]["groups"] is None
        # A second fit that comes out alike says nothing new of other clips.
        assert two[share]["high"] - two[share]["low"] >= one[share]["high"] - one[share]["low"]
    assert two["p"] == pytest.approx(one["p"])


def test_groups_of_clips_are_drawn_together() -> None:
    cells = pair(drawn(0, ("pgd", "sound")), drawn(1, ("pgd", "sound")))
    grouped = Intervals(0.95, 400, seed=0, grouping={f"c{i}": f"g{i // 8}" for i in range(CLIPS)})
    (found,) = overturned(spec(), cells, grouped)
    (alone,) = overturned(spec(), cells, INTERVALS)
    assert found["only_fused"]["groups"] == 5
    assert found["only_fused"]["value"] == alone["only_fused"]["value"]
    assert found["p"] != alone["p"]


def test_clips_are_matched_by_id() -> None:
    fused, own = drawn(0, ("pgd", "sound")), drawn(1, ("pgd", "sound"))
    order = np.random.default_rng(0).permutation(CLIPS)[:-3]
    moved = ClipOutcomes(
        tuple(own.ids[i] for i in order), {key: right[order] for key, right in own.right.items()}, frozenset()
    )
    kept = np.sort(order)
    same = [
        ClipOutcomes(tuple(each.ids[i] for i in kept), {k: r[kept] for k, r in each.right.items()}, frozenset())
        for each in (fused, own)
    ]
    (found,) = overturned(spec(), pair(fused, moved), INTERVALS)
    (expected,) = overturned(spec(), pair(*same), INTERVALS)
    assert found == expected | {"left_out_clips": 3}


def test_nothing_is_said_where_a_cell_or_an_attack_failed_or_both_are_never_right() -> None:
    fused, own = drawn(0, *EVERY), drawn(1, *EVERY)
    cells = pair(fused, own)
    assert overturned(spec(), {key: cells[key] for key in list(cells)[:1]}, INTERVALS) == []
    broken = drawn(1, ("pgd", "sound"), failed={("worst_case", "sound"): "fgsm failed"})
    assert [item["attack"] for item in overturned(spec(), pair(fused, broken), INTERVALS)] == ["pgd"]
    never = outcomes({CLEAN: ~fused.right[CLEAN], ("pgd", "sound"): np.zeros(CLIPS)})
    (item,) = overturned(spec(), pair(fused, never), INTERVALS)
    assert (item["both_right"], item["only_fused"]["value"], item["only_fused"]["low"], item["p"]) == (0, None, None, 1)
