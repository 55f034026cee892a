"""Directions between two budgets: the ends are each modality alone, and each point scales its own radius."""

import math

import pytest

from avrobust_core import Budget, ThreatModel
from avrobust_core.threats.pareto import directions, tilted

THREAT = ThreatModel.of({"audio": Budget(eps=0.1), "video": Budget(norm="l2", eps=2.0)})


def test_directions_go_from_one_modality_to_the_other_along_the_threats_edge() -> None:
    found = directions(("audio", "video"), 5)
    assert found[0] == {"audio": 1.0, "video": 0.0}
    assert found[-1] == {"audio": 0.0, "video": 1.0}
    for shares in found:
        assert max(shares.values()) == 1
    assert math.atan2(found[1]["video"], found[1]["audio"]) == pytest.approx(math.pi / 8)
    assert [shares["video"] for shares in found] == sorted(shares["video"] for shares in found)


def test_a_direction_scales_each_radius_by_its_share() -> None:
    found = tilted(THREAT, {"audio": 0.6, "video": 0.8})
    assert found["audio"].eps == pytest.approx(0.06)
    assert found["video"].eps == pytest.approx(1.6)
    assert found["video"].norm == "l2"


def test_at_an_end_the_other_modality_is_not_touched() -> None:
    assert tilted(THREAT, {"audio": 1.0, "video": 0.0}).modalities == ("audio",)


def test_a_shared_ball_of_one_modality_is_its_own() -> None:
    shared = ThreatModel.of({name: Budget(norm="l2", eps=1) for name in ("audio", "video")}, "shared")
    assert tilted(shared, {"audio": 0.6, "video": 0.8}).kind == "shared"
    assert tilted(shared, {"audio": 0.0, "video": 1.0}).kind == "separate"
