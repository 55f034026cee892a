"""`weights: PATH` in a spec: a fitted network is taken up as it is, and its content is part of what a cell is."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

BARE = ("--set", "threats={}", "--set", "attacks={}", "--set", "metrics=[accuracy]")
UNTRAINED = ("--set", "training={standard: {epochs: 0, select: last}}")
ALONE = ("--set", "models={audio-only: {encoders: [audio]}}")


@pytest.fixture(scope="module")
def fitted(tiny, tmp_path_factory, run_command) -> Path:
    """The weights of a fitted audio-only model."""
    out = tmp_path_factory.mktemp("fitted")
    done = run_command("run", tiny, "--out", out, *ALONE, *BARE)
    assert done.returncode == 0, done.stderr
    return next(out.glob("cells/*/model.safetensors"))


def _cell(out: Path) -> dict:
    (cell,) = json.loads((out / "result.json").read_text())["cells"]
    return cell


def _weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(next(out.glob("cells/*/model.safetensors")))


def test_an_encoder_and_a_whole_model_start_from_a_file(tiny, fitted, tmp_path, run_command) -> None:
    source = load_file(fitted)
    one = run_command(
        "run", tiny, "--out", tmp_path / "1", "--set", f"encoders.audio.weights={fitted}", *UNTRAINED, *ALONE, *BARE
    )
    assert one.returncode == 0, one.stderr
    found = _weights(tmp_path / "1")
    assert all(torch.equal(found[key], x) for key, x in source.items() if key.startswith("encoders.audio."))
    assert not torch.equal(found["head.weight"], source["head.weight"])

    two = run_command(
        "run",
        tiny,
        "--out",
        tmp_path / "2",
        *UNTRAINED,
        *BARE,
        "--set",
        f"models={{audio-only: {{encoders: [audio], weights: '{fitted}'}}}}",
    )
    assert two.returncode == 0, two.stderr
    found = _weights(tmp_path / "2")
    assert all(torch.equal(found[key], x) for key, x in source.items())

    same = run_command(
        "run",
        tiny,
        "--out",
        tmp_path / "2",
        *UNTRAINED,
        *BARE,
        "--set",
        f"models={{audio-only: {{encoders: [audio], weights: '{fitted}'}}}}",
        *("--set", "engine.channels_last=true"),
    )
    assert same.returncode == 0, same.stderr
    assert "1 of 1 cells reused" in same.stdout  # it is no part of what a cell is
    last = run_command(
        "run",
        tiny,
        "--out",
        tmp_path / "3",
        *UNTRAINED,
        *BARE,
        "--set",
        f"models={{audio-only: {{encoders: [audio], weights: '{fitted}'}}}}",
        *("--set", "engine.channels_last=true"),
    )
    assert last.returncode == 0, last.stderr
    assert all(torch.equal(_weights(tmp_path / "3")[key], x) for key, x in source.items())
    assert _cell(tmp_path / "3")["clean_accuracy"] == _cell(tmp_path / "2")["clean_accuracy"]

    changed = tmp_path / "changed.safetensors"
    save_file({key: x * 2 if key == "head.bias" else x for key, x in source.items()}, changed)
    three = run_command(
        "run",
        tiny,
        "--out",
        tmp_path / "2",
        *UNTRAINED,
        *BARE,
        "--set",
        f"models={{audio-only: {{encoders: [audio], weights: '{changed}'}}}}",
    )
    assert three.returncode == 0, three.stderr
    assert "fitting (changed: weights.model" in three.stderr


def test_weights_that_do_not_fit_are_refused_before_anything_is_fitted(tiny, fitted, tmp_path, run_command) -> None:
    done = run_command("run", tiny, "--out", tmp_path, "--set", f"encoders.video.weights={fitted}", *BARE)
    assert done.returncode == 1
    assert "SlowFast does not know their layout" in done.stderr
    assert "PyTorchVideo" in done.stderr
    assert not (tmp_path / "cells").exists()
