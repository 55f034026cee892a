"""Density as a metric of a study: layers, splits, ids, names, and bare embeddings."""

import json
import subprocess
import sys

import numpy as np
import pytest
from avrobust_geometry import density
from avrobust_geometry.configs import DensityConfig
from avrobust_geometry.density.metric import Density
from pydantic import ValidationError

from avrobust_core import AvrobustError, LatentRequest, Latents, Subject


def latents(split, n=60, seed=0, logits=3):
    rng = np.random.default_rng([seed, n])
    targets = rng.integers(3, size=n)
    centres = 2 * np.random.default_rng(7).normal(size=(3, 6))
    layers = {
        "pooled/audio": rng.normal(size=(n, 6)) + centres[targets],
        "pooled/video": rng.normal(size=(n, 4)),
        "tokens/audio": rng.normal(size=(n, 5, 6)),
        "fused": rng.normal(size=(n, 7, 6)) + centres[targets][:, None],
    }
    layers = {name: layer.astype(np.float32) for name, layer in layers.items()}
    for layer in layers.values():
        layer.flags.writeable = False
    return Latents(
        tuple(f"{split}-{i}" for i in range(n)), targets, rng.normal(size=(n, logits)).astype(np.float32), layers
    )


def subject(evaluated, task="single-label", targets=None, **splits):
    return Subject(
        ids=evaluated.ids,
        logits=evaluated.logits,
        targets=evaluated.targets if targets is None else targets,
        classes=("a", "b", "c"),
        task=task,
        resamples=50,
        latents={"test": evaluated, **splits},
    )


def test_it_asks_for_pooled_and_fused_layers_of_both_splits_and_for_no_predictions():
    kinds = frozenset({"pooled", "fused"})
    metric = Density(DensityConfig())
    assert list(metric.latents) == [LatentRequest(None, kinds), LatentRequest("train", kinds)]
    assert not metric.predictions
    assert not metric.probes
    assert list(Density(DensityConfig(reference=None)).latents) == [LatentRequest(None, kinds)]
    tokens = Density(DensityConfig(reference=None, layers=("tokens/audio", "fused")))
    assert list(tokens.latents) == [LatentRequest(None, frozenset({"tokens", "fused"}))]
    assert list(Density(DensityConfig(reference=None, layers=("embeddings",))).latents) == [LatentRequest(None, kinds)]


def test_each_layer_is_measured_as_the_function_measures_it():
    test, train = latents("test"), latents("train", 100)
    found = Density(DensityConfig(k=5)).measure(subject(test, train=train))
    layers = ("pooled/audio", "pooled/video", "fused")
    names = "class-ratio", "class-ratio-plain", "log-knn", "entropy", "lof", "lid", "density", "coverage", "trust"
    assert set(found.values) == {f"{name}/{layer}" for name in names for layer in layers}
    assert found.details["reference"] == "train"
    assert found.details["averaged_over_positions"] == ["fused"]
    for layer in layers:
        alone = density(
            test.layers[layer],
            test.targets,
            reference=train.layers[layer],
            reference_labels=train.targets,
            logits=test.logits,
            classes=("a", "b", "c"),
            k=5,
            resamples=50,
        )
        for name, value in alone.values.items():
            assert found.values[f"{name}/{layer}"] == value
        for name, values in alone.per_clip.items():
            np.testing.assert_array_equal(found.per_clip[f"{name}/{layer}"], values)
            assert found.per_class[f"{name}/{layer}"] == alone.per_class[name]
        assert found.details[layer] == alone.details
    json.dumps(found.details, allow_nan=False)


def test_classes_that_lie_apart_are_told_from_noise():
    found = Density(DensityConfig(estimators=("class-ratio",))).measure(
        subject(latents("test"), train=latents("train", 100))
    )
    assert found.values["class-ratio/pooled/audio"].low > 1
    assert abs(found.values["class-ratio/pooled/video"].value) < 1


def test_a_clip_of_the_reference_is_not_its_own_neighbour_wherever_it_stands():
    whole = latents("test", 80)
    rows = np.random.default_rng(1).permutation(80)[:30]
    some = Latents(
        tuple(whole.ids[i] for i in rows),
        whole.targets[rows],
        whole.logits[rows],
        {name: layer[rows] for name, layer in whole.layers.items()},
    )
    config = DensityConfig(reference="train")
    alone = Density(config).measure(subject(whole, train=whole))
    found = Density(config).measure(subject(some, train=whole))
    for name in ("log-knn/fused", "class-ratio/fused", "lof/fused", "density/fused", "trust/fused"):
        np.testing.assert_allclose(found.per_clip[name], alone.per_clip[name][rows], rtol=1e-7)
    assert found.details["fused"]["clips_in_reference"] == 30
    assert alone.details["fused"]["clips_in_reference"] == 80


def test_null_as_reference_is_the_evaluated_split():
    whole = latents("test", 80)
    alone = Density(DensityConfig(reference=None)).measure(subject(whole))
    assert alone.details["reference"] == "test"
    assert "coverage/fused" not in alone.values
    assert alone.values == Density(DensityConfig()).measure(subject(whole, train=whole)).values


def test_several_labels_per_clip():
    test, train = latents("test"), latents("train", 100)
    hot = [np.eye(3, dtype=np.float32)[each.targets] for each in (test, train)]
    hot[0][:20, 0] = hot[1][:20, 0] = 1
    reference = Latents(train.ids, hot[1], train.logits, train.layers)
    found = Density(DensityConfig()).measure(subject(test, "multi-label", hot[0], train=reference))
    alone = density(
        test.layers["pooled/audio"],
        hot[0],
        reference=train.layers["pooled/audio"],
        reference_labels=hot[1],
        resamples=50,
    )
    assert found.values["class-ratio/pooled/audio"] == alone.values["class-ratio"]


def test_bare_embeddings_are_one_layer_without_trust():
    bare = latents("test", logits=0)
    bare = Latents(bare.ids, bare.targets, bare.logits, {"embeddings": bare.layers["pooled/audio"]})
    found = Density(DensityConfig()).measure(subject(bare, train=bare))
    assert "class-ratio/embeddings" in found.values
    assert not any(name.startswith("trust") for name in found.values)
    assert found.details["embeddings"]["left_out"]["trust"] == "there are no predictions"


def test_layers_are_chosen_and_one_that_is_not_there_is_an_error_that_lists_them():
    given = subject(latents("test"), train=latents("train"))
    found = Density(DensityConfig(layers=("tokens/audio",), estimators=("lid",))).measure(given)
    assert list(found.values) == ["lid/tokens/audio"]
    assert found.details["averaged_over_positions"] == ["tokens/audio"]
    with pytest.raises(
        AvrobustError, match=r"no pooled/odour; there are: pooled/audio, pooled/video, tokens/audio, fused$"
    ):
        Density(DensityConfig(layers=("fused", "pooled/odour"))).measure(given)


def test_a_reference_that_is_too_small_is_refused_by_name():
    with pytest.raises(AvrobustError, match=r"'train' has fewer than two clips"):
        Density(DensityConfig()).measure(subject(latents("test"), train=latents("train", 1)))


def test_configuration():
    assert DensityConfig().estimators == ("class-ratio", "log-knn", "lof", "lid", "coverage-density", "trust")
    assert DensityConfig(estimators=["lid"]).estimators == ("lid",)
    for wrong in ({"k": 0}, {"estimators": ()}, {"estimators": ("kde",)}, {"layers": ()}, {"most": 0}):
        with pytest.raises(ValidationError):
            DensityConfig(**wrong)


def test_the_function_keeps_its_name_whatever_is_imported_and_needs_no_torch_to_be_named():
    code = """
import sys
import avrobust_geometry, avrobust_geometry.plugin
assert "torch" not in sys.modules and "numpy" not in sys.modules
import avrobust_geometry.density.metric
assert callable(avrobust_geometry.density)
from avrobust_geometry import density
from avrobust_geometry.density.arrays import density as same
assert density is same
"""
    subprocess.run([sys.executable, "-c", code], check=True)
