"""Budgets and threat models: what may be written, and how they scale."""

import json

import pytest
import torch
import yaml
from pydantic import ValidationError

from avrobust_core.threats.budgets import Budget, Snr, ThreatModel
from avrobust_core.threats.regions import radii


@pytest.mark.parametrize(
    ("written", "eps"), [(0.03, 0.03), ("8/255", 8 / 255), (" 8 / 255 ", 8 / 255), ("0.03", 0.03), (0, 0.0), (2, 2.0)]
)
def test_a_radius_is_a_number_or_a_fraction(written, eps):
    assert Budget.model_validate({"eps": written}).eps == pytest.approx(eps, abs=0)


@pytest.mark.parametrize(
    "written", [-0.1, "-1/2", "8/0", "eight", float("nan"), float("inf"), None, [1], {}, True, False]
)
def test_anything_else_is_refused(written):
    with pytest.raises(ValidationError):
        Budget.model_validate({"eps": written})


def test_a_bad_fraction_says_what_a_fraction_looks_like():
    with pytest.raises(ValidationError, match="neither a number nor a fraction such as '8/255'"):
        Budget.model_validate({"eps": "8:255"})


def test_a_signal_to_noise_ratio_is_a_budget():
    assert Budget.model_validate({"eps": {"snr_db": 30}}).eps == Snr(snr_db=30)
    for wrong in ({"snr_db": float("inf")}, {"snr": 30}, {"snr_db": 30, "eps": 1}):
        with pytest.raises(ValidationError):
            Budget.model_validate({"eps": wrong})


def test_unknown_norms_fields_and_inverted_bounds_are_refused():
    for wrong in ({"norm": "l7"}, {"radius": 1}, {"bounds": [1, 0]}, {"bounds": [1, 1]}):
        with pytest.raises(ValidationError):
            Budget.model_validate({"eps": 0.1} | wrong)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("eps", [0.03, {"snr_db": 25.0}])
@pytest.mark.parametrize("factor", [0.25, 1, 2])
def test_scaling_multiplies_the_radius(norm, eps, factor):
    budget = Budget.model_validate({"norm": norm, "eps": eps})
    clean = torch.randn(4, 2, 30, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(radii(clean, budget.scaled(factor)), factor * radii(clean, budget))
    assert budget.scaled(factor).norm == norm


@pytest.mark.parametrize("factor", [0, -1, float("nan")])
def test_a_factor_that_is_not_positive_is_refused(factor):
    with pytest.raises(ValueError, match="factor must be positive"):
        Budget(eps=0.1).scaled(factor)


def test_a_threat_is_a_map_of_budgets():
    threat = ThreatModel.model_validate({"video": {"eps": "4/255"}, "audio": {"eps": 0.002, "norm": "l2"}})
    assert threat.modalities == ("audio", "video")
    assert [name for name, _ in threat.items()] == ["audio", "video"]
    assert threat["audio"].norm == "l2"
    assert ThreatModel.of(dict(threat.items())) == threat
    assert threat.scaled(2)["audio"].eps == 0.004
    with pytest.raises(ValidationError):
        ThreatModel.model_validate({})


def test_a_threat_can_be_restricted_to_what_a_model_reads():
    threat = ThreatModel.of({"audio": Budget(eps=0.1), "video": Budget(eps=0.2)})
    assert threat.restricted(["video", "depth"]) == ThreatModel.of({"video": Budget(eps=0.2)})
    assert threat.restricted(["depth"]) is None


FORMS = """
plain: {audio: {eps: 0.002}}
all:
  audio: {norm: l2, eps: {snr_db: 30}, bounds: [-1, 1], frames: [[0, 4], [8, 12]], time_invariant: true}
  video: {norm: l0, eps: 3, per: frame, frame_steps: 2, cap: 8/255}
  depth: {norm: l1, eps: 12.5, space: features}
shared: {kind: shared, audio: {norm: l2, eps: 1/2}, video: {norm: l2, eps: 1.5}}
"""


@pytest.mark.parametrize("name", ["plain", "all", "shared"])
def test_a_threat_goes_to_json_and_comes_back_equal(name):
    threat = ThreatModel.model_validate(yaml.safe_load(FORMS)[name])
    text = json.dumps(threat.model_dump(mode="json"))
    back = ThreatModel.model_validate(json.loads(text))
    assert back == threat
    assert hash(back) == hash(threat)
    assert all(isinstance(budget, Budget) for _, budget in back.items())
    for modality, budget in threat.items():
        assert Budget.model_validate(json.loads(json.dumps(budget.model_dump(mode="json")))) == budget
        assert len({budget, back[modality]}) == 1
    assert threat.scaled(3) != threat
    assert ThreatModel.model_validate(threat) == threat


def test_every_form_is_read_as_it_is_meant():
    threats = {name: ThreatModel.model_validate(value) for name, value in yaml.safe_load(FORMS).items()}
    assert threats["plain"].kind == "separate"
    assert threats["plain"]["audio"] == Budget(norm="linf", eps=0.002)
    audio, video = threats["all"]["audio"], threats["all"]["video"]
    assert (audio.frames, audio.time_invariant, audio.bounds) == (((0, 4), (8, 12)), True, (-1, 1))
    assert (video.per, video.frame_steps, video.cap) == ("frame", 2, 8 / 255)
    assert threats["all"]["depth"].space == "features"
    assert threats["shared"].kind == "shared"
    assert threats["shared"].modalities == ("audio", "video")
    assert [budget.needs_time for _, budget in threats["all"].items()] == [True, False, True]


def test_kind_counts_for_equality():
    budgets = {name: Budget(norm="l2", eps=1) for name in ("audio", "video")}
    assert ThreatModel.of(budgets) != ThreatModel.of(budgets, "shared")
    assert ThreatModel.of(budgets) != ThreatModel.of({"audio": budgets["audio"]})


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"norm": "l0", "eps": 2.5}, "counts samples or frames: a whole number"),
        ({"norm": "l0", "eps": {"snr_db": 30}}, "counts samples or frames: a whole number"),
        ({"eps": 1, "per": "frame"}, "per, frame_steps and cap belong to l0; the norm here is linf"),
        ({"norm": "l2", "eps": 1, "cap": 0.1}, "per, frame_steps and cap belong to l0; the norm here is l2"),
        ({"norm": "l1", "eps": 1, "frame_steps": 2}, "belong to l0; the norm here is l1"),
        ({"norm": "l0", "eps": 1, "time_invariant": True}, "defined for linf and l2, not for l0"),
        ({"norm": "l1", "eps": 1, "time_invariant": True}, "defined for linf and l2, not for l1"),
        ({"eps": 1, "frames": [[4, 4]]}, "a range needs 0 <= first < end"),
        ({"eps": 1, "frames": [[-1, 4]]}, "a range needs 0 <= first < end"),
        ({"eps": 1, "frames": []}, "leaves nothing to attack"),
        ({"eps": 1, "frames": [0, 4]}, r"is not a list of ranges \[first, end\), like \[\[0, 4\], \[8, 12\]\]"),
        ({"eps": 1, "frames": [[0, 4, 8]]}, "is not a list of ranges"),
        ({"eps": 1, "frames": [["a", 4]]}, "is not a list of ranges"),
        ({"eps": 1, "frames": [[0, 1.5]]}, "is not a list of ranges"),
        ({"eps": 1, "frames": "0-4"}, "is not a list of ranges"),
        ({"eps": 1, "bounds": [1, -1]}, "the first must be below the second"),
    ],
)
def test_budgets_that_contradict_themselves_are_refused_in_plain_words(written, message):
    with pytest.raises(ValidationError, match=message):
        Budget.model_validate(written)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({}, "needs a budget for at least one modality, like audio:"),
        ({"kind": "shared"}, "needs a budget for at least one modality"),
        ({"kind": "shared", "audio": {"norm": "l2", "eps": 1}, "video": {"eps": 1}}, "give video norm: l2"),
        ({"kind": "joint", "audio": {"eps": 1}}, "'separate' or 'shared'"),
        ({"audio": 0.1}, "audio"),
        ({"audio": {"eps": 0.1, "radius": 1}}, "radius"),
    ],
)
def test_threats_that_mean_nothing_are_refused_in_plain_words(written, message):
    with pytest.raises(ValidationError, match=message):
        ThreatModel.model_validate(written)


def test_a_modality_may_be_named_like_a_method():
    threat = ThreatModel.model_validate({"items": {"eps": 0.1}, "scaled": {"eps": 0.2}})
    assert threat.modalities == ("items", "scaled")
    assert threat.scaled(2)["scaled"].eps == 0.4


def test_scaling_keeps_the_kind_and_all_but_the_radius():
    threat = ThreatModel.model_validate(yaml.safe_load(FORMS)["shared"]).scaled(0.5)
    assert (threat.kind, threat["audio"].eps, threat["video"].eps) == ("shared", 0.25, 0.75)
    threat = ThreatModel.model_validate(yaml.safe_load(FORMS)["all"])
    for modality, budget in threat.scaled(2).items():
        assert budget.model_copy(update={"eps": threat[modality].eps}) == threat[modality]


@pytest.mark.parametrize(
    ("eps", "factor", "found"), [(100, 0.29, 29), (10, 0.3, 3), (3, 0.5, 1), (3, 0.1, 0), (7, 3, 21)]
)
def test_an_l0_count_is_scaled_to_a_whole_number_that_rounding_does_not_lower(eps, factor, found):
    assert Budget(norm="l0", eps=eps).scaled(factor).eps == found


def test_a_shared_ball_of_one_modality_is_that_modality_s_own():
    threat = ThreatModel.of({name: Budget(norm="l2", eps=1) for name in ("audio", "depth", "video")}, "shared")
    two, one = threat.restricted(["video", "audio"]), threat.restricted(["video"])
    assert (two.kind, two.modalities) == ("shared", ("audio", "video"))
    assert (one.kind, one["video"]) == ("separate", threat["video"])


@pytest.mark.parametrize(
    "written", [f"1/{'9' * 400}", f"{'9' * 400}/1", "1e999999999", "8/0", "", "1/2/3", "½", "8_0/255"]
)
def test_text_that_is_no_short_fraction_is_refused_at_once(written):
    with pytest.raises(ValidationError, match="is neither a number nor a fraction"):
        Budget(eps=written)


def test_a_radius_beyond_what_models_compute_with_is_refused():
    for eps in (1e13, {"snr_db": 301}, {"snr_db": -1e9}):
        with pytest.raises(ValidationError):
            Budget.model_validate({"eps": eps})
    low = Budget.model_validate({"eps": {"snr_db": 300}}).scaled(1e-6)
    assert low.eps.snr_db == pytest.approx(420), "a curve may go beyond what a spec may say"
