"""What the training and attack loops cost over the same steps written bare, side by side in one process.

    python benchmarks/loops.py [--pairs N] [--threads N]

The last line is one JSON object: `train_overhead` and `attack_overhead`, each the median over pairs, run in turn, of
our seconds over the bare loop's, for the same number of optimiser or attack steps on the same batches.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from avrobust_core import AttackRun, AVModel, Batch, Dataset, Registry, Victim
from avrobust_core.data.loader import Loader
from avrobust_core.data.loading import epoch_order, in_batches, select
from avrobust_core.evaluation.predictions import evaluate_batch
from avrobust_core.spec.model import Spec
from avrobust_core.study.building import Builder
from avrobust_core.training.fit import Fit
from avrobust_core.training.optimization import parameter_groups, schedule

BATCH_SIZE = 32
TRAINING_CLIPS = 1280
ATTACK_STEPS = 20
EPS = {"audio": 1e-6, "video": 1e-6}
"""So small that no clip is fooled: neither loop may stop early, both do every step."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    builder = Builder(study_spec(), Registry.discover())
    dataset = builder.dataset()
    report = {
        "train_overhead": median_ratio(
            lambda: train_ours(builder, dataset), lambda: train_bare(builder, dataset), options.pairs
        ),
        "attack_overhead": attack_overhead(builder, dataset, options.pairs),
    }
    print(json.dumps({name: round(value, 4) for name, value in report.items()}))


def study_spec() -> Spec:
    """An audio-visual model on toy-av, as in examples/quickstart.yaml."""
    return Spec.model_validate(
        {
            "version": 1,
            "name": "loops",
            "data": {"use": "toy-av", "with": {"train": TRAINING_CLIPS}},
            "encoders": {
                "audio": {"use": "cnn", "with": {"channels": [16, 32, 64], "n_mels": 32, "hop_ms": 16}},
                "video": "slowfast-tiny",
            },
            "models": {"concat": {"encoders": ["audio", "video"], "fusion": "concat"}},
            "training": {"standard": {"epochs": 1, "batch_size": BATCH_SIZE, "select": "last"}},
            "threats": {"both": {name: {"eps": eps} for name, eps in EPS.items()}},
            "attacks": {"pgd": {"use": "pgd", "with": {"steps": ATTACK_STEPS}}},
        }
    )


def median_ratio(ours: Callable[[], float], bare: Callable[[], float], pairs: int) -> float:
    """The median of our seconds over the bare loop's; each function returns the seconds it took."""
    ours(), bare()  # the first run of each warms caches and allocators
    ratios = []
    for pair in range(pairs):
        if pair % 2:  # whoever goes second finds warmer caches: take turns
            first = bare()
            ratios.append(ours() / first)
        else:
            first = ours()
            ratios.append(first / bare())
        print(f"pair {pair + 1}: {ratios[-1]:.3f}", flush=True)
    return statistics.median(ratios)


def train_ours(builder: Builder, dataset: Dataset) -> float:
    """One epoch by the study's own loop."""
    regime = builder.spec.training["standard"]
    with tempfile.TemporaryDirectory() as folder:
        fit = Fit(
            Fabric(accelerator="cpu", devices=1),
            builder.model("concat", dataset),
            Loader(dataset),
            regime,
            [],
            seed=0,
            folder=Path(folder),
            report=lambda done, total: None,
        )
        began = time.perf_counter()
        fit.run()
        return time.perf_counter() - began


def train_bare(builder: Builder, dataset: Dataset) -> float:
    """The same epoch, written by hand."""
    regime = builder.spec.training["standard"]
    model = builder.model("concat", dataset).train()
    optimizer = torch.optim.AdamW(parameter_groups(model, regime.weight_decay), lr=regime.learning_rate)
    batches = in_batches(epoch_order(select(dataset, "train"), 0, 0), BATCH_SIZE)
    began = time.perf_counter()
    for step, positions in enumerate(batches):
        batch = Batch.stack([dataset.read("train", position) for position in positions])
        loss = F.cross_entropy(model(batch.inputs), batch.targets)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = regime.learning_rate * schedule(step, len(batches), regime.warmup)
        optimizer.step()
    return time.perf_counter() - began


def attack_overhead(builder: Builder, dataset: Dataset, pairs: int) -> float:
    """Verified PGD through the core, over bare PGD that scores the clean and the final point."""
    model = builder.model("concat", dataset).eval()
    batch = Batch.stack([dataset.read("test", position) for position in range(BATCH_SIZE)])
    with torch.no_grad():  # every clip correct, so that none is done before it starts
        batch = Batch(batch.inputs, model(batch.inputs).argmax(dim=1), batch.ids)
    victim = Victim(model, media=dataset.media, task=dataset.task)
    run = AttackRun("pgd", builder.attack("pgd"), builder.spec.threats["both"])

    def ours() -> float:
        began = time.perf_counter()
        with victim.frozen():
            evaluate_batch(victim, batch, run)
        return time.perf_counter() - began

    def bare() -> float:
        began = time.perf_counter()
        bare_pgd(model, batch, dataset)
        return time.perf_counter() - began

    return median_ratio(ours, bare, pairs)


def bare_pgd(model: AVModel, batch: Batch, dataset: Dataset) -> Tensor:
    """PGD in linf on all modalities, as one would write it by hand; returns the final predictions."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with torch.no_grad():
        model(batch.inputs).argmax(dim=1)
    clean = {name: batch.inputs[name] for name in EPS}
    limits = {name: dataset.media[name].bounds or (-torch.inf, torch.inf) for name in EPS}
    x = bare_ascent(model, clean, batch.targets, EPS, limits, ATTACK_STEPS)
    with torch.no_grad():
        predictions: Tensor = model(x).argmax(dim=1)
    return predictions


def bare_ascent(
    forward: Callable[[Mapping[str, Tensor]], Tensor],
    clean: Mapping[str, Tensor],
    targets: Tensor,
    eps: Mapping[str, float],
    limits: Mapping[str, tuple[float, float]],
    steps: int,
) -> dict[str, Tensor]:
    """The last iterate of PGD in linf with a random start and steps of 2.5 eps / steps.

    Args:
        forward: from perturbed modalities to logits.
        clean: those that are attacked, (B, ...).
        targets: (B,).
        eps: of each.
        limits: of each.
        steps: of the ascent.
    """

    def inside(name: str, x: Tensor) -> Tensor:
        delta = (x - clean[name]).clamp(-eps[name], eps[name])
        return (clean[name] + delta).clamp(*limits[name])

    x = {name: inside(name, c + torch.empty_like(c).uniform_(-eps[name], eps[name])) for name, c in clean.items()}
    for _ in range(steps):
        for tensor in x.values():
            tensor.requires_grad_(True)
        loss = F.cross_entropy(forward(x), targets, reduction="sum")
        gradients = torch.autograd.grad(loss, list(x.values()))
        with torch.no_grad():
            x = {
                name: inside(name, tensor + 2.5 / steps * eps[name] * gradient.sign())
                for (name, tensor), gradient in zip(x.items(), gradients, strict=True)
            }
    return x


if __name__ == "__main__":
    main()
