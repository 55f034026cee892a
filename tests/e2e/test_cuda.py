"""On a GPU: the same models say the same, every attack is verified there, and every regime trains there and resumes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from avrobust_core import Registry
from avrobust_core.spec.loading import load_spec
from avrobust_core.study.runner import carry_out

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

SEPARATE = "{audio: {eps: 0.004}, video: {eps: 4/255}}"
REGIMES = {
    "mixup": "[mixup]",
    "cutmix": "[cutmix, specaugment]",
    "manifold": "[manifold-mixup, {use: modality-dropout, with: {probability: {audio: 0.3}}}]",
    "features": "[noisy-feature-mixup, {use: noise, with: {scale: {audio: 0.01}}}]",
    "guided": "[{use: guided-mixup, with: {warmup: 1, refresh: 2, alpha: 0.2}}]",
    "guided-encoded": "[{use: guided-mixup, with: {level: encoded, warmup: 1}}]",
    "adversarial": f"[{{use: adversarial, with: {{steps: 2, threat: {SEPARATE}}}}}]",
    "any-attack": f"[{{use: adversarial, with: {{attack: {{use: apgd, with: {{steps: 2}}}}, threat: {SEPARATE}}}}}]",
    "fast-at": f"[{{use: fast-at, with: {{threat: {SEPARATE}}}}}]",
    "free-at": f"[{{use: free-at, with: {{replays: 1, memory: true, threat: {SEPARATE}}}}}, mixup]",
    "trades": f"[{{use: trades, with: {{steps: 2, threat: {SEPARATE}}}}}]",
}
ATTACKS = """
threats:
  both: {audio: {eps: 0.01}, video: {eps: 4/255}}
  l2: {audio: {norm: l2, eps: {snr_db: 25}}, video: {norm: l2, eps: 1}}
  shared: {kind: shared, audio: {norm: l2, eps: 0.5}, video: {norm: l2, eps: 0.5}}
  sparse: {audio: {norm: l0, eps: 40}, video: {norm: l1, eps: 10}}
attacks:
  fgsm: {use: fgsm, threats: [both, l2, shared]}
  pgd: {use: pgd, with: {steps: 5}, curve: [0.5, 2]}
  apgd: {use: apgd, with: {steps: 5}, threats: [both, l2]}
  cw: {use: cw, with: {steps: 10, searches: 2}, threats: [l2]}
  fmn: {use: fmn, with: {steps: 10}, threats: [both, l2]}
  square: {use: square, with: {queries: 20}, threats: [both, l2]}
  universal: {use: universal, with: {epochs: 1}, threats: [both]}
metrics: [accuracy, density, convexity]
"""


def run(folder: Path, text: str, name: str, *overrides: str) -> tuple[dict[str, Any], Path]:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    registry = Registry.discover()
    out = folder / name
    return carry_out(load_spec(path, registry, list(overrides)), registry, out=out), out


def clean_margins(out: Path) -> np.ndarray:
    rows = pq.read_table(next(out.glob("cells/*/samples.parquet"))).to_pylist()  # type: ignore[no-untyped-call]
    return np.array([row["margin"] for row in sorted(rows, key=lambda row: row["id"]) if row["attack"] is None])


def spec(training: Mapping[str, str], rest: str) -> str:
    regimes = "\n".join(f"  {name}: {{epochs: 3, batch_size: 16, augment: {text}}}" for name, text in training.items())
    return f"""
version: 1
name: cuda
data: {{use: toy-av, with: {{classes: 3, train: 48, val: 12, test: 24, size: 16, frames: 4}}}}
encoders:
  audio: {{use: cnn, with: {{channels: [4, 8]}}}}
  video: slowfast-tiny
models:
  concat: {{encoders: [audio, video], fusion: concat}}
training:
{regimes}
evaluation: {{resamples: 200}}
{rest}"""


@pytest.fixture(scope="module", autouse=True)
def _exact() -> Any:
    """Without TF32, which keeps ten bits of each factor."""
    flags = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = flags


def test_a_model_says_the_same_on_both_and_every_attack_keeps_its_threat(tmp_path: Path) -> None:
    text = spec({"standard": "[]"}, ATTACKS)
    here, fitted = run(tmp_path, text, "cpu", "engine.accelerator=cpu")
    weights = next(fitted.glob("cells/*/model.safetensors"))
    there, found = run(
        tmp_path,
        text,
        "gpu",
        "engine.accelerator=cuda",
        "training={standard: {epochs: 0, select: last}}",
        f"models={{concat: {{encoders: [audio, video], fusion: concat, weights: '{weights}'}}}}",
    )
    (one,), (two,) = here["cells"], there["cells"]
    margins = [clean_margins(out) for out in (fitted, found)]
    assert len(margins[0]) == 24
    assert np.abs(margins[0] - margins[1]).max() < 1e-3 * np.abs(margins[0]).max()
    assert one["clean_accuracy"] == two["clean_accuracy"]
    for attack, threats in one["robust_accuracy"].items():
        for threat, estimate in threats.items():
            # Two clips of 24: a gradient that is zero but for rounding has another sign on another device.
            assert abs(estimate["value"] - two["robust_accuracy"][attack][threat]["value"]) < 0.1, (attack, threat)


@pytest.mark.parametrize("name", list(REGIMES))
def test_every_regime_trains_on_a_gpu(tmp_path: Path, name: str) -> None:
    result, _ = run(tmp_path, spec({name: REGIMES[name]}, "metrics: [accuracy]"), name, "engine.accelerator=cuda")
    (cell,) = result["cells"]
    assert "error" not in cell, json.dumps(cell)
    assert cell["clean_accuracy"]["value"] > 0


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_half_precision_trains_and_attacks(tmp_path: Path, precision: str) -> None:
    text = spec({"free-at": REGIMES["free-at"]}, ATTACKS)
    result, _ = run(
        tmp_path,
        text,
        "half",
        "engine.accelerator=cuda",
        f"engine.precision={precision}",
        "engine.attack_precision=bf16-mixed",
        "metrics=[accuracy]",
    )
    (cell,) = result["cells"]
    assert "error" not in cell, json.dumps(cell)
