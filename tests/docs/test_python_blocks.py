"""The documents' Python runs, given what a page says is there: a model and a loader, embeddings, a reader's plugin.

Pages of the tutorial, and blocks that are files, are carried out elsewhere (test_documents.py, tests/dist).
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from avrobust_metrics.configs import AccuracyConfig
from torch import nn

from avrobust_core import Batch, Component, Config

ROOT = Path(__file__).parents[2]
PAGES = [
    *(page for page in sorted(ROOT.glob("docs/*.md")) if page.name != "new_plugin.md"),
    *sorted(ROOT.glob("examples/plugins/*/README.md")),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
]
BLOCKS = {
    f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, found.start()) + 1}": (page, found[1])
    for page in PAGES
    for text in [page.read_text(encoding="utf-8")]
    for found in re.finditer(r"```python\n(.*?)```", text, flags=re.DOTALL)
}

MINE = """
from avrobust_core import Component, hookimpl
from avrobust_attacks.gradient.configs import PgdConfig
from avrobust_metrics.configs import AccuracyConfig

@hookimpl
def avrobust_metrics():
    build = "avrobust_metrics.accuracy:Accuracy"
    yield Component(name="my-metric", summary="Mine.", config=AccuracyConfig, build=build)

@hookimpl
def avrobust_attacks():
    yield Component(name="my-attack", summary="Mine.", config=PgdConfig, build="avrobust_attacks.gradient.pgd:Pgd")
"""


class Small(nn.Module):
    """Two classes by a linear map of means; attacks of a thousandth break it often."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([40.0, 4.0]))

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        sound = inputs["audio"].flatten(1).mean(dim=1)
        light = inputs["video"].flatten(1).mean(dim=1) - 0.5
        score = self.weight[0] * sound + self.weight[1] * light
        return torch.stack([-score, score], dim=1)


def model_and_loader() -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    inputs = {
        "audio": (0.1 * torch.randn(4, 1, 32000, generator=draw)).clamp(-1, 1),
        "video": torch.rand(4, 3, 16, 112, 112, generator=draw),
    }
    model = Small()
    targets = model(inputs).argmax(dim=1)
    return {"model": model, "loader": [Batch(inputs, targets, tuple("abcd"))]}


def embeddings() -> dict[str, Any]:
    draw = np.random.default_rng(0)
    centres, labels = 3 * np.eye(4)[:3], np.arange(60) % 3
    points = (centres[labels] + draw.normal(size=(60, 4))).astype(np.float32)
    return {
        "embeddings": points,
        "labels": labels,
        "train_embeddings": points + np.float32(0.1),
        "train_labels": labels,
        "classify": lambda rows: rows @ centres.T,
    }


def component() -> dict[str, Any]:
    return {"Component": Component, "FramesConfig": Config}


def mine() -> dict[str, Any]:
    build = "avrobust_metrics.accuracy:Accuracy"
    return {"MY_COMPONENT": Component(name="some-metric", summary="Some.", config=AccuracyConfig, build=build)}


GIVEN: dict[str, Callable[[], dict[str, Any]]] = {
    "docs/export.md": model_and_loader,
    "docs/latent_geometry.md": embeddings,
    "docs/neighbours.md": component,
    "docs/conformance.md": mine,
}


@pytest.mark.slow
@pytest.mark.parametrize("place", BLOCKS)
def test_it_runs(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_distribution) -> None:
    page, text = BLOCKS[place]
    fake_distribution("my-distribution", "1.0", {"avrobust_v1": {"mine": "mine_plugin"}}, {"mine_plugin.py": MINE})
    if page.parent.parent.name == "plugins":
        monkeypatch.syspath_prepend(page.parent)
        name = page.parent.name
        fake_distribution(
            name, "1.0", {"avrobust_v1": {name: f"{name.replace('-', '_')}.plugin"}}, {}, site=f"site-{name}"
        )
    monkeypatch.chdir(tmp_path)
    given = GIVEN.get(str(page.relative_to(ROOT)), dict)()
    exec(compile(text, place, "exec"), {"__name__": "page", **given})


def test_no_page_is_given_what_it_does_not_have() -> None:
    pages = {str(page.relative_to(ROOT)) for page, _ in BLOCKS.values()}
    assert GIVEN.keys() <= pages
