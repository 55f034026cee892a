"""The ablation of guided mix-up beside adversarial training: protection, cost, and paired differences.

    uv pip install -e '.[test,bench]'
    python benchmarks/mixup.py [--manifest CSV] [--seeds N ...] [--out DIR] [--turns N] [--set PATH=VALUE ...]

Carries out `examples/mixup_ablation.yaml` on `toy-av`, and with --manifest also `examples/mixup_ablation_clips.yaml` on
clips. Cells that are in --out already are reused, so that it can be stopped and gone on with. Then it measures what an
epoch costs: standard training, mix-up and guided mix-up in turn, in this process, in seconds of the processor, over the
second half of their epochs, when guided mix-up is guided.

The last line is one JSON object: for each set and regime `clean`, `robust` by attack and threat (shares with
intervals, means over seeds), `forwards` and `backwards` of clips in training over all seeds; `differences`: guided
mix-up minus others, by attack and threat, with intervals and p-values; and `epoch_time_ratio` to standard training.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from avrobust_core import Registry
from avrobust_core.spec.loading import LoadedSpec, load_spec
from avrobust_core.study.building import Builder
from avrobust_core.study.runner import carry_out
from avrobust_core.study.tables import print_tables
from avrobust_core.study.training import Fit

EXAMPLES = Path(__file__).parents[1] / "examples"
TIMED = ("standard", "mixup", "guided-mixup")


def main() -> None:
    """Measure and print."""
    options = parse()
    torch.set_num_threads(options.threads)
    registry = Registry.discover()
    report: dict[str, Any] = {}
    for name, path, overrides in asked(options):
        loaded = load_spec(path, registry, [f"seed=[{','.join(map(str, options.seeds))}]", *overrides, *options.set])
        result = carry_out(loaded, registry, out=options.out / loaded.spec.name)
        print_tables(result)
        ratios = epoch_time_ratios(loaded, registry, options.turns) if options.turns else {}
        print(f"{name}: an epoch beside one of standard training: {ratios or 'not timed'}", flush=True)
        report[name] = {
            "regimes": regimes(result),
            "differences": differences(result),
            "epoch_time_ratio": ratios,
            "seeds": options.seeds,
        }
    print(json.dumps(report))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, help="CSV of clips with the columns path, label and split")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where the runs lie")
    parser.add_argument("--turns", type=int, default=5, help="of the timing; 0 for none")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", nargs="+", default=[], metavar="PATH=VALUE", help="overrides of the spec")
    return parser.parse_args()


def asked(options: argparse.Namespace) -> list[tuple[str, Path, list[str]]]:
    """The sets: a name, the spec, and overrides."""
    found: list[tuple[str, Path, list[str]]] = [("toy-av", EXAMPLES / "mixup_ablation.yaml", [])]
    if options.manifest is not None:
        found.append(
            ("clips", EXAMPLES / "mixup_ablation_clips.yaml", [f"data.with.manifest={options.manifest.resolve()}"])
        )
    return found


def regimes(result: Mapping[str, Any]) -> dict[str, Any]:
    """Protection and cost by regime."""
    pooled = result["pooled"] or [cell | {"cost": cell["fit"]} for cell in result["cells"] if "error" not in cell]
    return {
        entry["training"]: {
            "clean": entry["clean_accuracy"],
            "robust": entry["robust_accuracy"],
            "forwards": entry["cost"]["clip_forwards"],
            "backwards": entry["cost"]["clip_backwards"],
            "seconds": entry["cost"]["seconds"],
        }
        for entry in pooled
    }


def differences(result: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Guided mix-up, plain and with vertices, minus each other regime that the spec compares it with."""
    kept = ("attack", "threat", "difference", "only_first", "only_second", "p", "p_holm")
    found: dict[str, list[dict[str, Any]]] = {}
    for item in result["comparisons"]:
        if "left_out" not in item:
            pair = f"{item['first']['training']} - {item['second']['training']}"
            found.setdefault(pair, []).append({key: item[key] for key in kept})
    return found


def epoch_time_ratios(loaded: LoadedSpec, registry: Registry, turns: int) -> dict[str, float]:
    """Processor seconds of an epoch of each regime over standard training's: of each the least over turns.

    What disturbs a turn, such as others on the machine, only adds to it.
    """
    builder = Builder(loaded.spec, registry)
    dataset = builder.dataset()
    seconds: dict[str, list[float]] = {name: [] for name in TIMED}
    for turn in range(turns):
        first = turn % len(TIMED)
        for name in TIMED[first:] + TIMED[:first]:
            seconds[name].append(timed(builder, dataset, name))
    return {
        name: round(min(found) / min(seconds["standard"]), 4) for name, found in seconds.items() if name != "standard"
    }


def timed(builder: Builder, dataset: Any, name: str) -> float:
    """Processor seconds of the second half of one regime's epochs; in the first, guided mix-up warms up."""
    regime = builder.spec.training[name]
    (model,) = builder.spec.models
    half = regime.epochs // 2
    began = time.process_time()

    def report(done: int, total: int) -> None:
        nonlocal began
        if done == total * half // regime.epochs:
            began = time.process_time()

    with tempfile.TemporaryDirectory() as folder:
        fabric = Fabric(accelerator="cpu", devices=1)
        fit = Fit(
            fabric,
            builder.model(model, dataset),
            dataset,
            regime,
            builder.augmentations(regime),
            seed=0,
            folder=Path(folder),
            engine=builder.spec.engine,
            report=report,
        )
        fit.run()
        return time.process_time() - began


if __name__ == "__main__":
    main()
