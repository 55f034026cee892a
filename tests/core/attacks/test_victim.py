"""The victim: frozen and restored, untouched modalities encoded once, queries counted, selections cheap."""

import pytest
import torch
from torch import nn

from avrobust_core import (
    AVModel,
    AvrobustWarning,
    Batch,
    DataError,
    Encoded,
    EncodedDims,
    Encoder,
    Fusion,
    Goal,
    MediaSpec,
    ThreatModel,
    Victim,
)
from avrobust_core.models.compiling import CompiledEncoders

SHAPES = {"audio": (1, 8), "depth": (2, 3), "video": (3, 2, 4, 4)}
MEDIA = {name: MediaSpec(kind=name, shape=shape, bounds=(0.0, 1.0)) for name, shape in SHAPES.items()}


class Counting(Encoder):
    def __init__(self, size):
        super().__init__()
        self.dims = EncodedDims(token=4, embed=4)
        self.frontend = nn.Identity()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(size, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Tanh())
        self.calls = 0

    def encode(self, features):
        self.calls += 1
        pooled = self.layers(features)
        return Encoded(tokens=pooled.unsqueeze(1), pooled=pooled)


class Concat(Fusion):
    dim = 12

    def forward(self, encoded):
        return torch.cat([encoded[name].pooled for name in sorted(encoded)], dim=1)


class Plain(nn.Module):
    """Any module from a dict of modalities to logits."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8 + 6 + 96, 3)

    def forward(self, inputs):
        return self.layer(torch.cat([inputs[name].flatten(1) for name in sorted(inputs)], dim=1))


def make_batch(n=6):
    generator = torch.Generator().manual_seed(0)
    return Batch(
        inputs={name: torch.rand(n, *shape, generator=generator) for name, shape in SHAPES.items()},
        targets=torch.arange(n) % 3,
        ids=tuple(f"clip-{i}" for i in range(n)),
    )


@pytest.fixture
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AVModel({m: Counting(torch.Size(s).numel()) for m, s in SHAPES.items()}, Concat(), 3)


@pytest.fixture
def plain():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Plain()


def victim_of(model, task="single-label"):
    return Victim(model, media=MEDIA, task=task, seed=4)


def threat(*names, eps=0.1):
    return ThreatModel.model_validate({name: {"eps": eps} for name in names})


def state_of(model):
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
    )


def same(one, other):
    return (
        all(torch.equal(value, other[0][name]) for name, value in one[0].items())
        and one[1] == other[1]
        and one[2] == other[2]
    )


@pytest.mark.parametrize("fails", [False, True])
def test_frozen_restores_every_flag_and_changes_no_buffer(model, fails):
    model.train()
    model.encoders["depth"].eval()
    model.head.weight.requires_grad_(False)
    before = state_of(model)
    try:
        with victim_of(model).frozen():
            assert not any(module.training for module in model.modules())
            assert not any(parameter.requires_grad for parameter in model.parameters())
            model(make_batch().inputs)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert same(before, state_of(model))


def test_a_modality_that_is_not_attacked_is_encoded_once(model):
    batch, victim = make_batch(), victim_of(model)
    with victim.frozen():
        bound = victim.bind(batch, threat("audio"))
        for _ in range(4):
            bound({"audio": batch.inputs["audio"]})
        bound.select(torch.tensor([0, 2]))({"audio": batch.inputs["audio"][[0, 2]]})
    assert {name: encoder.calls for name, encoder in model.encoders.items()} == {"audio": 5, "depth": 1, "video": 1}


@pytest.mark.parametrize("kind", ["model", "plain"])
@pytest.mark.parametrize("names", [("audio",), ("depth", "video"), ("audio", "depth", "video")])
def test_bound_logits_are_those_of_the_whole_model(request, kind, names):
    model = request.getfixturevalue(kind)
    batch, victim = make_batch(), victim_of(model)
    changed = {name: 1 - batch.inputs[name] for name in names}
    with victim.frozen(), torch.no_grad():
        bound = victim.bind(batch, threat(*names))
        whole = victim.logits({**batch.inputs, **changed})
        torch.testing.assert_close(bound(changed), whole)
        index = torch.tensor([5, 0, 3])
        part = bound.select(index)
        torch.testing.assert_close(part({m: x[index] for m, x in changed.items()}), whole[index])
    assert part.ids == ("clip-5", "clip-0", "clip-3")
    assert torch.equal(part.goal.labels, batch.targets[index])
    assert len(part) == 3


def test_bound_logits_have_a_gradient_in_the_perturbed_modalities_alone(model):
    batch, victim = make_batch(), victim_of(model)
    with victim.frozen():
        bound = victim.bind(batch, threat("audio"))
        x = batch.inputs["audio"].clone().requires_grad_()
        loss = bound.loss(bound({"audio": x}))
        assert loss.shape == (6,)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert (gradient != 0).any()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_queries_are_counted_per_clip_through_selections(plain):
    batch, victim = make_batch(4), victim_of(plain)
    bound = victim.bind(batch, threat("audio"))
    bound(bound.clean)
    part = bound.select(torch.tensor([3, 1]))
    part(part.clean)
    last = part.select(torch.tensor([0]))
    last(last.clean)
    last(last.clean)
    assert bound.queries.tolist() == [1, 2, 1, 4]
    assert torch.equal(last.queries, bound.queries)


def test_clean_is_what_is_attacked_and_nothing_else(plain):
    batch = make_batch()
    bound = victim_of(plain).bind(batch, threat("video", "audio"))
    assert set(bound.clean) == {"audio", "video"}
    assert torch.equal(bound.clean["video"], batch.inputs["video"])


def test_random_numbers_belong_to_the_clips(plain):
    bound = victim_of(plain).bind(make_batch(), threat("audio"))
    whole = bound.draws("start").uniform(2).tolist()
    assert bound.select(torch.tensor([4])).draws("start").uniform(2).tolist() == whole[4:5]
    assert len({tuple(x) for x in whole}) == 6
    assert bound.draws("other").uniform(2).tolist() != whole


def test_fooled_is_not_correct(plain):
    batch = make_batch(3)
    bound = victim_of(plain).bind(batch, threat("audio"))
    logits = torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    assert bound.fooled(logits).tolist() == [False, True, True]  # a tie is fooled
    several = Batch(batch.inputs, torch.tensor([[1.0, 1, 0], [0, 0, 1], [0, 0, 1]]), batch.ids)
    bound = victim_of(plain, "multi-label").bind(several, threat("audio"))
    assert bound.task == "multi-label"
    assert bound.fooled(logits).tolist() == [False, True, True]


def test_an_attacked_modality_that_is_absent_is_an_error(plain):
    with pytest.raises(DataError, match=r"attacks 'smell'.*audio, depth, video"):
        victim_of(plain).bind(make_batch(), threat("smell"))


@pytest.mark.parametrize("value", [1.001, -0.001])
def test_clean_clips_outside_their_bounds_are_named(plain, value):
    batch = make_batch()
    batch.inputs["audio"][2, 0, 3] = value
    with pytest.raises(DataError, match=r"audio: clean clips outside the bounds \[0.0, 1.0\]: clip-2;"):
        victim_of(plain).bind(batch, threat("audio"))
    victim_of(plain).bind(batch, threat("video"))  # it is not attacked: no bounds to keep
    batch.inputs["video"][5, 0, 0, 0, 0] = float("nan")
    with pytest.raises(DataError, match=r"attacks video, but its values are NaN or infinite: clip-5;"):
        victim_of(plain).bind(batch, threat("video"))


def times(name):
    return {"audio": 1, "depth": None, "video": 1}[name]


TIMED = {
    name: MediaSpec(kind=name, shape=shape, bounds=(0.0, 1.0), time_axis=times(name)) for name, shape in SHAPES.items()
}

THREATS = [
    {"audio": {"eps": 0.1}, "video": {"norm": "l2", "eps": {"snr_db": 20}}},
    {"audio": {"norm": "l1", "eps": 1.5}, "depth": {"norm": "l0", "eps": 4}},
    {"kind": "shared", "audio": {"norm": "l2", "eps": 0.5}, "video": {"norm": "l2", "eps": {"snr_db": 10}}},
    {"audio": {"eps": 0.1, "frames": [[0, 3]]}, "video": {"norm": "l2", "eps": 1, "time_invariant": True}},
    {"audio": {"norm": "l0", "eps": 4, "per": "frame", "bounds": [-1, 2]}},
    {"audio": {"eps": 0.1, "space": "features"}, "video": {"eps": 0.2}},
]


@pytest.mark.parametrize("factor", [0.5, 2.0])
@pytest.mark.parametrize("written", THREATS)
def test_a_scaled_binding_is_a_binding_to_the_scaled_threat(model, written, factor):
    batch = make_batch()
    whole = ThreatModel.model_validate(written)
    victim = Victim(model, media=TIMED, task="single-label", seed=4)
    with victim.frozen(), torch.no_grad():
        first = victim.bind(batch, whole, Goal("random"))
        scaled, fresh = first.scaled(factor), victim.bind(batch, whole.scaled(factor), Goal("random"))
        assert (scaled.factor, fresh.factor) == (factor, 1)
        assert scaled.scaled(3).factor == 3 * factor
        assert scaled.region.norms == fresh.region.norms == {budget.norm for _, budget in whole.items()}
        assert scaled.features == fresh.features
        assert torch.equal(scaled.goal.labels, fresh.goal.labels)
        x = {
            name: clean + torch.linspace(-1, 1, clean[0].numel()).view_as(clean[0])
            for name, clean in fresh.clean.items()
        }
        for name, ball in fresh.balls.items():
            torch.testing.assert_close(scaled.balls[name].radius, ball.radius)
            assert scaled.balls[name].bounds == ball.bounds
            assert torch.equal(scaled.clean[name], ball.center)
            torch.testing.assert_close(scaled.region.project(x)[name], fresh.region.project(x)[name])
            torch.testing.assert_close(scaled.region.step(x, x, 0.3)[name], fresh.region.step(x, x, 0.3)[name])
        torch.testing.assert_close(scaled.region.size(x), fresh.region.size(x))
        torch.testing.assert_close(scaled(x), fresh(x))
        torch.testing.assert_close(first.region.size(x), factor * scaled.region.size(x))


def test_a_scaled_binding_counts_its_queries_with_the_first_and_starts_where_it_is_told(plain):
    bound = victim_of(plain).bind(make_batch(4), threat("audio"))
    start = {"audio": bound.clean["audio"] + 0.01}
    scaled = bound.scaled(2, start=start)
    scaled(scaled.clean)
    part = scaled.select(torch.tensor([2]))
    part(part.clean)
    assert bound.queries.tolist() == [1, 1, 2, 1]
    assert bound.start is None
    assert torch.equal(part.start["audio"], start["audio"][2:3])


def test_the_goal_is_chosen_by_the_clean_logits(plain):
    batch, victim = make_batch(), victim_of(plain)
    with torch.no_grad():
        logits = victim.logits(batch.inputs)
    bound = victim.bind(batch, threat("audio"), Goal("least-likely"))
    others = logits.masked_fill(torch.nn.functional.one_hot(batch.targets, 3).bool(), torch.inf)
    assert bound.goal.targeted
    assert torch.equal(bound.goal.labels, others.argmin(dim=1))
    assert bound.queries.tolist() == [0] * 6
    part = bound.select(torch.tensor([4, 1]))
    assert torch.equal(part.goal.labels, bound.goal.labels[[4, 1]])


def test_features_can_be_attacked_where_there_are_some(model, plain):
    features = ThreatModel.model_validate({"audio": {"eps": 0.1, "space": "features"}})
    with pytest.raises(DataError, match=r"Plain is not an avrobust_core\.AVModel"):
        victim_of(plain).bind(make_batch(), features)
    bound = victim_of(model).bind(make_batch(), features)
    assert bound.features == {"audio"}
    assert bound.balls["audio"].bounds is None


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_compiled_encoders_make_the_attacks_own_passes_until_memory_is_spared(model, monkeypatch, precision):
    asked = []

    def compile_(forward):
        def form(x):
            asked.append(forward.__self__)
            return forward(x)

        return form

    monkeypatch.setattr(torch, "compile", compile_)
    compiled = CompiledEncoders(model, ["audio", "video"])
    victim = Victim(model, media=MEDIA, task="single-label", precision=precision, compiled=compiled)
    encoders = [model.encoders["audio"], model.encoders["video"]]
    with victim.frozen():
        victim.clean_logits(make_batch())
        bound = victim.bind(make_batch(), threat("audio", "video", "depth"))
        assert not asked
        bound(bound.clean)
        assert asked == encoders
        bound.confirm(bound.clean)
        assert asked == encoders
        with pytest.warns(AvrobustWarning):
            victim.spare()
        bound(bound.clean)
    assert asked == encoders
