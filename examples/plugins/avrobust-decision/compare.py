# ruff: noqa: T201
"""The attack beside others at equal queries, on a small net that is trained here: prints the README's tables.

    python examples/plugins/avrobust-decision/compare.py

The second table needs foolbox (`pip install foolbox`), the first only avrobust and this plugin.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from avrobust_decision.attack import HopSkipJump
from avrobust_decision.configs import HopSkipJumpConfig
from torch import Tensor, nn

from avrobust_core import AttackRun, AvrobustError, Batch, MediaSpec, Registry, ThreatModel, Victim, attack_batch

CLIPS, CLASSES = 48, 5
MEDIA = {
    "audio": MediaSpec(kind="audio", shape=(1, 64), bounds=(-1, 1)),
    "video": MediaSpec(kind="video", shape=(3, 2, 4, 4), bounds=(0, 1)),
}
QUERIES = (500, 1000, 2000, 5000)


class Net(nn.Module):
    """A net of one hidden layer over the modalities that it is given, laid end to end.

    Args:
        names: which modalities.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names = names
        samples = sum(torch.Size(MEDIA[name].shape).numel() for name in names)
        self.layers = nn.Sequential(nn.Linear(samples, 64), nn.ReLU(), nn.Linear(64, CLASSES))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(B, CLASSES)."""
        found: Tensor = self.layers(torch.cat([inputs[name].flatten(1) for name in self.names], dim=1))
        return found


def clips(count: int, seed: int) -> Batch:
    """Each class has a mean of its own; the clips lie about it."""
    means, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % CLASSES
    inputs = {}
    for name, spec in MEDIA.items():
        low, high = spec.bounds or (0.0, 1.0)
        centre = 0.2 * torch.randn(CLASSES, *spec.shape, generator=means)[targets]
        noise = 0.3 * torch.randn(count, *spec.shape, generator=own)
        inputs[name] = ((low + high) / 2 + (high - low) / 2 * (centre + noise)).clamp(low, high)
    return Batch(inputs, targets, tuple(f"{seed}-{i}" for i in range(count)))


def trained(names: tuple[str, ...]) -> Net:
    """A net fitted to 2,000 clips."""
    torch.manual_seed(0)
    net, batch = Net(names), clips(2000, seed=1)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(150):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(net(batch.inputs), batch.targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return net.eval()


def right(net: Net, names: tuple[str, ...]) -> Batch:
    """Clips that the net classifies right, of these modalities alone."""
    batch = clips(2 * CLIPS, seed=2)
    kept = (net(batch.inputs).argmax(dim=1) == batch.targets).nonzero().squeeze(1)[:CLIPS]
    batch = batch.select(kept)
    return Batch({name: batch.inputs[name] for name in names}, batch.targets, batch.ids)


def attacked(
    net: Net, batch: Batch, threat: Mapping[str, Any], attack: Any, factors: tuple[float, ...] = (1.0,)
) -> Any:
    """What the core finds and verifies."""
    media = {name: MEDIA[name] for name in batch.inputs}
    victim = Victim(net, media=media, task="single-label")
    with victim.frozen():
        return attack_batch(victim, batch, AttackRun("attack", attack, ThreatModel.of(threat), factors=factors))


def hop(queries: int) -> HopSkipJump:
    """The attack with so many queries."""
    return HopSkipJump(HopSkipJumpConfig(queries=queries, together=200, first_probes=min(100, queries // 20)))


def beside_bundled(registry: Registry) -> None:
    """Success within budgets on both modalities, beside an attack by logits and one by gradients."""
    names = ("audio", "video")
    net = trained(names)
    batch = right(net, names)
    for norm, eps in (("linf", {"audio": 0.16, "video": 0.08}), ("l2", {"audio": 1.2, "video": 0.6})):
        threat = {name: {"norm": norm, "eps": eps[name]} for name in names}
        print(f"{norm}, {len(batch)} clips: broken within the budgets, and the median factor of both budgets")
        for queries in QUERIES:
            found = attacked(net, batch, threat, hop(queries), (1.0, 16.0))
            square = attacked(net, batch, threat, made(registry, "square", queries=queries))
            print(
                f"  {queries:5} queries: hop-skip-jump {int((found.factor <= 1).sum()):2}, "
                f"median {float(found.factor.median()):.3f}; square {int(square.success.sum()):2}"
            )
        pgd = attacked(net, batch, threat, made(registry, "pgd", steps=100))
        smallest = attacked(net, batch, threat, made(registry, "fmn", steps=200), (1.0, 16.0))
        median = float(smallest.factor.median())
        print(f"  gradients: pgd (100 steps) {int(pgd.success.sum()):2}; fmn, median {median:.3f}")


def made(registry: Registry, name: str, **settings: Any) -> Any:
    """A bundled attack."""
    entry = registry.resolve("attack", name)
    return entry.component.make(entry.component.config.model_validate(settings))


class Counted(nn.Module):
    """A net of one input tensor that counts what each pass asks.

    Args:
        net: of one modality.
        name: that modality.
        shape: of a clip.
    """

    def __init__(self, net: Net, name: str) -> None:
        super().__init__()
        self.net, self.name, self.asked = net, name, 0

    def forward(self, x: Tensor) -> Tensor:
        """(B, CLASSES)."""
        self.asked += len(x)
        found: Tensor = self.net({self.name: x})
        return found


def beside_foolbox() -> None:
    """The median distance on one modality, beside foolbox's attack of the same name, at as many queries as it took."""
    foolbox: Any = import_module("foolbox")
    name = "video"
    net = trained((name,))
    batch = right(net, (name,))
    x, y = batch.inputs[name], batch.targets
    for norm in ("l2", "linf"):
        for steps in (5, 10, 20):
            torch.manual_seed(0)
            counted = Counted(net, name).eval()
            attack = foolbox.attacks.HopSkipJumpAttack(steps=steps, constraint=norm)
            other, _, _ = attack(foolbox.PyTorchModel(counted, bounds=(0, 1), device="cpu"), x, y, epsilons=None)
            kind = 2 if norm == "l2" else torch.inf
            theirs = torch.linalg.vector_norm((other - x).flatten(1), ord=kind, dim=1)
            queries = counted.asked // len(x)
            eps = float(theirs.median())
            found = attacked(net, batch, {name: {"norm": norm, "eps": eps}}, hop(queries), (1.0, 64.0))
            print(
                f"{norm}, {queries:6} queries a clip: foolbox {eps:.4f}, "
                f"hop-skip-jump {float(found.factor.median()) * eps:.4f}"
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    beside_bundled(Registry.discover())
    try:
        beside_foolbox()
    except ModuleNotFoundError as error:
        raise AvrobustError("the second table compares with foolbox: pip install foolbox") from error
