"""A data set and a model small enough to fit in a blink, made of the core's contracts alone."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from avrobust_core import AVModel, Clip, ClipError, Dataset, Encoded, EncodedDims, Encoder, Fusion, MediaSpec
from avrobust_core.data.loader import Loader
from avrobust_core.training.fit import Fit
from avrobust_core.training.settings import Regime


class Blobs(Dataset):
    """Two modalities, three classes; the label shows in both. Clips named in `corrupt` cannot be read."""

    task = "single-label"
    classes = ("a", "b", "c")
    media = {  # noqa: RUF012
        "left": MediaSpec(kind="left", shape=(1, 8), bounds=(-4.0, 4.0)),
        "right": MediaSpec(kind="right", shape=(2, 3, 3), bounds=(-4.0, 4.0)),
    }

    def __init__(self, train: int = 48, test: int = 20, corrupt: Sequence[str] = (), max_unreadable: float = 0.5):
        self.sizes = {"train": train, "test": test}
        self.corrupt = set(corrupt)
        self.max_unreadable = max_unreadable
        self.reads: list[str] = []

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.sizes)

    def ids(self, split: str) -> Sequence[str]:
        return [f"{split}-{i}" for i in range(self.sizes[split])]

    def read(self, split: str, index: int) -> Clip:
        clip_id = f"{split}-{index}"
        self.reads.append(clip_id)
        if clip_id in self.corrupt:
            raise ClipError(clip_id, "made corrupt")
        generator = torch.Generator().manual_seed(index + 1000 * len(split))
        label = index % 3
        shift = torch.tensor([-1.0, 0.0, 1.0])[label]
        left = (torch.randn(1, 8, generator=generator) + shift).clamp(-4, 4)
        right = (torch.randn(2, 3, 3, generator=generator) - shift).clamp(-4, 4)
        return Clip(clip_id, {"left": left, "right": right}, torch.tensor(label))

    def fingerprint(self) -> str:
        return f"blobs-{self.sizes}"


class Flat(Encoder):
    """Flatten, one hidden layer with dropout and batch normalisation."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.dims = EncodedDims(token=6, embed=6)
        self.frontend = nn.Identity()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(size, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.2))

    def encode(self, features: Tensor) -> Encoded:
        pooled = self.net(features)
        return Encoded(pooled.unsqueeze(1), pooled)


class Join(Fusion):
    """Concatenation."""

    dim = 12

    def forward(self, encoded) -> Tensor:  # type: ignore[no-untyped-def]
        return torch.cat([encoded[name].pooled for name in sorted(encoded)], dim=1)


@pytest.fixture(scope="session")
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def make_model(seed: int = 0) -> AVModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AVModel({"left": Flat(8), "right": Flat(18)}, Join(), 3)


@pytest.fixture
def blobs() -> type[Blobs]:
    return Blobs


@pytest.fixture
def new_model():
    return make_model


@pytest.fixture
def new_fit(fabric: Fabric):
    """A fit of the small model; keyword arguments override the regime's fields."""

    def make(
        folder: Path,
        dataset: Dataset | None = None,
        augmentations=(),
        report=None,
        model=None,
        launched: Fabric | None = None,
        loader: Loader | None = None,
        attack=None,
        **regime,
    ) -> Fit:
        settings = {"epochs": 3, "batch_size": 8, "learning_rate": 0.01} | regime
        return Fit(
            launched or fabric,
            model or make_model(),
            loader or Loader(dataset or Blobs()),
            Regime(**settings),
            list(augmentations),
            seed=5,
            folder=folder,
            report=report or (lambda done, total: None),
            attack=attack,
        )

    return make


TINY = """\
version: 1
name: tiny
data: {use: toy-av, with: {classes: 3, train: 12, val: 6, test: 12}}
encoders: {audio: {use: cnn, with: {channels: [4]}}}
models: {audio-only: {encoders: [audio]}}
training: {standard: {epochs: 0}}
threats: {audio: {audio: {eps: 0.01}}}
attacks: {fgsm: fgsm, noise: noise}
metrics: [accuracy]
evaluation: {resamples: 100}
engine: {batch_size: 12, accelerator: cpu}
"""

NAUGHTY = '''\
import sys
import time

from avrobust_core import Component, Config, hookimpl


class Settings(Config):
    """What goes wrong."""

    how: str = "error"
    """How it goes wrong."""


def misbehave(how):
    from avrobust_core import DataError

    if how == "error":
        raise ValueError("[/x] is broken \\x1b[31m")
    if how == "data":
        raise DataError("there are no such clips")
    if how == "exit":
        sys.exit(0)
    if how == "generator":
        raise GeneratorExit
    if how == "hang":
        while True:
            time.sleep(0.01)
    if how == "swallow":
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                pass


def build_attack(config):
    from avrobust_core import Attack

    if config.how == "build":
        sys.exit(0)

    class Naughty(Attack):
        norms = frozenset({"linf"})

        def __call__(self, victim):
            misbehave(config.how)

    return Naughty()


def build_metric(config):
    from avrobust_core import Metric

    class Naughty(Metric):
        tasks = frozenset({"single-label"})
        under_attack = config.how != "error"

        def measure(self, subject):
            misbehave(config.how)

    return Naughty()


@hookimpl
def avrobust_attacks():
    yield Component(name="naughty", summary="Goes wrong.", config=Settings, build=build_attack)


@hookimpl
def avrobust_metrics():
    yield Component(name="naughty", summary="Goes wrong.", config=Settings, build=build_metric)
'''


@pytest.fixture
def study(tmp_path: Path, fake_distribution):
    """Carry out a tiny study, in this process; arguments are settings of its spec, "PATH=VALUE"."""
    fake_distribution("naughty", "1.0", {"avrobust_v1": {"naughty": "naughty_plugin"}}, {"naughty_plugin.py": NAUGHTY})
    spec = tmp_path / "tiny.yaml"
    spec.write_text(TINY)

    def run(*settings: str, out: Path | None = None):
        from avrobust_core.registry.registry import Registry
        from avrobust_core.spec.loading import load_spec
        from avrobust_core.study.runner import carry_out

        registry = Registry.discover()
        loaded = load_spec(str(spec), registry, list(settings))
        return carry_out(loaded, registry, out=out or tmp_path / "out")

    return run
