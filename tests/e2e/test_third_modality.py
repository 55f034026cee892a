"""A third modality, from a third party's plugin, trains, fuses and is attacked with no change to the core."""

import ast
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugins" / "avrobust-depth"


@pytest.mark.slow
def test_depth_trains_fuses_and_is_attacked(tmp_path: Path, run_command, last_json, fake_distribution) -> None:
    fake = fake_distribution("avrobust-depth", "0.1.0", {"avrobust_v1": {"depth": "avrobust_depth.plugin"}}, {})
    package = next(path.parent for path in EXAMPLE.rglob("avrobust_depth/plugin.py")).parent
    environment = {"PYTHONPATH": f"{fake}:{package}"}
    checked = run_command("check-plugin", "avrobust-depth", env=environment)
    assert checked.returncode == 0, checked.stdout
    ran = run_command("run", EXAMPLE / "depth_study.yaml", *("--out", tmp_path / "out", "--json"), env=environment)
    assert ran.returncode == 0, ran.stderr
    joint = [cell for cell in last_json(ran.stdout)["cells"] if len(cell["modalities"]) == 3]
    assert {cell["model"] for cell in joint} == {"concat", "depth-net"}
    cell = joint[0]
    assert cell["modalities"] == ["audio", "depth", "video"]
    attacked = [robust["attacked"] for threats in cell["robust_accuracy"].values() for robust in threats.values()]
    assert ["depth"] in attacked
    assert cell["clean_accuracy"]["value"] > 0


def test_the_core_names_no_modality() -> None:
    core = Path(__file__).parents[2] / "avrobust_core"
    # The conformance kit is no part of a study: its examples need modalities, and those have names.
    modules = [path for path in core.rglob("*.py") if "testing" not in path.relative_to(core).parts]
    assert len(modules) > 20
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and node.value in ("audio", "video"):
                raise AssertionError(f"{path.relative_to(core)}:{node.lineno} names the modality {node.value!r}")
