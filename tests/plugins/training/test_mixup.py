"""Mix-up: convex combinations with one ratio and partner for all modalities, drawn per clip."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from avrobust_training.configs import MixupConfig
from avrobust_training.mixup import Mixup
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import beta, kstest
from torch import nn

from avrobust_core import AvrobustError, Batch, TrainingStep
from avrobust_core.testing import LinearOracle


def make_batch(n=8, *, classes=4, task="single-label", seed=0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (n,), generator=generator)
    if task == "multi-label":
        targets = (torch.rand(n, classes, generator=generator) < 0.4).float()
    return Batch(
        inputs={
            "audio": torch.rand(n, 1, 50, generator=generator) * 2 - 1,
            "video": torch.rand(n, 3, 2, 4, 4, generator=generator),
        },
        targets=targets,
        ids=tuple(f"clip-{i}" for i in range(n)),
    )


def step(epoch=0, *, seed=0, classes=4, task="single-label"):
    return TrainingStep(epoch=epoch, seed=seed, model=nn.Identity(), classes=classes, task=task)


def mixup(alpha=1.0):
    return Mixup(MixupConfig(alpha=alpha))


def solve(batch, mixed, i):
    """The partner and ratio that explain clip i in every modality and in its targets."""
    targets = batch.targets
    if targets.dim() == 1:
        targets = torch.nn.functional.one_hot(targets, 4).float()
    for j in range(len(batch)):
        if j == i:
            continue
        difference = (batch.inputs["audio"][i] - batch.inputs["audio"][j]).flatten()
        ratio = (
            (mixed.inputs["audio"][i] - batch.inputs["audio"][j]).flatten() @ difference
        ) / difference.square().sum()
        pairs = [(batch.inputs[m][i], batch.inputs[m][j], mixed.inputs[m][i]) for m in batch.inputs]
        pairs.append((targets[i], targets[j], mixed.targets[i]))
        if all(torch.allclose(ratio * a + (1 - ratio) * b, c, atol=1e-5) for a, b, c in pairs):
            return j, ratio.item()
    raise AssertionError(f"no partner explains clip {i}")


@pytest.mark.parametrize("task", ["single-label", "multi-label"])
def test_all_modalities_and_the_targets_share_ratio_and_partner(task):
    batch = make_batch(task=task)
    mixed = mixup().begin(batch, step(task=task)).batch
    for i in range(len(batch)):
        _, ratio = solve(batch, mixed, i)
        assert -1e-5 <= ratio <= 1 + 1e-5
    assert mixed.targets.dtype == torch.float32
    assert mixed.ids == batch.ids
    if task == "single-label":
        torch.testing.assert_close(mixed.targets.sum(dim=1), torch.ones(8))


def test_nothing_of_the_batch_or_the_global_random_state_changes():
    batch = make_batch()
    before = {name: x.clone() for name, x in batch.inputs.items()}
    targets, state, numpy_state = batch.targets.clone(), torch.get_rng_state(), np.random.get_state()[1].copy()
    mixup().begin(batch, step())
    assert all(torch.equal(x, before[name]) for name, x in batch.inputs.items())
    assert torch.equal(batch.targets, targets)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_draws_depend_on_seed_clip_and_epoch():
    batch = make_batch()
    first = mixup().begin(batch, step()).batch
    assert torch.equal(first.inputs["audio"], mixup().begin(batch, step()).batch.inputs["audio"])
    for other in (step(epoch=1), step(seed=1)):
        assert not torch.equal(first.inputs["audio"], mixup().begin(batch, other).batch.inputs["audio"])
    renamed = Batch(batch.inputs, batch.targets, tuple(f"other-{i}" for i in range(8)))
    assert not torch.equal(first.inputs["audio"], mixup().begin(renamed, step()).batch.inputs["audio"])


def test_the_order_of_the_batch_does_not_matter():
    batch, order = make_batch(), torch.tensor([3, 1, 7, 0, 5, 2, 6, 4])
    shuffled = Batch(
        {name: x[order] for name, x in batch.inputs.items()},
        batch.targets[order],
        tuple(batch.ids[i] for i in order),
    )
    straight, moved = mixup().begin(batch, step()).batch, mixup().begin(shuffled, step()).batch
    assert torch.equal(moved.inputs["video"], straight.inputs["video"][order])
    assert torch.equal(moved.targets, straight.targets[order])


def test_ratios_follow_the_beta_distribution_and_partners_are_uniform():
    batch = make_batch(5)
    found = [mixup(alpha=0.4).begin(batch, step(epoch=epoch)).batch for epoch in range(300)]
    solved = [solve(batch, mixed, i) for mixed in found for i in range(2)]
    ratios = [min(ratio, 1) for _, ratio in solved]
    assert min(ratios) >= 0.5 - 1e-5  # no clip is replaced by its partner
    assert kstest(ratios, lambda x: 2 * beta(0.4, 0.4).cdf(np.maximum(x, 0.5)) - 1).pvalue > 0.01
    sure = [solve(batch, mixed, 0) for mixed in found]
    counts = np.bincount([j for j, ratio in sure if ratio < 0.99], minlength=5)
    assert counts[0] == 0
    assert counts[1:].min() > 0.6 * counts[1:].mean()


@settings(max_examples=30)
@given(low=st.floats(-3, 0.25, width=32), width=st.floats(0.125, 4, width=32), epoch=st.integers(0, 1000))
def test_mixed_clips_stay_within_bounds_exactly(low, width, epoch):
    low, high = torch.tensor(low), torch.tensor(low) + torch.tensor(width)
    generator = torch.Generator().manual_seed(epoch)
    ends = torch.where(torch.rand(6, 1, 40, generator=generator) < 0.5, low, high)  # equal ends must stay equal, too
    batch = Batch({"audio": ends}, torch.zeros(6, dtype=torch.int64), tuple("abcdef"))
    mixed = mixup().begin(batch, step(epoch=epoch)).batch.inputs["audio"]
    assert mixed.min() >= low
    assert mixed.max() <= high


def test_a_batch_of_one_stays_as_it_is():
    batch = make_batch(1)
    mixed = mixup().begin(batch, step()).batch
    assert all(torch.equal(x, batch.inputs[name]) for name, x in mixed.inputs.items())
    assert mixed.targets.argmax() == batch.targets[0]
    assert mixed.targets.sum() == 1


def test_soft_targets_of_an_earlier_augmentation_are_mixed_again():
    batch = make_batch()
    once = mixup().begin(batch, step()).batch
    twice = mixup().begin(once, step(epoch=1)).batch
    torch.testing.assert_close(twice.targets.sum(dim=1), torch.ones(8))


def test_configuration():
    assert MixupConfig().alpha == 0.2
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            MixupConfig(alpha=wrong)


def test_a_share_of_the_clips_is_mixed(stand, make):
    given = stand(clips=8)
    mixed = [
        (
            make("mixup", alpha=1, share=0.3).begin(given.batch, given.step(epoch)).batch.inputs["audio"]
            != given.batch.inputs["audio"]
        )
        .flatten(1)
        .any(dim=1)
        for epoch in range(100)
    ]
    assert 0.25 < torch.cat(mixed).float().mean() < 0.35
    kept = make("mixup", share=0).begin(given.batch, given.step()).batch
    assert torch.equal(kept.inputs["video"], given.batch.inputs["video"])
    assert torch.equal(kept.targets, given.soft)


@pytest.mark.parametrize("labels", ["mean", "union"])
def test_modalities_that_are_mixed_each_by_itself_share_the_targets(stand, make, labels):
    given = stand(task="multi-label", clips=5)
    found = make("mixup", alpha=1, together=False, labels=labels).begin(given.batch, given.step()).batch
    parts = {}
    for name, x in given.batch.inputs.items():  # whose clip explains which modality, by least squares
        rows = []
        for i in range(5):
            for j in range(5):
                a, b, c = x[i].flatten(), x[j].flatten(), found.inputs[name][i].flatten()
                ratio = ((c - b) @ (a - b) / (a - b).square().sum()) if i != j else torch.tensor(torch.nan)
                if torch.allclose(ratio * a + (1 - ratio) * b, c, atol=1e-5):
                    rows.append((j, ratio))
        assert len(rows) == 5
        parts[name] = rows
    assert [j for j, _ in parts["audio"]] != [j for j, _ in parts["video"]]
    for i in range(5):
        one = [ratio * given.soft[i] + (1 - ratio) * given.soft[j] for j, ratio in (p[i] for p in parts.values())]
        expected = torch.stack(one).mean(dim=0)
        if labels == "union":
            expected = torch.stack([given.soft[i], *(given.soft[p[i][0]] for p in parts.values())]).amax(dim=0)
        torch.testing.assert_close(found.targets[i], expected, atol=1e-5, rtol=0)


def test_the_union_of_labels_needs_several_labels(stand, make):
    given = stand()
    with pytest.raises(AvrobustError, match="several labels"):
        make("mixup", labels="union").begin(given.batch, given.step())


def test_a_modality_that_the_model_does_not_read_does_not_count_for_the_targets(stand, make):
    class AudioOnly(LinearOracle):
        modalities = ("audio",)

    given = stand(model=AudioOnly.random({"audio": (1, 800)}, classes=4))
    whole = make("mixup", alpha=1, together=False)
    found = whole.begin(given.batch, given.step()).batch
    alone = whole.begin(
        Batch({"audio": given.batch.inputs["audio"]}, given.batch.targets, given.batch.ids), given.step()
    ).batch
    assert torch.equal(found.inputs["audio"], alone.inputs["audio"])
    assert torch.equal(found.targets, alone.targets)


def test_every_replay_of_a_batch_is_mixed_alike(stand, make):
    given = stand()
    first, second = (make("mixup", alpha=1).begin(given.batch, replace(given.step(), replay=i)).batch for i in range(2))
    assert torch.equal(first.inputs["audio"], second.inputs["audio"])
