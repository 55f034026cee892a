"""Checks of what attacks have found already, on results made up clip by clip."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from avrobust_core import Attack, ThreatModel, Victim
from avrobust_core.attacking import AttackRun
from avrobust_core.audit.auditing import audit
from avrobust_core.audit.case import Case
from avrobust_core.audit.drops import Drop
from avrobust_core.audit.recorded import holds, recorded_checks
from avrobust_core.goals import Aim
from avrobust_core.study.evaluation import Predictions
from avrobust_core.study.results import Intervals, Outcome

CLIPS = 200
BOTH = ThreatModel.model_validate({"audio": {"eps": 0.1}, "video": {"eps": 0.1}})
AUDIO = ThreatModel.model_validate({"audio": {"eps": 0.1}})


class Never(Attack):
    norms = frozenset({"linf"})

    def __call__(self, victim):
        raise AssertionError("what is there already needs no attack")


def predictions(right, *, queries=0, backwards=None, norms=None, logits=None, targets=None):
    """Predictions of which `right` (N,) says whether they are correct."""
    right = np.asarray(right)
    count = len(right)
    targets = np.arange(count) % 4 if targets is None else targets
    if logits is None:
        logits = np.zeros((count, 4), dtype=np.float32) - 1
        logits[np.arange(count), np.where(right, targets, (targets + 1 + np.arange(count) // 4 % 3) % 4)] = 3
    return Predictions(
        ids=tuple(f"clip-{i}" for i in range(count)),
        logits=logits,
        targets=targets,
        margins=np.where(right, 1.0, -1.0).astype(np.float32),
        norms=norms or {},
        success=~right,
        factor=np.where(right, np.inf, 1.0),
        queries=np.full(count, queries),
        seconds=0.0,
        backwards=None if backwards is None else np.full(count, backwards),
    )


def case(clean, *outcomes, threats=None):
    """A case of these outcomes; its model must not be asked."""
    threats = threats or {"both": BOTH, "audio": AUDIO}
    runs = {(o.attack, o.threat): AttackRun(o.attack, Never(), threats[o.threat]) for o in outcomes}
    victim = Victim(nn.Linear(1, 1), media={}, task="single-label")
    return Case(victim, clean, outcomes, runs, Intervals(0.95, 200, 0), lambda ids: pytest.fail("no clip"), 8)


def outcome(attack, threat, right, **options):
    norms = {name: np.full(CLIPS, 0.05) for name in (BOTH if threat == "both" else AUDIO).modalities}
    return Outcome(attack, threat, tuple(norms), predictions(right, norms=options.pop("norms", norms), **options))


def first(broken):
    """Which of the clips are right where the first so many are not."""
    return np.arange(CLIPS) >= broken


def found(case):
    return {(check.check, check.attack, check.threat): check for check in recorded_checks(case)}


ALL_RIGHT = predictions(np.ones(CLIPS, dtype=bool))


@pytest.mark.parametrize(("broken", "status"), [(2, "passed"), (3, "failed")])
def test_an_iterative_attack_that_a_single_step_beats_is_named(broken, status):
    single = outcome("fgsm", "both", first(40 + broken), queries=2, backwards=1)
    steps = outcome("pgd", "both", first(40), queries=22, backwards=20)
    check = found(case(ALL_RIGHT, single, steps))["single-step", "pgd", "both"]
    assert check.status == status
    assert check.figures["clips"] == broken


def test_a_search_without_gradients_that_breaks_more_is_named_and_one_that_breaks_others_is_not():
    steps = outcome("pgd", "both", first(40), queries=22, backwards=20)
    more = outcome("square", "both", first(60), queries=100, backwards=0)
    assert found(case(ALL_RIGHT, more, steps))["black-box", "pgd", "both"].status == "failed"
    others = outcome("square", "both", np.roll(first(40), 20), queries=100, backwards=0)
    assert found(case(ALL_RIGHT, others, steps))["black-box", "pgd", "both"].status == "passed"


def test_what_a_smaller_threat_breaks_and_a_larger_one_does_not_is_counted_there():
    audio = outcome("pgd", "audio", first(30), queries=22, backwards=20)
    both = outcome("pgd", "both", np.roll(first(40), 10), queries=22, backwards=20)
    check = found(case(ALL_RIGHT, audio, both))["nesting", "pgd", "both"]
    assert check.status == "failed"
    assert check.clips == tuple(f"clip-{i}" for i in range(10))
    assert check.figures["corrected"] == pytest.approx(150 / CLIPS)


def test_a_radius_that_breaks_less_than_a_smaller_one_is_named():
    wide = ThreatModel.model_validate({"audio": {"eps": 0.2}})
    small = outcome("pgd", "audio", first(30), queries=22, backwards=20)
    large = Outcome("pgd", "wide", ("audio",), predictions(first(20), queries=22, backwards=20, norms={}))
    judged = found(case(ALL_RIGHT, small, large, threats={"audio": AUDIO, "wide": wide}))
    assert judged["monotone", "pgd", "wide"].status == "failed"
    assert ("monotone", "pgd", "audio") not in judged


@pytest.mark.parametrize(
    ("large", "small", "within"),
    [
        ({"audio": {"eps": 0.1}, "video": {"eps": 0.1}}, {"audio": {"eps": 0.1}}, True),
        ({"audio": {"eps": 0.1}}, {"audio": {"eps": 0.1}, "video": {"eps": 0.1}}, False),
        ({"audio": {"eps": 0.1}}, {"audio": {"eps": 0.2}}, False),
        ({"audio": {"eps": 0.1}}, {"audio": {"eps": 0.1, "norm": "l2"}}, False),
        ({"audio": {"eps": {"snr_db": 20}}}, {"audio": {"eps": {"snr_db": 30}}}, True),
        ({"audio": {"eps": {"snr_db": 30}}}, {"audio": {"eps": {"snr_db": 20}}}, False),
        ({"audio": {"eps": 0.1}}, {"audio": {"eps": {"snr_db": 20}}}, False),
        (
            {"kind": "shared", "audio": {"norm": "l2", "eps": 1}, "video": {"norm": "l2", "eps": 1}},
            {"audio": {"norm": "l2", "eps": 1}, "video": {"norm": "l2", "eps": 1}},
            False,
        ),
        (
            {"audio": {"norm": "l2", "eps": 1}, "video": {"norm": "l2", "eps": 1}},
            {"kind": "shared", "audio": {"norm": "l2", "eps": 1}, "video": {"norm": "l2", "eps": 1}},
            True,
        ),
    ],
)
def test_which_threats_hold_which(large, small, within):
    assert holds(ThreatModel.model_validate(large), ThreatModel.model_validate(small)) is within


def test_a_norm_beyond_its_radius_is_named_with_its_clip():
    norms = {"audio": np.where(np.arange(CLIPS) == 7, 0.1001, 0.05)}
    attacked = outcome("pgd", "audio", first(30), queries=22, backwards=20, norms=norms)
    check = found(case(ALL_RIGHT, attacked))["budget", "pgd", "audio"]
    assert (check.status, check.clips) == ("failed", ("clip-7",))


def test_a_modality_that_no_broken_clip_was_moved_in_is_named():
    norms = {"audio": np.where(first(30), 0.1, 0.0), "video": np.full(CLIPS, 0.1)}
    attacked = outcome("pgd", "both", first(30), queries=22, backwards=20, norms=norms)
    check = found(case(ALL_RIGHT, attacked))["inert-switch", "pgd", "both"]
    assert check.status == "failed"
    assert "moved in audio" in check.message


def class_order(logits, targets):
    clean = predictions(logits.argmax(axis=1) == targets, logits=logits.astype(np.float32), targets=targets)
    return found(case(clean))["class-order", None, None].status


def test_another_order_of_the_classes_is_found_and_none_is_found_in_noise():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 10, 300)
    noise = rng.normal(size=(300, 10))
    good = noise + 4 * np.eye(10)[targets]
    swapped = np.arange(10)
    swapped[[2, 7]] = swapped[[7, 2]]
    assert class_order(good, targets) == "passed"
    assert class_order(noise, targets) == "passed", "a model at chance is bad, not permuted"
    assert class_order(good[:, rng.permutation(10)], targets) == "failed"
    assert class_order(good[:, swapped], targets) == "failed"
    assert class_order(noise + 4 * np.eye(10)[targets // 2 * 2], targets) == "passed", "classes that look alike"


def test_a_drop_is_established_by_what_is_certain_alone():
    none = Drop(robust=0.5, survivors=100, probed=50, broken=0)
    assert (none.at_most, none.established) == (0.5, False)
    few = Drop(robust=0.5, survivors=100, probed=8, broken=2)
    assert not few.established, "two clips are chance"
    many = Drop(robust=0.5, survivors=100, probed=8, broken=8)
    assert many.established
    assert 0 < many.at_most < 0.3
    whole = Drop(robust=0.5, survivors=100, probed=100, broken=40)
    assert whole.at_most == pytest.approx(0.3), "all survivors were seen: nothing is left to chance"
    assert whole.contradicts(0.4)
    assert not whole.contradicts(0.25)
    part = Drop(robust=0.5, survivors=60, probed=60, broken=30, unseen=40)
    assert part.at_most == part.expected == pytest.approx(0.35), "those of other shapes count as robust"


def test_what_is_certain_holds_in_99_of_100_samples():
    rng = np.random.default_rng(0)
    wrong = sum(
        Drop(0.5, 10_000, 40, int(rng.binomial(40, share))).certain > share
        for share in (0.02, 0.1, 0.5)
        for _ in range(2000)
    )
    assert wrong <= 0.01 * 6000


def test_an_audit_without_attacks_that_cost_anything_spends_nothing():
    idle = outcome("pgd", "both", first(0), norms={"audio": np.zeros(CLIPS), "video": np.zeros(CLIPS)})
    result = audit(case(ALL_RIGHT, idle), 64, 0.25)
    assert (result["passes"], result["verdict"]) == (0, "failed")
    assert [check["check"] for check in result["checks"] if check["status"] == "failed"] == ["inert-attack"]


def test_targeted_attacks_claim_no_worst_case():
    targeted = replace(outcome("pgd", "both", first(3), queries=22, backwards=20), aim=Aim("least-likely"))
    checks = audit(case(ALL_RIGHT, targeted), 64, 1e-4)["checks"]
    (convergence,) = [check for check in checks if check["check"] == "convergence"]
    assert convergence["status"] == "not applicable"
    assert "targeted" in convergence["message"]
    assert torch.is_grad_enabled()
