"""Each check that can fail has a remedy and a place in the documentation, and says so where it is printed."""

from pathlib import Path

import pytest

from avrobust_core.audit.auditing import caveats_of
from avrobust_core.audit.checks import REMEDIES, Check
from avrobust_core.audit.saying import verdict_lines

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("check", REMEDIES)
def test_every_check_is_documented(check: str) -> None:
    assert f"`{check}`" in (ROOT / "docs" / "audit.md").read_text()


def found(*checks: Check) -> dict:
    return {
        "verdict": "failed",
        "passes": 250,
        "attack_passes": 1000,
        "share": 0.25,
        "checks": [check.to_json() for check in checks],
        "contradictions": [],
    }


def test_a_failed_check_becomes_a_caveat_with_its_remedy_and_others_do_not() -> None:
    failed = Check(check="convergence", status="failed", message="8 of 8 break", threat="both")
    passed = Check(check="noise", status="passed", message="none breaks", threat="both")
    (caveat,) = caveats_of(found(failed, passed))
    assert (caveat.check, caveat.attack, caveat.threat) == ("convergence", None, "both")
    assert caveat.message == f"audit: 8 of 8 break; {REMEDIES['convergence']}"


def test_a_modality_that_no_threat_attacks_makes_no_number_void() -> None:
    unused = Check(check="modality-use", status="failed", message="depth", modality="depth")
    assert caveats_of(found(unused)) == []


def test_the_verdict_says_what_failed_and_what_it_cost() -> None:
    failed = Check(check="convergence", status="failed", message="8 of 8 break", threat="both")
    (line,) = verdict_lines(found(failed))
    assert line == (
        "audit: failed: 0 checks passed, 1 failed (convergence), 0 not applicable; "
        "250 passes, 25.0 % of the attacks' 1000"
    )
    (timed,) = verdict_lines(found(failed) | {"seconds": 1.24, "attack_seconds": 6.2})
    assert timed == f"{line}, 1.2 s beside their 6.2"
    assert list(verdict_lines({"verdict": "off"})) == ["audit: off"]
    assert list(verdict_lines({"verdict": "not done", "reason": "planted"})) == ["audit: not done: planted"]
