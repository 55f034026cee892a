"""The core's check: honest results pass, and each kind of violation is an error that names attack and clips."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from avrobust_core import (
    AttackResult,
    AVModel,
    AvrobustError,
    Batch,
    Encoded,
    EncodedDims,
    Encoder,
    Goal,
    MediaSpec,
    ModelError,
    ThreatModel,
    Victim,
    verify,
)
from avrobust_core.errors import AttackViolation


class Difference(nn.Module):
    """Class 1 against class 0: the sum of all samples, minus 5."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs):
        odds = self.scale * (sum(x.flatten(1).sum(dim=1) for x in inputs.values()) - 5)
        return torch.stack([torch.zeros_like(odds), odds], dim=1)


class Case:
    """Three clips of class 0; `fool` moves clip c1 over the edge, by 0.5 in every sample of audio and video."""

    def __init__(self, norm="linf", eps=0.5, goal=None, **threat):
        self.batch = Batch(
            {"audio": torch.zeros(3, 1, 8), "video": torch.full((3, 2, 2, 2), 0.15), "depth": torch.zeros(3, 4)},
            torch.zeros(3, dtype=torch.int64),
            ("c0", "c1", "c2"),
        )
        self.pristine = {name: x.clone() for name, x in self.batch.inputs.items()}
        media = {
            "audio": MediaSpec(kind="audio", shape=(1, 8), bounds=(-1.0, 1.0), time_axis=1),
            "video": MediaSpec(kind="video", shape=(2, 2, 2), bounds=(0.0, 1.0)),
            "depth": MediaSpec(kind="depth", shape=(4,)),
        }
        victim = Victim(Difference().requires_grad_(False), media=media, task="single-label")
        budget = {"norm": norm, "eps": eps}
        whole = {"audio": budget, "video": budget} | threat
        self.bound = victim.bind(self.batch, ThreatModel.model_validate(whole), goal)
        self.audio, self.video = (self.pristine[name].clone() for name in ("audio", "video"))
        self.success = torch.tensor([False, True, False])

    def fool(self):
        self.audio[1] += 0.5
        self.video[1] += 0.5
        return self

    def verify(self, bounded=True, **changed):
        result = replace(AttackResult({"audio": self.audio, "video": self.video}, self.success), **changed)
        return verify("my-attack", self.batch, self.pristine, self.bound, result, bounded=bounded)


def test_an_honest_result_passes_and_is_measured_again():
    verdict = Case().fool().verify()
    assert verdict.success.tolist() == [False, True, False]
    assert verdict.norms["audio"].tolist() == [0.0, 0.5, 0.0]
    torch.testing.assert_close(verdict.norms["video"], torch.tensor([0.0, 0.5, 0.0]).double(), rtol=0, atol=1e-7)
    torch.testing.assert_close(verdict.logits[:, 1], torch.tensor([-3.8, 4.2, -3.8]))


def test_honest_l2_results_pass():
    case = Case(norm="l2", eps=0.5 * 8**0.5).fool()
    case.video = case.bound.balls["video"].project(case.video)
    torch.testing.assert_close(case.verify().norms["audio"], torch.tensor([0, 2**0.5, 0]).double())


def test_a_success_that_the_attack_did_not_notice_counts():
    assert Case().fool().verify(success=torch.tensor([False] * 3)).success.tolist() == [False, True, False]


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.5), ("l2", 0.5 * 8**0.5), ("l1", 4.0)])
def test_leaving_the_ball_is_caught(norm, eps):
    case = Case(norm=norm, eps=eps).fool()
    if norm != "linf":
        case.video = case.bound.balls["video"].project(case.video)
    case.audio[1, 0, 0] += 1e-5
    with pytest.raises(AttackViolation, match=f"'my-attack' left the {norm} ball of audio .*: c1$"):
        case.verify()


def test_leaving_the_bounds_is_caught():
    case = Case().fool()
    case.video[2, 0, 0, 0] = -0.1
    with pytest.raises(AttackViolation, match=r"'my-attack' returned video outside the bounds \[0.0, 1.0\]: c2$"):
        case.verify()


def test_a_lying_success_is_caught():
    with pytest.raises(AttackViolation, match=r"'my-attack' claims success .* the goal is not reached: c0, c2$"):
        Case().fool().verify(success=torch.tensor([True, True, True]))


def test_a_lying_success_of_low_precision_is_told_how_to_look_again(monkeypatch):
    case = Case().fool()
    monkeypatch.setattr(case.bound.victim, "precision", "bf16-mixed")
    with pytest.raises(AttackViolation) as caught:
        case.verify(success=torch.tensor([True, True, True]))
    for part in ("passes are bf16-mixed", "unless `victim.exact`", "again with `victim.confirm`", ": c0"):
        assert part in str(caught.value)
    with pytest.raises(AttackViolation) as caught:
        Case().fool().verify(success=torch.tensor([True, True, True]))
    assert "confirm" not in str(caught.value)


def test_a_success_on_the_last_bits_is_no_lie_but_does_not_count():
    case = Case().fool()
    case.audio[1] = (5 - 1e-5 - case.video[1].sum()) / 8
    verdict = case.verify()
    assert -1e-4 < verdict.logits[1, 1] < 0
    assert not verdict.success.any()

    case.audio[1] -= 1e-3 / 8  # more than rounding, though no more than TF32 loses on a GPU
    with pytest.raises(AttackViolation, match=r"'my-attack' claims success .* the goal is not reached: c1$"):
        case.verify()


@pytest.mark.parametrize("name", ["audio", "depth"])
def test_changing_the_batch_in_place_is_caught(name):
    case = Case().fool()
    case.batch.inputs[name][0] += 0.01
    with pytest.raises(AttackViolation, match=f"'my-attack' changed the clean {name} of its batch in place"):
        case.verify()


def test_touching_another_modality_is_caught():
    case = Case().fool()
    inputs = {"audio": case.audio, "video": case.video, "depth": torch.ones(3, 4)}
    with pytest.raises(AttackViolation, match="'my-attack' returned depth, which the threat does not allow"):
        case.verify(inputs=inputs)


def test_leaving_out_a_modality_is_caught():
    case = Case().fool()
    with pytest.raises(AttackViolation, match="'my-attack' did not return the attacked modality video"):
        case.verify(inputs={"audio": case.audio})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_inputs_that_are_not_finite_are_caught(bad):
    case = Case().fool()
    case.audio[2, 0, 5] = bad
    with pytest.raises(AttackViolation, match=r"'my-attack' returned non-finite audio: c2$"):
        case.verify()


def test_logits_that_are_not_numbers_are_caught():
    """No comparison with NaN holds, so that the clip would pass for robust."""
    case = Case().fool()
    case.bound.victim.model.register_forward_hook(
        lambda module, args, out: torch.where(torch.tensor([[False], [True], [False]]), torch.nan, out)
    )
    with pytest.raises(
        ModelError, match=r"Difference returns logits that are NaN .* clip c1 as attack 'my-attack' left"
    ):
        case.verify()


@pytest.mark.parametrize("change", [lambda x: x[:2], lambda x: x.double(), lambda x: x.flatten(1), lambda x: x.half()])
def test_another_shape_or_dtype_is_caught(change):
    case = Case().fool()
    case.audio = change(case.audio)
    with pytest.raises(AttackViolation, match=r"'my-attack' returned audio as .* not as torch.float32"):
        case.verify()


@pytest.mark.parametrize(
    "success", [torch.tensor([True, False]), torch.tensor([0.0, 1.0, 0.0]), torch.zeros(3, 1, dtype=torch.bool)]
)
def test_success_of_another_shape_or_dtype_is_caught(success):
    with pytest.raises(AttackViolation, match="'my-attack' returned success as"):
        Case().fool().verify(success=success)


def test_many_clips_are_named_briefly():
    n = 9
    batch = Batch({"audio": torch.zeros(n, 4)}, torch.zeros(n, dtype=torch.int64), tuple(f"c{i}" for i in range(n)))
    victim = Victim(Difference(), media={}, task="single-label")
    bound = victim.bind(batch, ThreatModel.model_validate({"audio": {"eps": 0.1}}))
    result = AttackResult({"audio": torch.ones(n, 4)}, torch.zeros(n, dtype=torch.bool))
    with pytest.raises(AttackViolation, match=r"c0, c1, c2, c3, c4 and 4 more$"):
        verify("loud", batch, {"audio": batch.inputs["audio"].clone()}, bound, result)


def test_a_violation_is_an_error_for_the_user():
    assert issubclass(AttackViolation, AvrobustError)


def test_too_many_changed_samples_are_caught():
    case = Case(norm="l0", eps=8).fool()
    assert case.verify().norms["video"].tolist() == [0, 8, 0]
    case = Case(norm="l0", eps=7).fool()
    with pytest.raises(AttackViolation, match=r"left the l0 ball of audio .*: c1$"):
        case.verify()


def test_the_shared_ball_holds_for_all_modalities_together():
    """Each modality at three quarters of its own radius: together 1.06 of the shared one."""
    radius = 0.5 * 8**0.5 / 0.75
    Case(norm="l2", eps=radius).fool().verify()
    case = Case(norm="l2", eps=radius, kind="shared").fool()
    with pytest.raises(
        AttackViolation, match=r"left the shared l2 ball of audio, video \(by a factor .* 1\.06066\): c1$"
    ):
        case.verify()
    inside = case.bound.region.project({"audio": case.audio, "video": case.video})
    verdict = case.verify(inputs=inside, success=torch.zeros(3, dtype=torch.bool))
    torch.testing.assert_close(verdict.size, torch.tensor([0.0, 1.0, 0.0]).double(), rtol=2e-5, atol=0)


@pytest.mark.parametrize(
    "limits", [{"frames": [[0, 4]]}, {"time_invariant": True}, {"norm": "l0", "eps": 8, "cap": 0.4}]
)
def test_changes_that_the_budget_s_time_or_cap_does_not_allow_are_caught(limits):
    case = Case(audio={"norm": "linf", "eps": 0.5} | limits).fool()
    if "time_invariant" in limits:
        case.audio[1, 0, 2] -= 0.25
    with pytest.raises(AttackViolation, match=r"changed audio where, or in a way that, .*time_invariant, cap\): c1$"):
        case.verify()
    case.audio = case.bound.balls["audio"].project(case.audio)
    case.verify(success=torch.zeros(3, dtype=torch.bool))


def test_a_corruption_may_pass_the_radius_and_nothing_else():
    case = Case(eps=0.1).fool()
    verdict = case.verify(bounded=False)
    assert verdict.norms["audio"].tolist() == [0, 0.5, 0]
    assert verdict.size[1].item() == pytest.approx(5)
    Case(norm="l2", eps=0.1, kind="shared").fool().verify(bounded=False)
    case.video[2, 0, 0, 0] = -0.1
    with pytest.raises(AttackViolation, match=r"outside the bounds \[0.0, 1.0\]: c2$"):
        case.verify(bounded=False)
    case = Case(eps=0.1).fool()
    inputs = {"audio": case.audio, "video": case.video, "depth": torch.ones(3, 4)}
    with pytest.raises(AttackViolation, match="returned depth"):
        case.verify(bounded=False, inputs=inputs)
    case.batch.inputs["depth"][0] += 1
    with pytest.raises(AttackViolation, match="changed the clean depth"):
        case.verify(bounded=False)


def test_a_targeted_success_is_the_class_that_was_wanted():
    case = Case(goal=Goal("class", 1)).fool()
    assert case.verify().success.tolist() == [False, True, False]
    with pytest.raises(AttackViolation, match=r"the goal is not reached: c0, c2$"):
        case.verify(success=torch.tensor([True] * 3))
    case = Case(goal=Goal("class", 0)).fool()
    with pytest.raises(AttackViolation, match=r"the goal is not reached: c1$"):
        case.verify(success=torch.tensor([True] * 3))
    assert case.verify(success=torch.zeros(3, dtype=torch.bool)).success.tolist() == [True, False, True]


class Doubling(Encoder):
    """Features are twice the input; what is encoded is their sum."""

    def __init__(self):
        super().__init__()
        self.dims = EncodedDims(token=1, embed=1)
        self.frontend = nn.Sequential(nn.Identity())
        self.frontend.forward = lambda x: 2 * x

    def encode(self, features):
        pooled = features.flatten(1).sum(dim=1, keepdim=True)
        return Encoded(tokens=pooled.unsqueeze(1), pooled=pooled)


def features_case():
    model = AVModel({"audio": Doubling()}, None, 2)
    with torch.no_grad():  # class 1 wins where the features sum to more than 5
        model.head.weight.copy_(torch.tensor([[0.0], [1.0]]))
        model.head.bias.copy_(torch.tensor([0.0, -5.0]))
    batch = Batch({"audio": torch.full((2, 1, 4), 0.5)}, torch.zeros(2, dtype=torch.int64), ("c0", "c1"))
    media = {"audio": MediaSpec(kind="audio", shape=(1, 4), bounds=(0.0, 1.0))}
    victim = Victim(model.requires_grad_(False), media=media, task="single-label")
    bound = victim.bind(batch, ThreatModel.model_validate({"audio": {"eps": 0.6, "space": "features"}}))
    return batch, {"audio": batch.inputs["audio"].clone()}, bound


def test_results_in_features_are_verified_from_the_features_on():
    batch, pristine, bound = features_case()
    assert torch.equal(bound.clean["audio"], torch.ones(2, 1, 4))
    moved = bound.clean["audio"].clone()
    moved[1] += 0.5  # to 1.5, beyond the bounds of the input, which do not hold here
    verdict = verify("my-attack", batch, pristine, bound, AttackResult({"audio": moved}, torch.tensor([False, True])))
    assert verdict.success.tolist() == [False, True]
    torch.testing.assert_close(verdict.logits[:, 1], torch.tensor([-1.0, 1.0]))
    assert verdict.norms["audio"].tolist() == [0, 0.5]
    with pytest.raises(AttackViolation, match="left the linf ball of audio"):
        verify("my-attack", batch, pristine, bound, AttackResult({"audio": moved + 0.2}, verdict.success))


def test_changing_clean_features_in_place_is_caught():
    batch, pristine, bound = features_case()
    moved = bound.clean["audio"]
    moved.data[1] += 0.5
    with pytest.raises(AttackViolation, match=r"'my-attack' changed the clean features of audio in place: c1$"):
        verify("my-attack", batch, pristine, bound, AttackResult({"audio": moved}, torch.tensor([False, True])))
