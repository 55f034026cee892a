"""Do gradients mislead? Networks that `benchmarks/mixup.py` has fitted, attacked in ways that need none of their own.

    python benchmarks/masking.py --runs DIR [--manifest CSV] [--regimes NAME ...] [--clips N] [--queries N]

For each regime of `examples/vertex_mixup.yaml`, and with --manifest of `examples/vertex_mixup_clips.yaml`, takes the
network of --seed from --runs and the same test clips, under the threat on both modalities:

- `ensemble`: the attack of the study, and the share of the clips that it leaves;
- `longer`: `apgd` with 100 steps, from two starts;
- `square`: `square` with --queries queries (Andriushchenko et al. 2020), which asks for no gradient;
- `transfer`: clips that 20 steps of ascent on the network of each other regime have moved, those without any protection
  among them (Athalye et al. 2018 and Carlini et al. 2019 name transfer and black-box attacks as checks of this kind);
- `far`: `apgd` in 16 times the radii, which must leave next to nothing.

The last line is one JSON object: by set and regime, `left` by attack (shares of the clips), `best_transfer` (the other
regime whose clips did most), and `missed`: the share that the ensemble leaves and another attack in the radii breaks,
with an interval. Where gradients mislead, it is large.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from avrobust_adversarial.ascent import LastIterate
from rich.console import Console
from rich.table import Table
from torch import Tensor

from avrobust_core import AttackRun, Batch, Registry, ThreatModel, Victim, attack_batch
from avrobust_core.data.loader import Loader
from avrobust_core.data.loading import Skipped, select
from avrobust_core.models.saving import load_weights
from avrobust_core.spec.loading import load_spec
from avrobust_core.statistics.intervals import share
from avrobust_core.study.building import Builder
from avrobust_core.study.devices import fabric_of
from avrobust_core.study.plan import plan
from avrobust_core.training.fit import WEIGHTS
from benchmarks.sets import sets_of

STUDY, THREAT = "vertex_mixup", "both"
FAR = 16.0
"""Multiple of the radii at which nothing withstands."""

Left = dict[str, Tensor]
"""By attack which clips withstand: (N,) bool."""


def main() -> None:
    """Attack and print."""
    options = parse()
    torch.set_num_threads(options.threads)
    registry = Registry.discover()
    report = {}
    for name, (path, overrides) in sets_of(STUDY, options.manifest).items():
        report[name] = one_set(path, [*overrides, *options.set, f"seed={options.seed}"], options, registry)
        show(name, report[name])
    print(json.dumps(report))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="--out of benchmarks/mixup.py")
    parser.add_argument("--manifest", type=Path, help="CSV of clips with the columns path, label and split")
    parser.add_argument("--regimes", nargs="+", help="those that are attacked; all that are fitted by default")
    parser.add_argument("--seed", type=int, default=0, help="of the fits")
    parser.add_argument("--clips", type=int, default=200, help="chosen by a hash of their ids")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="PATH=VALUE", help="overrides, as benchmarks/mixup.py had"
    )
    return parser.parse_args()


def one_set(path: Path, overrides: list[str], options: argparse.Namespace, registry: Registry) -> dict[str, Any]:
    """All regimes of one set that are fitted."""
    others = [f"attacks.{name}={attack}" for name, attack in attacks(options).items()]
    loaded = load_spec(path, registry, [*overrides, *others])
    builder = Builder(loaded.spec, registry)
    dataset = builder.dataset()
    device = fabric_of(loaded.spec.engine).device
    victims: dict[str, Victim] = {}
    for cell in plan(builder, dataset, options.runs / loaded.spec.name):
        if cell.fitted:
            model = builder.model(cell.model, dataset)
            load_weights(model, cell.folder / WEIGHTS)
            victims[cell.training] = Victim(
                model.eval().to(device), media=dataset.media, task=dataset.task, seed=cell.seed
            )
    threat = loaded.spec.threats[THREAT]
    runs = {name: AttackRun(name, builder.attack(name), threat) for name in ("ensemble", "longer", "square")}
    runs["far"] = AttackRun("far", builder.attack("far"), threat.scaled(FAR))
    split = builder.spec.evaluation.split
    (chunk,) = select(dataset, split, options.clips).chunks(options.clips)
    (batch,) = Loader(dataset).batches(split, [chunk], Skipped(dataset))
    if batch is None:
        raise RuntimeError(f"none of the {options.clips} clips can be read")
    batch = batch.to(device)
    moved = {name: transferred(victim, batch, threat) for name, victim in victims.items()}
    found = {}
    for name in options.regimes or list(victims):
        with victims[name].frozen():
            left = {attack: ~attack_batch(victims[name], batch, run).success.cpu() for attack, run in runs.items()}
        rivals = {other: inputs for other, inputs in moved.items() if other != name}
        found[name] = summary(left, {other: withstood(victims[name], batch, x) for other, x in rivals.items()})
        print(f"{name}: {found[name]['left']}", flush=True)
    return found


def attacks(options: argparse.Namespace) -> dict[str, str]:
    """The attacks that the spec does not have, as YAML."""
    return {
        "longer": "{use: apgd, with: {steps: 100, restarts: 2}}",
        "square": f"{{use: square, with: {{queries: {options.queries}}}}}",
        "far": "{use: apgd, with: {steps: 20}}",
    }


def transferred(victim: Victim, batch: Batch, threat: ThreatModel) -> dict[str, Tensor]:
    """The clips as 20 steps of ascent on this network leave them, whether it is fooled or not."""
    with victim.frozen():
        moved = LastIterate(20, 0.25)(victim.bind(batch, threat)).inputs
    return {**batch.inputs, **moved}


def withstood(victim: Victim, batch: Batch, inputs: Mapping[str, Tensor]) -> Tensor:
    """Which clips a network still assigns to their classes: (N,) bool."""
    with victim.frozen():
        return victim.logits(inputs).argmax(1).cpu() == batch.targets.cpu()


def summary(left: Left, by_rival: Left) -> dict[str, Any]:
    """One regime's line; see the module."""
    best = min(by_rival, key=lambda name: int(by_rival[name].sum())) if by_rival else None
    transfer = torch.stack([*by_rival.values(), torch.ones_like(left["ensemble"])]).all(0)
    others = left["longer"] & left["square"] & transfer
    missed = share((left["ensemble"] & ~others).numpy())
    return {
        "left": {name: round(float(kept.double().mean()), 4) for name, kept in (left | {"transfer": transfer}).items()},
        "best_transfer": best,
        "missed": missed.to_json(),
    }


def show(name: str, found: Mapping[str, Any]) -> None:
    """A table of one set."""
    table = Table(title=f"{name}: clips that are left, in %")
    columns = ("ensemble", "longer", "square", "transfer", "far")
    for column in ("regime", *columns, "missed by the ensemble"):
        table.add_column(column)
    for regime, line in found.items():
        missed = line["missed"]
        ends = f"{100 * missed['value']:.1f} [{100 * missed['low']:.1f}, {100 * missed['high']:.1f}]"
        table.add_row(regime, *(f"{100 * line['left'][column]:.1f}" for column in columns), ends)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
