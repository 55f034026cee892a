"""Budgets and threat models: what may be written, and how they scale."""

import pytest
import torch
from pydantic import ValidationError

from avrobust_core.budgets import Budget, Snr, ThreatModel
from avrobust_core.regions import radii


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


@pytest.mark.parametrize("norm", ["linf", "l2"])
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
