"""Square: a search without gradients over clips of any rank: each clip by itself, inside the region, near the best."""

from dataclasses import replace

import pytest
import torch
from avrobust_attacks.blackbox import square
from avrobust_attacks.blackbox.blocks import Grid
from avrobust_attacks.blackbox.configs import NoiseConfig, SquareConfig
from avrobust_attacks.blackbox.noise import noise as build_noise
from avrobust_attacks.blackbox.proposals import L2Proposals, Others
from avrobust_attacks.blackbox.square import Square
from avrobust_attacks.gradient.configs import PgdConfig
from avrobust_attacks.gradient.pgd import pgd
from avrobust_attacks.keepers import BestPoint, Keeper
from avrobust_attacks.losses import LOSSES
from torch import nn

from avrobust_core import AvrobustError, Batch, Budget, Goal, MediaSpec, ThreatModel, Victim, make_ball

BOUNDS = {"audio": (-1.0, 1.0), "video": (0.0, 1.0)}
THREATS = {
    "linf": {"audio": {"eps": 0.1}, "video": {"eps": 0.02}},
    "l2": {"audio": {"norm": "l2", "eps": 0.3}, "video": {"norm": "l2", "eps": 0.4}},
    "mixed": {"audio": {"eps": 0.1}, "video": {"norm": "l2", "eps": 0.4}},
    "shared": {"kind": "shared", "audio": {"norm": "l2", "eps": 0.4}, "video": {"norm": "l2", "eps": 0.5}},
    "snr": {"audio": {"norm": "l2", "eps": {"snr_db": 18}}},
    "linf-frames": {"video": {"eps": 0.15, "frames": [[1, 3]]}},
    "l2-frames": {"video": {"norm": "l2", "eps": 1.2, "frames": [[0, 1], [2, 4]]}},
    "linf-time-invariant": {"video": {"eps": 0.15, "time_invariant": True}},
    "l2-time-invariant": {"video": {"norm": "l2", "eps": 1.2, "time_invariant": True, "frames": [[1, 3]]}},
}
every_threat = pytest.mark.parametrize("threat", THREATS.values(), ids=THREATS)


def make(**fields):
    return Square(SquareConfig(**{"queries": 60, **fields}))


def seen(model, batch):
    """The batch labelled as the model sees it, but for the first two clips."""
    model.eval()
    targets = model(batch.inputs).argmax(dim=1)
    targets[:2] = (targets[:2] + 1) % 3
    return Batch(batch.inputs, targets, batch.ids)


@pytest.fixture
def decided(av_model, av_batch):
    return seen(av_model, av_batch)


def problem(linear_model, shapes, clips=40, seed=0, low=0.1, high=0.9):
    """A linear model of three classes and clips that it classifies correctly."""
    model = linear_model(shapes, 3, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    inputs = {
        name: low + (high - low) * torch.rand(clips, *shape, generator=generator) for name, shape in shapes.items()
    }
    return model, Batch(inputs, model(inputs).argmax(dim=1), tuple(f"c{i}" for i in range(clips)))


def ball_of(shape, budget, time_axis=None, clips=3):
    media = {"x": MediaSpec(kind="x", shape=shape, time_axis=time_axis)}
    victim = Victim(nn.Identity(), media=media, task="single-label")
    batch = Batch({"x": torch.zeros(clips, *shape)}, torch.zeros(clips, dtype=torch.int64), tuple("abcdefgh"[:clips]))
    return victim.bind(batch, ThreatModel.model_validate({"x": budget})).balls["x"]


# Strength
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", [(6,), (1, 6), (3, 2, 2), (2, 2, 1, 3), (5, 4)])
def test_on_a_linear_model_it_comes_near_the_closed_form(run_attack, linear_model, norm, shape):
    model, batch = problem(linear_model, {"x": shape})
    threat = ThreatModel.model_validate({"x": {"norm": norm, "eps": 0.08 if norm == "linf" else 0.25}})
    best = model.smallest_margin(batch, threat, (0.0, 1.0)) <= 0
    attack = make(queries=800)
    found = run_attack(attack, model, batch, threat, bounds={"x": (0.0, 1.0)}).result.success
    assert 5 < best.sum() < 35
    assert (found <= best).all()
    assert (found != best).sum() <= (1 if norm == "linf" else 5)  # of 40; over seeds, 2 to 4 in l2


def test_a_shared_ball_is_split_as_the_model_deserves_it(run_attack, linear_model):
    """Only the audio matters much: the search must move the whole radius there from the even split it starts with."""
    model, batch = problem(linear_model, {"audio": (1, 8), "video": (3, 2, 2)})
    model.weights["video"].data *= 0.05
    batch = Batch(batch.inputs, model(batch.inputs).argmax(dim=1), batch.ids)
    threat = {"kind": "shared", "audio": {"norm": "l2", "eps": 0.5}, "video": {"norm": "l2", "eps": 0.5}}
    model.bias.data += 100 * torch.eye(3)[0]
    batch.targets[:] = 0
    found = run_attack(make(queries=600), model, batch, threat)
    shares = found.bound.region.balls["audio"].measure(found.result.last["audio"]) / 0.5
    assert shares.median() > 0.98


@every_threat
def test_it_stays_inside_and_beats_noise_at_equal_queries(run_attack, av_model, decided, threat):
    options = {"bounds": BOUNDS, "time_axis": 1}
    square_ = run_attack(make(queries=200), av_model, decided, threat, **options)
    noise = run_attack(build_noise(NoiseConfig(draws=199)), av_model, decided, threat, **options)
    assert square_.result.success.sum() > max(2, noise.result.success.sum() - 1)
    left = ~square_.result.success & ~noise.result.success
    losses = [-found.bound.goal.distance(found.bound.confirm(found.result.last)) for found in (square_, noise)]
    assert (losses[0] >= losses[1])[left].double().mean() >= 0.75
    size = square_.bound.region.size(square_.result.last)
    assert (size <= 1 + 1e-6).all()


def test_it_needs_no_gradient(run_attack, linear_model):
    model, batch = problem(linear_model, {"x": (1, 6)})
    model.after = lambda logits: (logits.detach() * 20).round()
    assert run_attack(make(queries=300), model, batch, {"x": {"eps": 0.2}}).result.success.sum() > 10


# Each clip by itself
@every_threat
def test_a_clip_depends_neither_on_its_batch_mates_nor_on_the_order(run_attack, av_model, decided, threat):
    options = {"bounds": BOUNDS, "time_axis": 1}
    whole = run_attack(make(), av_model, decided, threat, **options)
    for order in ([7, 2, 11, 0, 5], [4]):
        part = run_attack(make(), av_model, decided.select(torch.tensor(order)), threat, **options)
        assert torch.equal(part.result.success, whole.result.success[order])
        assert torch.equal(part.bound.queries, whole.bound.queries[order])
        for name, x in part.result.last.items():
            torch.testing.assert_close(x, whole.result.last[name][order], rtol=1e-4, atol=1e-5)


def test_going_by_flags_of_the_step_before_changes_no_result(run_attack, av_model, decided, monkeypatch):
    at_once = run_attack(make(restarts=2), av_model, decided, THREATS["mixed"], bounds=BOUNDS)
    monkeypatch.setattr(Keeper, "lags", True)
    later = run_attack(make(restarts=2), av_model, decided, THREATS["mixed"], bounds=BOUNDS)
    assert torch.equal(at_once.result.success, later.result.success)
    for name, x in at_once.result.last.items():
        torch.testing.assert_close(x, later.result.last[name], rtol=1e-4, atol=1e-5)


def test_numbers_are_drawn_in_pieces_without_repeating_them(run_attack, linear_model, monkeypatch):
    model, batch = problem(linear_model, {"x": (1, 400)}, clips=2)
    model.bias.data += 1e4 * torch.eye(3)[batch.targets[0]]
    batch.targets[:] = batch.targets[0]
    monkeypatch.setattr(square, "DRAWN_AT_ONCE", 10)
    shown = []
    model.register_forward_pre_hook(lambda module, args: shown.append(args[0]["x"].clone()))
    run_attack(make(queries=42, p_init=0.5), model, batch, {"x": {"eps": 0.1}})
    shown = torch.stack(shown[1:42])
    for clip in range(2):
        assert len(shown[:, clip].flatten(1).unique(dim=0)) == 41
    assert not torch.equal(shown[:, 0], shown[:, 1])


def test_seeds_give_other_searches(run_attack, av_model, decided):
    one, again, other = (
        run_attack(make(), av_model, decided, THREATS["l2"], bounds=BOUNDS, seed=seed).result.last for seed in (0, 0, 1)
    )
    assert torch.equal(one["audio"], again["audio"])
    assert not torch.equal(one["audio"], other["audio"])


def test_nothing_global_is_changed(run_attack, av_model, decided):
    before = torch.get_rng_state()
    av_model.train()
    run_attack(make(), av_model, decided, THREATS["l2"], bounds=BOUNDS)
    assert torch.equal(torch.get_rng_state(), before)
    assert av_model.training
    assert torch.is_grad_enabled()


# What it costs, and what it returns
def test_queries_are_counted_and_never_exceeded(run_attack, av_model, decided):
    found = run_attack(make(queries=40, restarts=2), av_model, decided, THREATS["linf"], bounds=BOUNDS)
    success = found.result.success
    assert 2 < success.sum() < len(decided)
    assert found.bound.queries[:2].tolist() == [1, 1]
    assert (found.bound.queries[~success] == 80).all()
    assert (found.bound.queries[success][2:] < 80).all()
    assert torch.equal(success, found.verdict.success)
    for name, x in found.result.inputs.items():
        assert torch.equal(x[~success], decided.inputs[name][~success])
        assert torch.equal(x[:2], decided.inputs[name][:2])


def test_restarts_only_add_successes(run_attack, av_model, decided):
    one, many = (
        run_attack(make(queries=12, restarts=r), av_model, decided, THREATS["linf"], bounds=BOUNDS) for r in (1, 12)
    )
    assert (one.result.success <= many.result.success).all()
    assert one.result.success.sum() < many.result.success.sum()
    left = ~many.result.success
    loss = [-found.bound.goal.distance(found.bound.confirm(found.result.last)) for found in (one, many)]
    assert (loss[1] >= loss[0] - 1e-6)[left].all()


def test_it_begins_where_an_attack_under_a_smaller_budget_ended(run_attack, linear_model):
    model, batch = problem(linear_model, {"x": (1, 200)})
    threat = ThreatModel.model_validate({"x": {"eps": 0.02}})
    own = model.weights["x"][batch.targets]
    other = model.weights["x"][model(batch.inputs).topk(2).indices[:, 1]]
    towards = (other - own).detach().sign().view(-1, 1, 200)
    cold = run_attack(make(queries=4), model, batch, threat).result
    inside = {"x": batch.inputs["x"] + 0.004 * towards}
    warm = run_attack(make(queries=4), model, batch, threat, start=inside).result
    best = model.smallest_margin(batch, threat, None) <= 0
    assert cold.success.sum() < best.sum() / 2
    assert (warm.success == best).double().mean() > 0.9  # stretched to the edge it is the best there is


def test_a_start_that_is_worse_than_a_random_one_is_left(run_attack, linear_model):
    model, batch = problem(linear_model, {"x": (1, 6)})
    own = model.weights["x"][batch.targets].detach().sign().view(-1, 1, 6)
    start = {"x": batch.inputs["x"] + 0.05 * own}
    threat = {"x": {"eps": 0.1}}
    cold, warm = (run_attack(make(queries=500), model, batch, threat, start=s).result.success for s in (None, start))
    assert cold.sum() > 10
    assert (cold != warm).sum() <= 1


def test_with_several_labels_all_clips_are_searched_to_the_end(run_attack, av_model, av_batch):
    av_model.eval()
    batch = Batch(av_batch.inputs, torch.eye(3)[torch.arange(12) % 3], av_batch.ids)
    options = {"bounds": BOUNDS, "task": "multi-label"}
    clean = av_model(av_batch.inputs)
    distances = []
    for restarts in (1, 3):
        found = run_attack(make(queries=30, restarts=restarts), av_model, batch, THREATS["linf"], **options)
        assert (found.bound.queries == 30 * restarts).all()
        assert torch.equal(found.result.success, found.verdict.success)
        distances.append(found.bound.goal.distance(found.verdict.logits))
    assert (distances[0] <= found.bound.goal.distance(clean) + 1e-5).all()
    assert (distances[1] <= distances[0] + 1e-5).all()
    assert (distances[1] < distances[0]).any()


@pytest.mark.parametrize("loss", ["margin", "ce", "rank"])
def test_a_class_can_be_aimed_at(run_attack, linear_model, loss):
    model, batch = problem(linear_model, {"x": (1, 6)})
    found = run_attack(make(queries=400, loss=loss), model, batch, {"x": {"eps": 0.3}}, goal=Goal("class", 1))
    wanted = model(found.result.inputs).argmax(dim=1) == 1
    assert torch.equal(wanted, found.result.success)
    assert (wanted & (batch.targets != 1)).sum() > 8


class Optimist(nn.Module):
    """Two classes; in low precision the second is found nearer than it is."""

    def forward(self, inputs):
        odds = inputs["audio"].flatten() - (0.1 if torch.is_autocast_enabled("cpu") else 0.3)
        return torch.stack([torch.zeros_like(odds), odds], dim=1)


@pytest.mark.parametrize("task", ["single-label", "multi-label"])
def test_what_bfloat16_finds_is_confirmed(run_attack, task):
    targets = torch.zeros(2, dtype=torch.int64)
    batch = Batch(
        {"audio": torch.tensor([0.0, 0.1]).view(2, 1, 1)},
        targets if task == "single-label" else torch.eye(2)[targets],
        ("a", "b"),
    )
    options = {"precision": "bf16-mixed", "task": task}
    found = run_attack(make(queries=10), Optimist(), batch, {"audio": {"eps": 0.25}}, **options)
    assert found.result.success.tolist() == [False, True]


def test_a_radius_of_zero_returns_the_clean_clips(run_attack, av_model, decided):
    for norm in ("linf", "l2"):
        threat = {name: {"norm": norm, "eps": 0} for name in BOUNDS}
        found = run_attack(make(queries=10), av_model, decided, threat, bounds=BOUNDS)
        for name, x in found.result.last.items():
            assert torch.equal(x, decided.inputs[name])


def test_a_loss_that_is_not_finite_names_the_clip(run_attack, linear_model):
    model, batch = problem(linear_model, {"x": (1, 6)}, clips=3)
    batch.inputs["x"][1] = 5
    batch.targets[1] = model(batch.inputs).argmax(dim=1)[1]
    model.after = lambda logits: logits * torch.where(logits.abs().amax(1, keepdim=True) > 8, torch.nan, 1)
    with pytest.raises(AvrobustError, match="not finite for c1:"):
        run_attack(make(), model, batch, {"x": {"eps": 0.01}})


# The published schedule
def test_blocks_shrink_as_published():
    shares = [square.share_at(0.8, step, 10_000) for step in (0, 10, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)]
    assert shares == [0.8, 0.8, *(0.8 / 2**k for k in range(1, 10))]
    assert [square.share_at(0.4, step, 1000) for step in (1, 2, 6, 999)] == [0.4, 0.2, 0.1, 0.4 / 2**9]


# Blocks
@pytest.mark.parametrize(
    ("shape", "axes", "channels"),
    [
        ((50,), [1], 1),
        ((1, 50), [2], 1),
        ((2, 50), [2], 2),
        ((40, 64), [1, 2], 1),
        ((1, 40, 64), [2, 3], 1),
        ((3, 8, 20, 20), [2, 3, 4], 3),
    ],
)
@pytest.mark.parametrize("share", [0.8, 0.1, 0.01])
def test_a_block_is_one_contiguous_part_of_the_share_asked_for(shape, axes, channels, share):
    grid = Grid.of(ball_of(shape, {"eps": 0.1}))
    assert ([axis.dim for axis in grid.axes], grid.channels) == (axes, channels)
    uniform = torch.rand(3, len(axes), generator=torch.Generator().manual_seed(0))
    mask = grid.place(grid.sides(share), uniform).mask().expand(3, *shape)
    covered = mask.double().flatten(1).mean(dim=1)
    smallest = torch.tensor([shape[dim - 1] for dim in axes]).prod().item() ** -1
    assert (covered / max(share, smallest)).log2().abs().max() < 0.5
    for one in mask:
        hits = one.nonzero()
        box = hits.amax(dim=0) - hits.amin(dim=0) + 1
        assert box.prod() == len(hits)
        assert channels == 1 or box[0] == channels


def test_blocks_reach_every_place_alike():
    grid = Grid.of(ball_of((1, 10), {"eps": 0.1}))
    uniform = torch.linspace(0, 1 - 1e-6, 8000).unsqueeze(1)
    within = grid.place((3,), uniform).within[0]
    first = (within == 0).long().argmax(dim=1)
    assert first.bincount().tolist() == [1000] * 8


def test_blocks_lie_in_the_frames_that_may_change():
    ball = ball_of((3, 6, 4, 4), {"eps": 0.1, "frames": [[1, 3], [5, 6]]}, time_axis=1)
    grid = Grid.of(ball)
    assert grid.axes[0].steps == 3
    uniform = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
    mask = grid.place((1, 2, 2), uniform).mask()
    assert (mask.flatten(1).sum(dim=1) == 4).all()
    assert mask.flatten(3).any(dim=3).any(dim=0)[0].tolist() == [False, True, True, False, False, True]


def test_blocks_of_a_padded_clip_lie_in_its_own_part_and_those_of_a_whole_one_where_they_always_do():
    padded = make_ball(torch.zeros(4, 1, 12), Budget(eps=0.1), None, time_axis=1, padded=(0.0, 0.5, 0.75, 1.0))
    grid, whole = Grid.of(padded), Grid.of(ball_of((1, 12), {"eps": 0.1}, clips=4))
    covered = torch.zeros(4, 12, dtype=torch.bool)
    for place in (0.0, 0.4, 0.7, 1 - 1e-6):
        uniform = torch.full((4, 1), place)
        blocks, usual = grid.place((4,), uniform), whole.place((4,), uniform)
        mask = blocks.mask()[:, 0]
        assert mask.sum(dim=1).tolist() == [4, 4, 3, 0]
        assert torch.equal(mask[0], usual.mask()[0, 0])
        assert torch.equal(blocks.bumps(uniform[:, 0])[0], usual.bumps(uniform[:, 0])[0])
        assert torch.equal(blocks.wave(uniform[:, 0])[0], usual.wave(uniform[:, 0])[0])
        assert torch.equal(blocks.bumps(uniform[:, 0])[:, 0] != 0, mask)
        covered |= mask
    assert covered.sum(dim=1).tolist() == [12, 6, 3, 0]
    assert covered[1, :6].all()
    assert covered[2, :3].all()


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.3), ("l2", 0.5)])
def test_of_a_padded_clip_it_breaks_what_gradients_break(run_attack, linear_model, norm, eps):
    model, batch = problem(linear_model, {"x": (1, 8)}, clips=20)
    batch = replace(batch, padded=({"x": 0.625},) * 20)
    options = {"bounds": {"x": (0.0, 1.0)}, "time_axis": 1}
    threat = {"x": {"norm": norm, "eps": eps}}
    best = run_attack(pgd(PgdConfig(steps=20)), model, batch, threat, **options).result.success
    found = run_attack(make(queries=150), model, batch, threat, **options).result.success
    assert 4 < best.sum() < 17
    assert (found != best).sum() <= 2


def test_where_time_must_not_vary_blocks_extend_over_all_of_it():
    ball = ball_of((3, 6, 4, 4), {"norm": "l2", "eps": 0.1, "frames": [[1, 3]], "time_invariant": True}, time_axis=1)
    grid = Grid.of(ball)
    assert [axis.dim for axis in grid.axes] == [3, 4]
    mask = grid.place((2, 2), torch.rand(3, 2)).mask().expand(3, 1, 6, 4, 4)
    assert mask.flatten(3).any(dim=3)[0, 0].tolist() == [False, True, True, False, False, False]
    delta = L2Proposals(grid).start(ball, torch.rand(3, L2Proposals(grid).start_numbers))
    assert (delta[:, :, 1] == delta[:, :, 2]).all()
    torch.testing.assert_close(delta.flatten(1).norm(dim=1), torch.full((3,), 0.1))


@pytest.mark.parametrize("shape", [(1, 30), (3, 12, 9), (3, 4, 6, 6)])
def test_bumps_are_two_of_opposite_sign_that_fill_the_block(shape):
    grid = Grid.of(ball_of(shape, {"norm": "l2", "eps": 0.1}))
    axes = len(grid.axes)
    generator = torch.Generator().manual_seed(1)
    for split in range(axes):
        blocks = grid.place((4,) * axes, torch.rand(3, axes, generator=generator))
        bumps = blocks.bumps(torch.full((3,), (split + 0.5) / axes))
        assert torch.equal(bumps != 0, blocks.mask())
        values = bumps[0][bumps[0] != 0].view((4,) * axes).movedim(split, 0)
        assert (values[:2] > 0).all()
        assert (values[2:] < 0).all()
        torch.testing.assert_close(values[:2], -values[2:])
        assert values.abs().amax() > values.abs().amin()


def test_a_waveforms_blocks_carry_a_square_wave():
    grid = Grid.of(ball_of((1, 64), {"eps": 0.1}))
    uniform = torch.tensor([0.0, 0.5, 1 - 1e-7])
    wave = grid.place((64,), torch.zeros(3, 1)).wave(uniform)[:, 0]
    assert wave[0].tolist() == [1.0, -1.0] * 32
    assert wave[1].tolist() == ([1.0] * 8 + [-1.0] * 8) * 4
    assert wave[2].tolist() == [1.0] * 64
    assert Grid.of(ball_of((3, 4, 4), {"eps": 0.1})).place((2, 2), torch.zeros(3, 2)).wave(uniform) is None


def test_no_query_is_wasted_on_a_block_that_is_so_already(run_attack, linear_model):
    model, batch = problem(linear_model, {"x": (1, 3, 3)}, clips=1)
    model.after = lambda logits: logits * 0 + torch.eye(3)[batch.targets[0]]
    shown = []
    model.register_forward_pre_hook(lambda module, args: shown.append(args[0]["x"].clone()))
    run_attack(make(queries=80), model, batch, {"x": {"eps": 0.1}})
    for x in shown[2:81]:  # nothing is ever better than the start
        assert not torch.equal(x, shown[1])


class Table(nn.Module):
    """The logits of three points: of the audio sample 0, 1 and 2."""

    def forward(self, inputs):
        # By cross-entropy the second is worse for the model than the third, which alone is misclassified.
        points = torch.tensor([[0.9, 0.05, 0.05], [0.4, 0.3, 0.3], [0.45, 0.5, 0.05]]).log()
        return points[inputs["audio"].flatten().long()]


def test_a_point_that_reaches_the_goal_is_kept_though_its_loss_is_lower_and_nothing_after_it():
    media = {"audio": MediaSpec(kind="audio", shape=(1, 1))}
    batch = Batch({"audio": torch.zeros(1, 1, 1)}, torch.zeros(1, dtype=torch.int64), ("a",))
    bound = Victim(Table(), media=media, task="single-label").bind(
        batch, ThreatModel.model_validate({"audio": {"eps": 2}})
    )
    kept = BestPoint(bound, LOSSES["ce"])
    for point in (0.0, 1.0, 2.0, 1.0):
        kept.score({"audio": torch.full((1, 1, 1), point)})
    found = kept.result()
    assert found.success.tolist() == [True]
    assert found.inputs["audio"].item() == 2


def test_the_modalities_take_turns(run_attack, linear_model):
    model, batch = problem(linear_model, {"audio": (1, 9), "video": (3, 2, 2)}, clips=1)
    model.after = lambda logits: logits * 0 + torch.eye(3)[batch.targets[0]]
    shown = []
    model.register_forward_pre_hook(lambda module, args: shown.append({n: x.clone() for n, x in args[0].items()}))
    run_attack(make(queries=12), model, batch, {"audio": {"eps": 0.1}, "video": {"norm": "l2", "eps": 0.3}})
    start = shown[1]
    changed = [[name for name, x in point.items() if not torch.equal(x, start[name])] for point in shown[2:12]]
    assert changed == [["audio"], ["video"]] * 5


@pytest.mark.parametrize("shape", [(1, 50), (3, 9, 9), (3, 4, 6, 6)])
def test_in_l2_what_a_block_gains_another_gives(shape):
    ball = ball_of(shape, {"norm": "l2", "eps": 0.1})
    moves = L2Proposals(Grid.of(ball))
    generator = torch.Generator().manual_seed(0)
    x = moves.start(ball, torch.rand(3, moves.start_numbers, generator=generator))
    for _ in range(20):
        new = moves.change(x, ball, 0.1, torch.rand(3, moves.numbers, generator=generator), Others())
        assert not torch.isclose(new, x).flatten(1).all(dim=1).any()
        torch.testing.assert_close(new.flatten(1).norm(dim=1), torch.full((3,), 0.1), rtol=1e-3, atol=0)
        x = new
    half = ball.center + (x - ball.center) / 2
    filled = moves.change(half, ball, 0.1, torch.rand(3, moves.numbers, generator=generator), Others())
    torch.testing.assert_close(filled.flatten(1).norm(dim=1), torch.full((3,), 0.1), rtol=1e-3, atol=0)
    # In a shared ball, where the other modalities have the rest, there is nothing to gain.
    others = Others(spent=torch.full((3,), 0.75), given=True)
    kept = moves.change(half, ball, 0.1, torch.rand(3, moves.numbers, generator=generator), others)
    torch.testing.assert_close(kept.flatten(1).norm(dim=1), torch.full((3,), 0.05), rtol=1e-3, atol=0)
