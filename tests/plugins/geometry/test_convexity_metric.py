"""Convexity as a metric: levels of a model, one modality at a time, thresholds, left-outs, bare embeddings."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from avrobust_geometry import convexity, graph_convexity
from avrobust_geometry.configs import ConvexityConfig
from avrobust_geometry.convexity.metric import Convexity
from avrobust_geometry.convexity.pairs import Identities, draw_segments
from avrobust_geometry.convexity.rules import best_thresholds
from avrobust_geometry.plugin import avrobust_metrics
from torch import nn

from avrobust_core import (
    AVModel,
    AvrobustError,
    Encoded,
    EncodedDims,
    Encoder,
    Fusion,
    LatentRequest,
    Latents,
    Probe,
    Subject,
)
from avrobust_core.registry.discovery import RegistryEntry
from avrobust_core.testing import LinearOracle, check_component

CLASSES = ("a", "b", "c")


class Tokens(Encoder):
    """(B, 1, 12) to four tokens of five, and their mean."""

    def __init__(self):
        super().__init__()
        self.dims = EncodedDims(token=5, embed=5)
        self.frontend = nn.Identity()
        self.linear = nn.Linear(3, 5)

    def encode(self, features):
        tokens = torch.tanh(2 * self.linear(features.reshape(len(features), 4, 3)))
        return Encoded(tokens, tokens.mean(dim=1))


class Mixed(Fusion):
    """Reads tokens and pooled embeddings; two positions, which the head pools."""

    def __init__(self, modalities):
        super().__init__()
        self.dim = 6
        self.first = nn.Linear(5 * len(modalities), 6)
        self.second = nn.Linear(5 * len(modalities), 6)

    def forward(self, encoded):
        names = sorted(encoded)
        loudest = torch.cat([encoded[name].tokens.amax(dim=1) for name in names], dim=1)
        pooled = torch.cat([encoded[name].pooled for name in names], dim=1)
        return torch.sin(4 * torch.stack([self.first(loudest), self.second(pooled)], dim=1))

    def make_head(self, classes):
        return Head(classes)


class Head(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.hidden = nn.Linear(6, 16)
        self.out = nn.Linear(16, classes)
        self.register_buffer("middle", torch.zeros(classes))

    def forward(self, fused):
        return 8 * self.out(torch.sin(4 * self.hidden(fused))).amax(dim=1) - self.middle


def av_model(modalities=("audio", "video"), seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AVModel({name: Tokens() for name in modalities}, Mixed(modalities), len(CLASSES)).eval()
        with torch.no_grad():  # so that it takes as many clips for one class as for another
            model.head.middle = model({name: torch.randn(500, 1, 12) for name in modalities}).mean(dim=0)
    return model


class World:
    """A model, clips whose labels are mostly what it says, and all that a metric may be given of them."""

    def __init__(self, model=None, task="single-label", n=40, noise=0.3, batch_size=16):
        self.model = av_model() if model is None else model
        self.task, self.n, self.noise, self.batch_size = task, n, noise, batch_size
        self.read = []

    def inputs(self, split):
        generator = torch.Generator().manual_seed(len(split))
        return {name: torch.randn(self.n, 1, 12, generator=generator) for name in sorted(self.model.modalities)}

    @torch.no_grad()
    def latents(self, split, order=None):
        rows = torch.arange(self.n) if order is None else torch.as_tensor(order)
        encoded = self.model.encode({name: x[rows] for name, x in self.inputs(split).items()})
        fused = self.model.fusion(encoded)
        logits = self.model.head(fused)
        scores = logits + self.noise * torch.randn(self.n, 3, generator=torch.Generator().manual_seed(5))[rows]
        targets = scores.argmax(dim=1) if self.task == "single-label" else (scores > 0.3).float()
        layers = {"fused": fused}
        for name, each in encoded.items():
            layers |= {f"tokens/{name}": each.tokens, f"pooled/{name}": each.pooled}
        arrays = {name: layer.numpy() for name, layer in layers.items()}
        for array in arrays.values():
            array.flags.writeable = False
        return Latents(tuple(f"{split}-{i}" for i in rows.tolist()), targets.numpy(), logits.numpy(), arrays)

    def subject(self, order=None, **changes):
        def read(split, positions):
            self.read.append(len(positions))
            rows = torch.as_tensor(positions if order is None else [order[i] for i in positions])
            return {name: x[rows] for name, x in self.inputs(split).items()}

        test = self.latents("test", order)
        return Subject(
            ids=test.ids,
            logits=test.logits,
            targets=test.targets,
            classes=CLASSES,
            task=self.task,
            resamples=50,
            latents={"test": test, "train": self.latents("train")},
            probe=Probe(self.model, read, batch_size=self.batch_size),
            **changes,
        )


def measure(subject, **config):
    return Convexity(ConvexityConfig(**config)).measure(subject)


def test_the_component_passes_the_checks_that_any_must_pass():
    (component,) = [each for each in avrobust_metrics() if each.name == "convexity"]
    offer = RegistryEntry(
        kind="metric", component=component, distribution="avrobust", distribution_version="0", plugin="geometry"
    )
    outcomes = list(check_component(offer))
    assert [f"{each.check}: {each.reason}" for each in outcomes if each.status == "failed"] == []
    assert sum(each.status == "passed" for each in outcomes) >= 5


def test_it_asks_for_what_its_levels_read():
    def asked(**config):
        metric = Convexity(ConvexityConfig(**config))
        assert not metric.predictions
        return list(metric.latents), metric.probes

    train = LatentRequest("train", frozenset({"fused"}))
    assert asked() == ([LatentRequest(None, frozenset({"tokens", "pooled"})), train], True)
    assert asked(calibration=None) == ([LatentRequest(None, frozenset({"tokens", "pooled"}))], True)
    assert asked(levels=["fused"]) == ([LatentRequest(None, frozenset({"fused"})), train], True)
    assert asked(levels=["input"]) == ([train], True)
    assert asked(levels=["graph"]) == ([LatentRequest(None, frozenset({"pooled", "fused"}))], False)


@pytest.mark.parametrize("task", ["single-label", "multi-label"])
@pytest.mark.parametrize("seed", range(3))
def test_a_linear_model_is_convex_at_every_level_and_in_every_modality(seed, task):
    model = LinearOracle.random({"audio": (1, 12), "video": (1, 12)}, classes=3, seed=seed).eval()
    found = measure(World(model, task).subject(), levels=["input", "tokens", "fused"], pairs=300)
    names = [name for name in found.values if name.startswith("conditional/")]
    assert len(names) == 3 + 2 * 2
    assert {found.values[name].value for name in names} == {1.0}
    assert {found.values[name].high for name in names} == {1.0}
    assert max(found.values[name].low for name in names) < 1


def brute(world, subject, level, moved):
    """One class-wise score by a pass for each point: conditional, margins, swapped; rest held at both ends in turn."""
    segments = draw_segments(inside(subject), CLASSES, Identities(subject.ids, 0), 150)
    test, found = subject.latents["test"], {}
    raw = world.inputs("test")

    def margin(shares, i, j, c):
        if level == "input":
            x = {m: shares[m] * raw[m][[i]] + (1 - shares[m]) * raw[m][[j]] for m in raw}
            logits = world.model(x)
        elif level == "tokens":
            mixed = {
                name: torch.from_numpy(np.float32(r) * layer[[i]] + np.float32(1 - r) * layer[[j]])
                for name, layer in test.layers.items()
                if name != "fused" and (r := shares[name.split("/")[1]]) is not None
            }
            logits = world.model.classify({m: Encoded(mixed[f"tokens/{m}"], mixed[f"pooled/{m}"]) for m in raw})
        else:
            (r,) = set(shares.values())
            fused = test.layers["fused"]
            logits = world.model.head(torch.from_numpy(np.float32(r) * fused[[i]] + np.float32(1 - r) * fused[[j]]))
        return float(logits[0, c] - torch.cat([logits[0, :c], logits[0, c + 1 :]]).max())

    held, lows, swapped = ([[] for _ in CLASSES] for _ in range(3))
    with torch.no_grad():
        for i, j, c, r in zip(segments.first, segments.second, segments.cls, segments.ratio, strict=True):
            ends = [margin(dict.fromkeys(raw, 1.0), i, i, c), margin(dict.fromkeys(raw, 1.0), j, j, c)]
            if moved is None:
                z = margin(dict.fromkeys(raw, r), i, j, c)
                held[c].append(z > 0)
                lows[c].append(min(*ends, z))
                continue
            for end, own in ((1.0, ends[0]), (0.0, ends[1])):
                rest = dict.fromkeys(raw, end)
                far, z = margin(rest | {moved: 1 - end}, i, j, c), margin(rest | {moved: r}, i, j, c)
                swapped[c].append(far > 0)
                if far > 0:
                    held[c].append(z > 0)
                    lows[c].append(min(own, far, z))
    for name, each in (("conditional", held), ("margin", lows), ("swapped", swapped)):
        found[name] = [np.mean(values) if values else np.nan for values in each]
    return found


def inside(subject):
    best = subject.logits.argmax(axis=1)
    return [np.flatnonzero((subject.targets == c) & (best == c)) for c in range(len(CLASSES))]


@pytest.mark.parametrize(
    ("level", "moved"),
    [(level, moved) for level in ("input", "tokens") for moved in (None, "audio", "video")] + [("fused", None)],
)
def test_scores_are_those_of_points_put_through_one_by_one(level, moved):
    world = World(n=30)
    subject = world.subject()
    found = measure(subject, levels=[level], pairs=150)
    where = f"{level}/{moved}" if moved else level
    expected = brute(world, subject, level, moved)
    for name in ("conditional", "margin", *(["swapped"] if moved else [])):
        assert list(found.per_class[f"{name}/{where}"].values()) == pytest.approx(expected[name], abs=1e-4, nan_ok=True)
        assert found.values[f"{name}/{where}"].value == pytest.approx(np.nanmean(expected[name]), abs=1e-4)
    assert np.nanmin(expected["conditional"]) < 1


def test_one_modality_alone_has_nothing_to_hold():
    found = measure(World(av_model(("audio",))).subject(), levels=["input", "tokens"])
    assert {name for name in found.values if name.startswith("conditional/")} == {
        "conditional/input",
        "conditional/tokens",
    }
    both = measure(World().subject(), levels=["tokens"], apart=False)
    assert not any(name.count("/") == 2 for name in both.values)


def test_three_modalities_are_moved_one_at_a_time():
    world = World(av_model(("audio", "depth", "video")), n=24)
    found = measure(world.subject(), pairs=20)
    assert {"conditional/tokens/depth", "swapped/tokens/video", "margin/tokens/audio"} <= set(found.values)
    note = found.details["tokens"]
    assert note["clips_put_through"] == note["segments"] * (1 + 3 * 4)


def test_clips_that_are_put_through_are_counted():
    world = World()
    found = measure(
        world.subject(), levels=["input", "tokens", "fused"], methods=["interpolation", "euclidean"], pairs=50
    )
    for level in ("input", "tokens"):
        assert found.details[level]["clips_put_through"] == found.details[level]["segments"] * 7
    assert found.details["fused"]["clips_put_through"] == found.details["fused"]["segments"] <= 150
    note = found.details["euclidean/tokens"]
    assert note["clips_put_through"] == 10 * note["segments"]
    assert max(world.read) <= 2 * world.batch_size


@pytest.mark.parametrize("task", ["single-label", "multi-label"])
def test_neither_the_batch_size_nor_the_order_of_clips_matters(task):
    config = {"levels": ["input", "tokens", "fused", "graph"], "methods": ["interpolation", "euclidean", "reference"]}
    small = {"pairs": 40, "euclidean_pairs": 40, "graph_pairs": 40}
    plain = measure(World(task=task).subject(), **config, **small)
    order = np.random.default_rng(0).permutation(40).tolist()
    moved = measure(World(task=task, batch_size=3).subject(order), **config, **small)
    assert plain.values.keys() == moved.values.keys()
    for name, estimate in plain.values.items():
        assert moved.values[name].value == pytest.approx(estimate.value, abs=1e-4), name
        if name != "recall":  # whose bootstrap draws clips by their places
            assert moved.values[name].low == pytest.approx(estimate.low, abs=1e-4), name
    for name, values in plain.per_clip.items():
        assert np.allclose(values[order], moved.per_clip[name], atol=1e-4, equal_nan=True), name
    json.dumps(plain.details, allow_nan=False)


def test_the_seed_decides_what_is_drawn():
    world = World()
    values = [measure(world.subject(seed=seed), pairs=20).per_clip["margin/tokens"] for seed in (0, 0, 1)]
    assert np.array_equal(values[0], values[1], equal_nan=True)
    assert not np.array_equal(values[0], values[2], equal_nan=True)


def test_the_fused_level_is_what_the_plain_function_finds():
    world = World()
    subject = world.subject()
    found = measure(subject, levels=["fused"], pairs=100)
    head = world.model.head
    alone = convexity(
        torch.from_numpy(subject.latents["test"].layers["fused"].copy()),
        subject.targets,
        head,
        ids=subject.ids,
        classes=CLASSES,
        pairs=100,
        resamples=50,
    )
    for name, value in alone.values.items():
        assert found.values[name if name == "recall" else f"{name}/fused"].value == pytest.approx(value.value, abs=1e-5)


def test_thresholds_are_those_of_the_training_split():
    world = World(task="multi-label")
    subject = world.subject()
    train, test = subject.latents["train"], subject.latents["test"]
    found = measure(subject, levels=["fused"])
    assert found.details["thresholds"] == {"rule": "best F1", "split": "train", "classes_without": []}
    for split, calibration in (("train", "train"), ("test", None)):
        found = measure(subject, levels=["fused"], calibration=calibration)
        assert found.details["thresholds"]["split"] == split
        known = train if split == "train" else test
        cut = best_thresholds(known.logits, known.targets > 0.5)
        own = test.targets > 0.5
        expected = [(test.logits[own[:, c], c] >= cut[c]).mean() for c in range(3)]
        assert list(found.per_class["recall"].values()) == pytest.approx(expected)
        assert found.values["recall"].value == pytest.approx(np.mean(expected))
    gone = measure(replace(subject, latents={"test": test}), levels=["fused"])
    assert gone.details["thresholds"]["split"] == "test"
    same = measure(replace(subject, latents={"test": test, "train": test}), levels=["fused"])
    assert same.details["thresholds"]["split"] == "test"
    assert "thresholds" not in measure(World().subject(), levels=["fused"]).details


def test_a_class_without_a_threshold_has_no_ends():
    subject = World(task="multi-label").subject()
    train = subject.latents["train"]
    targets = train.targets.copy()
    targets[:, 1] = 0
    latents = {**subject.latents, "train": replace(train, targets=targets)}
    found = measure(replace(subject, latents=latents), levels=["fused"])
    assert found.details["thresholds"]["classes_without"] == ["b"]
    assert found.details["classes_without_segments"] == ["b"]
    assert found.per_class["recall"]["b"] == 0
    assert np.isnan(found.per_class["conditional/fused"]["b"])


def test_the_graph_of_each_embedding_is_what_the_plain_function_finds():
    subject = World().subject()
    found = measure(subject, levels=["graph"], k=5)
    assert {name.split("/", 1)[1] for name in found.values} == {"pooled/audio", "pooled/video", "fused"}
    for layer in ("pooled/audio", "fused"):
        alone = graph_convexity(
            subject.latents["test"].layers[layer], subject.targets, k=5, ids=subject.ids, classes=CLASSES
        )
        assert found.values[f"graph/{layer}"] == alone.values["graph"]
        assert found.values[f"graph-permuted/{layer}"] == alone.values["graph-permuted"]
    assert "recall" not in found.values


@pytest.mark.parametrize("levels", [["tokens"], ["input", "fused", "graph"]])
def test_bare_embeddings_have_a_graph_and_the_rest_is_left_out(levels):
    subject = World().subject()
    test = subject.latents["test"]
    bare = Latents(test.ids, test.targets, np.zeros((40, 0), np.float32), {"embeddings": test.layers["pooled/audio"]})
    given = replace(subject, logits=bare.logits, latents={"test": bare, "train": bare}, probe=None)
    found = measure(given, levels=levels)
    assert set(found.values) == {f"graph{x}/embeddings" for x in ("", "-micro", "-permuted", "-permuted-micro")}
    assert set(found.details["left_out"]) == set(levels) - {"graph"}


def test_what_is_not_finite_is_an_error_that_names_it():
    subject = World().subject()
    test = subject.latents["test"]
    broken = test.layers["fused"].copy()
    broken[5] = np.inf
    latents = {"test": replace(test, layers={**test.layers, "fused": broken})}
    with pytest.raises(AvrobustError, match=r"graph of fused: .*not finite in row 5"):
        measure(replace(subject, latents=latents), levels=["graph"])
    with pytest.raises(AvrobustError, match=r"not finite at points between clips .*'fused'"):
        measure(replace(subject, latents=latents), levels=["fused"])


def test_memory_maps_are_read_row_by_row(tmp_path):
    subject = World().subject()
    test = subject.latents["test"]
    layers = {}
    for number, (name, layer) in enumerate(test.layers.items()):
        np.save(tmp_path / f"{number}.npy", layer)
        layers[name] = np.load(tmp_path / f"{number}.npy", mmap_mode="r")
    mapped = replace(subject, latents={**subject.latents, "test": replace(test, layers=layers)})
    assert (
        measure(mapped, levels=["tokens", "fused", "graph"]).values
        == measure(subject, levels=["tokens", "fused", "graph"]).values
    )


def test_recall_has_an_interval_even_where_all_clips_are_right():
    found = measure(World(noise=0.0).subject(), levels=["fused"])
    assert found.values["recall"].value == 1
    assert found.values["recall"].low < 0.95
    some = measure(World(noise=2.0, n=200).subject(), levels=["fused"], pairs=10)
    assert 0.3 < some.values["recall"].low < some.values["recall"].value < some.values["recall"].high < 1


def test_a_model_that_gets_nothing_right_has_the_same_names_without_values():
    subject = World().subject()
    wrong = replace(subject, targets=subject.logits.argmin(axis=1))
    found, usual = measure(wrong), measure(subject)
    assert found.values.keys() == usual.values.keys()
    assert found.values["recall"].value == 0
    assert all(np.isnan(value.value) for name, value in found.values.items() if name != "recall")
    assert found.details["classes_without_segments"] == list(CLASSES)
