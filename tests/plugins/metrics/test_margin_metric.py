"""Margin: exact on linear models under every norm and kind of threat, by modality and jointly, several labels too."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from avrobust_metrics.calibration import calibration
from avrobust_metrics.configs import MarginConfig
from avrobust_metrics.margin import Margin
from pydantic import ValidationError
from torch import nn

from avrobust_core import AvrobustError, Probe, Subject, ThreatModel, classification_loss
from avrobust_core.testing import LinearProblem, make_problem

CLASSES = tuple("abc")


def measured(
    problem: LinearProblem, threat: ThreatModel, task="single-label", targets=None, model=None, padded=None, **fields
):
    """What the metric finds for a problem's clips, of whose time in each modality the shares `padded` are padding."""
    inputs = problem.batch.inputs
    model = problem.oracle if model is None else model
    with torch.no_grad():
        logits = model(dict(inputs))
    read_only = logits.numpy()
    read_only.flags.writeable = False  # as what is read from a file is
    subject = Subject(
        ids=problem.batch.ids,
        logits=read_only,
        targets=problem.batch.targets.numpy() if targets is None else targets,
        classes=CLASSES,
        task=task,
        resamples=100,
        probe=Probe(
            model,
            lambda split, rows: {name: x[rows] for name, x in inputs.items()},
            batch_size=7,
            media=None if padded is None else {name: replace(m, time_axis=1) for name, m in problem.media.items()},
            padding=None if padded is None else lambda split, rows: [padded[row] for row in rows],
        ),
    )
    with torch.no_grad():  # as a study measures
        return Margin(MarginConfig(threat=threat, **fields)).measure(subject)


@pytest.mark.parametrize(
    ("norm", "kind"), [("linf", "separate"), ("l2", "separate"), ("l1", "separate"), ("l2", "shared")]
)
def test_the_distance_on_a_linear_model_is_the_smallest_perturbation_that_exists(norm, kind):
    problem = make_problem(bounds=None)
    threat = problem.threat(["audio", "video"], norm, share=0.5, slack=1.01, kind=kind)
    found = measured(problem, threat)
    expected = problem.smallest_size(threat).numpy()
    assert len(set(expected.round(3))) > 10
    np.testing.assert_allclose(found.per_clip["distance/joint"], expected, rtol=1e-4)
    assert found.values["withstands/joint"].value == (expected > 1).mean()
    assert found.values["distance/joint"].value == pytest.approx(np.minimum(expected, 4).mean(), rel=1e-4)
    for name in ("audio", "video"):
        alone = problem.smallest_size(threat.restricted([name])).numpy()
        np.testing.assert_allclose(found.per_clip[f"distance/{name}"], alone, rtol=1e-4)


def test_fewer_rivals_never_bring_a_clip_nearer():
    problem = make_problem(bounds=None)
    threat = problem.threat(["audio"], "linf", share=0.5)
    every, one = (measured(problem, threat, rivals=rivals) for rivals in (10, 1))
    assert np.all(one.per_clip["distance/audio"] >= every.per_clip["distance/audio"])
    assert (one.details["backwards_per_clip"], every.details["backwards_per_clip"]) == (2, 3)
    assert "distance/joint" not in every.values


def test_the_loss_rises_by_the_dual_norm_of_its_gradient():
    problem = make_problem(bounds=None)
    threat = problem.threat(["audio", "video"], "linf", share=0.5)
    leaves = {name: x.clone().requires_grad_() for name, x in problem.batch.inputs.items()}
    classification_loss(problem.oracle(leaves), problem.batch.targets, "single-label").sum().backward()
    found = measured(problem, threat)
    expected = {name: threat[name].eps * leaves[name].grad.flatten(1).abs().sum(dim=1).numpy() for name in leaves}
    for name, each in expected.items():
        np.testing.assert_allclose(found.per_clip[f"loss-rise/{name}"], each, rtol=1e-4)
    assert found.values["loss-rise/joint"].value == pytest.approx(sum(expected.values()).mean(), rel=1e-4)
    assert found.values["margin"].value == pytest.approx(float(problem.margins().amin(dim=1).mean()), rel=1e-4)


def test_with_several_labels_only_other_classes_are_rivals():
    problem = make_problem(bounds=None)
    clips = len(problem.batch.ids)
    targets = np.zeros((clips, 3), dtype=np.float32)
    targets[np.arange(clips), problem.batch.targets] = 1
    threat = problem.threat(["audio"], "linf", share=0.5)
    one = measured(problem, threat)
    same = measured(problem, threat, "multi-label", targets)
    np.testing.assert_allclose(same.per_clip["distance/audio"], one.per_clip["distance/audio"], rtol=1e-5)
    targets[:, 0] = 1
    more = measured(problem, threat, "multi-label", targets)
    heights = problem.margins()[:, 1:]
    assert np.all(more.per_clip["distance/audio"][heights.amin(dim=1).numpy() > 0] > 0)
    targets[:] = 1
    every = measured(problem, threat, "multi-label", targets)
    assert np.isinf(every.per_clip["distance/audio"]).all()
    assert every.values["distance/audio"].value == 4
    assert np.isnan(every.values["margin"].value)


class Masked(nn.Module):
    """An oracle whose logits do not change with its inputs where gradients look."""

    def __init__(self, oracle, share):
        super().__init__()
        self.oracle, self.share = oracle, share

    def forward(self, inputs):
        fixed = {name: torch.where(torch.ones_like(x).bool(), x.detach(), x) for name, x in inputs.items()}
        return self.oracle(fixed) + self.share * sum(x.flatten(1).sum(dim=1, keepdim=True) for x in inputs.values())


def test_without_a_gradient_distances_are_capped_and_nothing_is_refused():
    problem = make_problem(bounds=None)
    found = measured(
        problem, problem.threat(["audio", "video"], "linf", share=0.5), model=Masked(problem.oracle, 0.0), cap=2.5
    )
    right = problem.margins().amin(dim=1).numpy() > 0
    assert np.isinf(found.per_clip["distance/joint"][right]).all()
    assert found.values["distance/joint"].value == pytest.approx(2.5 * right.mean())


def test_what_cannot_be_measured_is_refused_in_words():
    problem = make_problem(bounds=None)
    with pytest.raises(AvrobustError, match="the threat is on depth, but the model reads: audio, video"):
        measured(problem, ThreatModel.model_validate({"depth": {"eps": 0.1}}))
    with pytest.raises(ValidationError, match="raw inputs; leave out `space`"):
        MarginConfig.model_validate({"threat": {"audio": {"eps": 0.1, "space": "features"}}})
    with pytest.raises(ValidationError, match="does not know the axis of time"):
        MarginConfig.model_validate({"threat": {"audio": {"eps": 0.1, "time_invariant": True}}})
    bare = Subject(
        problem.batch.ids, np.zeros((len(problem.batch.ids), 3), np.float32), np.zeros(1), CLASSES, "single-label"
    )
    with pytest.raises(AvrobustError, match="needs the model"):
        Margin(MarginConfig.model_validate({"threat": {"audio": {"eps": 0.1}}})).measure(bare)


def test_robust_accuracy_is_estimated_with_the_errors_of_models_that_were_attacked():
    problem = make_problem(bounds=None)
    threat = problem.threat(["audio", "video"], "linf", share=0.5, slack=1.01)
    found = measured(problem, threat).values
    errors, share, estimate = calibration()["errors"], found["withstands/joint"], found["robust-estimate"]
    assert len(errors) == calibration()["models"] >= 40
    assert (estimate.value, estimate.method, estimate.n) == (share.value, "prediction", share.n)
    assert estimate.low == pytest.approx(max(0, share.low + np.quantile(errors, 0.025)))
    assert estimate.high == pytest.approx(min(1, share.high + np.quantile(errors, 0.975)))
    assert estimate.low < share.low
    assert "robust-estimate" not in measured(problem, threat.restricted(["audio"])).values
    several = np.eye(3, dtype=np.float32)[problem.batch.targets.numpy()]
    assert "robust-estimate" not in measured(problem, threat, "multi-label", several).values


class _Deaf(nn.Module):
    """A network that does not hear the end of some clips; else another's."""

    def __init__(self, model: nn.Module, heard: torch.Tensor) -> None:
        super().__init__()
        self.model, self.heard = model, heard

    def forward(self, inputs):
        audio = inputs["audio"]
        return self.model(inputs | {"audio": torch.where(self.heard, audio, audio.detach())})


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_padding_which_no_attack_may_change_has_no_part_in_it(norm):
    problem = make_problem(bounds=None, clips=7)
    threat = problem.threat(["audio", "video"], norm, share=0.5)
    shares = [0.0, 0.5, 0.25, 0.0, 0.75, 1.0, 0.5]
    heard = torch.arange(12) < 12 * (1 - torch.tensor(shares)).view(-1, 1, 1)
    wanted = measured(problem, threat, model=_Deaf(problem.oracle, heard)).per_clip
    found = measured(problem, threat, padded=[{"audio": share} if share else {} for share in shares]).per_clip
    whole = measured(problem, threat).per_clip
    assert found["distance/audio"][5] == np.inf
    for name, each in found.items():
        np.testing.assert_allclose(each, wanted[name], rtol=1e-5)
        assert np.array_equal(each, whole[name]) == name.endswith("video")
