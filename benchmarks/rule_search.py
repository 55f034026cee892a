"""The search for a cheap robust training rule: many regimes side by side, on validation clips and seeds of their own.

    python benchmarks/rule_search.py --rules benchmarks/rules.yaml [--manifest CSV] [--seeds N ...] [--jobs N]

Each regime of the spec is fitted with each seed on the training clips, and attacked on the validation clips: those of
`toy-av`'s own split, and with --manifest a fifth of the training clips of that file, which are then not trained on.
Test clips are never read. The work is shared by processes, of which the first `--cuda-fits` fit on a GPU if there is
one; all attack there. Every line that is found is written to --out at once, as JSON; what stands there already is not
made again. No fit is begun after `--limit` seconds.

The last line is one JSON object: by set and rule, the means over fits of the clean accuracy and of those under attack,
their standard deviation, and the passes of a clip in training. Under attack: an ensemble of `apgd` with two losses at
the spec's threats, and at twice their radii (`-wider`), and the unprojected universal perturbation of both modalities.
"""

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from avrobust_core import Registry, evaluate
from avrobust_core.data.dataset import Dataset
from avrobust_core.data.loader import Loader
from avrobust_core.data.loading import Skipped, select
from avrobust_core.randomness import derive_seed
from avrobust_core.spec.loading import load_spec
from avrobust_core.study.building import Builder
from avrobust_core.training.fit import Fit
from benchmarks.sharing import Desk, Job, add_options, share

HELD_OUT = 0.2
"""Share of the training clips of --manifest that are held out to choose by."""

WIDER = 2.0
"""Multiple of the radii of the larger threat."""

APGD = [{"use": "apgd", "with": {"steps": 20, "loss": loss}} for loss in ("ce", "dlr")]
ATTACKS = {
    "ensemble": {"use": "ensemble", "with": {"members": APGD}},
    "universal": {"use": "universal", "with": {"epochs": 10, "projected": False}},
}


def main() -> None:
    """Share the work, and print."""
    options = parse()
    sets = ["toy-av", *(["clips"] if options.manifest else [])]
    rules = options.only or load_spec(options.rules, Registry.discover(), []).spec.training
    asked = [{"set": name, "rule": rule, "seed": seed} for seed in options.seeds for rule in rules for name in sets]
    print(json.dumps(summary(share(options, asked, prepare))))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", type=Path, required=True, help="a spec whose regimes are tried")
    parser.add_argument("--only", nargs="+", default=[], help="regimes; all by default")
    parser.add_argument("--manifest", type=Path, help="CSV of clips with the columns path, label and split")
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101], help="other ones than are measured with")
    add_options(parser, "rules.jsonl")
    return parser.parse_args()


def prepare(desk: Desk) -> Callable[[Job], dict[str, Any]]:
    """One process's way to fit and attack; a set's data are built once."""
    registry = Registry.discover()
    known: dict[str, tuple[Builder, Dataset]] = {}

    def do(job: Job) -> dict[str, Any]:
        name, seed = job["set"], job["seed"]
        if name not in known:
            overrides = data_of(name, desk.options, desk.folder)
            loaded = load_spec(desk.options.rules, registry, [*overrides, "evaluation.split=val"])
            builder = Builder(loaded.spec, registry)
            known[name] = builder, builder.dataset()
        builder, dataset = known[name]
        builder = Builder(builder.spec.with_seed(seed), registry)
        return measured(builder, dataset, job["rule"], seed, desk.fitting, desk.attacking)

    return do


def data_of(name: str, options: argparse.Namespace, folder: Path) -> list[str]:
    """Overrides of the spec's data for one of the sets."""
    if name == "toy-av":
        return ["data.with.val=400", "data.with.test=1"]
    manifest = folder / "held_out.csv"
    with options.manifest.open() as source, manifest.open("w", newline="") as target:
        rows = [row for row in csv.DictReader(source) if row["split"] == "train"]
        writer = csv.DictWriter(target, list(rows[0]))
        writer.writeheader()
        for row in rows:
            held = derive_seed("rule-search", row["path"]) < HELD_OUT * 2**63
            writer.writerow(row | {"split": "val" if held else "train"})
    data = f"manifest: {manifest}, root: {options.manifest.parent.resolve()}, sample_rate: 8000, seconds: 1.0"
    return [f"data={{use: clips, with: {{{data}, frames: 4, size: 16, cache_mib: 1000}}}}"]


def measured(builder: Builder, dataset: Dataset, rule: str, seed: int, fitting: str, attacking: str) -> dict[str, Any]:
    """One fit of a rule, and what it withstands on the validation clips, in shares."""
    began = time.monotonic()
    regime = builder.spec.training[rule]
    (name,) = builder.spec.models
    with tempfile.TemporaryDirectory() as folder:
        model = builder.model(name, dataset)
        fit = Fit(
            Fabric(accelerator=fitting, devices=1),
            model,
            Loader(dataset),
            regime,
            builder.augmentations(regime),
            seed=seed,
            folder=Path(folder),
            report=lambda done, total: None,
        )
        record = fit.run()
    fitted = time.monotonic()
    batches = list(validation(dataset))
    threats = {str(name): threat for name, threat in builder.spec.threats.items()}
    larger = {f"{name}-wider": threats[name].scaled(WIDER) for name in threats}
    found = {}
    for attack, under in (("ensemble", threats | larger), ("universal", {"both": threats["both"]})):
        result = evaluate(
            model.to(attacking),
            batches,
            attacks={attack: ATTACKS[attack]},
            threats=under,
            media=dataset.media,
            task=dataset.task,
            audit="off",
        )
        found["clean"] = result.summary["clean_accuracy"]["value"]
        for threat, estimate in result.summary["robust_accuracy"][attack].items():
            found[f"{attack} {threat}"] = estimate["value"]
    batch = regime.batch_size
    passes = record["clip_forwards"] / (len(dataset.ids("train")) // batch * batch)
    return {
        "found": found,
        "passes": round(passes, 2),
        "fit_seconds": round(fitted - began, 1),
        "attack_seconds": round(time.monotonic() - fitted, 1),
        "device": fitting,
    }


def validation(dataset: Dataset) -> Iterator[Any]:
    """The batches of the validation clips."""
    chunks = select(dataset, "val").chunks(400)
    for batch in Loader(dataset).batches("val", chunks, Skipped(dataset)):
        if batch is not None:
            yield batch


def summary(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means and standard deviations over fits, by set and rule."""
    result: dict[str, Any] = {}
    for line in found:
        result.setdefault(line["set"], {}).setdefault(line["rule"], []).append(line)
    return {name: {rule: pooled(each) for rule, each in rules.items()} for name, rules in result.items()}


def pooled(fits: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The fits of one rule together."""
    values = {name: torch.tensor([fit["found"][name] for fit in fits]) for name in fits[0]["found"]}
    means = {name: round(float(x.mean()), 4) for name, x in values.items()}
    spread = {name: round(float(x.std()), 4) if len(fits) > 1 else None for name, x in values.items()}
    return {"fits": len(fits), "passes": fits[0]["passes"], "mean": means, "sd": spread}


if __name__ == "__main__":
    main()
