"""A study on features that were computed beforehand, and the checks that every data set must pass."""

import json
from pathlib import Path

import numpy as np
import pytest
from avrobust_data.plugin import avrobust_datasets

from avrobust_core import Component, Registry
from avrobust_core.cli import main
from avrobust_core.registry.registry import RegistryEntry
from avrobust_core.testing import COMPONENT_CHECKS
from avrobust_core.testing.component_subjects import ComponentSubject
from avrobust_core.testing.running import run_check

EXAMPLE = Path(__file__).parents[3] / "examples" / "features.yaml"


def learnable(clips: int, seed: int) -> dict[str, np.ndarray]:
    """Clips of four classes, of which the features tell in one place of each modality."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((clips, 4)) < 0.4).astype(np.float32)
    labels[np.arange(clips), rng.integers(4, size=clips)] = 1
    sound = 0.1 * rng.standard_normal((clips, 8, 32)).astype(np.float32)
    sound[:, :, :16] += np.repeat(labels, 4, axis=1)[:, None]
    pictures = 0.1 * rng.standard_normal((clips, 3, 8)).astype(np.float32)
    pictures[:, :, :4] += labels[:, None]
    return {"feat_a": sound.clip(-2, 2), "feat_v": pictures.clip(-0.51, 1.51), "labels": labels}


@pytest.fixture
def features(tmp_path, store) -> Path:
    arrays = {"valid": learnable(48, 0), "eval": learnable(24, 1)}
    arrays["eval"]["feat_v"][5, 0, 0] = np.nan
    named = {f"{split}/data/{name}": x for split, found in arrays.items() for name, x in found.items()}
    store(tmp_path / "features.h5", named, "hdf5-gzip")
    (tmp_path / "classes.csv").write_text(
        'index,mid,display_name\n0,/m/a,Speech\n1,/m/b,Dog\n2,/m/c,"Rain, heavy"\n3,/m/d,Siren\n'
    )
    return tmp_path / "features.h5"


def test_the_example_learns_from_features_and_is_attacked(features, tmp_path, capsys) -> None:
    changes = {
        "data.with.path": features,
        "data.with.class_list": tmp_path / "classes.csv",
        "data.with.splits": "{train: valid, test: eval}",
        "encoders.audio.with": "{embed: 32, heads: 2, n_mels: 32}",
        "encoders.video.with": "{width: 16, heads: 2}",
        "models.mid.fusion": "{use: mid, with: {width: 16}}",
        "include": "[{model: mid}]",
        "training.standard.epochs": 8,
        "training.standard.learning_rate": 0.01,
        "training.standard.batch_size": 12,
        "attacks": "{pgd: {use: pgd, with: {steps: 3}, threats: [both]}}",
    }
    settings = [part for name, value in changes.items() for part in ("--set", f"{name}={value}")]
    out = tmp_path / "run"
    assert main(["run", str(EXAMPLE), *settings, "--set", "audit=off", "--out", str(out), "--quiet"]) == 0
    assert "skipped 1 unreadable clip(s) of split 'test': test/5 (video" in capsys.readouterr().out
    result = json.loads((out / "result.json").read_text())
    assert list(result["skipped"]["test"]) == ["test/5"]
    for cell in (out / "cells").iterdir():
        names = (cell / "per_class.csv").read_text()
        assert '"Rain, heavy"' in names
        assert "Siren" in names
    cells = {cell["model"]: cell for cell in result["cells"]}
    assert cells.keys() == {"mid"}
    assert all(cell["clean_accuracy"]["value"] > 0.8 for cell in cells.values())
    assert all(cell["clean_accuracy"]["n"] == 23 for cell in cells.values())


def test_it_passes_the_checks_of_every_data_set(features) -> None:
    offered = next(component for component in avrobust_datasets() if component.name == "features")
    example = {"path": str(features), "splits": {"train": "valid", "test": "eval"}}
    component = Component(
        name="features", summary="Features.", config=offered.config, build=offered.build, example=example
    )
    entry = next(entry for entry in Registry.discover().entries() if entry.component.name == "features")
    subject = ComponentSubject(
        RegistryEntry(
            kind="dataset",
            component=component,
            distribution=entry.distribution,
            distribution_version=entry.distribution_version,
            plugin=entry.plugin,
        )
    )
    outcomes = [run_check(subject, check) for check in COMPONENT_CHECKS["dataset"]]
    assert {outcome.check: outcome.status for outcome in outcomes} == dict.fromkeys(
        (outcome.check for outcome in outcomes), "passed"
    )
    assert len(outcomes) >= 5
