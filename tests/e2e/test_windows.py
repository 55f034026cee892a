"""Networks that answer with the mean over several windows of a clip: fitted, attacked, measured, one command each."""

import json
from pathlib import Path
from typing import Any

import pytest

REST = """\
training: {standard: {epochs: 1, batch_size: 16}}
threats:
  both: {audio: {norm: l2, eps: {snr_db: 25}}, video: {eps: 4/255}}
  inside: {video: {norm: l2, eps: 2, space: features}}
attacks: {pgd: {use: pgd, with: {steps: 3}}}
metrics: [accuracy]
evaluation: {resamples: 200}
engine: {batch_size: 8}
"""

CRAFTED = "{use: adversarial, with: {steps: 1, threat: {audio: {eps: 0.01}, video: {eps: 4/255}}}}"


@pytest.mark.slow
def test_a_network_of_windows_is_fitted_attacked_and_measured(small_spec, tmp_path: Path, run_command) -> None:
    def run(out: str, spec: Path, *changes: str) -> dict[str, Any]:
        changed = [argument for change in changes for argument in ("--set", change)]
        done = run_command("run", spec, "--out", tmp_path / out, *changed)
        assert done.returncode == 0, done.stderr + done.stdout
        (cell,) = json.loads((tmp_path / out / "result.json").read_text())["cells"]
        assert not cell["failures"]
        return dict(cell)

    single, several = tmp_path / "single.yaml", tmp_path / "several.yaml"
    single.write_text(small_spec(REST, name="single", models=["concat"]))
    several.write_text(small_spec(REST, name="several", models=["concat"], seconds=2.0, frames=16))
    parts = "models.concat.windows={count: 3, seconds: 1}"

    fitted = run("1", single, "attacks={}")
    weights = tmp_path / "1" / "cells" / fitted["id"] / "model.safetensors"
    there = run("2", several, parts, f"models.concat.weights={weights}", "training.standard.epochs=0")
    taken = tmp_path / "2" / "cells" / there["id"] / "model.safetensors"
    assert taken.read_bytes() == weights.read_bytes(), "what was fitted on single windows reads several"
    robust = {threat: found["value"] for threat, found in there["robust_accuracy"]["pgd"].items()}
    assert robust.keys() == {"both", "inside"}
    assert max(robust.values()) < there["clean_accuracy"]["value"]

    augmented = f"training.standard.augment=[manifold-mixup, {CRAFTED}]"
    learned = run("3", several, parts, augmented, "attacks={}", "metrics=[density, {use: convexity, with: {pairs: 4}}]")
    assert learned["fit"]["clip_forwards"] == 48 * 2 + 12, "a clip through all its windows is one pass"
