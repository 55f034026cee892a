"""A third party's metric of the latent space in a study: embeddings are made once, kept, and correlated."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

PLUGIN = '''
from avrobust_core import Component, Config, hookimpl


def build(config):
    import numpy as np
    from avrobust_core import Measurement, Metric, LatentRequest, share

    class Nearness(Metric):
        """Share of clips nearer to the mean of their own class, of the training clips, than to any other."""

        predictions = False
        probes = True
        latents = (LatentRequest(None, frozenset({"fused"})), LatentRequest("train", frozenset({"fused", "tokens"})))

        def measure(self, subject):
            own, train = subject.latents[subject.split], subject.latents["train"]
            assert "tokens/audio" in train.layers
            means = np.stack([train.layers["fused"][train.targets == c].mean(0) for c in range(len(subject.classes))])
            distances = np.linalg.norm(own.layers["fused"][:, None] - means, axis=2)
            near = distances.argmin(1) == subject.targets
            inputs = subject.probe.read(subject.split, [0, 3])
            again = subject.probe.forward(inputs).cpu().numpy()
            assert np.allclose(again, subject.logits[[0, 3]], atol=1e-4)
            assert subject.probe.media["audio"].bounds == (-1, 1)
            assert subject.probe.media["audio"].shape == inputs["audio"].shape[1:]
            return Measurement(
                {"near": share(near, groups=subject.groups)},
                {"near": {name: float(near[subject.targets == c].mean()) for c, name in enumerate(subject.classes)}},
                {"distance": distances.min(1)},
                {"clips": len(train)},
            )

    return Nearness()


@hookimpl
def avrobust_metrics():
    yield Component(name="nearness", summary="Nearness.", config=Config, build=build)
'''

OPTIONS = (
    "--set", "metrics=[accuracy, nearness]",
    "--set", "correlate=[pgd/both]",
    "--set", "threats={both: {audio: {eps: 0.01}, video: {eps: 4/255}}}",
    "--set", "attacks={pgd: {use: pgd, with: {steps: 2}, curve: [0.5, 2]}}",
    "--set", "models={concat: {encoders: [audio, video], fusion: concat}}",
)  # fmt: skip


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    site = tmp_path / "site"
    info = site / "nearness-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nearness\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[avrobust_v1]\nnearness = nearness_plugin\n")
    (site / "nearness_plugin.py").write_text(PLUGIN)
    return {"PYTHONPATH": str(site)}


def test_a_study_measures_the_latent_space_once_and_correlates(tiny, tmp_path, run_command, environment) -> None:
    out = tmp_path / "out"
    done = run_command("run", tiny, "--out", out, "--json", *OPTIONS, env=environment)
    assert done.returncode == 0, done.stderr
    (cell,) = json.loads((out / "result.json").read_text())["cells"]
    (entry,) = [entry for entry in cell["metrics"] if entry["metric"] == "nearness"]
    assert entry["details"] == {"clips": 48}
    folder = out / "cells" / cell["id"]
    clips = pq.read_table(folder / entry["per_clip"])
    assert clips.column_names == ["id", "distance"]
    assert clips.num_rows == 24
    layers = {path.name for path in folder.glob("embeddings/*/*.npy")}
    assert layers == {"fused.npy", "tokens.audio.npy", "tokens.video.npy"}
    assert not list(folder.glob("embeddings/*/parts-*"))
    rows = list(csv.DictReader((folder / "per_class.csv").open()))
    assert {row["class"] for row in rows if row["metric"] == "nearness"} == set(entry["per_class"]["near"])
    correlations = json.loads((out / "result.json").read_text())["correlations"]
    found = {(entry["level"], entry["predictor"]) for entry in correlations}
    assert {("clip", "margin"), ("clip", "confidence"), ("clip", "distance")} <= found
    assert "rank correlation with robustness against pgd/both" in done.stderr

    made = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")}
    again = run_command("run", tiny, "--out", out, "--json", *OPTIONS, env=environment)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")} == made
    assert json.loads((out / "result.json").read_text())["correlations"] == correlations


def test_a_split_that_the_data_set_lacks_is_refused_before_anything_is_fitted(
    tiny, tmp_path, run_command, environment
) -> None:
    source = Path(environment["PYTHONPATH"]) / "nearness_plugin.py"
    source.write_text(PLUGIN.replace('LatentRequest("train"', 'LatentRequest("night"'))
    done = run_command("run", tiny, "--out", tmp_path / "out", *OPTIONS, env=environment)
    assert done.returncode == 1
    assert "metric 'nearness' asks for the split 'night'" in done.stderr
    assert not (tmp_path / "out" / "cells").exists()


def test_embeddings_of_the_file_are_those_that_a_third_party_can_read(tiny, tmp_path, run_command, environment) -> None:
    out = tmp_path / "out"
    run_command("run", tiny, "--out", out, *OPTIONS, env=environment)
    (record,) = [
        path for path in out.rglob("record.json") if json.loads(path.read_text())["identity"].get("split") == "train"
    ]
    fused = np.load(record.parent / "fused.npy", mmap_mode="r")
    assert fused.shape[0] == pq.read_table(record.parent / "clips.parquet").num_rows == 48
    assert np.isfinite(fused).all()


@pytest.mark.slow
def test_convexity_inside_encoders_and_between_classes_in_a_study(tiny, tmp_path, run_command) -> None:
    level = "encoders.audio.conv_block1+encoders.video.blocks.1"
    wanted = f"metrics=[{{use: convexity, with: {{levels: [{level}], methods: [interpolation, between], pairs: 20}}}}]"
    model = ("--set", "models={concat: {encoders: [audio, video], fusion: concat}}", "--set", "attacks={}")
    out = tmp_path / "out"
    done = run_command("run", tiny, "--out", out, "--set", wanted, *model)
    assert done.returncode == 0, done.stderr
    (cell,) = json.loads((out / "result.json").read_text())["cells"]
    (entry,) = [entry for entry in cell["metrics"] if entry["metric"] == "convexity"]
    assert {f"conditional/{level}", f"failure-rate/{level}/audio", f"kept-length/{level}"} <= set(entry["values"])
    assert f"kept/{level}" in pq.read_table(out / "cells" / cell["id"] / entry["per_clip"]).column_names
    assert "left_out" not in entry["details"]

    # Refused although all cells are fitted already.
    wrong = run_command("run", tiny, "--out", out, "--set", wanted.replace("conv_block1", "conv_blok1"), *model)
    assert wrong.returncode == 1
    assert (
        "'convexity': the model has no layer 'encoders.audio.conv_blok1'; did you mean 'encoders.audio.conv"
        in wrong.stderr
    )
