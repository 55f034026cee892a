"""The specs in `examples/`: all are valid, each says what it is for, and one of each kind runs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from avrobust_core import Registry
from avrobust_core.spec.loading import load_spec

EXAMPLES = Path(__file__).parents[2] / "examples"
SPECS = sorted(EXAMPLES.glob("*.yaml"))
FEW_CLIPS = [
    "data.with.train=32",
    "data.with.val=8",
    "data.with.test=12",
    "evaluation.clips=6",
    "evaluation.resamples=100",
    "audit=off",
]
LEARN_LITTLE = "training={standard: {epochs: 1, batch_size: 16}}"
REGIMES = yaml.safe_load((EXAMPLES / "vertex_mixup.yaml").read_text(encoding="utf-8"))["training"]
SMALLER = {
    "attack_suite": [
        *FEW_CLIPS,
        LEARN_LITTLE,
        "attacks.noise.with.draws=3",
        *(f"attacks.{name}.with.steps=2" for name in ("pgd-bce", "pgd-rank", "apgd-margin", "fmn")),
        "attacks.universal.with.epochs=1",
    ],
    "li_2022_geometry": [
        *FEW_CLIPS,
        LEARN_LITTLE,
        "attacks.fmn.with.steps=4",
        "attacks.pgd.with.steps=2",
    ],
    "vertex_mixup": [
        *FEW_CLIPS,
        "seed=0",
        *(f"training.{name}.epochs=1" for name in REGIMES),
        "attacks={pgd: {use: pgd, with: {steps: 2}, threats: [both]}}",
    ],
}
"""Of each kind of spec that makes its own clips one, and how it is made small. Those for clips run in tests/e2e and in
the tutorial, on files made there; AudioSet's and Kinetics' are validated only: nobody may pass their media on."""


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_a_spec_is_valid(path: Path) -> None:
    loaded = load_spec(path, Registry.discover())
    assert loaded.spec.models


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_a_spec_says_what_it_asks_and_how_it_is_run(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    opening = text.partition("\nversion:")[0]
    assert opening.startswith("# ")
    assert path.name in opening or "python benchmarks/" in opening


def run(folder: Path, path: Path, *settings: str) -> dict[str, Any]:
    """Carry a spec out in a process of its own; the object that `--json` prints."""
    options = [part for setting in settings for part in ("--set", setting)]
    done = subprocess.run(
        [sys.executable, "-m", "avrobust_core", "run", str(path), "--out", str(folder / "run"), "--json", *options],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLER)
def test_a_spec_of_each_kind_runs(name: str, tmp_path: Path) -> None:
    result = run(tmp_path, EXAMPLES / f"{name}.yaml", *SMALLER[name])
    assert result["cells"]
    assert result["failed"] == 0
    assert [failure for cell in result["cells"] for failure in cell["failures"]] == []


@pytest.mark.slow
def test_the_spec_for_features_runs_on_a_file_of_the_layout_that_it_names(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "features.h5", "w") as file:
        for split, clips in (("train", 16), ("valid", 4), ("eval", 6)):
            group = file.create_group(f"{split}/data")
            group["feat_a"] = rng.normal(0, 0.3, (clips, 400, 64)).clip(-2, 2).astype(np.float32)
            group["feat_v"] = rng.uniform(0, 1, (clips, 10, 2048)).astype(np.float32)
            group["labels"] = np.eye(527, dtype=np.float32)[np.arange(clips) % 4]
    rows = ["index,mid,display_name", *(f'{index},/m/{index},"class {index}"' for index in range(527))]
    (tmp_path / "class_labels_indices.csv").write_text("\n".join(rows) + "\n")
    result = run(
        tmp_path,
        EXAMPLES / "features.yaml",
        f"data.with.path={tmp_path / 'features.h5'}",
        f"data.with.class_list={tmp_path / 'class_labels_indices.csv'}",
        "models={video-only: {encoders: [video]}, late: {encoders: [audio, video], fusion: sum}}",
        "training={standard: {epochs: 1, batch_size: 8}}",
        "attacks={pgd: {use: pgd, with: {steps: 2}, threats: [both]}}",
        "evaluation.resamples=100",
        "audit=off",
    )
    assert [cell["model"] for cell in result["cells"]] == ["video-only", "late"]
    assert result["failed"] == 0
    assert [failure for cell in result["cells"] for failure in cell["failures"]] == []
