"""The attack asks for labels alone, keeps to its queries, and works on models that give nothing else."""

from collections.abc import Mapping

import pytest
import torch
from avrobust_decision.attack import HopSkipJump
from avrobust_decision.configs import HopSkipJumpConfig
from torch import Tensor, nn

from avrobust_core import evaluate
from avrobust_core.testing import AttackSubject, Case, Noisy, NotApplicable, Trial, make_problem

BOTH = ("audio", "video")


EVEN = {"audio": (1, 12), "video": (4, 4)}
ODD = {"audio": (1, 13), "video": (3, 5)}
"""Numbers of samples that do not fill whole random words."""


def run(slack: float = 2.0, shapes: Mapping[str, tuple[int, ...]] = EVEN, **settings: int) -> Trial:
    """The attack on a linear model, at so many times the radius that breaks its clips."""
    problem = make_problem(shapes, seed=5, clips=6)
    subject = AttackSubject.of(HopSkipJump(HopSkipJumpConfig(**settings)))
    return subject.run(Case.of(problem, problem.threat(BOTH, "l2", slack=slack)))


class Remote(nn.Module):
    """A model behind an interface: 1 for the class, 0 for the others, and no gradient."""

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(B, 4)."""
        loud, bright = (inputs[name].detach().flatten(1).mean(dim=1) for name in BOTH)
        return nn.functional.one_hot(2 * (loud > 0).long() + (bright > 0.5).long(), 4).float()


def test_it_states_that_labels_are_enough_and_takes_no_gradient() -> None:
    """The core then gives it nothing else."""
    assert HopSkipJump(HopSkipJumpConfig()).access == "labels"
    assert not run(queries=300, together=20).bound.gradients.passes.any()


@pytest.mark.parametrize("queries", [100, 301, 1000])
def test_it_asks_no_more_often_than_it_may_and_nearly_as_often(queries: int) -> None:
    """Whatever is left over at the end is less than a round."""
    trial = run(queries=queries, starts=10, first_probes=20, together=20)
    assert trial.broken == 6
    assert (trial.bound.queries <= queries).all()
    assert (trial.bound.queries > 0.6 * queries).all()


def test_points_asked_about_together_change_no_result() -> None:
    """Nor do they with samples that do not fill whole random words."""
    one, many = (run(queries=300, shapes=ODD, first_probes=20, together=count) for count in (1, 7))
    assert one.broken >= 3
    assert torch.equal(one.bound.queries, many.bound.queries)
    for name, x in one.result.inputs.items():
        assert torch.allclose(x, many.result.inputs[name], rtol=0, atol=1e-5)
    assert HopSkipJumpConfig(together=7).identity() == HopSkipJumpConfig().identity()


def test_more_queries_find_smaller_changes() -> None:
    """Of a linear model: clip by clip on average."""
    few, many = run(queries=150, first_probes=15, together=50), run(queries=1500, first_probes=30, together=50)
    assert many.verdict.size.mean() < 0.9 * few.verdict.size.mean()


def test_a_clip_that_cannot_be_broken_within_the_budgets_is_returned_clean() -> None:
    """Though it is broken outside of them: `last` says where the search stood."""
    trial = run(slack=0.2, queries=300, together=20)
    assert trial.broken == 0
    for name, x in trial.result.inputs.items():
        assert torch.equal(x, trial.bound.clean[name])
    assert trial.result.last is not None
    assert (trial.bound.region.size(trial.result.last) > 0.9).all()


def test_a_model_with_randomness_of_its_own_is_refused() -> None:
    """In a sentence that says what to do."""
    problem = make_problem(seed=5)
    case = Case.of(problem, problem.threat(BOTH, "l2"), lambda oracle: Noisy(oracle, 0.1), samples=4)
    with pytest.raises(NotApplicable, match="attack the model without the randomness, or by its logits"):
        AttackSubject.of(HopSkipJump(HopSkipJumpConfig())).run(case)


def test_a_model_behind_an_interface_is_attacked_and_marked() -> None:
    """As the README shows it; what is found is a lower bound that lies near: the mean must change sign."""
    generator = torch.Generator().manual_seed(0)
    clips = {
        "audio": 0.05 * torch.randn(8, 1, 200, generator=generator),
        "video": torch.rand(8, 3, 2, 8, 8, generator=generator),
    }
    found = evaluate(
        Remote(),
        [(clips, Remote()(clips).argmax(dim=1))],
        attacks={"labels": HopSkipJump(HopSkipJumpConfig(queries=500, together=25))},
        threats={"both": {"audio": {"eps": 0.005}, "video": {"eps": "4/255"}}},
        bounds={"audio": (-1, 1), "video": (0, 1)},
        audit="off",
    )
    nearest = torch.minimum(
        clips["audio"].flatten(1).mean(dim=1).abs() / 0.005,
        (clips["video"].flatten(1).mean(dim=1) - 0.5).abs() / (4 / 255),
    )
    broken = 1 - found.summary["robust_accuracy"]["labels"]["both"]["value"]
    assert float((nearest < 0.6).float().mean()) <= broken <= float((nearest <= 1).float().mean())
    assert [caveat["check"] for caveat in found.summary["caveats"]] == ["labels"]
