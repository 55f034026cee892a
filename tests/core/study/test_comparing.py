"""Cells compared clip by clip, and seeds put together: which clips, which counts, which numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta as scipy_beta
from scipy.stats import binomtest
from scipy.stats import t as scipy_t

from avrobust_core.evaluation.outcomes import Intervals
from avrobust_core.spec.model import Spec
from avrobust_core.statistics.intervals import sign_flip_p
from avrobust_core.study.comparing import compare
from avrobust_core.study.pooling import CellKey, ClipOutcomes, pool

INTERVALS = Intervals(0.95, 400, seed=0)
CLIPS = 60
CONDITIONS = [(None, None), ("pgd", "a"), ("pgd", "av"), ("fgsm", "av")]


def spec(**changes: Any) -> Spec:
    data: dict[str, Any] = {
        "version": 1,
        "name": "s",
        "data": "toy",
        "encoders": {"audio": "cnn", "video": "cnn"},
        "models": {name: {"encoders": ["audio", "video"], "fusion": "concat"} for name in "xyz"},
        "training": {"plain": {"epochs": 1}, "mixed": {"epochs": 1}},
    }
    return Spec.model_validate(data | changes)


class Study:
    """Cells with outcomes drawn at random; a clip that is wrong when clean is wrong under attack."""

    def __init__(self, models: str = "xyz", training: Sequence[str] = ("plain", "mixed"), seeds: Sequence[int] = (0,)):
        self.cells: list[dict[str, Any]] = []
        self.outcomes: dict[str, ClipOutcomes] = {}
        for m, model in enumerate(models):
            for t, regime in enumerate(training):
                for seed in seeds:
                    self.add(model, regime, seed, np.random.default_rng([m, t, seed]))

    def add(self, model: str, regime: str, seed: int, generator: np.random.Generator) -> None:
        right = {condition: generator.random(CLIPS) < 0.8 for condition in CONDITIONS}
        right = {condition: own & right[None, None] for condition, own in right.items()}
        entry = {"attacked": ["audio"], "bounded": True}
        name = f"{model}-{regime}-{seed}"
        self.outcomes[name] = ClipOutcomes(tuple(f"c{i}" for i in range(CLIPS)), right, frozenset())
        self.cells.append(
            {
                "id": name,
                "model": model,
                "training": regime,
                "seed": seed,
                "robust_accuracy": {"pgd": {"a": entry, "av": entry}, "fgsm": {"av": entry}},
                "worst_case": {"a": {}, "av": {}},
                "fit": {"clip_forwards": 10, "clip_backwards": 7, "seconds": 0.5},
            }
        )

    def change(self, name: str, **fields: Any) -> None:
        old = self.outcomes[name]
        values = {"ids": old.ids, "right": old.right, "untouched": old.untouched, "unbounded": old.unbounded} | fields
        self.outcomes[name] = ClipOutcomes(**values)

    @property
    def keyed(self) -> dict[CellKey, ClipOutcomes]:
        named = {cell["id"]: (cell["model"], cell["training"], cell["seed"]) for cell in self.cells}
        return {named[name]: found for name, found in self.outcomes.items() if name in named}

    def fail(self, name: str) -> None:
        del self.outcomes[name]
        (cell,) = [cell for cell in self.cells if cell["id"] == name]
        cell["error"] = {"message": "out of luck"}

    def compare(self, *entries: Mapping[str, Sequence[str]], **changes: Any) -> list[dict[str, Any]]:
        return compare(spec(compare=list(entries), **changes), self.cells, self.keyed, INTERVALS)


def at(found: Sequence[Mapping[str, Any]], first: str, second: str, attack: str | None, threat: str | None) -> Any:
    (item,) = [
        item
        for item in found
        if ["/".join(item[side].values()) for side in ("first", "second")] == [first, second]
        and (item.get("attack"), item.get("threat")) == (attack, threat)
    ]
    return item


def test_every_two_models_are_compared_in_each_regime_on_clean_clips_under_each_attack_and_in_the_worst_case() -> None:
    found = Study().compare({"models": ["y", "x", "z"]})
    pairs = [("y", "x"), ("y", "z"), ("x", "z")]
    conditions = [*CONDITIONS, ("worst_case", "av")]
    expected = [(t, *pair, *condition) for t in ("plain", "mixed") for pair in pairs for condition in conditions]
    assert [
        (i["first"]["training"], i["first"]["model"], i["second"]["model"], i["attack"], i["threat"]) for i in found
    ] == expected
    assert {item["entry"] for item in found} == {0}
    assert all(item["first"]["training"] == item["second"]["training"] for item in found)


def test_a_difference_is_that_of_the_same_clips_with_counts_and_the_exact_p_value() -> None:
    study = Study()
    found = study.compare({"models": ["x", "y"]}, {"training": ["plain", "mixed"]})
    first, second = study.outcomes["x-plain-0"], study.outcomes["y-plain-0"]
    item = at(found, "x/plain", "y/plain", "pgd", "av")
    a, b = first.right["pgd", "av"], second.right["pgd", "av"]
    assert item["difference"]["value"] == pytest.approx(a.mean() - b.mean())
    assert item["difference"]["n"] == item["clips"] == CLIPS
    assert (item["only_first"], item["only_second"]) == ((a & ~b).sum(), (b & ~a).sum())
    assert item["p"] == pytest.approx(binomtest(item["only_first"], item["only_first"] + item["only_second"]).pvalue)
    worst = at(found, "x/plain", "y/plain", "worst_case", "av")
    a, b = (own.right["pgd", "av"] & own.right["fgsm", "av"] for own in (first, second))
    assert worst["difference"]["value"] == pytest.approx(a.mean() - b.mean())
    regimes = [item for item in found if item["entry"] == 1]
    assert {item["first"]["model"] for item in regimes} == {"x", "y", "z"}
    assert {(item["first"]["training"], item["second"]["training"]) for item in regimes} == {("plain", "mixed")}


def test_what_takes_no_notice_of_the_radius_is_compared_but_not_in_the_worst_case() -> None:
    study = Study(models="xy", training=("plain",))
    for name in study.outcomes:
        study.change(name, unbounded=frozenset({("fgsm", "av")}))
    found = study.compare({"models": ["x", "y"]})
    assert at(found, "x/plain", "y/plain", "fgsm", "av")["clips"] == CLIPS
    assert not [item for item in found if item.get("attack") == "worst_case"]  # of pgd alone: there is nothing to take
    for name, own in study.outcomes.items():
        more = {**own.right, ("cw", "av"): own.right["pgd", "av"] & own.right["pgd", "a"]}
        study.change(name, right=more)
    a, b = (own.right["pgd", "av"] & own.right["cw", "av"] for own in study.outcomes.values())
    worst = at(study.compare({"models": ["x", "y"]}), "x/plain", "y/plain", "worst_case", "av")
    assert worst["difference"]["value"] == pytest.approx(a.mean() - b.mean())
    (pooled, _) = pool(study.cells, study.keyed, INTERVALS)
    assert pooled["worst_case"]["av"]["value"] == pytest.approx(a.mean())


def test_holm_counts_all_tests_of_an_entry_and_none_of_another() -> None:
    study = Study()
    alone = study.compare({"models": ["x", "y"]})
    both = study.compare({"models": ["x", "y"]}, {"models": ["x", "y", "z"]})
    assert alone == [item for item in both if item["entry"] == 0]
    smallest = min(alone, key=lambda item: item["p"])
    assert smallest["p_holm"] == pytest.approx(min(1, len(alone) * smallest["p"]))
    assert all(item["p_holm"] >= item["p"] for item in both)


def test_swapping_the_names_swaps_counts_and_signs() -> None:
    study = Study(seeds=(0, 1, 2))
    there = study.compare({"models": ["x", "y"]}, seed=[0, 1, 2])
    back = study.compare({"models": ["y", "x"]}, seed=[0, 1, 2])
    assert len(there) == len(back) == 10
    for one, other in zip(there, back, strict=True):
        assert one["difference"]["value"] == pytest.approx(-other["difference"]["value"])
        assert one["difference"]["low"] == pytest.approx(-other["difference"]["high"])
        assert (one["only_first"], one["p"]) == (other["only_second"], other["p"])


def test_with_several_seeds_each_clip_counts_with_its_mean_over_them() -> None:
    study = Study(seeds=(4, 9))
    item = at(study.compare({"models": ["x", "y"]}, seed=[4, 9]), "x/plain", "y/plain", None, None)
    a, b = (np.stack([study.outcomes[f"{m}-plain-{s}"].right[None, None] for s in (4, 9)]) for m in "xy")
    assert item["seeds"] == [4, 9]
    assert item["difference"]["value"] == pytest.approx(a.mean() - b.mean())
    assert item["difference"]["n"] == CLIPS, "clips, not clips times seeds"
    assert (item["only_first"], item["only_second"]) == ((a & ~b).sum(), (b & ~a).sum())


def test_clips_are_matched_by_id_and_those_that_only_one_has_are_left_out_and_counted() -> None:
    study = Study()
    whole = study.compare({"models": ["x", "y"]})
    old = study.outcomes["y-plain-0"]
    order = np.random.default_rng(0).permutation(CLIPS)
    study.change("y-plain-0", ids=tuple(old.ids[i] for i in order), right={k: v[order] for k, v in old.right.items()})
    assert study.compare({"models": ["x", "y"]}) == whole
    study.change("y-plain-0", ids=(*old.ids[:-2], "new"), right={k: v[:-1] for k, v in old.right.items()})
    item = at(study.compare({"models": ["x", "y"]}), "x/plain", "y/plain", None, None)
    assert (item["clips"], item["left_out_clips"]) == (CLIPS - 2, 3)


def test_what_failed_or_is_not_there_is_left_out_and_said() -> None:
    study = Study(seeds=(0, 1))
    study.fail("x-plain-1")
    study.fail("y-plain-0")
    study.fail("z-mixed-0")
    study.fail("z-mixed-1")
    study.cells = [cell for cell in study.cells if (cell["model"], cell["training"]) != ("x", "mixed")]
    found = study.compare({"models": ["x", "y", "z"]}, seed=[0, 1])
    left_out = {
        tuple("/".join(i[s].values()) for s in ("first", "second")): i["left_out"] for i in found if "left_out" in i
    }
    assert left_out == {
        ("x/plain", "y/plain"): "no seed is done in both",
        ("x/mixed", "y/mixed"): "x/mixed is not in the study: include or exclude leave it out",
        ("x/mixed", "z/mixed"): "x/mixed is not in the study: include or exclude leave it out",
        ("y/mixed", "z/mixed"): "z/mixed failed",
    }
    assert at(found, "x/plain", "z/plain", None, None)["seeds"] == [0]
    assert at(found, "y/plain", "z/plain", None, None)["seeds"] == [1]


def test_an_attack_that_only_one_side_was_put_through_is_said_and_does_not_enter_the_worst_case() -> None:
    study = Study()
    right = dict(study.outcomes["x-plain-0"].right)
    del right["fgsm", "av"]
    study.change("x-plain-0", right=right)
    found = study.compare({"models": ["x", "y"]})
    assert at(found, "x/plain", "y/plain", "fgsm", "av")["left_out"] == "only one of the two is attacked so"
    assert not [i for i in found if i["first"]["training"] == "plain" and i["attack"] == "worst_case"]


def test_a_threat_that_touches_neither_is_not_tested_again_but_one_that_touches_one_is() -> None:
    study = Study(training=("plain",))
    study.change("x-plain-0", untouched=frozenset({("pgd", "a")}))
    both = {"models": ["x", "y"]}
    assert at(study.compare(both), "x/plain", "y/plain", "pgd", "a")["clips"] == CLIPS
    study.change("y-plain-0", untouched=frozenset({("pgd", "a")}))
    found = [item for item in study.compare(both) if item["first"]["training"] == "plain"]
    assert ("pgd", "a") not in [(item["attack"], item["threat"]) for item in found]


def test_seeds_are_pooled_by_clip_with_their_spread_and_their_costs() -> None:
    study = Study(models="x", training=("plain",), seeds=(0, 1, 2))
    (found,) = pool(study.cells, study.keyed, INTERVALS)
    right = np.stack([own.right["pgd", "av"] for own in study.outcomes.values()])
    robust = found["robust_accuracy"]["pgd"]["av"]
    assert (found["model"], found["training"], found["seeds"]) == ("x", "plain", [0, 1, 2])
    assert robust["value"] == pytest.approx(right.mean())
    assert robust["standard_deviation"] == pytest.approx(right.mean(axis=1).std(ddof=1))
    assert robust["n"] == found["clips"] == CLIPS
    assert robust["attacked"] == ["audio"]
    shares = right.mean(axis=0)
    half = 1.96 * shares.std() / CLIPS**0.5
    assert robust["high"] - robust["low"] == pytest.approx(2 * half, rel=0.2)
    worst = np.stack([own.right["pgd", "av"] & own.right["fgsm", "av"] for own in study.outcomes.values()])
    assert found["worst_case"]["av"]["value"] == pytest.approx(worst.mean())
    assert found["cost"] == {"clip_forwards": 30, "clip_backwards": 21, "seconds": 1.5}


def test_seeds_that_failed_are_not_pooled_and_a_cell_without_any_seed_is_said_to_have_failed() -> None:
    study = Study(models="xy", training=("plain",), seeds=(0, 1))
    for name in ("x-plain-1", "y-plain-0", "y-plain-1"):
        study.fail(name)
    one, none = pool(study.cells, study.keyed, INTERVALS)
    assert one["seeds"] == [0]
    assert one["clean_accuracy"]["standard_deviation"] is None
    assert "left_out" in one["clean_accuracy"]["across_fits"]
    assert one["clean_accuracy"]["value"] == study.outcomes["x-plain-0"].right[None, None].mean()
    assert none["error"] == {"message": "all 2 seeds failed"}


def test_with_one_fit_nothing_is_said_of_the_method_and_the_reason_is_given() -> None:
    study = Study(seeds=(0,))
    item = at(study.compare({"models": ["x", "y"]}), "x/plain", "y/plain", None, None)
    assert item["across_fits"] == {"left_out": "one fit says nothing of how fits differ: several seeds would"}
    assert item["p_holm"] >= item["p"]


def test_what_is_said_of_the_method_covers_the_spread_between_fits() -> None:
    study = Study(seeds=(0, 1, 2))
    found = study.compare({"models": ["x", "y", "z"]}, seed=[0, 1, 2])
    item = at(found, "x/plain", "y/plain", None, None)
    sides = [np.stack([study.outcomes[f"{m}-plain-{s}"].right[None, None] for s in range(3)]) for m in "xy"]
    fits = sum(side.mean(axis=1).var(ddof=1) / 3 for side in sides)
    shares = sides[0].mean(axis=0) - sides[1].mean(axis=0)
    over_fits = item["across_fits"]
    (value, low, high), n = (item["difference"][name] for name in ("value", "low", "high")), CLIPS
    clips = ((shares**2).sum() + 1 - (n + 2) * (shares.sum() / (n + 2)) ** 2) / (n + 2) ** 2  # Agresti and Min
    half = scipy_t.ppf(0.975, over_fits["degrees"]) * (fits + clips) ** 0.5
    assert (over_fits["low"], over_fits["high"]) == pytest.approx((value - half, value + half))
    assert high - low < 2 * half
    assert over_fits["p"] == pytest.approx(2 * scipy_t.sf(abs(value) / (fits + clips) ** 0.5, over_fits["degrees"]))
    assert over_fits["standard_deviations"] == pytest.approx([side.mean(axis=1).std(ddof=1) for side in sides])
    p_values = sorted(each["across_fits"]["p"] for each in found)
    assert min(each["across_fits"]["p_holm"] for each in found) == pytest.approx(min(1, len(found) * p_values[0]))


def test_comparisons_and_seeds_are_over_groups_where_clips_have_them() -> None:
    study = Study(models="xy", training=("plain",), seeds=(0, 1))
    grouping = {f"c{i}": f"speaker {i // 6}" for i in range(CLIPS)}
    intervals = Intervals(0.95, 400, seed=0, grouping=grouping)
    asked = spec(compare=[{"models": ["x", "y"]}], seed=[0, 1])
    item = at(compare(asked, study.cells, study.keyed, intervals), "x/plain", "y/plain", None, None)
    sides = [np.stack([study.outcomes[f"{m}-plain-{s}"].right[None, None] for s in (0, 1)]) for m in "xy"]
    balance = sides[0].sum(axis=0).astype(int) - sides[1].sum(axis=0)
    assert item["difference"]["groups"] == 10
    assert item["p"] == pytest.approx(sign_flip_p(balance.reshape(10, 6).sum(axis=1)))
    (pooled, _) = pool(study.cells, study.keyed, intervals)
    assert pooled["clean_accuracy"]["groups"] == 10


def test_the_accuracy_of_a_method_covers_the_spread_between_fits() -> None:
    study = Study(models="x", training=("plain",), seeds=(0, 1, 2))
    (found,) = pool(study.cells, study.keyed, INTERVALS)
    told = found["robust_accuracy"]["pgd"]["av"]
    right = np.stack([own.right["pgd", "av"] for own in study.outcomes.values()])
    value, share = right.mean(), right.mean(axis=0)
    variance = right.mean(axis=1).var(ddof=1) / 3 + share.var() / CLIPS
    across = told["across_fits"]
    outcomes = value * (1 - value) / variance * (1.959964 / scipy_t.ppf(0.975, across["degrees"])) ** 2
    hits = value * outcomes
    assert across["low"] == pytest.approx(scipy_beta.ppf(0.025, hits, outcomes - hits + 1), rel=1e-5)
    assert across["high"] == pytest.approx(scipy_beta.ppf(0.975, hits + 1, outcomes - hits), rel=1e-5)
    assert across["low"] < told["low"] < told["high"] < across["high"]
