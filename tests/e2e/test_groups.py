"""A data set whose clips were drawn in groups: every interval of a study is over these, and says so."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PLUGIN = """
import os

from avrobust_data.configs import ToyAVConfig

from avrobust_core import Component, hookimpl


def build(config):
    from avrobust_data.toy import ToyAV

    def groups(self, split):
        size = int(os.environ["CLIPS_PER_SPEAKER"])
        return [f"speaker {i // size}" for i, _ in enumerate(self.ids(split))]

    return type("Spoken", (ToyAV,), {"groups": groups})(config)


@hookimpl
def avrobust_datasets():
    yield Component(name="spoken", summary="Toy clips of speakers.", config=ToyAVConfig, build=build)
"""

OPTIONS = (
    "--set", "data={use: spoken, with: {classes: 3, train: 48, val: 12, test: 24}}",
    "--set", "metrics=[accuracy, map, density, convexity]",
    "--set", "correlate=[fmn/both]",
    "--set", "compare=[{models: [concat, audio-only]}]",
    "--set", "threats={both: {audio: {eps: 0.01}, video: {eps: 4/255}}}",
    "--set", "attacks={fmn: {use: fmn, with: {steps: 3}, curve: [0.5, 2]}}",
    "--set", "training.standard.epochs=0",
)  # fmt: skip


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    site = tmp_path / "site"
    info = site / "spoken-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: spoken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[avrobust_v1]\nspoken = spoken_plugin\n")
    (site / "spoken_plugin.py").write_text(PLUGIN)
    return {"PYTHONPATH": os.pathsep.join([str(site), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])}


def estimates(data: Any) -> Iterator[dict[str, Any]]:
    """All estimates of a result that have an interval, wherever they stand."""
    if isinstance(data, dict):
        if "low" in data and data.get("method", "none") != "none":
            yield data
        data = list(data.values())
    for each in data if isinstance(data, list) else ():
        yield from estimates(each)


@pytest.mark.slow
def test_every_interval_of_a_study_is_over_groups_and_says_so(tiny, tmp_path, run_command, environment) -> None:
    out = tmp_path / "out"
    done = run_command("run", tiny, "--out", out, *OPTIONS, env=environment | {"CLIPS_PER_SPEAKER": "3"})
    assert done.returncode == 0, done.stderr
    assert "accuracy in %, [95 % interval over 8 groups of clips]" in done.stdout
    assert "these are differences between networks, not between methods" in done.stdout
    result = json.loads((out / "result.json").read_text())
    found = list(estimates(result))
    assert {each["method"] for each in found} == {"clopper-pearson", "square-and-add", "bootstrap", "dyadic"}
    assert all(1 < each["groups"] <= 8 for each in found)
    assert result["cells"][0]["clean_accuracy"]["n"] == 24
    # Other groups: nothing is fitted or attacked again, but every interval is another.
    again = run_command(
        "run", tiny, "--out", out, *OPTIONS, "--set", "metrics=[accuracy]", env=environment | {"CLIPS_PER_SPEAKER": "2"}
    )
    assert again.returncode == 0, again.stderr
    result = json.loads((out / "result.json").read_text())
    assert result["reused"] == 2
    assert {each["groups"] for each in estimates(result["cells"]) if each["n"] == 24} == {12}
