"""Drop: modalities removed or replaced, without regard to the radius, within the media's bounds."""

import pytest
import torch
from avrobust_attacks.blackbox.configs import DropConfig
from avrobust_attacks.blackbox.drop import drop as build_drop

from avrobust_core import AvrobustError, Batch, Goal, MediaSpec, ThreatModel, Victim, verify

BOUNDS = {"audio": (-1.0, 1.0), "video": (0.0, 1.0)}
BOTH = {"audio": {"eps": 0.001}, "video": {"norm": "l2", "eps": 0.001}}
AUDIO = {"audio": {"eps": 0.001}}


def bound_to(model, batch, threat, task="single-label", seed=0, bounds=BOUNDS, goal=None, time_axis=None):
    media = {
        name: MediaSpec(kind=name, shape=tuple(x.shape[1:]), bounds=bounds.get(name), time_axis=time_axis)
        for name, x in batch.inputs.items()
    }
    victim = Victim(model, media=media, task=task, seed=seed)
    return victim.bind(batch, ThreatModel.model_validate(threat), goal)


def dropped(model, batch, threat, *, size=5, order=None, **options):
    """The attack prepared on the batch cut into pieces, applied to all of it, and verified."""
    config = options.pop("config", {})
    model.eval()
    attack = build_drop(DropConfig(**config))
    order = torch.arange(len(batch)) if order is None else order
    if attack.preparation is not None:
        attack = attack.prepare(
            lambda: (bound_to(model, batch.select(i), threat, **options) for i in order.split(size))
        )
    bound = bound_to(model, batch, threat, **options)
    result = attack(bound)
    pristine = {name: x.clone() for name, x in batch.inputs.items()}
    verdict = verify("drop", batch, pristine, bound, result, bounded=attack.bounded)
    return attack, bound, result, verdict


def everything(attack, bound):
    """What would replace every clip's modalities, whether that fools the model or not."""
    return {name: x.expand_as(bound.clean[name]) for name, x in attack.stand_in(bound).items()}


def test_silence_is_zero_and_black(av_model, av_batch):
    _, bound, result, verdict = dropped(av_model, av_batch, BOTH)
    assert (bound.queries == 1).all()
    assert 0 < result.success.sum() < len(av_batch)
    for name, x in result.inputs.items():
        assert (x[result.success] == 0).all()
        assert torch.equal(x[~result.success], av_batch.inputs[name][~result.success])
    assert (verdict.norms["audio"][result.success] > 0.001).all()


def test_silence_is_what_the_bounds_hold_nearest_to_zero(linear_model):
    model = linear_model({"x": (1, 6)}, 2, seed=0)
    model.bias.data = torch.tensor([-1e3, 0.0])
    batch = Batch({"x": torch.full((3, 1, 6), 2.0)}, torch.zeros(3, dtype=torch.int64), tuple("abc"))
    _, _, result, _ = dropped(model, batch, {"x": {"eps": 0.1}}, bounds={"x": (1.5, 3.0)})
    assert (result.inputs["x"] == 1.5).all()
    _, _, result, _ = dropped(model, batch, {"x": {"eps": 0.1, "bounds": [1.0, 3.0]}}, bounds={"x": None})
    assert (result.inputs["x"] == 1.0).all()


def test_only_the_frames_that_may_change_are_dropped(av_model, av_batch):
    threat = {"video": {"eps": 0.1, "frames": [[1, 3]]}}
    batch = Batch(av_batch.inputs, torch.eye(3)[av_batch.targets], av_batch.ids)
    _, _, result, _ = dropped(av_model, batch, threat, task="multi-label", time_axis=1)
    video = result.inputs["video"]
    assert (video[:, :, 1:3] == 0).all()
    assert torch.equal(video[:, :, [0, 3]], av_batch.inputs["video"][:, :, [0, 3]])


def test_with_several_labels_every_clip_is_returned_without_the_modality(av_model, av_batch):
    batch = Batch(av_batch.inputs, torch.eye(3)[av_batch.targets], av_batch.ids)
    _, _, result, verdict = dropped(av_model, batch, AUDIO, task="multi-label")
    assert (result.inputs["audio"] == 0).all()
    assert torch.equal(result.success, verdict.success)
    assert not result.success.all()


def test_the_mean_is_that_of_the_set(av_model, av_batch):
    attack, bound, result, _ = dropped(av_model, av_batch, BOTH, config={"replace": "mean"})
    for name, x in everything(attack, bound).items():
        torch.testing.assert_close(x[3].float(), av_batch.inputs[name].mean(dim=0))
        assert torch.equal(result.inputs[name][result.success], x[result.success].float())
    assert result.success.any()


def donors(av_model, batch, threat=BOTH, **options):
    """The position of each clip's donor in each modality."""
    config = {"replace": "other-clip", **options.pop("config", {})}
    attack, bound, _, _ = dropped(av_model, batch, threat, config=config, **options)
    return {
        name: torch.stack([(batch.inputs[name] == one).flatten(1).all(dim=1).nonzero().squeeze() for one in x])
        for name, x in everything(attack, bound).items()
    }


def test_all_modalities_come_from_one_other_clip_of_another_class(av_model, av_batch):
    found = donors(av_model, av_batch)
    assert torch.equal(found["audio"], found["video"])
    assert (av_batch.targets[found["audio"]] != av_batch.targets).all()
    assert len(found["audio"].unique()) > 4


def test_without_another_class_any_other_clip_will_do(av_model, av_batch):
    alike = Batch(av_batch.inputs, torch.zeros(12, dtype=torch.int64), av_batch.ids)
    found = donors(av_model, alike)["audio"]
    assert (found != torch.arange(12)).all()
    careless = donors(av_model, av_batch, config={"different_class": False})["audio"]
    assert (careless != torch.arange(12)).all()
    assert (av_batch.targets[careless] == av_batch.targets).any()


def test_with_several_labels_a_donor_shares_none_of_them(av_model, av_batch):
    targets = torch.eye(3)[av_batch.targets]
    targets[:4, 0] = 1
    found = donors(av_model, Batch(av_batch.inputs, targets, av_batch.ids), task="multi-label")["audio"]
    others = ~((targets @ targets.T) > 0)
    assert others[torch.arange(12), found][others.any(dim=1)].all()


def test_targeted_at_a_class_the_donor_is_still_another_clip(av_model, av_batch):
    found = donors(av_model, av_batch, goal=Goal("class", 1))["audio"]
    assert (found != torch.arange(12)).all()


@pytest.mark.parametrize("pool", [3, 64])
def test_donors_depend_neither_on_the_order_nor_on_the_batches(av_model, av_batch, pool):
    config = {"pool": pool}
    one = donors(av_model, av_batch, config=config)["audio"]
    shuffled = donors(av_model, av_batch, config=config, size=1, order=torch.randperm(12))["audio"]
    assert torch.equal(one, shuffled)
    assert len(one.unique()) <= pool
    part = av_batch.select(torch.tensor([8, 3]))
    attack, _, _, _ = dropped(av_model, av_batch, BOTH, config={"replace": "other-clip", **config})
    alone = attack.stand_in(bound_to(av_model, part, BOTH))
    assert torch.equal(alone["audio"], av_batch.inputs["audio"][one[[8, 3]]])


def test_another_seed_chooses_other_donors(av_model, av_batch):
    config = {"different_class": False}
    one, other = (donors(av_model, av_batch, config=config, seed=seed)["audio"] for seed in (0, 1))
    assert (one != other).sum() > 6


def test_a_clip_cannot_stand_in_for_itself(av_model, av_batch):
    with pytest.raises(AvrobustError, match="no clip but clip-4 itself"):
        dropped(av_model, av_batch.select(torch.tensor([4])), AUDIO, config={"replace": "other-clip"})


@pytest.mark.parametrize("replace", ["mean", "other-clip"])
def test_an_attack_that_was_not_prepared_says_so(av_model, av_batch, replace):
    av_model.eval()
    attack = build_drop(DropConfig(replace=replace, split="train", batch_size=7))
    assert (attack.preparation.split, attack.preparation.batch_size) == ("train", 7)
    assert not attack.bounded
    with pytest.raises(AvrobustError, match="must be prepared"):
        attack(bound_to(av_model, av_batch, AUDIO))
