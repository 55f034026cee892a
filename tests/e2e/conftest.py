"""A study small enough to run in seconds, and a way to run the command in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

MODELS = {
    "audio-only": "{encoders: [audio]}",
    "concat": "{encoders: [audio, video], fusion: concat}",
}

TINY = """\
training:
  standard: {epochs: 2, batch_size: 16}
threats:
  audio: {audio: {eps: 0.01}}
  video: {video: {eps: 4/255}}
  both: {audio: {norm: l2, eps: {snr_db: 25}}, video: {eps: 4/255}}
attacks:
  pgd: {use: pgd, with: {steps: 3, restarts: 2}}
  fgsm: {use: fgsm, threats: [both]}
metrics: [accuracy, map]
evaluation: {resamples: 200}
engine: {batch_size: 8}
"""


@pytest.fixture(scope="session")
def small_spec() -> Callable[..., str]:
    """From the rest of a study's spec to the whole: a small data set, its encoders and its models stand before it."""
    return _small_spec


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a tiny study."""
    path = tmp_path_factory.mktemp("spec") / "tiny.yaml"
    path.write_text(_small_spec(TINY, name="tiny"))
    return path


@pytest.fixture(scope="session")
def run_command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `python -m avrobust_core.cli` (or another script) in a process of its own, one thread."""

    def run(
        *arguments: str | Path,
        script: Path | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ):
        program = [str(script)] if script is not None else ["-m", "avrobust_core"]
        return subprocess.run(
            [sys.executable, *program, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"} | dict(env or {}),
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture
def comparable() -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """From a result to what must be equal in two runs of the same study."""
    return _comparable


@pytest.fixture
def last_json() -> Callable[[str], dict[str, Any]]:
    """From a command's output to the JSON object on its last line."""
    return _last_json


def _small_spec(rest: str, *, name: str, models: Sequence[str] = tuple(MODELS), **data: float) -> str:
    """A spec of the models named in `MODELS`; `data` overrides the data set's own fields."""
    fields = {"classes": 3, "train": 48, "val": 12, "test": 24} | data
    return "\n".join(
        [
            "version: 1",
            f"name: {name}",
            f"data: {{use: toy-av, with: {json.dumps(fields)}}}",
            "encoders:",
            "  audio: {use: cnn, with: {channels: [4, 8]}}",
            "  video: slowfast-tiny",
            "models:",
            *(f"  {model}: {MODELS[model]}" for model in models),
            rest,
        ]
    )


def _comparable(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result without what may differ between two equal runs: time, place, what was reused."""

    def strip(data: Any) -> Any:
        if isinstance(data, dict):
            kept = {key: value for key, value in data.items() if key not in ("run", "report", "reused")}
            return {key: strip(value) for key, value in kept.items() if not key.endswith("seconds")}
        return [strip(item) for item in data] if isinstance(data, list) else data

    stripped: dict[str, Any] = strip(dict(result))
    return stripped


def _last_json(text: str) -> dict[str, Any]:
    """The JSON object on the last line."""
    found: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
    return found
