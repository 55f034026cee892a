"""Networks fitted on single windows and judged by the mean over several, from one command each."""

import json
from pathlib import Path

import pytest

REST = """\
training:
  standard: {epochs: 2, batch_size: 16}
  replaced:
    epochs: 1
    batch_size: 16
    augment: [manifold-mixup, {use: adversarial, with: {steps: 2, threat: BOTH}}]
threats:
  audio: {audio: {eps: 0.01}}
  both: BOTH
  inside: {video: {norm: l2, eps: 2, space: features}}
attacks:
  pgd: {use: pgd, with: {steps: 5, restarts: 2}}
metrics: [accuracy, map, density, {use: convexity, with: {pairs: 4}}]
evaluation: {resamples: 200}
engine: {batch_size: 8}
""".replace("BOTH", "{audio: {norm: l2, eps: {snr_db: 25}}, video: {eps: 4/255}}")


@pytest.mark.slow
def test_what_was_fitted_on_single_windows_is_attacked_in_several(small_spec, tmp_path: Path, run_command) -> None:
    single, several = tmp_path / "single.yaml", tmp_path / "several.yaml"
    single.write_text(small_spec(REST, name="single", models=["concat"]))
    fitted = run_command("run", single, "--out", tmp_path / "1", "--set", "attacks={}", "--set", "metrics=[accuracy]")
    assert fitted.returncode == 0, fitted.stderr
    cells = json.loads((tmp_path / "1" / "result.json").read_text())["cells"]
    weights = tmp_path / "1" / "cells" / cells[0]["id"] / "model.safetensors"

    several.write_text(small_spec(REST, name="several", models=["concat"], seconds=2.0, frames=16))
    parts = ("--set", "models.concat.windows={count: 3, seconds: 1}")
    for out, change in (("2", f"models.concat.weights={weights}"), ("3", "audit={clips: 8}")):
        untrained = ("--set", "training={standard: {epochs: 0, select: last}}") if out == "2" else ()
        done = run_command("run", several, "--out", tmp_path / out, *parts, "--set", change, *untrained)
        assert done.returncode in (0, 3), done.stderr + done.stdout
        result = json.loads((tmp_path / out / "result.json").read_text())
        assert result["failed"] == 0
        for cell in result["cells"]:
            robust = cell["robust_accuracy"]["pgd"]
            assert set(robust) == {"audio", "both", "inside"}
            assert robust["both"]["value"] < cell["clean_accuracy"]["value"]
    taken = (tmp_path / "2" / "cells" / result_id(tmp_path / "2") / "model.safetensors").read_bytes()
    assert taken == weights.read_bytes()


def result_id(out: Path) -> str:
    (cell,) = json.loads((out / "result.json").read_text())["cells"]
    return str(cell["id"])
