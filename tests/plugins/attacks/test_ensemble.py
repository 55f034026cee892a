"""The ensemble: as strong as each of its members, clip by clip, and never working on what is done."""

import pytest
import torch
from avrobust_attacks.ensemble.configs import EnsembleConfig
from avrobust_attacks.ensemble.ensemble import Ensemble
from avrobust_attacks.ensemble.ensemble import ensemble as _build_ensemble
from avrobust_attacks.gradient.apgd import apgd as _build_apgd
from avrobust_attacks.gradient.configs import ApgdConfig, FgsmConfig, PgdConfig
from avrobust_attacks.gradient.pgd import fgsm as _build_fgsm
from avrobust_attacks.gradient.pgd import pgd as _build_pgd
from avrobust_attacks.losses import LOSSES, cross_entropy
from pydantic import ValidationError

from avrobust_core import Attack, AttackResult, AvrobustError, Batch, Preparation, Registry
from avrobust_core.errors import ComponentError

BOUNDS = {"audio": (-1.0, 1.0), "video": (0.0, 1.0)}
BOTH = {"audio": {"norm": "linf", "eps": 0.1}, "video": {"norm": "l2", "eps": "16/255"}}


class Breaks(Attack):
    """Breaks a clip if its id is one of those given, by a known point; notes whom it was asked to attack."""

    norms = frozenset({"linf", "l2"})

    def __init__(self, ids=(), stands=0.0):
        self.ids, self.stands = ids, stands
        self.asked = []
        self.starts = []

    def __call__(self, victim):
        self.asked.append(victim.ids)
        self.starts.append(victim.start)
        success = torch.tensor([i in self.ids for i in victim.ids])
        inputs = {name: x.clone() for name, x in victim.clean.items()}
        inputs["audio"][success] = 1.0
        last = {name: x + self.stands * ~success.view(-1, 1, 1) for name, x in victim.clean.items()}
        return AttackResult(inputs, success, last=last)


class Line(torch.nn.Module):
    """Class 1 from 0.9 on."""

    def forward(self, inputs):
        odds = inputs["audio"].flatten(1)[:, 0] - 0.9
        return torch.stack([torch.zeros_like(odds), odds], dim=1)


def scalars(n=5):
    return Batch({"audio": torch.zeros(n, 1, 1)}, torch.zeros(n, dtype=torch.int64), tuple(f"c{i}" for i in range(n)))


UNIT = {"audio": {"eps": 1.0}}


def ensemble(*members, loss="ce"):
    return Ensemble([(f"member-{i}", attack) for i, attack in enumerate(members)], LOSSES[loss])


def test_each_member_attacks_what_the_earlier_ones_left(run_attack):
    first, second, third = Breaks(["c1", "c4"]), Breaks(["c0", "c2"]), Breaks()
    found = run_attack(ensemble(first, second, third), Line(), scalars(), UNIT)
    assert (first.asked, second.asked, third.asked) == (
        [("c0", "c1", "c2", "c3", "c4")],
        [("c0", "c2", "c3")],
        [("c3",)],
    )
    assert found.result.success.tolist() == [True, True, True, False, True]
    assert found.result.inputs["audio"].flatten().tolist() == [1.0, 1.0, 1.0, 0.0, 1.0]


def test_no_member_is_asked_once_all_clips_are_broken(run_attack):
    never = Breaks()
    run_attack(ensemble(Breaks([f"c{i}" for i in range(5)]), never), Line(), scalars(), UNIT)
    assert not never.asked


def test_where_the_nearest_search_stood_is_kept(run_attack):
    members = [Breaks(["c1"], stands=0.2), Breaks(["c2"], stands=0.7), Breaks(stands=0.4)]
    found = run_attack(ensemble(*members), Line(), scalars(4), UNIT)
    torch.testing.assert_close(found.result.last["audio"].flatten(), torch.tensor([0.7, 0.0, 0.0, 0.7]))


def test_a_start_is_handed_on_with_its_clips(run_attack):
    first, second = Breaks(["c1"]), Breaks()
    start = {"audio": torch.arange(3.0).view(-1, 1, 1) / 10}
    run_attack(ensemble(first, second), Line(), scalars(3), UNIT, start=start)
    assert torch.equal(first.starts[0]["audio"], start["audio"])
    assert torch.equal(second.starts[0]["audio"].flatten(), torch.tensor([0.0, 0.2]))


# Fault 12
MEMBERS = {
    "fgsm": _build_fgsm(FgsmConfig()),
    "pgd": _build_pgd(PgdConfig(steps=4)),
    "apgd-dlr": _build_apgd(ApgdConfig(steps=8, loss="dlr")),
    "apgd-targeted": _build_apgd(ApgdConfig(steps=8, loss="targeted")),
}


def test_it_is_at_least_as_strong_as_each_member(run_attack, av_model, av_batch):
    batch = Batch(av_batch.inputs, av_model.eval()(av_batch.inputs).argmax(dim=1), av_batch.ids)
    whole = run_attack(Ensemble(list(MEMBERS.items()), cross_entropy), av_model, batch, BOTH, bounds=BOUNDS)
    alone = [run_attack(attack, av_model, batch, BOTH, bounds=BOUNDS).result.success for attack in MEMBERS.values()]
    assert torch.equal(whole.result.success, torch.stack(alone).any(dim=0))
    assert 0 < whole.result.success.sum() < len(batch)
    assert torch.equal(whole.verdict.success, whole.result.success)


def test_a_clip_does_not_depend_on_its_batch_mates(run_attack, av_model, av_batch):
    attack = Ensemble(list(MEMBERS.items()), cross_entropy)
    whole = run_attack(attack, av_model, av_batch, BOTH, bounds=BOUNDS)
    for i in range(len(av_batch)):
        inputs = {name: x[i : i + 1] for name, x in av_batch.inputs.items()}
        alone = run_attack(
            attack, av_model, Batch(inputs, av_batch.targets[[i]], (av_batch.ids[i],)), BOTH, bounds=BOUNDS
        )
        assert alone.result.success[0] == whole.result.success[i]
        for name, x in alone.result.last.items():
            torch.testing.assert_close(x[0], whole.result.last[name][i], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("loss", ["ce", "rank"])
def test_with_several_labels_the_strongest_result_is_kept(run_attack, av_model, av_batch, loss):
    targets = (torch.rand(12, 3, generator=torch.Generator().manual_seed(2)) < 0.5).float()
    batch = Batch(av_batch.inputs, targets, av_batch.ids)
    how = {"bounds": BOUNDS, "task": "multi-label"}
    whole = run_attack(Ensemble(list(MEMBERS.items()), LOSSES[loss]), av_model, batch, BOTH, **how)
    alone = [run_attack(attack, av_model, batch, BOTH, **how) for attack in MEMBERS.values()]
    av_model.eval()
    logits = [av_model(batch.inputs).detach(), *(found.verdict.logits for found in alone)]
    best = torch.stack([LOSSES[loss](z, whole.bound.goal) for z in logits]).amax(dim=0)
    torch.testing.assert_close(LOSSES[loss](whole.verdict.logits, whole.bound.goal), best)
    assert torch.equal(whole.result.success, whole.verdict.success)


def test_with_several_labels_clips_that_nothing_moves_stay_clean(run_attack):
    batch = scalars()
    batch = Batch(batch.inputs, torch.tensor([[1.0, 0.0]] * 5), batch.ids)
    backwards = Breaks([f"c{i}" for i in range(5)])

    class Against(Line):
        def forward(self, inputs):
            return -super().forward(inputs)

    found = run_attack(ensemble(backwards), Against(), batch, UNIT, task="multi-label")
    assert torch.equal(found.result.inputs["audio"], batch.inputs["audio"])
    assert found.result.success.all()


# Who may be a member
def test_a_member_without_the_norm_is_left_out(run_attack):
    other = Breaks(["c0"])
    other.norms = frozenset({"l1"})
    able = Breaks(["c1"])
    found = run_attack(ensemble(other, able), Line(), scalars(2), UNIT)
    assert found.result.success.tolist() == [False, True]
    assert not other.asked
    assert ensemble(other, able).norms == {"l1", "l2", "linf"}


def test_a_threat_that_no_member_can_attack_is_refused(run_attack, av_model, av_batch):
    one, two = Breaks(), Breaks()
    one.norms, two.norms = frozenset({"linf"}), frozenset({"l2"})
    with pytest.raises(AvrobustError, match=r"no member of the ensemble \(member-0, member-1\) attacks in l2, linf"):
        run_attack(ensemble(one, two), av_model, av_batch, BOTH)


def test_what_needs_a_set_or_knows_no_radius_is_no_member():
    prepared, unbounded = Breaks(), Breaks()
    prepared.preparation, unbounded.bounded = Preparation(), False
    with pytest.raises(AvrobustError, match="member-0 cannot be a member of an ensemble: it must see a whole set"):
        ensemble(prepared)
    with pytest.raises(AvrobustError, match="member-1 cannot be a member of an ensemble: it takes no notice"):
        ensemble(Breaks(), unbounded)


# The configuration
def test_members_are_found_in_the_registry():
    members = ["fgsm", {"use": "pgd", "with": {"steps": 3, "restarts": 2}}]
    found = _build_ensemble(EnsembleConfig(members=members)).members
    assert [name for name, _ in found] == ["fgsm", "pgd"]
    assert (found[1][1].steps, found[1][1].restarts) == (3, 2)
    with pytest.raises(ComponentError, match="no attack is named 'pdg'"):
        _build_ensemble(EnsembleConfig(members=["pdg"]))
    with pytest.raises(ComponentError, match="steps"):
        _build_ensemble(EnsembleConfig(members=[{"use": "pgd", "with": {"steps": 0}}]))


def test_the_standard_members_are_those_of_autoattack_after_cheap_ones():
    attack = _build_ensemble(EnsembleConfig())
    assert [name for name, _ in attack.members] == ["pgd", "pgd", "apgd", "apgd", "apgd", "fmn", "square"]
    assert [member.loss for _, member in attack.members[:5]] == ["reach", "targeted", "reach", "dlr", "targeted"]
    assert attack.norms >= {"linf", "l2", "l1"}


def test_its_identity_tells_members_apart():
    one, two = (EnsembleConfig(members=[{"use": "pgd", "with": {"steps": n}}]).identity() for n in (3, 4))
    assert [(member["component"], member["config"]["steps"]) for member in one["members"]] == [("avrobust:pgd", 3)]
    assert one != two
    for wrong in ({"members": []}, {"members": [{"with": {}}]}, {"loss": "mse"}):
        with pytest.raises(ValidationError):
            EnsembleConfig(**wrong)


def test_it_is_installed():
    offer = Registry.discover().resolve("attack", "ensemble")
    assert offer.component.config.model_validate(offer.component.example)


def test_what_an_ensemble_is_includes_the_versions_of_its_members():
    standard = EnsembleConfig().identity()
    assert [member["component"] for member in standard["members"]].count("apgd") == 3
    assert all(member["version"] >= 1 for member in standard["members"])
    named = EnsembleConfig.model_validate({"members": ["fgsm", {"use": "pgd", "with": {"steps": 10}}]}).identity()
    versions = {offer.component.name: offer.component.version for offer in Registry.discover().entries("attack")}
    assert [member["version"] for member in named["members"]] == [versions["fgsm"], versions["pgd"]]
    assert named["members"][1]["config"]["steps"] == 10
