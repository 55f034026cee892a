"""The training's parts of benchmarks/gpu.py: steps of our loop over those of loops by hand, and epochs' ends."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from avrobust_core import AVModel, Batch
from avrobust_core.data.loader import Loader
from avrobust_core.data.loading import epoch_order, in_batches, select
from avrobust_core.training.fit import Fit
from avrobust_core.training.optimization import parameter_groups
from avrobust_core.training.settings import Regime
from benchmarks.gpu_attacks import frozen
from benchmarks.gpu_subject import Bench, Held

EPS = {"audio": 0.002, "video": 4 / 255}
THREAT = {name: {"eps": eps} for name, eps in EPS.items()}
STEPS, REPLAYS = 7, 4
"""Of adversarial training, and of free."""

REGIMES: Mapping[str, Mapping[str, Any] | None] = {
    "standard": None,
    "fast-at": {"threat": THREAT, "variant": "rs"},
    "free-at": {"threat": THREAT, "replays": REPLAYS},
    "adversarial": {"threat": THREAT, "steps": STEPS},
}
"""Each regime's augmentation of its own name, configured; None for none."""

BATCHES = 8
"""Batches of the epoch that regimes are timed on."""

UNCOUNTED = 2
"""Steps at the beginning that do not count."""


def regime(bench: Bench, name: str) -> dict[str, Any]:
    """Seconds of a step, ours over those of the loop by hand, both read and copied alike: the medians of all turns."""
    dataset = Held(bench.size, short=True)
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    for turn in range(bench.size.turns):
        sides = {"ours": _ours, "bare": _bare}
        for side in list(sides)[:: 1 if turn % 2 == 0 else -1]:
            times[side] += sides[side](bench, dataset, name)
    medians = {side: float(np.median(each)) for side, each in times.items()}
    return {
        "seconds_of_a_step": {side: round(seconds, 5) for side, seconds in medians.items()},
        "over_bare": round(medians["ours"] / medians["bare"], 4),
        "steps": len(times["ours"]),
    }


def _ours(bench: Bench, dataset: Held, name: str) -> list[float]:
    marks: list[float] = []
    config = REGIMES[name]
    augmentations = [] if config is None else [bench.component("augmentation", name, config).build()]
    _fit(bench, dataset, augmentations, 1, lambda done, total: marks.append(bench.now()), limit=BATCHES)
    per_batch = REPLAYS if name == "free-at" else 1
    marks = marks[per_batch - 1 :: per_batch]  # of a batch that is replayed, the last
    return list(np.diff(marks)[UNCOUNTED - 1 :])


def _fit(
    bench: Bench, dataset: Held, augmentations: list[Any], epochs: int, report: Any, limit: int | None
) -> dict[str, Any]:
    size = bench.size
    chosen = dataset if limit is None else _Fewer(dataset, limit * size.batch)
    settings = Regime(epochs=epochs, batch_size=size.batch, select="last", warmup=0.0)
    fabric = Fabric(accelerator=bench.device.type, devices=1)
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # the weights that a fit writes are not what is timed
    with tempfile.TemporaryDirectory(dir=memory) as folder, Loader(chosen, pin=bench.device.type == "cuda") as loader:
        fit = Fit(
            fabric,
            bench.model(dataset),
            loader,
            settings,
            augmentations,
            seed=0,
            folder=Path(folder),
            report=report,
        )
        return fit.run()


class _Fewer(Held):
    """The first training clips of a set."""

    def __init__(self, dataset: Held, clips: int) -> None:
        self.__dict__.update(vars(dataset))
        self._sizes = {**self._sizes, "train": min(clips, self._sizes["train"])}


def _bare(bench: Bench, dataset: Held, name: str) -> list[float]:
    """The same regime by hand."""
    size, device = bench.size, bench.device
    model = bench.model(dataset).train()
    optimizer = torch.optim.AdamW(parameter_groups(model, 1e-2), lr=1e-3)
    chosen = _Fewer(dataset, BATCHES * size.batch)
    marks: list[float] = []

    def learn(inputs: Mapping[str, Tensor], targets: Tensor) -> None:
        loss = F.cross_entropy(model(inputs), targets)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    for positions in in_batches(epoch_order(select(chosen, "train"), 0, 0), size.batch):
        batch = Batch.stack([chosen.read("train", position) for position in positions])
        batch = (batch.pinned() if device.type == "cuda" else batch).to(device)
        if name == "free-at":
            _free(model, batch, learn)
        else:
            steps = {"standard": 0, "fast-at": 1, "adversarial": STEPS}[name]
            learn(_attacked(model, batch, steps) if steps else batch.inputs, batch.targets)
        marks.append(bench.now())
    return list(np.diff(marks)[UNCOUNTED - 1 :])


def _attacked(model: AVModel, batch: Batch, steps: int) -> dict[str, Tensor]:
    """The last of some steps from a random start, by the network in evaluation mode; 1.25 radii, or 2.5 / steps."""
    model.eval()
    with frozen(model):
        delta = {name: _start(batch.inputs[name], eps) for name, eps in EPS.items()}
        length = 1.25 if steps == 1 else 2.5 / steps
        for _ in range(steps):
            x = {name: (batch.inputs[name] + d).requires_grad_() for name, d in delta.items()}
            loss = F.cross_entropy(model(x), batch.targets, reduction="sum")
            gradients = torch.autograd.grad(loss, list(x.values()))
            delta = dict(_moved(batch, delta, dict(zip(x, gradients, strict=True)), length))
    model.train()
    return {name: batch.inputs[name] + d for name, d in delta.items()}


def _free(model: AVModel, batch: Batch, learn: Any) -> None:
    """Replays of a batch, each of which moves the perturbation by the gradient that it takes anyway."""
    delta = {name: _start(batch.inputs[name], eps) for name, eps in EPS.items()}
    for _ in range(REPLAYS):
        x = {name: (batch.inputs[name] + d).requires_grad_() for name, d in delta.items()}
        learn(x, batch.targets)
        gradients = {name: each.grad for name, each in x.items() if each.grad is not None}
        delta = dict(_moved(batch, delta, gradients, 1.0))


def _start(x: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x).uniform_(-eps, eps)


@torch.no_grad()
def _moved(
    batch: Batch, delta: Mapping[str, Tensor], gradients: Mapping[str, Tensor], length: float
) -> Iterator[tuple[str, Tensor]]:
    low = {"audio": -1.0, "video": 0.0}
    for name, eps in EPS.items():
        clean = batch.inputs[name]
        moved = (delta[name] + length * eps * gradients[name].sign()).clamp(-eps, eps)
        yield name, (clean + moved).clamp(low[name], 1) - clean


def guided(bench: Bench) -> dict[str, Any]:
    """Seconds between epochs of guided mix-up, and of standard training."""
    dataset = Held(bench.size, short=True)
    found: dict[str, float] = {}
    for name, config in (("standard", None), ("guided-mixup", {"warmup": 1}), ("guided-weights", {"warmup": 1})):
        made = [] if config is None else [bench.component("augmentation", name, config).build()]
        marks: list[float] = []
        _fit(bench, dataset, made, 4, lambda done, total, marks=marks: marks.append(bench.now()), limit=None)
        gaps, per_epoch = np.diff(marks), len(marks) // 4
        ends = [gaps[epoch * per_epoch - 1] for epoch in range(2, 4)]  # the first guide is made after the second epoch
        # A step comes between as well.
        found[name] = round(float(np.median(ends)) - float(np.median(gaps)), 4)
    return {"seconds_between_epochs": found}
