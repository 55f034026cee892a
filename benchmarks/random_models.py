"""Attacks on models with randomness of their own, beside a bare EoT-PGD of as many passes.

    python benchmarks/random_models.py [--kinds KIND ...] [--attacks NAME ...] [--strength X] [--clips N] [--seeds N]

One small audio-visual model, trained on toy-av, is made random in several ways. Both sides take the mean logits of 8
passes for the model (expectation over transformation, Athalye et al. 2018, arXiv 1707.07397). The bare attack is PGD in
linf from a random start, with steps that fall geometrically and with steps of one length, whichever leaves less; it
takes as many forward and backward passes as ours was counted to take. The mean of 256 fresh passes then judges whoever
attacked: what is right clean and still right is robust.

The last line is one JSON object: by kind and attack, `robust` and `bare` (% of the clips, mean over seeds), `passes` of
each clip, and `clean`; and `worst_gap`, the most that `robust` is above `bare`. A minute or two per kind on one core.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avrobust_core import Attack, AttackRun, Batch, Dataset, Registry, ThreatModel, Victim
from avrobust_core.attacking import attack_batch
from benchmarks.small_model import Inputs, Small, small_data, trained

SAMPLES, JUDGING = 8, 256
"""Passes whose mean stands for the model: for whoever attacks, and for the judge. Of 64, one clip in 25 was judged
otherwise than of 512 where three quarters of the features are dropped."""

STEPS = 20

Kind = Literal["noise", "dropout", "transforms", "weights"]

STRENGTH: Mapping[Kind, float] = {"noise": 0.05, "dropout": 0.5, "transforms": 0.3, "weights": 0.2}
"""The deviation of the noise in the inputs (audio, in [-1, 1], has twice as much); the share of features dropped; the
share of a clip's length or width that it is moved by at most, and of its size that it is resized by; the deviation of
the weights, as a share of each."""

EPS = {"audio": 4 / 255, "video": 2 / 255}

ATTACKS: Mapping[str, Mapping[str, Any]] = {
    "pgd": {"steps": STEPS},
    "apgd": {"steps": STEPS},
    "fmn": {"steps": STEPS, "classes": 1},
    "cw": {"steps": STEPS // 2, "searches": 2, "classes": 1},
}


class Random(nn.Module):
    """The model, made random in one way; its draws are its own, from a seed that can be set."""

    def __init__(self, model: Small, kind: Kind, strength: float) -> None:
        super().__init__()
        self.model = model
        self.kind = kind
        self.strength = strength
        self.generator = torch.Generator()

    def forward(self, inputs: Inputs) -> Tensor:
        if self.kind == "noise":
            scale = {"audio": 2 * self.strength, "video": self.strength}
            logits: Tensor = self.model({name: x + scale[name] * self._normal(x.shape) for name, x in inputs.items()})
        elif self.kind == "dropout":
            features = self.model.features(inputs)
            kept = torch.rand(features.shape, generator=self.generator) >= self.strength
            logits = self.model.head(features * kept / (1 - self.strength))
        elif self.kind == "transforms":
            logits = self.model({"audio": self._shifted(inputs["audio"]), "video": self._resized(inputs["video"])})
        else:
            weights = {
                name: weight * (1 + self.strength * self._normal(weight.shape))
                for name, weight in self.model.named_parameters()
            }
            logits = torch.func.functional_call(self.model, weights, (inputs,))
        return logits

    def _normal(self, shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def _uniform(self, count: int) -> Tensor:
        return self.strength * (2 * torch.rand(count, generator=self.generator) - 1)

    def _shifted(self, x: Tensor) -> Tensor:
        """(B, 1, T), each clip turned round by a share of its length."""
        shift = (self._uniform(len(x)) * x.shape[2]).round().long()
        positions = (torch.arange(x.shape[2]) - shift.unsqueeze(1)) % x.shape[2]
        return x.gather(2, positions.unsqueeze(1))

    def _resized(self, x: Tensor) -> Tensor:
        """(B, 3, T, H, W), each clip's pictures resized and moved alike (after Xie et al. 2018, arXiv 1711.01991)."""
        size = 1 + self._uniform(len(x))
        zero = torch.zeros_like(size)
        rows = [size, zero, 2 * self._uniform(len(x)), zero, size, 2 * self._uniform(len(x))]
        flat = x.flatten(1, 2)
        grid = F.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), list(flat.shape), align_corners=False)
        return F.grid_sample(flat, grid, align_corners=False).view_as(x)


@dataclass(frozen=True, slots=True)
class Subject:
    """A random model, and what it reads.

    Attributes:
        model: in evaluation mode.
        batch: the clips that are attacked.
        data: says what each modality is.
        right: (B,) bool: the mean of many passes classifies the clean clip correctly.
    """

    model: Random
    batch: Batch
    data: Dataset
    right: Tensor

    def robust(self, inputs: Inputs) -> float:
        """The share, in %, of the clips that are right clean and here."""
        return 100 * float((judged(self.model, inputs, self.batch.targets) & self.right).float().mean())


@torch.no_grad()
def judged(model: Random, inputs: Inputs, targets: Tensor, passes: int = JUDGING) -> Tensor:
    """Whether the mean of so many fresh passes is right, (B,) bool."""
    model.generator.manual_seed(987_654)
    logits: Tensor = sum((model(inputs) for _ in range(passes)), torch.zeros(()))
    return logits.argmax(dim=1) == targets


def bare(subject: Subject, steps: int, seed: int, lengths: Callable[[int], float]) -> Inputs:
    """EoT-PGD in linf, written bare."""
    model, clean, targets = subject.model, subject.batch.inputs, subject.batch.targets
    draws = torch.Generator().manual_seed(seed)
    model.generator.manual_seed(seed + 1000)
    change = {name: EPS[name] * (2 * torch.rand(x.shape, generator=draws) - 1) for name, x in clean.items()}
    for step in range(steps):
        leaves = {name: (x + change[name]).requires_grad_() for name, x in clean.items()}
        logits: Tensor = sum((model(leaves) for _ in range(SAMPLES)), torch.zeros(())) / SAMPLES
        loss = F.cross_entropy(logits, targets, reduction="sum")
        for (name, leaf), gradient in zip(
            leaves.items(), torch.autograd.grad(loss, list(leaves.values())), strict=True
        ):
            low, high = subject.data.media[name].bounds or (-torch.inf, torch.inf)
            moved = leaf.detach() - clean[name] + lengths(step) * EPS[name] * gradient.sign()
            change[name] = (clean[name] + moved.clamp(-EPS[name], EPS[name])).clamp(low, high) - clean[name]
    return {name: x + change[name] for name, x in clean.items()}


def ours(subject: Subject, name: str, attack: Attack, seed: int) -> tuple[Inputs, float]:
    """What an attack of ours returns, and the forward and backward passes that it took for a clip, in the mean."""
    subject.model.generator.manual_seed(seed + 2000)
    victim = Victim(subject.model, media=subject.data.media, task=subject.data.task, seed=seed, samples=SAMPLES)
    threat = ThreatModel.model_validate({modality: {"norm": "linf", "eps": eps} for modality, eps in EPS.items()})
    with victim.frozen():
        found = attack_batch(victim, subject.batch, AttackRun(name, attack, threat))
    return found.inputs, float((found.queries + found.backwards).double().mean())


def compared(subject: Subject, name: str, attack: Attack, seeds: int) -> dict[str, float]:
    """One attack beside the bare one."""
    left: dict[str, list[float]] = {"ours": [], "falling": [], "level": [], "passes": []}
    for seed in range(seeds):
        inputs, passes = ours(subject, name, attack, seed)
        steps = round(passes / (2 * SAMPLES))
        fall = 0.02 ** (1 / max(steps - 1, 1))
        left["ours"].append(subject.robust(inputs))
        left["passes"].append(passes)
        left["falling"].append(subject.robust(bare(subject, steps, seed, lambda step, fall=fall: fall**step)))  # type: ignore[misc]
        left["level"].append(subject.robust(bare(subject, steps, seed, lambda step, steps=steps: 2.5 / steps)))  # type: ignore[misc]
    found = {what: fmean(values) for what, values in left.items()}
    return {
        "robust": round(found["ours"], 2),
        "bare": round(min(found["falling"], found["level"]), 2),
        "passes": round(found["passes"]),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=list(STRENGTH), default=list(STRENGTH))
    parser.add_argument("--attacks", nargs="+", choices=list(ATTACKS), default=["pgd", "fmn"])
    parser.add_argument("--strength", type=float, default=1.0, help="of the randomness, as a multiple of `STRENGTH`")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    registry = Registry.discover()
    data = small_data(registry, options.clips)
    model = trained(data)
    batch = Batch.stack([data.read("test", position) for position in range(options.clips)])
    report: dict[str, Any] = {}
    gaps = []
    for kind in options.kinds:
        begun = time.perf_counter()
        random = Random(model, kind, STRENGTH[kind] * options.strength)
        subject = Subject(random, batch, data, judged(random, batch.inputs, batch.targets))
        report[kind] = {"clean": round(100 * float(subject.right.double().mean()), 2)}
        for name in options.attacks:
            offer, config = registry.configure("attack", name, ATTACKS[name])
            report[kind][name] = compared(subject, name, offer.component.build(config), options.seeds)
            gaps.append(report[kind][name]["robust"] - report[kind][name]["bare"])
            print(kind, name, report[kind][name], f"{time.perf_counter() - begun:.0f} s", flush=True)
    print(json.dumps({**report, "worst_gap": round(max(gaps), 2)}))


if __name__ == "__main__":
    main()
