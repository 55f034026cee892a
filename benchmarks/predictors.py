"""Which cheap number predicts robust accuracy? Models are fitted, measured clean and attacked; then predicted.

    python benchmarks/predictors.py [--manifest CSV] [--seeds N ...] [--jobs N] [--cuda-fits N] [--limit SECONDS]
    python benchmarks/predictors.py --jobs 0 --out predictors.jsonl    # what is in the file already, once more
    python benchmarks/predictors.py --jobs 0 --calibration plugins/avrobust_metrics/calibration.json

Fits every model and regime of `examples/predictors.yaml` on `toy-av`, and with --manifest of
`examples/predictors_clips.yaml` on clips. The work is shared by processes; each fit is a line of JSON in --out as soon
as it is done, and what stands there is not made again (`benchmarks/sharing.py`).

Predictors are clean accuracy, and all values of all metrics of the spec by their names, whichever these are: of clean
clips without an attack. Beside them stand as rivals the spec's other attacks on `--rival-clips` clips, with the forward
passes that they took of each. Robust accuracy is what the attack `ensemble` leaves on `both`.

The last line is one JSON object: for the sets together and each alone, and for families of models by training,
architecture and data, each predictor's rank correlation with robust accuracy and the mean absolute error of the robust
accuracy that it predicts for a family that it has not seen, with intervals; `benchmarks/prediction.py` says how. With
--calibration the file is written from which the metric `margin` estimates robust accuracy.
"""

import argparse
import json
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from avrobust_core import AvrobustError, Registry
from avrobust_core.spec.cells import expand
from avrobust_core.spec.loading import LoadedSpec, load_spec
from avrobust_core.study.runner import carry_out
from benchmarks.prediction import analysed, calibration, tables
from benchmarks.sets import sets_of
from benchmarks.sharing import Desk, Job, add_options, share

STUDY = "predictors"
TRUTH, THREAT = "ensemble", "both"
"""The attack and the threat whose robust accuracy is predicted."""
CALIBRATED = "margin withstands/joint"
"""The predictor of which `--calibration` writes what it is worth."""


def main() -> None:
    """Share the work, analyse, and print."""
    options = parse()
    asked = jobs(options) if options.jobs else []
    lines = share(options, asked, prepare)
    if options.calibration:
        written = {"predictor": CALIBRATED, "truth": f"{TRUTH}/{THREAT}", **calibration(lines, CALIBRATED)}
        options.calibration.write_text(json.dumps(written) + "\n")
    found = analysed(lines, resamples=options.resamples)
    print(tables(found))
    print(json.dumps(found))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, help="CSV of clips with the columns path, label and split")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="each fits every model and regime once")
    parser.add_argument("--rival-clips", type=int, default=64, help="clips that the cheap attacks see")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap over families and models")
    parser.add_argument("--calibration", type=Path, help="the file for the metric `margin`, written anew")
    parser.add_argument("--set", nargs="+", default=[], metavar="PATH=VALUE", help="overrides of the specs")
    add_options(parser, "predictors.jsonl")
    return parser.parse_args()


def jobs(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All cells of all sets, shuffled, the sets in turns: what a limit leaves is of every kind."""
    registry = Registry.discover()
    seeds = f"seed=[{','.join(map(str, options.seeds))}]"
    found = []
    for name, (path, overrides) in sets_of(STUDY, options.manifest).items():
        cells = list(expand(load_spec(path, registry, [*overrides, *options.set, seeds]).spec))
        random.Random(0).shuffle(cells)
        asked = ({"set": name, "model": cell.model, "training": cell.training, "seed": cell.seed} for cell in cells)
        found += list(enumerate(asked))
    return [job for _, job in sorted(found, key=lambda each: each[0])]


def prepare(desk: Desk) -> Callable[[Job], dict[str, Any]]:
    """One process's way to fit, measure and attack a cell."""
    registry = Registry.discover()
    options = desk.options
    sets = sets_of(STUDY, options.manifest)

    def do(job: Job) -> dict[str, Any]:
        path, overrides = sets[job["set"]]
        own = f"include=[{{model: {job['model']}, training: {job['training']}}}]"
        shared = [*overrides, *options.set, own, f"seed={job['seed']}", "audit=off", "correlate=[]", "engine.devices=1"]

        def load(accelerator: str, *more: str) -> LoadedSpec:
            return load_spec(path, registry, [*shared, f"engine.accelerator={accelerator}", *more])

        return measured(load, registry, desk, options.rival_clips)

    return do


def measured(load: Callable[..., LoadedSpec], registry: Registry, desk: Desk, clips: int) -> dict[str, Any]:
    """One cell's predictors and its robust accuracy.

    Args:
        load: the cell's spec, from an accelerator and overrides.
        registry: where its components are found.
        desk: the process's.
        clips: that the rivals see.
    """
    folder = desk.folder / "run"
    began = time.monotonic()
    fit = load(desk.fitting, "attacks={}", "metrics=[]")
    regime = next(iter(fit.spec.training[cell.training] for cell in expand(fit.spec)))
    carried(fit, registry, folder)
    fitted = time.monotonic()
    full = load(desk.attacking)
    rivals = [name for name in full.spec.attacks if name != TRUTH]
    cell = carried(load(desk.attacking, trimmed(rivals)), registry, folder)
    few = carried(load(desk.attacking, trimmed([TRUTH]), "metrics=[]", f"evaluation.clips={clips}"), registry, folder)
    shutil.rmtree(folder)
    predictors = {"clean accuracy": cell["clean_accuracy"]["value"]}
    for entry in cell["metrics"]:
        for name, found in entry.get("values", {}).items():
            if found["value"] is not None and found["method"] != "prediction":  # another value, with this interval
                predictors[f"{entry['metric']} {name}"] = found["value"]
    passes = {}
    for name, threats in few["robust_accuracy"].items():
        predictors[f"attack {name}"] = threats[THREAT]["value"]
        passes[f"attack {name}"] = threats[THREAT]["queries"]
    return {
        "regime": regime.augment[0].use if regime.augment else "standard",
        "robust": cell["robust_accuracy"][TRUTH][THREAT]["value"],
        "predictors": predictors,
        "passes": passes,
        "rival_clips": few["clips"],
        "failures": [f"{failure['metric']}: {failure['message']}" for failure in cell["failures"]],
        "fit_seconds": round(fitted - began, 1),
        "measure_seconds": round(time.monotonic() - fitted, 1),
        "device": desk.fitting,
    }


def trimmed(attacks: Sequence[str]) -> str:
    """The override that leaves these attacks out."""
    return f"exclude=[{', '.join(f'{{attack: {name}}}' for name in attacks)}]"


def carried(loaded: LoadedSpec, registry: Registry, folder: Path) -> Mapping[str, Any]:
    """The result of the only cell.

    Raises:
        AvrobustError: if it failed, or an attack on it did. A metric may fail: its predictors are then missing.
    """
    cell: dict[str, Any]
    (cell,) = carry_out(loaded, registry, out=folder, silent=True)["cells"]
    failures = [cell["error"]] if "error" in cell else [each for each in cell["failures"] if each["metric"] is None]
    if failures:
        raise AvrobustError(f"{cell['model']}, {cell['training']}: {failures[0]['message']}")
    return cell


if __name__ == "__main__":
    main()
