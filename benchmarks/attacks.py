"""Our attacks beside foolbox's, torchattacks', ART's, adv-lib's and AutoAttack's: one process, one trained model.

    uv pip install -e '.[test,bench]'
    python benchmarks/attacks.py [--only PART ...] [--pairs N] [--clips N] [--threads N]

Peers know one tensor and one radius in [0, 1]: they attack a module in which audio and video are one picture, or one
in which the audio is the picture and the clean video is fixed. Norms are in those units: radius e is e for video in
[0, 1] and 2 e for audio in [-1, 1]. Whoever attacked, the real model then judges the clips in a forward pass of its
own. All clips are classified correctly when clean; what is still correct afterwards is robust.

Parties run in turn; ratios are medians over turns, against the fastest, or the strongest, of the peers that could do
the task. The last line is one JSON object: `joint_step_overhead` (our seconds over a bare loop's, same steps),
`audio_only_speedup`, `restarts_speedup`, `cw_speedup`, `ensemble_speedup` (a peer's seconds over ours),
`cw_norm_ratio` (our median norm over a peer's), `robust_accuracy_gap` (our robust clips minus a peer's, the worst of
the parts), `could_not_run`, and every record.
"""

import argparse
import copy
import json
import logging
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path

import torch

from avrobust_core import Batch, ThreatModel
from benchmarks.attack_measures import (
    OURS,
    Clock,
    Comparison,
    Record,
    compare,
    measured,
    one_line,
    our_threat,
    run_ours,
    run_peer,
    typical,
)
from benchmarks.attack_peers import AUTO_ATTACK, CW, PACKAGES, PGD, Attacker, Settings
from benchmarks.attack_probes import probe
from benchmarks.attack_subject import Subject, make_subject
from benchmarks.attack_views import View
from benchmarks.loops import ATTACK_STEPS, EPS, bare_pgd, median_ratio

STEP_CLIPS = 32
"""Clips of the batch on which one step is timed, as in benchmarks/loops.py."""


@dataclass(frozen=True, slots=True)
class Part:
    """One comparison.

    Attributes:
        attacked: modalities.
        peers: who may be able to.
        ours: the name of our attack and its configuration.
        norm: of the radius, or of what is measured.
        settings: what all are given.
        share: of the clips, for attacks that take long.
        aside: peers that are run once, for the record.
    """

    attacked: tuple[str, ...]
    peers: Mapping[str, Attacker]
    ours: tuple[str, Mapping[str, object]]
    norm: str = "linf"
    settings: Settings = field(default_factory=Settings)
    share: float = 1.0
    aside: frozenset[str] = frozenset()


BOTH = ("audio", "video")
AUDIO = ("audio",)

PARTS = {
    "joint": Part(BOTH, PGD, ("pgd", {"steps": 20}), settings=Settings(eps=4 / 255)),
    "audio": Part(AUDIO, PGD, ("pgd", {"steps": 20}), settings=Settings(eps=0.02)),
    "audio-steps": Part(AUDIO, PGD, ("pgd", {"steps": 20}), settings=Settings(eps=1e-6), share=0.25),
    "restarts": Part(BOTH, PGD, ("pgd", {"steps": 20, "restarts": 5}), settings=Settings(eps=4 / 255, restarts=5)),
    "cw": Part(
        BOTH,
        CW,
        ("cw", {}),
        norm="l2",
        settings=Settings(steps=100, learning_rate=0.001),
        share=0.2,
        aside=frozenset({"torchattacks", "art"}),
    ),
    "ensemble": Part(BOTH, AUTO_ATTACK, ("ensemble", {}), settings=Settings(eps=3 / 255), share=0.5),
    "ensemble-audio": Part(AUDIO, AUTO_ATTACK, ("ensemble", {}), settings=Settings(eps=0.02), share=0.5),
}
"""The radii leave a few per cent of the clips robust. `audio-steps` has one that leaves all, so that every step is done
on every clip and nothing but the cost of a step is compared. With so few steps for each of its constants, `cw` of the
peers needs less norm at a tenth of their default learning rate, so that is what they are given."""


def main() -> None:
    """Measure and print."""
    options = parse()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)  # of the peers' random starts; ours come from the clips' ids
    quieten()
    import_peers()
    subject = make_subject(options.clips, options.cache)
    print(f"clean accuracy {subject.accuracy:.3f} on the test split; {options.clips} clips are attacked", flush=True)
    chosen = options.only or ["step", *PARTS, "probes"]
    clock = time.process_time if options.cpu_time else time.perf_counter
    overhead = step_overhead(subject, 5 * options.pairs, clock) if "step" in chosen else None
    comparisons = {name: run_part(subject, name, PARTS[name], options.pairs, clock) for name in PARTS if name in chosen}
    could_not_run = {name: found.failures for name, found in comparisons.items()}
    if "probes" in chosen:
        could_not_run |= probe(subject)
    print(json.dumps(report(overhead, comparisons, could_not_run, options)))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=["step", *PARTS, "probes"], help="parts to run; all by default")
    parser.add_argument("--pairs", type=int, default=3, help="turns of each comparison")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--cpu-time", action="store_true", help="compare seconds of the processor: for a busy machine, with --threads 1"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir()) / "avrobust-benchmarks",
        help="folder of trained weights, kept between runs",
    )
    return parser.parse_args()


def quieten() -> None:
    """Keep the peers' warnings, of deprecated calls and of checks that do not apply, out of the tables."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def import_peers() -> None:
    """Import the peers before anything is timed; one that is missing fails again, and is reported, when it is asked."""
    for package in PACKAGES:
        try:
            import_module(package)
        except ImportError as error:
            print(f"{package}: {one_line(error)}")


def step_overhead(subject: Subject, pairs: int, clock: Clock) -> float:
    """Our verified joint PGD over bare PGD of as many steps, where no clip is fooled and both do every step."""
    batch = subject.first(STEP_CLIPS)
    alone = copy.deepcopy(subject.model)  # the bare loop freezes its model for good
    threat = ThreatModel.model_validate({name: {"eps": eps} for name, eps in EPS.items()})

    def ours() -> float:
        began = clock()
        run_ours(subject, batch, "pgd", {"steps": ATTACK_STEPS}, threat)
        return clock() - began

    def bare() -> float:
        began = clock()
        bare_pgd(alone, batch, subject.dataset)
        return clock() - began

    return median_ratio(ours, bare, pairs)


def run_part(subject: Subject, name: str, part: Part, turns: int, clock: Clock) -> Comparison:
    """One comparison: run it and print its table."""
    batch = subject.first(round(part.share * len(subject.batch)))
    view = View(subject.model, batch, subject.dataset.media, part.attacked)
    eps = part.settings.eps or math.sqrt(sum(view.sizes))  # none means any: the whole space lies within
    ours = partial(run_ours, subject, batch, *part.ours, our_threat(view, part.norm, eps))
    judged = partial(measured, subject, batch, view, part.norm, eps, clock)
    parties: dict[str, Callable[[], Record]] = {
        OURS: partial(judged, ours),
        **{
            peer: partial(judged, partial(run_peer, attacker, view, batch, part.settings))
            for peer, attacker in part.peers.items()
        },
    }
    print(f"\n{name}: {part.ours[0]}, {len(batch)} clips, {part.settings}", flush=True)
    found = compare(parties, turns, part.aside)
    print_table(found, batch)
    return found


def print_table(found: Comparison, batch: Batch) -> None:
    """One line per party."""
    header = ("robust", "success", "norm, median", "norm, mean", "forwards", "backwards", "seconds", "runs")
    print(" ".join([" " * 14, *(f"{title:>12}" for title in header)]))
    for name, runs in found.runs.items():
        record = typical(runs)
        cells = (
            f"{record['robust_clips']}/{len(batch)}",
            record["success_rate"],
            record["norm_median"],
            record["norm_mean"],
            record["forwards"],
            record["backwards"],
            record["seconds"],
            record["runs"],
        )
        print(" ".join([f"{name:14}", *(f"{cell!s:>12}" for cell in cells)]))
    for name, reason in found.failures.items():
        print(f"{name:14} could not run: {reason}")
    print(end="", flush=True)


def report(
    overhead: float | None,
    comparisons: Mapping[str, Comparison],
    could_not_run: Mapping[str, Mapping[str, str]],
    options: argparse.Namespace,
) -> dict[str, object]:
    """The JSON object; null where a part was not run, or where we or all peers could not run it."""
    usable = {name: found for name, found in comparisons.items() if found.comparable()}
    speedups = {name: round(found.speedup(), 3) for name, found in usable.items()}
    gaps = {name: found.gap() for name, found in usable.items() if PARTS[name].norm == "linf"}
    return {
        "joint_step_overhead": None if overhead is None else round(overhead, 4),
        "audio_only_speedup": speedups.get("audio"),
        "restarts_speedup": speedups.get("restarts"),
        "cw_speedup": speedups.get("cw"),
        "cw_norm_ratio": usable["cw"].norm_ratio() if "cw" in usable else None,
        "ensemble_speedup": min((speedups[name] for name in speedups if name.startswith("ensemble")), default=None),
        "robust_accuracy_gap": max(gaps.values()) if gaps else None,
        "robust_accuracy_gaps": gaps,
        "joint_speedup": speedups.get("joint"),
        "audio_only_step_speedup": speedups.get("audio-steps"),
        "could_not_run": could_not_run,
        "clips": options.clips,
        "pairs": options.pairs,
        "threads": options.threads,
        "seconds": "cpu" if options.cpu_time else "wall",
        "eps": {name: PARTS[name].settings.eps for name in comparisons},
        "records": {
            name: {party: typical(runs) for party, runs in found.runs.items()} for name, found in comparisons.items()
        },
    }


if __name__ == "__main__":
    main()
