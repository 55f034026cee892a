"""What each loss of `pgd` lowers where clips have several labels: the hit at rank one, or the mean average precision.

    python benchmarks/several_labels.py [--clips N] [--steps N]

A small audio-visual model of toy-av clips with up to two labels each is attacked on both modalities at once. The last
line is one JSON object: by loss, `hit` (% of the clips whose highest logit is of one of their labels) and `map` (%),
and the same of the clean clips. Well under a minute on one core.
"""

import argparse
import json

import torch

from avrobust_core import Batch, Registry, evaluate
from benchmarks.small_model import small_data, trained

LOSSES = ("reach", "ce", "margin")
THREAT = {"audio": {"norm": "linf", "eps": 4 / 255}, "video": {"norm": "linf", "eps": 2 / 255}}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    registry = Registry.discover()
    data = small_data(registry, options.clips, labels=2)
    found = evaluate(
        trained(data),
        [Batch.stack([data.read("test", position) for position in range(options.clips)])],
        attacks={loss: {"use": "pgd", "with": {"steps": options.steps, "loss": loss}} for loss in LOSSES},
        threats={"both": THREAT},
        media=data.media,
        task=data.task,
        metrics=["map"],
        resamples=100,
        audit="off",
        registry=registry,
    ).summary
    precision = {
        entry["attack"] or "clean": next(iter(entry["values"].values()))["value"] for entry in found["metrics"]
    }
    hits = {"clean": found["clean_accuracy"]["value"]}
    hits |= {loss: found["robust_accuracy"][loss]["both"]["value"] for loss in LOSSES}
    report = {
        name: {"hit": round(100 * hits[name], 1), "map": round(100 * precision[name], 1)} for name in ("clean", *LOSSES)
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
