"""Guided mix-up in training: pairs, mixtures, and what it costs."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from avrobust_geometry.configs import GuidedMixupConfig
from avrobust_geometry.density.arrays import density
from avrobust_geometry.guided.guide import Guide
from avrobust_geometry.guided.mixup import GuidedMixup
from avrobust_geometry.guided.pairs import match
from scipy.stats import spearmanr
from torch import nn

from avrobust_core import AVModel, Batch, Encoded, EncodedDims, Encoder, ForwardPass, Fusion, TrainingStep


class Plain(Encoder):
    """Two numbers in, four out."""

    def __init__(self) -> None:
        super().__init__()
        self.frontend = nn.Identity()
        self.dims = EncodedDims(4, 4)
        self.map = nn.Linear(2, 4)

    def encode(self, features):
        y = self.map(features)
        return Encoded(y[:, None], y)


class Joined(Fusion):
    """Side by side."""

    dim = 8

    def forward(self, encoded):
        return torch.cat([encoded[name].pooled for name in sorted(encoded)], dim=1)


CLIPS = 40


@pytest.fixture
def step() -> TrainingStep:
    torch.manual_seed(0)
    model = AVModel({"audio": Plain(), "video": Plain()}, Joined(), 4)
    return TrainingStep(epoch=0, seed=3, model=model, classes=4, task="single-label", epochs=6)


def _clip(i: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    generator = torch.Generator().manual_seed(i)
    return torch.rand(2, generator=generator) + i % 4, torch.rand(2, generator=generator), i % 4


def _batch(names: list[str]) -> Batch:
    rows = [_clip(int(name)) for name in names]
    inputs = {"audio": torch.stack([a for a, _, _ in rows]), "video": torch.stack([v for _, v, _ in rows])}
    return Batch(inputs, torch.tensor([y for _, _, y in rows]), tuple(names))


def _pass(augment: GuidedMixup, clean: Batch, step: TrainingStep, losses: torch.Tensor | None = None):
    """One pass by hand: the augmentation's part in it, what went through the model, and the losses."""
    begun = augment.begin(clean, step)
    given = begun.batch
    encoded, targets = begun.encodings(step.model.encode(given.inputs), given.targets)
    forward = ForwardPass(Batch(given.inputs, targets, given.ids), encoded, step.model.classify(encoded))
    return begun, forward, begun.loss(torch.zeros(len(given)) if losses is None else losses, forward)


def _epoch(augment: GuidedMixup, step: TrainingStep, size: int = 8) -> list[tuple[Batch, Batch, ForwardPass]]:
    """One epoch by hand: clean batch, given batch, and the pass."""
    clips = [f"{i:02d}" for i in np.random.default_rng(step.epoch).permutation(CLIPS)]
    order = augment.order(clips, step)
    names = clips if order is None else [clips[i] for i in order]
    seen = []
    for start in range(0, CLIPS, size):
        clean = _batch(names[start : start + size])
        _, forward, _ = _pass(augment, clean, step)
        seen.append((clean, forward.batch, forward))
    augment.end_epoch(step, lambda mine: [mine])
    return seen


def test_the_first_epochs_are_learned_as_they_are_and_the_next_is_guided(step) -> None:
    augment = GuidedMixup(GuidedMixupConfig(warmup=1, k=3))
    for clean, given, _ in _epoch(augment, step):
        assert given.inputs is clean.inputs
        assert given.targets is clean.targets
    assert augment.guide is not None
    assert len(augment.guide.ids) == CLIPS
    mixed = _epoch(augment, replace(step, epoch=1))
    assert any(not torch.equal(clean.inputs["audio"], given.inputs["audio"]) for clean, given, _ in mixed)


@pytest.mark.parametrize("level", ["input", "encoded"])
def test_each_of_a_pair_is_mixed_into_the_other_with_one_ratio_for_all_modalities(step, level: str) -> None:
    augment = GuidedMixup(GuidedMixupConfig(warmup=1, k=3, level=level, alpha=1.0, partners="other-class"))
    _epoch(augment, step)
    ratios = []
    for clean, given, passed in _epoch(augment, replace(step, epoch=1)):
        before = step.model.encode(clean.inputs)
        for i in range(0, len(clean), 2):
            here, there = torch.eye(4)[clean.targets[i]], torch.eye(4)[clean.targets[i + 1]]
            if clean.targets[i] == clean.targets[i + 1]:
                continue
            ratio = float(given.targets[i][clean.targets[i]])
            ratios.append(ratio)
            torch.testing.assert_close(given.targets[i], ratio * here + (1 - ratio) * there)
            torch.testing.assert_close(given.targets[i + 1], ratio * there + (1 - ratio) * here)
            for name in ("audio", "video"):
                x = clean.inputs[name] if level == "input" else before[name].pooled
                y = given.inputs[name] if level == "input" else passed.encoded[name].pooled
                torch.testing.assert_close(y[i], ratio * x[i] + (1 - ratio) * x[i + 1])
                torch.testing.assert_close(y[i + 1], ratio * x[i + 1] + (1 - ratio) * x[i])
        if level == "encoded":
            torch.testing.assert_close(passed.encoded["audio"].tokens[:, 0], passed.encoded["audio"].pooled)
            assert given.inputs is clean.inputs
    assert len(set(ratios)) > 5


def test_partners_are_neighbours_of_other_classes_in_the_asked_share(step) -> None:
    augment = GuidedMixup(GuidedMixupConfig(warmup=1, k=3, local=1.0, partners="other-class", weigh="sampling"))
    _epoch(augment, step)
    guide = augment.guide
    assert guide is not None
    near = {clip_id: {guide.ids[j] for j in guide.partners[i] if j >= 0} for i, clip_id in enumerate(guide.ids)}
    for clean, _, _ in _epoch(augment, replace(step, epoch=1)):
        for i in range(0, len(clean), 2):
            assert clean.ids[i + 1] in near[clean.ids[i]]
            assert clean.targets[i] != clean.targets[i + 1]


@pytest.mark.parametrize(
    "fields", [{"guide": ()}, {"guide": (), "weigh": "sampling"}, {"k": 3, "beta": 2.0}], ids=["", "sampling", "guided"]
)
def test_every_clip_comes_once_unless_a_guide_draws_anchors(step, fields) -> None:
    augment = GuidedMixup(GuidedMixupConfig(warmup=1, local=1.0, **fields))
    _epoch(augment, step)
    seen = Counter(clip_id for clean, _, _ in _epoch(augment, replace(step, epoch=1)) for clip_id in clean.ids)
    assert set(seen.values()) == {1}
    assert len(seen) == CLIPS


def test_no_clip_passes_through_the_model_for_its_sake(step) -> None:
    augment = GuidedMixup(GuidedMixupConfig(warmup=1, k=3))
    calls: Counter[str] = Counter()
    for name, encoder in step.model.encoders.items():
        encoder.map.register_forward_hook(lambda module, args, out, name=name: calls.update({name: len(out)}))
    for epoch in range(4):
        _epoch(augment, replace(step, epoch=epoch))
    assert calls == {"audio": 4 * CLIPS, "video": 4 * CLIPS}
    assert step.cost.forwards == step.cost.backwards == 0


def test_clips_are_matched_with_free_neighbours_before_others(step) -> None:
    """With two clips of each class nearest to one another, both ways, every pair is such a pair."""
    clips = [f"{i:02d}" for i in range(CLIPS)]
    partners = np.array([[i ^ 1] for i in range(CLIPS)])
    guide = Guide(tuple(clips), np.zeros(CLIPS, dtype=np.int64), np.ones(CLIPS), partners, np.ones((CLIPS, 1)))
    pairs, rest = match(clips, guide, 1.0, np.random.default_rng(0))
    assert sorted(map(tuple, np.sort(pairs, axis=1).tolist())) == [(i, i + 1) for i in range(0, CLIPS, 2)]
    assert rest == []
    odd, rest = match(clips[:-1], guide, 1.0, np.random.default_rng(0))  # the last one's neighbour is not there
    assert sorted([*odd.reshape(-1).tolist(), *rest]) == list(range(CLIPS - 1))
    assert len(rest) == 1
    assert np.mean(odd[:, 0] ^ 1 == odd[:, 1]) > 0.9
    apart, _ = match(clips, guide, 0.0, np.random.default_rng(0))
    assert np.mean(apart[:, 0] ^ 1 == apart[:, 1]) < 0.3


def test_the_embeddings_are_of_the_clips_that_they_are_noted_for(step) -> None:
    """With ratios next to 0 and 1 each mixture is nearly one clip: its heavier end, which may be its partner."""
    augment = GuidedMixup(GuidedMixupConfig(warmup=1, k=3, alpha=0.01, ratio="beta"))
    _epoch(augment, step)
    with torch.no_grad():
        for parameter in step.model.parameters():
            parameter.add_(1.0)
    lighter = sum(
        int((given.targets.gather(1, clean.targets[:, None]) < 0.5).sum())
        for clean, given, _ in _epoch(augment, replace(step, epoch=1))
    )
    assert lighter > 5
    clips = [f"{i:02d}" for i in range(CLIPS)]
    with torch.no_grad():
        encoded = step.model.encode(_batch(clips).inputs)
    assert augment.notes.ids() == tuple(clips)
    found = augment.notes.rows().float()
    truth = torch.cat([encoded[name].pooled for name in sorted(encoded)], dim=1)
    assert float((found - truth).abs().median()) < 0.01
    assert augment.notes.labels().tolist() == [i % 4 for i in range(CLIPS)]


def test_embeddings_are_noted_no_wider_than_asked_for(step) -> None:
    augment = GuidedMixup(GuidedMixupConfig(warmup=1, k=3, width=2))
    _epoch(augment, step)
    assert set(augment.notes.widths) == {2}
    assert augment.notes.rows().shape == (CLIPS, 2 * len(augment.notes.widths))


def test_mixtures_of_equal_parts_are_not_noted(step) -> None:
    augment = GuidedMixup(GuidedMixupConfig(warmup=1, k=3, alpha=500.0))
    _epoch(augment, step)
    before = augment.notes.rows()
    with torch.no_grad():
        for parameter in step.model.parameters():
            parameter.add_(1.0)
    _epoch(augment, replace(step, epoch=1))
    assert torch.equal(augment.notes.rows(), before)


def test_a_guide_is_made_anew_every_so_many_epochs(step) -> None:
    augment = GuidedMixup(GuidedMixupConfig(warmup=1, refresh=2, k=3))
    guides = []
    for epoch in range(5):
        _epoch(augment, replace(step, epoch=epoch))
        guides.append(augment.guide)
    assert guides[0] is not None
    assert guides[0] is guides[1]
    assert guides[1] is not guides[2]
    assert guides[2] is guides[3]


@pytest.mark.parametrize("control", ["none", "permuted", "inverted"])
@pytest.mark.parametrize("beta", [1.0, -1.0])
def test_losses_are_weighted_by_density(step, control: str, beta: float) -> None:
    augment = GuidedMixup(GuidedMixupConfig(warmup=1, k=3, guide=("density",), beta=beta, control=control, alpha=1.0))
    _epoch(augment, step)
    guide = augment.guide
    assert guide is not None
    points, labels = augment.notes.embeddings(), augment.notes.labels()
    score = density(points, labels, k=3, estimators=["class-ratio"], resamples=1).per_clip["class-ratio"]
    finite = np.isfinite(score)
    sign = spearmanr(score[finite], guide.weights[finite]).statistic * beta
    assert {"none": sign > 0.99, "inverted": sign < -0.99, "permuted": abs(sign) < 0.7}[control]

    later = replace(step, epoch=1)
    clips = [f"{i:02d}" for i in range(CLIPS)]
    order = augment.order(clips, later)
    assert order is not None
    clean = _batch([clips[i] for i in order])
    begun, _, losses = _pass(augment, clean, later, torch.ones(CLIPS))
    weight = dict(zip(guide.ids, guide.weights / guide.weights.mean(), strict=True))
    for i in range(CLIPS):
        ratio, partner = float(begun.mixture.ratio[i]), clean.ids[i ^ 1]
        both = ratio * weight[clean.ids[i]] + (1 - ratio) * weight[partner]
        assert float(losses[i]) == pytest.approx(both, rel=1e-4)
    assert float(losses.mean()) == pytest.approx(1, rel=1e-4)


def test_classes_that_fail_are_anchors_more_often(step) -> None:
    augment = GuidedMixup(GuidedMixupConfig(warmup=1, guide=("convexity",), local=0.0, weigh="sampling"))
    _epoch(augment, step)
    _epoch(augment, replace(step, epoch=1))
    assert augment.measured is not None
    augment.measured.by_class = torch.tensor([[100, 95], [100, 5], [100, 5], [100, 5]])
    anchors: Counter[int] = Counter()
    for clean, _, _ in _epoch(augment, replace(step, epoch=2)):
        anchors.update(clean.targets[::2].tolist())
    assert anchors[0] > 2 * max(anchors[c] for c in (1, 2, 3))


def test_ratios_follow_where_mixtures_fail(step) -> None:
    augment = GuidedMixup(GuidedMixupConfig(warmup=1, guide=("convexity",), alpha=1.0))
    _epoch(augment, step)
    _epoch(augment, replace(step, epoch=1))

    def mean_heavier(bins: list[list[int]]) -> float:
        assert augment.measured is not None
        augment.measured.by_ratio = torch.tensor(bins)
        drawn = [augment._ratio(f"{i}", f"{i + 1}", step) for i in range(300)]
        return float(np.mean(np.maximum(drawn, 1 - np.asarray(drawn))))

    middle, ends = [[100, 99]] + [[100, 1]] * 4, [[100, 1]] * 4 + [[100, 99]]
    assert mean_heavier(middle) < 0.63
    assert mean_heavier(ends) > 0.85
    augment.config = augment.config.model_copy(update={"control": "inverted"})
    assert mean_heavier(middle) > 0.7
    augment.config = augment.config.model_copy(update={"control": "none", "ratio": "beta"})
    assert mean_heavier(middle) == mean_heavier(ends)


@pytest.mark.parametrize("guide", [("density",), ("convexity",), ("density", "convexity")])
def test_mixtures_are_counted_where_convexity_guides_and_only_there(step, guide) -> None:
    augment = GuidedMixup(GuidedMixupConfig(warmup=1, k=3, guide=guide))
    for epoch in range(2):
        _epoch(augment, replace(step, epoch=epoch))
    if "convexity" in guide:
        assert augment.measured is not None
        assert int(augment.measured.by_ratio[:, 0].sum()) == CLIPS
    else:
        assert augment.measured is None


def test_a_clip_whose_partner_could_not_be_read_stays_as_it_is(step) -> None:
    augment = GuidedMixup(GuidedMixupConfig(warmup=1, k=3, guide=()))
    _epoch(augment, step)
    later = replace(step, epoch=1)
    clips = [f"{i:02d}" for i in range(CLIPS)]
    order = augment.order(clips, later)
    assert order is not None
    names = [clips[i] for i in order[:8]]
    clean = _batch([names[0], *names[2:]])  # the second could not be read
    given = augment.begin(clean, later).batch
    torch.testing.assert_close(given.inputs["audio"][0], clean.inputs["audio"][0])
    assert float(given.targets[0].max()) == 1
    assert not torch.equal(given.inputs["audio"][1:], clean.inputs["audio"][1:])


def test_a_state_that_is_taken_up_goes_on_in_the_same_way(step) -> None:
    config = GuidedMixupConfig(warmup=1, k=3, refresh=2)
    augment = GuidedMixup(config)
    for epoch in range(3):
        _epoch(augment, replace(step, epoch=epoch))
    again = GuidedMixup(config)
    again.load_state_dict(augment.state_dict())
    for epoch in range(3, 6):
        for (_, one, _), (_, two, _) in zip(
            _epoch(augment, replace(step, epoch=epoch)), _epoch(again, replace(step, epoch=epoch)), strict=True
        ):
            assert one.ids == two.ids
            assert torch.equal(one.inputs["audio"], two.inputs["audio"])
            assert torch.equal(one.targets, two.targets)


def test_several_labels_are_mixed_and_kept_between_zero_and_one(step) -> None:
    augment = GuidedMixup(GuidedMixupConfig(warmup=1, k=3))
    several = replace(step, task="multi-label")
    for epoch in range(3):
        here = replace(several, epoch=epoch)
        clips = [f"{i:02d}" for i in range(CLIPS)]
        order = augment.order(clips, here)
        names = clips if order is None else [clips[i] for i in order]
        clean = _batch(names)
        hot = torch.eye(4)[clean.targets] + torch.eye(4)[(clean.targets + 1) % 4]
        _, forward, _ = _pass(augment, Batch(clean.inputs, hot, clean.ids), here)
        augment.end_epoch(here, lambda mine: [mine])
        targets = forward.batch.targets
        assert 0 <= float(targets.min()) <= float(targets.max()) <= 1
        torch.testing.assert_close(targets.sum(dim=1), torch.full((CLIPS,), 2.0))
