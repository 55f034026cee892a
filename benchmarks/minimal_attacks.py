"""Our attacks for the smallest perturbation beside public ones, clip by clip, on five small nets.

    uv pip install -e '.[test,bench]'
    python benchmarks/minimal_attacks.py [--nets NAME ...] [--norms l2 linf] [--clips N] [--steps N]

Whoever attacked, the net then judges the clips in a forward pass of its own; a clip that is not broken has an infinite
norm. Against each of ours stands, clip by clip, the best of three public attacks with `--steps` steps each. Printed per
net and attack: clips that are not broken, clips of ours beyond `FAR` times the best of three, clips of which that best
is beyond `FAR` times ours, the median of ours over the best, and forward and backward passes per clip. The last line is
one JSON object: `worse`, the nets, norms and attacks where ours are too far on more clips than the best of three,
`could_not_run`, and every record.

Minutes on one core, training among them; the nets are small, and two of them flat where it matters (`minimal_nets`).
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.attack_measures import Party, Record, measured, one_line, our_threat, run_ours, run_peer
from benchmarks.attack_peers import MINIMAL, Settings
from benchmarks.attack_subject import Subject
from benchmarks.attack_views import View
from benchmarks.attacks import BOTH, quieten
from benchmarks.minimal_nets import NETS

FAR = 1.1

OURS: Mapping[str, Sequence[str]] = {"l2": ("ddn", "fmn", "cw"), "linf": ("fmn", "cw")}


def main() -> None:
    """Measure and print."""
    options = parse()
    torch.set_num_threads(1)
    torch.manual_seed(0)  # of the peers' random starts; ours come from the clips' ids
    quieten()
    began = time.process_time()
    rows: list[dict[str, object]] = []
    could_not_run: dict[str, str] = {}
    for name in options.nets:
        subject = NETS[name].subject(options.clips, options.cache)
        print(f"\n{name}: clean accuracy {subject.accuracy:.3f}, {options.clips} clips", flush=True)
        for norm in options.norms:
            found, failed = compare(subject, norm, options.steps)
            rows += [{"net": name, **row} for row in found]
            could_not_run |= {f"{name} {norm} {party}": why for party, why in failed.items()}
    worse = [f"{row['net']} {row['norm']} {row['attack']}" for row in rows if row.get("worse")]
    report = {
        "worse": worse,
        "could_not_run": could_not_run,
        "clips": options.clips,
        "steps": options.steps,
        "cpu_seconds": round(time.process_time() - began, 1),
        "records": rows,
    }
    print(json.dumps(report))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--norms", nargs="+", choices=OURS, default=list(OURS))
    parser.add_argument("--clips", type=int, default=50, help="the time grows with them")
    parser.add_argument("--steps", type=int, default=100, help="of each public attack; ours have their defaults")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir()) / "avrobust-benchmarks",
        help="folder of trained weights, kept between runs",
    )
    return parser.parse_args()


def compare(subject: Subject, norm: str, steps: int) -> tuple[list[dict[str, object]], dict[str, str]]:
    """Run all attacks of one norm on one net, and print a line for each.

    Returns:
        What is reported of each attack, and by attack why it could not run.
    """
    view = View(subject.model, subject.batch, subject.dataset.media, BOTH)
    eps = math.sqrt(sum(view.sizes)) if norm == "l2" else 1.0  # the whole space lies within
    judged = partial(measured, subject, subject.batch, view, norm, eps, time.process_time)
    threat = our_threat(view, norm, eps)
    peers: dict[str, Party] = {
        name: partial(run_peer, attacker, view, subject.batch, Settings(steps=steps))
        for name, attacker in MINIMAL[norm].items()
    }
    ours: dict[str, Party] = {name: partial(run_ours, subject, subject.batch, name, {}, threat) for name in OURS[norm]}
    failed: dict[str, str] = {}
    records: dict[str, Record] = {}
    for name, party in {**peers, **ours}.items():
        try:
            records[name] = judged(party)
        except Exception as error:  # noqa: BLE001 - a peer may raise anything, and what it cannot run is a result
            failed[name] = one_line(error)
            print(f"  {norm:4} {name:12} could not run: {failed[name]}", flush=True)
    best = [min(norms) for norms in zip(*(records[name].norms for name in peers if name in records), strict=True)]
    rows = []
    for name, record in records.items():
        row = {"norm": norm, "attack": name, **seen(record), **(against(record.norms, best) if name in ours else {})}
        print("  " + "  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        rows.append(row)
    return rows, failed


def seen(record: Record) -> dict[str, object]:
    """Of one attack by itself; passes are per clip."""
    clips = len(record.norms)
    return {
        "failed": record.robust,
        "median": float(f"{statistics.median(record.norms):.4g}"),
        "forwards": round(record.costs.forwards / clips),
        "backwards": round(record.costs.backwards / clips),
        "seconds": round(record.seconds, 1),
    }


def against(norms: Sequence[float], best: Sequence[float]) -> dict[str, object]:
    """Ours beside the best of the public ones, clip by clip; a clip that neither breaks is even."""
    if not best:
        return {}
    pairs = list(zip(norms, best, strict=True))
    far = sum(own > FAR * other for own, other in pairs)
    behind = sum(other > FAR * own for own, other in pairs)
    ratios = [1.0 if own == other else own / other for own, other in pairs]
    ratio = round(statistics.median(ratios), 4)
    return {"too_far": far, "best_too_far": behind, "ratio": ratio, "worse": far > behind}


if __name__ == "__main__":
    main()
