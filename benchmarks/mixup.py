"""Vertex mix-up and its controls beside adversarial training: protection, cost, and paired differences.

    uv pip install -e '.[test,bench]'
    python benchmarks/mixup.py [--manifest CSV] [--seeds N ...] [--out DIR] [--turns N] [--set PATH=VALUE ...]
    python benchmarks/mixup.py --study mixup_ablation --seeds 0 1 2 [...]    # guided mix-up in all its parts

Carries out `examples/vertex_mixup.yaml` on `toy-av`, and with --manifest also `examples/vertex_mixup_clips.yaml` on
clips. Cells that are in --out already are reused, so that it can be stopped and gone on with; with --jobs that many
processes make them side by side, each cell in a folder of its own until it is done. Then it measures what
an epoch costs: standard training, mix-up and the guided rule take turns step by step, in seconds of the processor, over
the second half of their epochs, when there is guidance.

The last line is one JSON object: for each set and regime `clean`, `robust` by attack and threat (shares with
intervals, means over seeds), `forwards` and `backwards` of clips in training over all seeds, `seconds` as recorded, and
`recorded_time_ratio` of their epochs to standard training's, which others on the machine disturb; `differences` of all
pairs that the spec compares, by attack and threat, with intervals and p-values, between these networks and between the
methods (`across_fits`); and `epoch_time_ratio` to standard training, timed side by side, with intervals over epochs.
"""

import argparse
import json
import multiprocessing
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avrobust_core import Registry
from avrobust_core.files import exclusive
from avrobust_core.report.tables import print_tables
from avrobust_core.spec.cells import expand
from avrobust_core.spec.loading import LoadedSpec, load_spec
from avrobust_core.study.building import Builder
from avrobust_core.study.plan import plan
from avrobust_core.study.runner import carry_out
from benchmarks.epoch_times import epoch_seconds, ratio
from benchmarks.sets import sets_of

TIMED = {
    "vertex_mixup": ("standard", "mixup", "vertex-mixup", "guided-vertex-mixup"),
    "mixup_ablation": ("standard", "mixup", "guided-mixup"),
}
"""By study the regimes whose epochs are timed, standard training first."""


def main() -> None:
    """Measure and print."""
    options = parse()
    torch.set_num_threads(options.threads)
    registry = Registry.discover()
    report: dict[str, Any] = {}
    sets = asked(options)
    if options.jobs > 1:
        share(sets, options, registry)
    for name, path, overrides in sets:
        loaded = load_spec(path, registry, [f"seed=[{','.join(map(str, options.seeds))}]", *overrides])
        result = carry_out(loaded, registry, out=options.out / loaded.spec.name)
        print_tables(result)
        ratios = epoch_time_ratios(loaded, registry, options.turns, TIMED[options.study]) if options.turns else {}
        print(f"{name}: an epoch beside one of standard training: {ratios or 'not timed'}", flush=True)
        report[name] = {
            "regimes": regimes(result, {name: regime.epochs for name, regime in loaded.spec.training.items()}),
            "differences": differences(result),
            "epoch_time_ratio": ratios,
            "seeds": options.seeds,
        }
    print(json.dumps(report))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, help="CSV of clips with the columns path, label and split")
    parser.add_argument("--study", choices=TIMED, default="vertex_mixup", help="the spec, of those in examples/")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where the runs lie")
    parser.add_argument("--turns", type=int, default=3, help="fits of each regime that are timed; 0 for none")
    parser.add_argument("--jobs", type=int, default=1, help="processes that make cells side by side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", nargs="+", default=[], metavar="PATH=VALUE", help="overrides of the spec")
    return parser.parse_args()


def asked(options: argparse.Namespace) -> list[tuple[str, Path, list[str]]]:
    """The sets: a name, the spec, and overrides."""
    sets = sets_of(options.study, options.manifest)
    return [(name, path, [*overrides, *options.set]) for name, (path, overrides) in sets.items()]


def share(sets: Sequence[tuple[str, Path, list[str]]], options: argparse.Namespace, registry: Registry) -> None:
    """Make the cells that are not there yet, each in a process of a pool and a folder of its own."""
    parts = []
    for _, path, overrides in sets:
        spec = load_spec(path, registry, overrides).spec
        chosen = dict.fromkeys(cell.training for cell in expand(spec))
        out = options.out / spec.name
        with exclusive(out):  # which makes it a run's folder
            (out / "cells").mkdir(exist_ok=True)
        parts += [(out, path, overrides, regime, seed) for seed in options.seeds for regime in chosen]
    with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for made in as_completed([pool.submit(make_part, *part) for part in parts]):
            print(made.result(), flush=True)
    for out in {part[0] for part in parts}:
        shutil.rmtree(parts_of(out), ignore_errors=True)


def parts_of(out: Path) -> Path:
    """Where the cells of a run lie while they are made."""
    return out.with_name(f"{out.name}-parts")


def make_part(out: Path, path: Path, overrides: Sequence[str], regime: str, seed: int) -> str:
    """One regime's cell of one seed; done once it lies among the study's cells."""
    torch.set_num_threads(1)
    part = parts_of(out) / f"{regime}-{seed}"
    registry = Registry.discover()
    loaded = load_spec(path, registry, [*overrides, f"seed={seed}", f"include=[{{training: {regime}}}]"])
    builder = Builder(loaded.spec, registry)
    (planned,) = plan(builder, builder.dataset(), out)
    if planned.fitted:
        return f"{part.name}: there already"
    result = carry_out(loaded, registry, out=part, silent=True)
    for cell in (part / "cells").iterdir():
        shutil.move(cell, out / "cells" / cell.name)
    shutil.rmtree(part)
    return f"{part.name}: {'failed' if result['failed'] else 'done'}"


def regimes(result: Mapping[str, Any], epochs: Mapping[str, int]) -> dict[str, Any]:
    """Protection and cost by regime, of which the spec has so many epochs."""
    pooled = result["pooled"] or [cell | {"cost": cell["fit"]} for cell in result["cells"] if "error" not in cell]
    each = {entry["training"]: entry["cost"]["seconds"] / epochs[entry["training"]] for entry in pooled}
    return {
        entry["training"]: {
            "clean": entry["clean_accuracy"],
            "robust": entry["robust_accuracy"],
            "forwards": entry["cost"]["clip_forwards"],
            "backwards": entry["cost"]["clip_backwards"],
            "seconds": entry["cost"]["seconds"],
            "recorded_time_ratio": round(each[entry["training"]] / each["standard"], 3) if "standard" in each else None,
        }
        for entry in pooled
    }


def differences(result: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The first minus the second of each pair of regimes that is compared, under each question that asks for it."""
    kept = ("question", "attack", "threat", "difference", "only_first", "only_second", "p", "p_holm", "across_fits")
    found: dict[str, list[dict[str, Any]]] = {}
    for item in result["comparisons"]:
        if "left_out" not in item:
            pair = f"{item['first']['training']} - {item['second']['training']}"
            found.setdefault(pair, []).append({key: item[key] for key in kept})
    return found


def epoch_time_ratios(
    loaded: LoadedSpec, registry: Registry, turns: int, timed: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Processor seconds of an epoch of each timed regime over the first one's, with intervals over epochs.

    Only the second half of the epochs counts: in the first nothing is guided, for guidance warms up.
    """
    builder = Builder(loaded.spec, registry)
    dataset = builder.dataset()
    rotated = [[*timed[turn % len(timed) :], *timed[: turn % len(timed)]] for turn in range(turns)]
    found = [epoch_seconds(builder, dataset, names) for names in rotated]
    late = {name: np.concatenate([times[name][len(times[name]) // 2 :] for times in found]) for name in timed}
    return {name: ratio(late[name], late[timed[0]]).to_json() for name in timed[1:]}


if __name__ == "__main__":
    main()
