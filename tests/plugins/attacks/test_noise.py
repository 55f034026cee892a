"""Noise: it fills the region, stays in it, and is each clip's own."""

import pytest
import torch
from avrobust_attacks.blackbox.configs import NoiseConfig
from avrobust_attacks.blackbox.noise import noise as build_noise

from avrobust_core import AvrobustError, Batch

KINDS = ["uniform", "gaussian"]
BOUNDS = {"audio": (-1.0, 1.0), "video": (0.0, 1.0)}
THREATS = {
    "linf": {"audio": {"eps": 0.1}, "video": {"eps": 0.05}},
    "l2": {"audio": {"norm": "l2", "eps": 0.4}, "video": {"norm": "l2", "eps": 1.0}},
    "l1": {"audio": {"norm": "l1", "eps": 1.0}, "video": {"norm": "l1", "eps": 5.0}},
    "shared": {"kind": "shared", "audio": {"norm": "l2", "eps": 0.4}, "video": {"norm": "l2", "eps": 1.0}},
    "snr": {"audio": {"norm": "l2", "eps": {"snr_db": 20}}},
    "frames": {"video": {"norm": "l2", "eps": 1.0, "frames": [[1, 3]]}},
    "time-invariant": {"video": {"eps": 0.05, "time_invariant": True}},
}


def noise(**fields):
    return build_noise(NoiseConfig(**fields))


def seen(model, batch):
    """The batch labelled as the model sees it, but for the first two clips."""
    model.eval()
    targets = model(batch.inputs).argmax(dim=1)
    targets[:2] = (targets[:2] + 1) % 3
    return Batch(batch.inputs, targets, batch.ids)


@pytest.fixture
def decided(av_model, av_batch):
    return seen(av_model, av_batch)


@pytest.mark.parametrize("threat", THREATS.values(), ids=THREATS)
@pytest.mark.parametrize("kind", KINDS)
def test_noise_stays_inside_and_comes_near_the_edge(run_attack, av_model, decided, kind, threat):
    found = run_attack(noise(kind=kind, draws=2), av_model, decided, threat, bounds=BOUNDS, time_axis=1)
    failed = ~found.result.success
    assert failed.any()
    size = found.bound.region.size(found.result.last)[failed]
    # The best of two draws: the clean clip is never kept instead of both by all clips.
    assert size.max() > 0.9
    assert (size <= 1 + 1e-6).all()


@pytest.mark.parametrize("shape", [(7,), (2, 9), (4, 3, 5), (3, 2, 4, 4)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_noise_fills_balls_of_any_rank(run_attack, linear_model, kind, norm, shape):
    model = linear_model({"x": shape}, 3, seed=1)
    batch = Batch({"x": torch.zeros(20, *shape)}, torch.full((20,), 1), tuple(f"c{i}" for i in range(20)))
    model.bias.data = torch.tensor([0.0, 100.0, 0.0])
    found = run_attack(noise(kind=kind, draws=3), model, batch, {"x": {"norm": norm, "eps": 0.5}})
    size = found.bound.region.size(found.result.last)
    assert 0.5 < size.median() <= 1 + 1e-6
    if kind == "gaussian" and norm != "linf":
        torch.testing.assert_close(size[size > 0], torch.ones_like(size[size > 0]), rtol=1e-4, atol=0)


def test_gaussian_noise_in_linf_has_the_radius_as_its_root_mean_square_before_it_is_cut(run_attack, linear_model):
    model = linear_model({"x": (1, 5000)}, 2, seed=1)
    model.bias.data = torch.tensor([1e3, 0.0])
    batch = Batch({"x": torch.zeros(4, 1, 5000)}, torch.zeros(4, dtype=torch.int64), tuple("abcd"))
    found = run_attack(noise(kind="gaussian", draws=8), model, batch, {"x": {"eps": 0.5}})
    moved = found.result.last["x"].abs().flatten(1)
    moved = moved[moved.amax(dim=1) > 0]
    assert len(moved)
    cut = (moved > 0.5 - 1e-6).double().mean(dim=1)
    assert (cut - 0.317).abs().max() < 0.03


def test_l0_noise_changes_as_many_samples_as_it_may(run_attack, linear_model):
    model = linear_model({"x": (1, 30)}, 2, seed=1)
    model.bias.data = torch.tensor([1e3, 0.0])
    batch = Batch({"x": torch.zeros(6, 1, 30)}, torch.zeros(6, dtype=torch.int64), tuple("abcdef"))
    found = run_attack(noise(draws=4), model, batch, {"x": {"norm": "l0", "eps": 5}}, bounds={"x": (-1.0, 1.0)})
    assert (found.result.last["x"] != 0).sum(dim=(1, 2)).max() == 5
    assert "l0" not in noise(kind="gaussian").norms


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_depends_neither_on_its_batch_mates_nor_on_the_order(run_attack, av_model, decided, kind):
    attack = noise(kind=kind, draws=20)
    whole = run_attack(attack, av_model, decided, THREATS["l2"], bounds=BOUNDS)
    order = torch.tensor([7, 2, 11, 0, 5])
    part = run_attack(attack, av_model, decided.select(order), THREATS["l2"], bounds=BOUNDS)
    assert torch.equal(part.result.success, whole.result.success[order])
    assert torch.equal(part.bound.queries, whole.bound.queries[order])
    for name, x in part.result.last.items():
        torch.testing.assert_close(x, whole.result.last[name][order])


@pytest.mark.parametrize("kind", KINDS)
def test_more_draws_only_add_successes_and_cost_survivors_alone(run_attack, av_model, decided, kind):
    threat = {"audio": {"norm": "l2", "eps": 0.8}, "video": {"norm": "l2", "eps": 1.6}}
    few, many = (run_attack(noise(kind=kind, draws=n), av_model, decided, threat, bounds=BOUNDS) for n in (3, 60))
    assert (few.result.success <= many.result.success).all()
    assert 2 < few.result.success.sum() < many.result.success.sum() < len(decided)
    assert many.bound.queries[:2].tolist() == [1, 1]
    assert (many.bound.queries[~many.result.success] == 61).all()
    assert (many.bound.queries[many.result.success] < 61).any()
    for name, x in many.result.inputs.items():
        assert torch.equal(x[~many.result.success], decided.inputs[name][~many.result.success])
        assert torch.equal(x[:2], decided.inputs[name][:2])


def test_draws_and_clips_differ(run_attack, linear_model):
    seen_inputs = []
    model = linear_model({"x": (1, 8)}, 2, seed=1)
    model.bias.data = torch.tensor([1e3, 0.0])
    model.register_forward_pre_hook(lambda module, args: seen_inputs.append(args[0]["x"].clone()))
    batch = Batch({"x": torch.zeros(3, 1, 8)}, torch.zeros(3, dtype=torch.int64), tuple("abc"))
    run_attack(noise(draws=4), model, batch, {"x": {"eps": 0.5}})
    drawn = torch.cat(seen_inputs[1:5]).flatten(1)
    assert len(drawn) == 12
    assert (torch.cdist(drawn, drawn) + torch.eye(12)).min() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_with_several_labels_the_highest_loss_of_all_draws_is_kept(run_attack, av_model, av_batch, kind):
    av_model.eval()
    targets = torch.eye(3)[torch.arange(12) % 3]
    batch = Batch(av_batch.inputs, targets, av_batch.ids)
    found = run_attack(noise(kind=kind, draws=5), av_model, batch, THREATS["linf"], bounds=BOUNDS, task="multi-label")
    assert (found.bound.queries == 6).all()
    clean = found.bound.goal.distance(av_model(av_batch.inputs))
    reached = found.bound.goal.distance(found.verdict.logits)
    assert (reached <= clean + 1e-4).all()
    assert (reached < clean - 1e-3).any()
    assert torch.equal(found.result.success, found.verdict.success)


def test_a_loss_that_is_not_finite_names_the_clip(run_attack, linear_model):
    model = linear_model({"x": (1, 8)}, 2, seed=1)
    model.after = lambda logits: logits / (logits[:, :1] < 5e5)
    model.bias.data = torch.tensor([1e5, 0.0])
    batch = Batch({"x": torch.zeros(3, 1, 8)}, torch.zeros(3, dtype=torch.int64), tuple("abc"))
    batch.inputs["x"][1] = 1e6 * model.weights["x"][0].detach().view(1, 8)
    with pytest.raises(AvrobustError, match="not finite for b:"):
        run_attack(noise(draws=4), model, batch, {"x": {"eps": 0.5}})
