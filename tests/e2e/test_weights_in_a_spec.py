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


@pytest.mark.slow
def test_an_encoder_and_a_whole_model_start_from_a_file(tiny, fitted, tmp_path, run_command) -> None:
    source = load_file(fitted)
    one = run_command(
        "run", tiny, "--out", tmp_path / "1", "--set", f"encoders.audio.weights={fitted}", *UNTRAINED, *ALONE, *BARE
    )
    assert one.returncode == 0, one.stderr
    found = _weights(tmp_path / "1")
    assert all(torch.equal(found[key], x) for key, x in source.items() if key.startswith("encoders.audio."))
    assert not torch.equal(found["head.weight"], source["head.weight"])

    def whole(weights: Path, out: str, *more: str):
        entry = f"models={{audio-only: {{encoders: [audio], weights: '{weights}'}}}}"
        done = run_command("run", tiny, "--out", tmp_path / out, *UNTRAINED, *BARE, "--set", entry, *more)
        assert done.returncode == 0, done.stderr
        return done

    whole(fitted, "2")
    found = _weights(tmp_path / "2")
    assert all(torch.equal(found[key], x) for key, x in source.items())

    last = ("--set", "engine.channels_last=true")
    assert "1 of 1 cells reused" in whole(fitted, "2", *last).stdout  # it is no part of what a cell is
    whole(fitted, "3", *last)
    assert all(torch.equal(_weights(tmp_path / "3")[key], x) for key, x in source.items())
    assert _cell(tmp_path / "3")["clean_accuracy"] == _cell(tmp_path / "2")["clean_accuracy"]

    changed = tmp_path / "changed.safetensors"
    save_file({key: x * 2 if key == "head.bias" else x for key, x in source.items()}, changed)
    assert "fitting (changed: weights.model" in whole(changed, "2").stderr


def test_weights_that_do_not_fit_are_refused_before_anything_is_fitted(tiny, fitted, tmp_path, run_command) -> None:
    done = run_command("run", tiny, "--out", tmp_path, "--set", f"encoders.video.weights={fitted}", *BARE)
    assert done.returncode == 1
    assert "SlowFast does not know their layout" in done.stderr
    assert "PyTorchVideo" in done.stderr
    assert not (tmp_path / "cells").exists()
