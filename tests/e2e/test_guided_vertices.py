"""Guided vertex mix-up in a whole fit: killed anywhere it goes on to the same weights, and clears its files away."""

import json
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file

from avrobust_core import Registry
from avrobust_core.data.loader import Loader
from avrobust_core.registry.choices import configure
from avrobust_core.spec.loading import load_spec
from avrobust_core.study.building import Builder
from avrobust_core.training.fit import SCRATCH, Fit

THREAT = {"audio": {"eps": 0.01}, "video": {"eps": "10/255"}}
STEPS = 3 * 3
VERTICES = (
    "training={guided: {epochs: 2, batch_size: 16, select: last, augment: [{use: vertex-mixup, with: {threat: "
    "{audio: {eps: 0.01}, video: {eps: 10/255}}}}, {use: guided-weights, with: {warmup: 1}}]}}"
)


class Killed(Exception):
    """Stands for the end of a process."""


@pytest.fixture
def fit(tiny: Path):
    """From a folder to a fit of three epochs of three steps, which ends after some number of steps."""
    registry = Registry.discover()
    loaded = load_spec(tiny, registry)
    builder = Builder(loaded.spec, registry)
    dataset = builder.dataset()
    regime = loaded.spec.training["standard"].model_copy(update={"epochs": 3, "batch_size": 16, "select": "last"})

    def build(folder: Path, stop_at: int | None = None) -> Fit:
        def report(done: int, total: int) -> None:
            assert total == STEPS
            if done == stop_at:
                raise Killed

        augmentations = [
            configure(registry, "augmentation", "vertex-mixup", {"threat": THREAT, "bits": 2}).build(),
            configure(registry, "augmentation", "guided-weights", {"warmup": 1, "k": 3}).build(),
        ]
        model = builder.model("concat", dataset)
        fabric = Fabric(accelerator="cpu", devices=1)
        return Fit(fabric, model, Loader(dataset), regime, augmentations, seed=5, folder=folder, report=report)

    return build


@pytest.mark.parametrize("checkpoint_seconds", [pytest.param(-1.0, marks=pytest.mark.slow), 60.0])
def test_a_fit_killed_at_any_step_goes_on_to_the_same_weights(tmp_path, fit, monkeypatch, checkpoint_seconds) -> None:
    monkeypatch.setattr("avrobust_core.training.fit.CHECKPOINT_SECONDS", checkpoint_seconds)
    fit(tmp_path / "whole").run()
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    for stop_at in range(2, STEPS + 1, 3):
        folder = tmp_path / f"killed-{stop_at}"
        with pytest.raises(Killed):
            fit(folder, stop_at).run()
        assert (folder / SCRATCH / "perturbations-video").exists()
        fit(folder).run()
        found = load_file(folder / "model.safetensors")
        assert all(torch.equal(found[name], whole[name]) for name in whole), stop_at
        assert not (folder / SCRATCH).exists()


def test_vertices_left_by_another_fit_are_not_taken_up(tmp_path, fit) -> None:
    fit(tmp_path / "whole").run()
    with pytest.raises(Killed):
        fit(tmp_path / "again", 8).run()
    (tmp_path / "again" / "checkpoint.pt").unlink()
    kept = tmp_path / "again" / SCRATCH / "perturbations-audio"
    kept.write_bytes(b"\xff" * kept.stat().st_size)
    fit(tmp_path / "again").run()
    whole, found = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "again"))
    assert all(torch.equal(found[name], whole[name]) for name in whole)


@pytest.mark.slow
def test_two_processes_share_their_vertices_through_files(tiny: Path, tmp_path: Path, run_command, last_json) -> None:
    asked = ("run", tiny, "--out", tmp_path / "out", "--json", "--set", VERTICES, "--set", "metrics=[accuracy]")
    ran = run_command(*asked, "--set", "engine.accelerator=cpu", "--set", "engine.devices=2")
    assert ran.returncode == 0, ran.stderr
    (cell,) = [each for each in last_json(ran.stdout)["cells"] if each["model"] == "concat"]
    assert cell["fit"]["clip_forwards"] == cell["fit"]["clip_backwards"] == 2 * 48
    assert not list((tmp_path / "out").rglob(SCRATCH))
    assert json.loads((tmp_path / "out" / "result.json").read_text())["failed"] == 0
