"""Does the interval of a perfect mAP or ROC-AUC reach far enough down? Simulated, for few clips and many classes.

    python benchmarks/perfect_rankings.py [--runs N] [--separations N]

Scores are normal, those of a class's own clips higher by a separation; with one label per clip they are log-odds under
the softmax. Of each design, and of each separation whose mean over runs lies below the lower end that `map` gives a
perfect ranking of these clips, it says how often a test set is ranked perfectly all the same: for 95 % intervals that
may be 2.5 %. The last line is one JSON object: by design and number, `low` and the largest such `share`.
"""

import argparse
import json

import numpy as np
from avrobust_metrics.configs import MapConfig
from avrobust_metrics.mean_average_precision import MeanAveragePrecision, log_odds
from numpy.typing import NDArray

from avrobust_core import Subject

DESIGNS = {
    "1 class, half of 8 clips": (8, 1, "halves"),
    "1 class, half of 30 clips": (30, 1, "halves"),
    "1 class, 3 of 60 clips": (60, 1, "few"),
    "2 classes, 8 clips": (8, 2, "single-label"),
    "3 classes, 12 clips": (12, 3, "single-label"),
    "10 classes, 40 clips": (40, 10, "single-label"),
    "10 classes, 100 clips": (100, 10, "single-label"),
    "40 classes, 80 clips": (80, 40, "single-label"),
    "5 classes, 40 clips, several labels": (40, 5, "several"),
    "20 classes, 100 clips, several labels": (100, 20, "several"),
}
"""Clips, classes, and whose clips are whose."""


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=600)
    parser.add_argument("--separations", type=int, default=27)
    options = parser.parse_args()
    report = {}
    for name, (clips, classes, kind) in DESIGNS.items():
        generator = np.random.default_rng(0)
        own = belongs(clips, classes, kind, generator)
        ends = perfect_ends(own)
        shares: dict[str, list[float]] = {"map": [], "auc": []}
        for separation in np.linspace(0.5, 7, options.separations):
            scores = generator.standard_normal((options.runs, clips, classes)) + separation * own
            if kind == "single-label":
                scores = log_odds(scores.reshape(-1, classes).astype(np.float32)).reshape(scores.shape)
            for number, values in measured(scores, own).items():
                if values.mean() < ends[number]:
                    shares[number].append(float((values > 1 - 1e-12).mean()))
        report[name] = {
            number: {"low": round(ends[number], 4), "share": max(found, default=0.0)}
            for number, found in shares.items()
        }
        print(f"{name}: {report[name]}", flush=True)
    print(json.dumps(report))


def belongs(clips: int, classes: int, kind: str, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Which clips have which class: (N, K)."""
    if kind == "halves":
        return np.asarray((np.arange(clips) % 2 == 0)[:, None])
    if kind == "few":
        return np.asarray((np.arange(clips) < 3)[:, None])
    if kind == "single-label":
        return np.asarray((np.arange(clips) % classes)[:, None] == np.arange(classes))
    own: NDArray[np.bool_] = generator.random((clips, classes)) < 0.1
    own[:classes] |= np.eye(classes, dtype=np.bool_)
    return own


def perfect_ends(own: NDArray[np.bool_]) -> dict[str, float]:
    """The lower ends of the metric's own intervals, where these clips are ranked perfectly."""
    subject = Subject(
        ids=tuple(map(str, range(len(own)))),
        logits=own.astype(np.float32),
        targets=own.astype(np.float32),
        classes=tuple(map(str, range(own.shape[1]))),
        task="multi-label",
    )
    found = MeanAveragePrecision(MapConfig()).measure(subject).values
    return {number: found[number].low for number in ("map", "auc")}


def measured(scores: NDArray[np.float64], own: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    """Both numbers of every run, without ties: scores (R, N, K) to (R,) each."""
    aps, aucs = [], []
    for c in range(own.shape[1]):
        positive = own[:, c][np.argsort(-scores[:, :, c], axis=1)]
        positives, negatives = int(own[:, c].sum()), int((~own[:, c]).sum())
        precision = np.cumsum(positive, axis=1) / np.arange(1, len(own) + 1)
        aps.append((precision * positive).sum(axis=1) / positives)
        aucs.append(1 - (np.cumsum(~positive, axis=1) * positive).sum(axis=1) / (positives * negatives))
    return {"map": np.mean(aps, axis=0), "auc": np.mean(aucs, axis=0)}


if __name__ == "__main__":
    main()
