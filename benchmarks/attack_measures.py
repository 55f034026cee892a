"""Running an attack, ours or a peer's, and measuring what came of it: the same measure for all."""

import io
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field

import torch
from torch import Tensor

from avrobust_core import AttackRun, Batch, ThreatModel, Victim, attack_batch
from avrobust_core.attacks.model import AttackPrecision
from avrobust_core.registry.choices import configure
from benchmarks.attack_peers import Attacker, Settings
from benchmarks.attack_subject import Costs, Subject, counted
from benchmarks.attack_views import View

OURS = "avrobust"

SLOW = 2.5
"""A peer that takes this many times as long as the fastest one decides no speed-up, and is run once only."""

LEEWAY = 1e-3
"""Share by which a radius may be passed before a clip no longer counts as broken: peers round more than we do."""

Clock = Callable[[], float]
"""Seconds: of the wall, or of the processor where other work would lengthen those of the wall."""

Party = Callable[[], Mapping[str, Tensor]]
"""Attacks the batch once, from clean clips; returns all inputs of the model, in raw units."""


@dataclass(frozen=True, slots=True)
class Record:
    """One run of one attack.

    Attributes:
        norms: per clip, in the units of the peers' tensor, by which audio and video share one radius; infinite where
            the model is not fooled, or only from outside the radius.
        seconds: of the attack alone.
        costs: of the attack alone.
    """

    norms: tuple[float, ...]
    seconds: float
    costs: Costs

    @property
    def robust(self) -> int:
        """Clips that are still classified correctly."""
        return self.norms.count(math.inf)

    @property
    def broken(self) -> list[float]:
        """The norms of the clips that are not."""
        return [norm for norm in self.norms if norm < math.inf]

    def to_json(self) -> dict[str, object]:
        """What is reported of it."""
        broken = self.broken
        return {
            "robust_clips": self.robust,
            "success_rate": round(len(broken) / len(self.norms), 4),
            "norm_median": float(f"{statistics.median(broken):.5g}") if broken else None,
            "norm_mean": float(f"{statistics.fmean(broken):.5g}") if broken else None,
            "norm_max": float(f"{max(broken):.5g}") if broken else None,
            "forwards": self.costs.forwards,
            "backwards": self.costs.backwards,
            "encoded": self.costs.encoded,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """All runs of one comparison.

    Attributes:
        runs: by party, in the order of the turns; a slow peer has the first turn only.
        failures: by party, why it could not run, in one line.
        aside: peers that are run for the record: once, and no ratio is against them.
    """

    aside: frozenset[str] = frozenset()
    runs: dict[str, list[Record]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def peers(self) -> dict[str, list[Record]]:
        """The peers that could run and that ratios are against."""
        return {name: runs for name, runs in self.runs.items() if name != OURS and name not in self.aside}

    def comparable(self) -> bool:
        """Whether we and at least one peer could run."""
        return OURS in self.runs and bool(self.peers)

    def speedup(self) -> float:
        """The fastest peer's seconds over ours: each peer's median over turns, then the least of them."""
        return min(
            statistics.median(peer.seconds / ours.seconds for peer, ours in zip(runs, self.runs[OURS], strict=False))
            for runs in self.peers.values()
        )

    def gap(self) -> float:
        """Our robust clips minus the strongest peer's, the median over turns."""
        strongest = min(statistics.median(record.robust for record in runs) for runs in self.peers.values())
        return statistics.median(record.robust for record in self.runs[OURS]) - strongest

    def norm_ratio(self) -> float | None:
        """Our median norm over that of the peer that needs least; None if no peer breaks half of the clips.

        A clip that is not broken has an infinite norm.
        """
        medians = {
            name: statistics.median(statistics.median(record.norms) for record in runs)
            for name, runs in self.runs.items()
        }
        least = min(medians[name] for name in self.peers)
        return medians[OURS] / least if least < math.inf else None


def compare(parties: Mapping[str, Callable[[], Record]], turns: int, aside: frozenset[str] = frozenset()) -> Comparison:
    """Run all parties in turn, each turn beginning with another one."""
    result = Comparison(aside)
    active = list(parties)
    for turn in range(turns):
        for name in active[turn % len(active) :] + active[: turn % len(active)]:
            try:
                record = parties[name]()
            except Exception as error:  # noqa: BLE001 - a peer may raise anything, and what it cannot run is a result
                result.failures[name] = one_line(error)
                result.runs.pop(name, None)
            else:
                result.runs.setdefault(name, []).append(record)
        active = [name for name in active if _goes_on(name, result)]
        if not active:
            break
    return result


def _goes_on(name: str, result: Comparison) -> bool:
    if name not in result.peers:
        return name in result.runs and name == OURS
    fastest = min(runs[0].seconds for runs in result.peers.values())
    return result.peers[name][0].seconds <= SLOW * fastest


def one_line(error: Exception) -> str:
    """What an error says, in one line of bounded length."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def measured(subject: Subject, batch: Batch, view: View, norm: str, eps: float, clock: Clock, party: Party) -> Record:
    """Run an attack; time it, count its work, and look at what it returned with a forward pass of our own."""
    with counted(subject.model) as costs:
        began = clock()
        inputs = party()
        seconds = clock() - began
    for parameter in subject.model.parameters():  # some peers leave gradients behind, which the next would add to
        parameter.grad = None
    with torch.no_grad():
        fooled = subject.model(inputs).argmax(dim=1) != batch.targets
    norms = distance(view, batch.inputs, inputs, norm)
    norms = norms.masked_fill(~fooled | (norms > eps * (1 + LEEWAY)), math.inf)
    return Record(tuple(norms.tolist()), seconds, costs)


def distance(view: View, clean: Mapping[str, Tensor], perturbed: Mapping[str, Tensor], norm: str) -> Tensor:
    """The size of each clip's perturbation, (B,) float64, in the units of the view's tensor."""
    parts = [
        view.scaled(name, perturbed[name].detach().double()) - view.scaled(name, clean[name].double())
        for name in view.attacked
    ]
    order = {"linf": math.inf, "l2": 2.0}[norm]
    length: Tensor = torch.linalg.vector_norm(torch.cat(parts, dim=1), ord=order, dim=1)
    return length


def run_peer(attacker: Attacker, view: View, batch: Batch, settings: Settings) -> Mapping[str, Tensor]:
    """A peer's attack on the view."""
    with quiet():
        found = attacker(view, view.pack(batch.inputs), batch.targets.clone(), settings)
    return {**batch.inputs, **view.raw(found.detach())}


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what is written to standard error: progress bars that a peer gives no way to turn off."""
    with redirect_stderr(io.StringIO()):
        yield


def run_ours(
    subject: Subject,
    batch: Batch,
    name: str,
    config: Mapping[str, object],
    threat: ThreatModel,
    precision: AttackPrecision = "32-true",
) -> Mapping[str, Tensor]:
    """Our attack by its name in the registry, its result verified as in every evaluation."""
    run = AttackRun(name, configure(subject.registry, "attack", name, config).build(), threat)
    victim = Victim(subject.model, media=subject.dataset.media, task=subject.dataset.task, precision=precision)
    with victim.frozen():
        found = attack_batch(victim, batch, run)
    return {**batch.inputs, **found.inputs}


def our_threat(view: View, norm: str, eps: float) -> ThreatModel:
    """The peers' threat in raw units; in l2, theirs is one ball for all modalities of the view together."""
    budgets = {name: {"norm": norm, "eps": view.radius(name, eps)} for name in view.attacked}
    return ThreatModel.model_validate({"kind": "shared" if norm == "l2" else "separate", **budgets})


def typical(runs: Sequence[Record]) -> dict[str, object]:
    """The run of median length, as it is reported, and how many there were."""
    middle = sorted(runs, key=lambda record: record.seconds)[len(runs) // 2]
    return {**middle.to_json(), "runs": len(runs)}
