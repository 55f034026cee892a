"""What cw, ddn and fmn promise beyond the smallest size: each clip by itself, honest failures, every kind of goal."""

import pytest
import torch
from avrobust_attacks.minimal.configs import CwConfig, DdnConfig, FmnConfig
from avrobust_attacks.minimal.cw import CW
from avrobust_attacks.minimal.penalty import Bracket
from avrobust_attacks.minimal.results import smallest_result, trim
from avrobust_attacks.minimal.search import SmallestSuccess, softened
from avrobust_attacks.minimal.stepped import DDN, FMN
from avrobust_attacks.minimal.tanh import Variable
from avrobust_attacks.single import SINGLE_ATTACKS
from torch import nn

from avrobust_core import AvrobustError, Batch, BatchGoal, Goal, MediaSpec, ThreatModel, Victim, verify

BOUNDS = {"audio": (-1.0, 1.0), "video": (0.0, 1.0)}
MEDIA = {
    "audio": MediaSpec(kind="audio", shape=(1, 20), bounds=BOUNDS["audio"], time_axis=1),
    "video": MediaSpec(kind="video", shape=(3, 4, 5, 5), bounds=BOUNDS["video"], time_axis=1),
}
CHEAP = {
    "cw": CW(CwConfig(lead=25, steps=10)),
    "ddn": DDN(DdnConfig(steps=25)),
    "fmn": FMN(FmnConfig(steps=25)),
}
L2 = {"audio": {"norm": "l2", "eps": 20.0}, "video": {"norm": "l2", "eps": 20.0}}
LINF = {"audio": {"norm": "linf", "eps": 1.0}, "video": {"norm": "linf", "eps": 1.0}}
MIXED = {"audio": {"norm": "linf", "eps": 1.0}, "video": {"norm": "l2", "eps": 10.0}}
every = pytest.mark.parametrize("name", CHEAP)


def attacked(attack, model, batch, threat, *, goal=None, task="single-label", **options):
    """(result, verdict, bound): as the core runs an attack, with any goal and precision."""
    victim = Victim(model, media=MEDIA, task=task, **options)
    pristine = {name: x.clone() for name, x in batch.inputs.items()}
    with victim.frozen():
        bound = victim.bind(batch, ThreatModel.model_validate(threat), goal)
        result = attack(bound)
        return result, verify("tested", batch, pristine, bound, result), bound


def labelled(model, batch, wrong=0):
    """The batch labelled as the model sees it, but for the first `wrong` clips."""
    with torch.no_grad():
        targets = model.eval()(batch.inputs).argmax(dim=1)
    targets[:wrong] = (targets[:wrong] + 1) % 3
    return Batch(batch.inputs, targets, batch.ids)


def multi_hot(batch):
    targets = nn.functional.one_hot(batch.targets, 3).float()
    targets[0] = 1
    targets[1, (batch.targets[1] + 1) % 3] = 1
    return Batch(batch.inputs, targets, batch.ids)


@every
def test_every_clip_is_worked_on_by_itself(av_model, av_batch, name):
    batch = labelled(av_model, av_batch, wrong=2)
    _, together, _ = attacked(CHEAP[name], av_model, batch, L2)
    for position in (0, 5, 9):
        alone = batch.select(torch.tensor([position]))
        _, verdict, _ = attacked(CHEAP[name], av_model, alone, L2)
        assert verdict.success[0] == together.success[position]
        assert float(verdict.size[0]) == pytest.approx(float(together.size[position]), rel=1e-3)


@every
def test_a_clip_that_is_wrong_from_the_outset_costs_one_query(av_model, av_batch, name):
    batch = labelled(av_model, av_batch, wrong=3)
    result, verdict, bound = attacked(CHEAP[name], av_model, batch, L2)
    assert result.success.all()
    assert (verdict.size[:3] == 0).all()
    assert (verdict.size[3:] > 0).all()
    assert (bound.queries[:3] <= 2).all()  # the search's, and the one that confirms
    assert (bound.queries[3:] > 10).all()


@every
def test_a_clip_out_of_reach_is_returned_clean_as_a_failure(av_model, av_batch, name):
    batch = labelled(av_model, av_batch, wrong=1)
    threat = {"audio": {"norm": "l2", "eps": 1e-5}, "video": {"norm": "l2", "eps": 1e-5}}
    result, verdict, _ = attacked(CHEAP[name], av_model, batch, threat)
    assert result.success.tolist() == [True] + [False] * 11
    assert (verdict.size == 0).all()


@every
@pytest.mark.parametrize("shift", [-100.0, "log-softmax"])
def test_a_shift_of_the_logits_does_not_matter(run_attack, linear_model, av_batch, name, shift):
    model = linear_model({"audio": (20,), "video": (300,)}, 3, seed=7)
    batch = Batch(av_batch.inputs, model(av_batch.inputs).argmax(dim=1), av_batch.ids)
    plain = run_attack(CHEAP[name], model, batch, L2, bounds=BOUNDS)
    model.after = lambda logits: logits.log_softmax(dim=1) if shift == "log-softmax" else logits + shift
    shifted = run_attack(CHEAP[name], model, batch, L2, bounds=BOUNDS)
    assert plain.result.success.all()
    assert torch.equal(shifted.result.success, plain.result.success)
    assert torch.allclose(shifted.verdict.size, plain.verdict.size, rtol=1e-2)


@every
def test_a_targeted_goal_is_reached_where_it_is_aimed_at(av_model, av_batch, name):
    batch = labelled(av_model, av_batch)
    result, verdict, _ = attacked(CHEAP[name], av_model, batch, L2, goal=Goal("least-likely"))
    with torch.no_grad():
        wanted = av_model(batch.inputs).argmin(dim=1)
    assert result.success.float().mean() > 0.9
    assert torch.equal(verdict.logits.argmax(dim=1)[result.success], wanted[result.success])


@every
def test_with_several_labels_all_of_them_are_left_behind(av_model, av_batch, name):
    batch = multi_hot(labelled(av_model, av_batch))
    result, verdict, _ = attacked(CHEAP[name], av_model, batch, L2, task="multi-label")
    assert result.success.tolist() == [False] + [True] * 11  # the first clip has every class
    assert verdict.size[0] == 0
    top = verdict.logits.argmax(dim=1)
    assert not (batch.targets.gather(1, top[:, None])[1:] > 0.5).any()


@every
def test_what_bfloat16_finds_holds_in_float32(av_model, av_batch, name):
    batch = labelled(av_model, av_batch)
    result, verdict, _ = attacked(CHEAP[name], av_model, batch, L2, precision="bf16-mixed")
    assert result.success.all()
    assert torch.equal(result.success, verdict.success)


@pytest.mark.parametrize(
    ("name", "threat"), [("cw", LINF), ("cw", MIXED), ("fmn", LINF), ("fmn", MIXED), ("ddn", {"kind": "shared", **L2})]
)
def test_other_regions_are_attacked(av_model, av_batch, name, threat):
    result, verdict, _ = attacked(CHEAP[name], av_model, labelled(av_model, av_batch), threat)
    assert result.success.all()
    assert verdict.size.max() < 0.6


@every
@pytest.mark.parametrize("time", [{"frames": [(1, 3)]}, {"time_invariant": True}], ids=["frames", "invariant"])
def test_the_constraint_on_time_is_kept(av_model, av_batch, name, time):
    threat = {"video": {"norm": "l2", "eps": 30.0, **time}}
    result, _, _ = attacked(CHEAP[name], av_model, labelled(av_model, av_batch), threat)  # verify looks at strays
    assert result.success.float().mean() > 0.5


@every
def test_a_modality_without_a_radius_stays_as_it_is(av_model, av_batch, name):
    threat = {"audio": {"norm": "l2", "eps": 0.0}, "video": L2["video"]}
    batch = labelled(av_model, av_batch)
    result, _, _ = attacked(CHEAP[name], av_model, batch, threat)
    assert result.success.any()
    assert torch.equal(result.inputs["audio"], batch.inputs["audio"])


@every
def test_a_gradient_that_is_not_finite_is_named(linear_model, av_batch, name):
    model = linear_model({"audio": (20,), "video": (300,)}, 3, seed=7)
    batch = Batch(av_batch.inputs, model(av_batch.inputs).argmax(dim=1), av_batch.ids)

    class Broken(nn.Module):
        def forward(self, inputs):
            root = (inputs["audio"].flatten(1)[:, :1] - batch.inputs["audio"][4, 0, 0]).abs().sqrt()
            return model(inputs) + 1e-3 * root * torch.tensor([1.0, -1.0, 0.0])

    with pytest.raises(AvrobustError, match="clip-4"):
        attacked(CHEAP[name], Broken(), batch, {"audio": L2["audio"]})


@every
def test_a_model_that_passes_no_gradient_on_is_refused(linear_model, av_batch, name):
    model = linear_model({"audio": (20,), "video": (300,)}, 3, seed=7)
    batch = Batch(av_batch.inputs, model(av_batch.inputs).argmax(dim=1), av_batch.ids)

    class Detached(nn.Module):
        def forward(self, inputs):
            return model({key: x.detach() for key, x in inputs.items()}).detach()

    with pytest.raises(AvrobustError, match="no gradient reaches"):
        attacked(CHEAP[name], Detached(), batch, L2)


def test_a_clip_without_progress_leaves_the_search(av_model, av_batch):
    batch = labelled(av_model, av_batch)
    settings = {"lead": 0, "searches": 2, "steps": 40, "classes": 2, "trim": 4}
    _, patient, slow = attacked(CW(CwConfig(patience=80, **settings)), av_model, batch, L2)
    _, hasty, fast = attacked(CW(CwConfig(patience=5, **settings)), av_model, batch, L2)
    assert fast.queries.float().mean() < 0.6 * slow.queries.float().mean()
    assert (slow.queries == slow.queries[0]).all()
    assert (hasty.size / patient.size).median() < 1.3


def test_each_clip_leaves_the_search_by_its_own_progress(av_model, av_batch):
    batch = labelled(av_model, av_batch)
    attack = CW(CwConfig(lead=0, patience=8, searches=1, steps=40, classes=2, trim=0))
    _, _, together = attacked(attack, av_model, batch, L2)
    assert len(together.queries.unique()) > 2
    for position in range(12):
        _, _, alone = attacked(attack, av_model, batch.select(torch.tensor([position])), L2)
        assert alone.queries[0] == together.queries[position]


def test_constants_are_bracketed_clip_by_clip():
    bracket = Bracket(torch.ones(3, dtype=torch.float64))
    wished = torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64)
    first = bracket.choose(wished)
    assert torch.equal(first, wished)
    bracket.learn(torch.tensor([0, 1]), first[:2], torch.tensor([True, False]))
    assert bracket.high.tolist() == [2.0, torch.inf, torch.inf]
    assert bracket.low.tolist() == [0.0, 3.0, 0.0]
    again = bracket.choose(torch.tensor([5.0, 2.0, 4.0], dtype=torch.float64))
    assert again.tolist() == [1.0, 12.0, 4.0]  # halfway; grown; as wished
    assert torch.equal(first, wished)  # nothing is aliased


def test_the_variable_moves_off_the_bounds_and_stands_for_the_clean_clip_to_the_bit(av_model, av_batch):
    inputs = {**av_batch.inputs, "video": av_batch.inputs["video"].round()}
    batch = Batch(inputs, av_batch.targets, av_batch.ids)
    bound = Victim(av_model, media=MEDIA, task="single-label").bind(batch, ThreatModel.model_validate(L2))
    ball = bound.region.balls["video"]
    variable = Variable(ball)
    w = variable.of(ball.center)
    assert w.isfinite().all()
    assert torch.equal(variable.value(w), ball.center)
    assert variable.slope(w).min() > 0.5
    inward = torch.where(ball.center > 0.5, -0.01, 0.01)
    moved = variable.value(variable.moved(w, inward)) - ball.center
    assert ((moved / inward) > 0.5).all()
    assert torch.equal(variable.value(variable.moved(w, -inward)), ball.center)
    there_and_back = variable.moved(variable.moved(w, -100 * inward), inward)
    assert torch.equal(there_and_back, variable.moved(w, inward))
    assert (variable.open(w, -inward) == 0).all()
    assert torch.equal(variable.open(w, inward), inward)


def test_the_trim_finds_the_boundary_between_the_clean_clip_and_a_success(linear_model, av_batch):
    model = linear_model({"audio": (20,), "video": (300,)}, 2, seed=7)
    batch = Batch(av_batch.inputs, model(av_batch.inputs).argmax(dim=1), av_batch.ids)
    victim = Victim(model, media={}, task="single-label")
    with victim.frozen(), torch.no_grad():
        bound = victim.bind(batch, ThreatModel.model_validate({"video": {"norm": "l2", "eps": 100.0}}))
        search = SmallestSuccess(bound)
        direction = (model.weights["video"][1] - model.weights["video"][0]).view(3, 4, 5, 5)
        sign = torch.where(batch.targets == 0, 1.0, -1.0).view(-1, 1, 1, 1, 1)
        far = {"video": batch.inputs["video"] + 3 * sign * direction}
        scored = search.score(far, 1.0)
        assert scored.reached.all()
        trim(search, 8)
        distance = bound.goal.distance(bound(search.best))
    assert (search.size < 0.9 * scored.size).all()
    assert (distance <= 0).all()
    assert (distance > -0.01 * scored.distance.abs()).all()


def test_a_success_that_is_lost_when_scored_again_is_a_failure_and_clean(av_model, av_batch):
    batch = labelled(av_model, av_batch)
    tiny = {name: {"norm": "l2", "eps": 1e-4} for name in L2}
    victim = Victim(av_model, media=MEDIA, task="single-label")
    with victim.frozen(), torch.no_grad():
        bound = victim.bind(batch, ThreatModel.model_validate(tiny))
        search = SmallestSuccess(bound)
        search.best["audio"] += 1e-6
        search.size[:] = 0.5
        result = smallest_result(search)
    assert not result.success.any()
    assert torch.equal(result.inputs["audio"], bound.clean["audio"])


def test_what_is_found_in_bfloat16_counts_once_it_is_confirmed(av_model, av_batch, monkeypatch):
    batch = labelled(av_model, av_batch)
    victim = Victim(av_model, media=MEDIA, task="single-label", precision="bf16-mixed")
    with victim.frozen(), torch.no_grad():
        search = SmallestSuccess(victim.bind(batch, ThreatModel.model_validate(L2)))
        far = {name: 1 - x if name == "video" else -x for name, x in batch.inputs.items()}
        assert search.score(far, 0.0).reached.any()
        clean = search.victim.confirm(search.victim.clean)
        monkeypatch.setattr(type(search.victim), "confirm", lambda self, x: clean)
        assert not search.score(far, 0.0).reached.any()


def test_the_smooth_distance_bounds_the_plain_one_and_comes_to_it():
    logits = torch.tensor([[2.0, 1.0, 0.9, -3.0]])
    goal = BatchGoal(torch.tensor([0]), "single-label")
    loose, sharp = (softened(logits, goal, torch.tensor([s])) for s in (1.0, 100.0))
    assert loose < sharp <= goal.distance(logits)
    assert sharp == pytest.approx(float(goal.distance(logits)), abs=1e-3)


def test_every_component_builds_from_its_example():
    minimal = [component for component in SINGLE_ATTACKS if ".minimal." in component.build]
    assert len(minimal) == 3
    for component in minimal:
        attack = component.make(component.config(**component.example))
        assert attack.minimal
        assert attack.norms


class Shaky(nn.Module):
    """Two classes: the mean of the audio against a threshold that each pass moves by a normal error."""

    def __init__(self, deviation):
        super().__init__()
        self._deviation = deviation
        self._generator = torch.Generator().manual_seed(1)

    def forward(self, inputs):
        x = inputs["audio"].flatten(1).mean(dim=1)
        margin = 0.5 - x + self._deviation * torch.randn(len(x), generator=self._generator)
        return torch.stack([margin, torch.zeros_like(margin)], dim=1)


def shaky_clips(level):
    targets = torch.zeros(24, dtype=torch.int64)
    return Batch({"audio": torch.full((24, 1, 8), level)}, targets, tuple(f"clip-{i}" for i in range(24)))


EVERY_SAMPLE = {"audio": {"norm": "linf", "eps": 0.9}}


@pytest.mark.parametrize("name", ["cw", "fmn"])
def test_of_a_random_model_the_size_reported_withstands_fresh_looks(name):
    """A look of 4 passes is off by 0.05: from the clean clip, the boundary is at 0.5, and at 0.65 success is sure."""
    result, verdict, _ = attacked(CHEAP[name], Shaky(0.1), shaky_clips(0.0), EVERY_SAMPLE, samples=4)
    moved = result.inputs["audio"].flatten(1).mean(dim=1)
    odds = torch.special.ndtr((moved - 0.5) / 0.05)
    assert odds.mean() > 0.98
    assert odds.min() > 0.6
    assert verdict.success.float().mean() > 0.9
    assert moved.median() < 0.8  # and it is a size, not the edge of the region


@pytest.mark.parametrize("name", ["cw", "fmn"])
def test_of_a_random_model_what_is_never_sure_is_attacked_to_the_edge(name):
    """At the edge, 0.45, three looks in ten succeed: a lucky one at a smaller size is no result."""
    threat = {"audio": {"norm": "linf", "eps": 0.45}}
    result, _, _ = attacked(CHEAP[name], Shaky(0.2), shaky_clips(0.0), threat, samples=4)
    assert (result.inputs["audio"].flatten(1).mean(dim=1) > 0.44).all()


@pytest.mark.parametrize("name", ["cw", "fmn"])
def test_of_a_random_model_a_clip_that_only_some_looks_find_misclassified_is_attacked(name):
    result, verdict, _ = attacked(CHEAP[name], Shaky(0.2), shaky_clips(0.5), EVERY_SAMPLE, samples=4)
    assert (result.inputs["audio"] != 0.5).flatten(1).any(dim=1).float().mean() > 0.9
    assert verdict.success.float().mean() > 0.9
