"""Universal: one perturbation for all clips, inside the ball; the reference's own variant leaves it, and says so."""

from dataclasses import replace

import pytest
import torch
from avrobust_attacks.universal.configs import UniversalConfig
from avrobust_attacks.universal.universal import Universal
from pydantic import ValidationError
from torch import nn

from avrobust_core import (
    AttackRun,
    AVModel,
    AvrobustError,
    Batch,
    Encoded,
    EncodedDims,
    Encoder,
    Fusion,
    MediaSpec,
    ThreatModel,
    Victim,
    attack_batch,
    verify,
)

BOUNDS = {"audio": (-1.0, 1.0), "video": (0.0, 1.0)}


def bound_to(model, batch, threat, task="single-label", bounds=BOUNDS, time_axis=None):
    media = {
        name: MediaSpec(kind=name, shape=tuple(x.shape[1:]), bounds=bounds.get(name), time_axis=time_axis)
        for name, x in batch.inputs.items()
    }
    victim = Victim(model, media=media, task=task)
    return victim.bind(batch, ThreatModel.model_validate(threat))


def prepared(model, batch, threat, *, size=5, config=None, **options):
    model.eval()
    attack = Universal(UniversalConfig(**(config or {})))
    pieces = torch.arange(len(batch)).split(size)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return attack.prepare(lambda: (bound_to(model, batch.select(i), threat, **options) for i in pieces))


def applied(attack, model, batch, threat, **options):
    bound = bound_to(model, batch, threat, **options)
    result = attack(bound)
    pristine = {name: x.clone() for name, x in batch.inputs.items()}
    return bound, result, verify("universal", batch, pristine, bound, result, bounded=attack.bounded)


def alike(model, shape, clips, seed=0):
    """Clips of class 0, as far as the model is concerned, with margins spread widely; inside (-1, 1)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(clips, *shape, generator=generator) * 1.8 - 0.9
    model.bias.data = torch.tensor([0.0, -1e4]).index_fill(0, torch.tensor([]).long(), 0)
    slope = (model.weights["x"][1] - model.weights["x"][0]).detach()
    lowest = (x.flatten(1) @ slope).amax()
    model.bias.data = torch.tensor([lowest.item() + 0.5, 0.0])
    return Batch({"x": x}, torch.zeros(clips, dtype=torch.int64), tuple(f"c{i}" for i in range(clips))), slope


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("shape", [(12,), (1, 12), (3, 2, 2), (3, 1, 2, 2)])
@pytest.mark.parametrize("epochs", [1, 20])
def test_on_a_linear_model_it_is_the_best_perturbation_there_is(linear_model, norm, shape, epochs):
    """With two classes all clips want the same: the steepest direction at the whole radius."""
    model = linear_model({"x": shape}, 2, seed=2)
    batch, slope = alike(model, shape, 30)
    threat = {"x": {"norm": norm, "eps": 0.5}}
    attack = prepared(model, batch, threat, bounds={}, config={"epochs": epochs})
    dual = {"linf": 1, "l2": 2, "l1": torch.inf}[norm]
    best = 0.5 * torch.linalg.vector_norm(slope, ord=dual)
    risen = (attack.delta["x"].flatten() @ slope) / best
    assert 0.999 < risen <= 1 + 1e-5
    bound, result, verdict = applied(attack, model, batch, threat, bounds={})
    assert (bound.queries == 1).all()
    reach = best >= bound.goal.distance(model(batch.inputs))
    assert 0 < reach.sum() < len(batch)
    assert (result.success != reach).sum() <= 1
    assert torch.equal(result.success, verdict.success)
    delta = (result.inputs["x"] - batch.inputs["x"])[result.success]
    torch.testing.assert_close(delta, delta[:1].expand_as(delta), rtol=0, atol=1e-5)
    assert torch.equal(result.inputs["x"][~result.success], batch.inputs["x"][~result.success])


# Fault 16
@pytest.mark.parametrize(
    "threat",
    [
        {"audio": {"eps": 0.1}, "video": {"eps": 0.05}},
        {"audio": {"norm": "l2", "eps": 0.3}, "video": {"norm": "l1", "eps": 2.0}},
        {"kind": "shared", "audio": {"norm": "l2", "eps": 0.3}, "video": {"norm": "l2", "eps": 0.6}},
        {"video": {"eps": 0.05, "frames": [[1, 3]]}},
        {"video": {"norm": "l2", "eps": 0.6, "time_invariant": True}},
        {"audio": {"eps": {"snr_db": 20}}},
    ],
)
def test_the_budget_holds_however_many_steps_were_made(av_model, av_batch, threat):
    attack = prepared(av_model, av_batch, threat, config={"epochs": 30, "step_size": 0.5}, time_axis=1)
    assert attack.bounded
    _, _, verdict = applied(attack, av_model, av_batch, threat, time_axis=1)  # verified in float64
    assert (verdict.size <= 1 + 1e-6).all()
    assert verdict.size.max() > 0.3


class LogMel(Encoder):
    """Features with a frontend of its own: what the reference attacked."""

    def __init__(self) -> None:
        super().__init__()
        self.dims = EncodedDims(token=6, embed=6)
        self.frontend = nn.Hardtanh(-2, 2)
        self.layers = nn.Linear(8, 6)
        self.time_axis = 1

    def encode(self, features):
        tokens = self.layers(features.flatten(1, 2)).tanh()
        return Encoded(tokens=tokens, pooled=tokens.mean(dim=1))


class Only(Fusion):
    dim = 6

    def forward(self, encoded):
        return encoded["audio"].pooled


@pytest.fixture
def features():
    """A model of features (1, 10, 8) that a frontend clamps to [-2, 2], several labels per clip."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AVModel({"audio": LogMel()}, Only(), 4)
        x = torch.randn(20, 1, 10, 8) * 0.5
        targets = (torch.rand(20, 4) > 0.6).float()
    return model, Batch({"audio": x}, targets, tuple(f"c{i}" for i in range(20)))


REFERENCE = {"audio": {"eps": 0.1, "space": "features", "bounds": [-2, 2]}}


def test_the_references_variant_leaves_the_ball_and_the_projected_one_does_not(features):
    """As FACTS has it: 20 epochs of steps of 0.1 at a nominal eps of 0.1 reach 2.0, if they are not projected."""
    model, batch = features
    config = {"epochs": 20, "step_size": 1.0}
    options = {"task": "multi-label", "bounds": {}, "size": 20}
    ours = prepared(model, batch, REFERENCE, config=config, **options)
    theirs = prepared(model, batch, REFERENCE, config={**config, "projected": False}, **options)
    assert (ours.bounded, theirs.bounded) == (True, False)
    assert ours.delta["audio"].abs().max() <= 0.1
    assert 1.9 < theirs.delta["audio"].abs().max() <= 2.0 + 1e-5
    del options["size"]
    bound, result, verdict = applied(theirs, model, batch, REFERENCE, **options)
    assert verdict.norms["audio"].max() > 1.5
    assert result.inputs["audio"].abs().max() <= 2.0
    kept = applied(ours, model, batch, REFERENCE, **options)[2]
    assert kept.norms["audio"].max() <= 0.1 * (1 + 1e-6)
    clean = bound.loss(bound.victim.logits(batch.inputs)).mean()
    assert bound.loss(verdict.logits).mean() > bound.loss(kept.logits).mean() > clean


def test_an_unprojected_step_leaves_no_trace_of_the_radius_but_in_its_length(features):
    model, batch = features
    attack = prepared(
        model,
        batch,
        REFERENCE,
        config={"epochs": 1, "projected": False, "step_size": 5.0},
        task="multi-label",
        bounds={},
        size=20,
    )
    torch.testing.assert_close(attack.delta["audio"].abs(), torch.full((1, 1, 10, 8), 0.5))


def test_with_several_labels_every_clip_is_returned_perturbed(features):
    model, batch = features
    attack = prepared(model, batch, REFERENCE, task="multi-label", bounds={})
    _, result, verdict = applied(attack, model, batch, REFERENCE, task="multi-label", bounds={})
    delta = result.inputs["audio"] - batch.inputs["audio"].clamp(-2, 2)
    torch.testing.assert_close(delta, attack.delta["audio"].expand_as(delta), rtol=0, atol=1e-5)
    assert torch.equal(result.success, verdict.success)


def test_it_depends_on_the_batches_and_on_nothing_random(av_model, av_batch):
    threat = {"audio": {"eps": 0.1}, "video": {"norm": "l2", "eps": 0.5}}
    state = torch.get_rng_state()
    one, again, other = (prepared(av_model, av_batch, threat, size=size) for size in (5, 5, 3))
    assert torch.equal(torch.get_rng_state(), state)
    for name in threat:
        assert torch.equal(one.delta[name], again.delta[name])
        assert not torch.equal(one.delta[name], other.delta[name])


def test_applied_it_does_not_depend_on_batch_mates(av_model, av_batch):
    threat = {"audio": {"eps": {"snr_db": 15}}}
    attack = prepared(av_model, av_batch, threat)
    whole = applied(attack, av_model, av_batch, threat)[1]
    alone = applied(attack, av_model, av_batch.select(torch.tensor([6])), threat)[1]
    torch.testing.assert_close(alone.inputs["audio"][0], whole.inputs["audio"][6])
    assert alone.success[0] == whole.success[6]


def test_radii_of_clips_that_differ_are_averaged_and_held_by_each(av_model, av_batch):
    av_batch.inputs["audio"][0] *= 0.01
    threat = {"audio": {"norm": "l2", "eps": {"snr_db": 15}}}
    attack = prepared(av_model, av_batch, threat, config={"epochs": 3, "step_size": 1.0})
    bound, _, verdict = applied(attack, av_model, av_batch, threat)
    mean = bound.balls["audio"].radius.mean()
    torch.testing.assert_close(attack.delta["audio"].norm().double(), mean, rtol=1e-4, atol=0)
    assert bound.balls["audio"].radius[0] < mean / 50
    assert (verdict.size <= 1 + 1e-6).all()


def test_all_clips_count_also_those_that_are_wrong_already(linear_model):
    """Nine clips that are wrong pull one way, a single right one the other: the many decide."""
    model = linear_model({"x": (1, 4)}, 2, seed=0)
    model.bias.data.zero_()
    slope = (model.weights["x"][1] - model.weights["x"][0]).detach()
    x = 0.3 * slope.sign().expand(10, 1, 4).clone()
    targets = torch.zeros(10, dtype=torch.int64)
    targets[9] = 1
    attack = prepared(model, Batch({"x": x}, targets, tuple("abcdefghij")), {"x": {"eps": 0.1}}, size=10, bounds={})
    torch.testing.assert_close(attack.delta["x"].flatten(), 0.1 * slope.sign())


def test_a_gradient_beyond_a_bound_does_not_count(linear_model):
    """Nine clips at the lower bound want to go below it; only the one that can move is heard."""
    model = linear_model({"x": (1, 1)}, 2, seed=0)
    model.bias.data.zero_()
    model.weights["x"].data = torch.tensor([[1.0], [0.0]])
    x = torch.tensor([0.0] * 9 + [0.5]).view(10, 1, 1)
    targets = torch.tensor([0] * 9 + [1])
    batch = Batch({"x": x}, targets, tuple("abcdefghij"))
    attack = prepared(model, batch, {"x": {"eps": 0.1}}, size=10, bounds={"x": (0.0, 1.0)}, config={"epochs": 1})
    torch.testing.assert_close(attack.delta["x"].flatten(), torch.tensor([0.1]))  # the one step goes all the way


def test_a_curve_scales_the_perturbation(linear_model):
    model = linear_model({"x": (1, 12)}, 2, seed=2)
    batch, slope = alike(model, (1, 12), 40)
    threat = ThreatModel.model_validate({"x": {"eps": 0.3}})
    attack = prepared(model, batch, {"x": {"eps": 0.3}}, bounds={})
    media = {"x": MediaSpec(kind="x", shape=(1, 12))}
    victim = Victim(model, media=media, task="single-label")
    found = attack_batch(victim, batch, AttackRun("universal", attack, threat, factors=(0.5, 1.0, 2.0)))
    needed = (victim.bind(batch, threat).goal.distance(model(batch.inputs)) / (0.3 * slope.abs().sum())).double()
    assert all(((needed > low) & (needed < low * 2)).sum() > 2 for low in (0.5, 1.0))
    wanted = torch.full_like(needed, torch.inf)
    for factor in (2.0, 1.0, 0.5):
        wanted[needed < factor * 0.999] = factor
    clear = ((needed.unsqueeze(1) / torch.tensor([0.5, 1.0, 2.0])) - 1).abs().amin(dim=1) > 0.01
    assert torch.equal(found.factor[clear], wanted[clear])


def test_more_epochs_do_more_damage(av_model, av_batch):
    threat = {"audio": {"eps": 0.3}, "video": {"eps": 0.1}}
    av_model.eval()
    batch = Batch(av_batch.inputs, av_model(av_batch.inputs).argmax(dim=1), av_batch.ids)
    loss = []
    for epochs in (1, 20):
        attack = prepared(av_model, batch, threat, config={"epochs": epochs})
        bound = bound_to(av_model, batch, threat)
        x = {name: bound.clean[name] + delta for name, delta in attack.delta.items()}
        loss.append(bound.loss(bound.confirm(bound.region.project(x))).mean())
    assert loss[1] > loss[0] + 0.1


def test_clips_of_different_shapes_are_refused(linear_model):
    model = linear_model({"x": (1, 12)}, 2, seed=2)
    batch, _ = alike(model, (1, 12), 4)
    attack = prepared(model, batch, {"x": {"eps": 0.3}}, bounds={})
    other = linear_model({"x": (1, 9)}, 2, seed=2)
    short = Batch({"x": torch.zeros(2, 1, 9)}, torch.zeros(2, dtype=torch.int64), ("a", "b"))
    with pytest.raises(AvrobustError, match=r"\(1, 12\) and \(1, 9\)"):
        attack(bound_to(other, short, {"x": {"eps": 0.3}}, bounds={}))
    fresh = Universal(UniversalConfig())
    with pytest.raises(AvrobustError, match=r"\(1, 12\) and \(1, 9\)"):
        fresh.prepare(
            lambda: iter([bound_to(m, b, {"x": {"eps": 0.3}}, bounds={}) for m, b in ((model, batch), (other, short))])
        )


def test_padding_has_no_say_and_is_left_alone_where_it_is_applied(linear_model):
    model = linear_model({"x": (1, 12)}, 2, seed=2)
    batch, slope = alike(model, (1, 12), 4)
    padded = replace(batch, padded=({"x": 1.0}, {}, {"x": 0.5}, {}))
    options = {"bounds": {}, "time_axis": 1}
    with_it = prepared(model, padded, {"x": {"norm": "l2", "eps": 0.3}}, config={"epochs": 3}, **options)
    without = prepared(
        model,
        padded.select(torch.tensor([1, 2, 3])),
        {"x": {"norm": "l2", "eps": 0.3}},
        config={"epochs": 3},
        **options,
    )
    torch.testing.assert_close(with_it.delta["x"], without.delta["x"])
    assert (with_it.delta["x"] * slope.view(1, 1, -1) > 0).all(), "the first clip's padding does not bind the others"
    bound, result, _ = applied(with_it, model, padded, {"x": {"norm": "l2", "eps": 0.3}}, **options)
    last = result.last["x"] if result.last is not None else result.inputs["x"]
    assert not bound.balls["x"].overruns(last).any()


def test_what_cannot_work_is_refused(linear_model):
    model = linear_model({"x": (1, 12)}, 2, seed=2)
    batch, _ = alike(model, (1, 12), 4)
    attack = Universal(UniversalConfig(split="train", batch_size=7))
    assert (attack.preparation.split, attack.preparation.batch_size) == ("train", 7)
    with pytest.raises(AvrobustError, match="must be prepared"):
        attack(bound_to(model, batch, {"x": {"eps": 0.3}}, bounds={}))
    with pytest.raises(AvrobustError, match="no clip"):
        attack.prepare(lambda: iter([]))
    with pytest.raises(ValidationError, match="wide"):
        UniversalConfig(step_size=3)
    model.after = lambda logits: logits.detach()
    with pytest.raises(AvrobustError, match="no gradient reaches x"):
        prepared(model, batch, {"x": {"eps": 0.3}}, bounds={})
    model.after = lambda logits: logits * torch.where(torch.arange(len(logits)) == 2, torch.nan, 1.0).unsqueeze(1)
    with pytest.raises(AvrobustError, match="not finite for c2"):
        prepared(model, batch, {"x": {"eps": 0.3}}, bounds={})
