"""`windows` of a model in a spec: what its encoders read, what a cell's identity says, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from avrobust_core.errors import ComponentError
from avrobust_core.models.windows import Windows
from avrobust_core.registry.registry import Registry
from avrobust_core.spec.loading import load_spec
from avrobust_core.study.building import Builder

SPEC = """\
version: 1
name: windowed
data: {use: toy-av, with: {classes: 3, train: 8, val: 0, test: 4, seconds: 2, frames: 16}}
encoders:
  audio: {use: cnn, with: {channels: [4, 8]}}
  video: slowfast-tiny
models:
  whole: {encoders: [audio, video], fusion: concat}
  parts: {encoders: [audio, video], fusion: concat, windows: {count: 3, seconds: 1}}
training: {standard: {epochs: 1}}
"""


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.discover()


@pytest.fixture
def build(tmp_path: Path, registry: Registry) -> Callable[..., Builder]:
    def builder(*overrides: str) -> Builder:
        (tmp_path / "s.yaml").write_text(SPEC)
        return Builder(load_spec(tmp_path / "s.yaml", registry, overrides).spec, registry)

    return builder


def test_a_model_of_windows_has_encoders_for_one_window_and_answers_with_their_mean(build) -> None:
    builder = build()
    dataset = builder.dataset()
    model = builder.model("parts", dataset).eval()
    inputs = {name: x[None] for name, x in dataset.read("test", 0).inputs.items()}
    with torch.no_grad():
        found = model(inputs)
        model.windows = Windows()
        parts = [
            model({"audio": inputs["audio"][..., at : at + 8000], "video": inputs["video"][:, :, start : start + 8]})
            for at, start in ((0, 0), (4000, 4), (8000, 8))
        ]
    assert torch.allclose(found, torch.stack(parts).mean(dim=0), atol=1e-5)


def test_windows_are_part_of_what_a_cell_is_and_leave_other_cells_alone(build) -> None:
    builder = build()
    dataset = builder.dataset()
    whole, parts = (builder.fit_identity(name, "standard", dataset) for name in ("whole", "parts"))
    assert "windows" not in whole
    assert parts == whole | {"windows": {"count": 3, "seconds": 1.0}}
    other = build("models.parts.windows={count: 2}")
    assert other.fit_identity("parts", "standard", dataset)["windows"] == {"count": 2, "seconds": None}


def test_windows_that_the_clips_cannot_have_are_refused_before_anything_is_fitted(build) -> None:
    with pytest.raises(ComponentError, match="windows of model 'parts': a window of 3 s is longer than a clip"):
        build("models.parts.windows.seconds=3").dataset()
