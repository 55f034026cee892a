"""The attacks' parts of benchmarks/gpu.py: PGD beside bare loops and peers, waits, random starts, and what pays."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from avrobust_core import Victim
from avrobust_core.attacks.model import AttackPrecision
from avrobust_core.models.compiling import CompiledEncoders
from avrobust_core.models.tuning import WHOLE, tune
from benchmarks.attack_measures import OURS, Comparison, compare, measured, one_line, our_threat, run_ours, run_peer
from benchmarks.attack_peers import Settings, foolbox_pgd, torchattacks_pgd
from benchmarks.attack_subject import Subject
from benchmarks.attack_views import View
from benchmarks.gpu_subject import Bench
from benchmarks.loops import bare_ascent

ATTACKED = {"joint": ("audio", "video"), "audio": ("audio",), "video": ("video",)}
PEERS = {"torchattacks": torchattacks_pgd, "foolbox": foolbox_pgd}
PRECISIONS: Mapping[str, AttackPrecision] = {"tf32": "32-true", "bf16": "bf16-mixed"}

TUNED = "avrobust, settings measured"

STILL = 1e-6
"""A radius that fools no clip: every party does every step on every clip."""

WARM_STEPS = 2
"""Steps of the runs that do not count, in which libraries load and choose their algorithms."""

WAITING: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "pgd": ("steps", {}),
    "mim": ("steps", {}),
    "apgd": ("steps", {}),
    "cw": ("steps", {"searches": 1, "lead": 0}),
    "ddn": ("steps", {}),
    "fmn": ("steps", {}),
    "square": ("queries", {}),
}
"""Attacks whose waits are counted: the field that says how long they are, and others."""

FEW, MANY = 10, 30
"""How long."""


@contextmanager
def tf32() -> Iterator[None]:
    """TF32 for convolutions and products inside."""
    kept = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = kept


def lowered(device: torch.device, precision: str) -> Any:
    """Bfloat16 autocast, or nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


class Rivals:
    """Everybody who attacks one batch, with one radius, in one precision.

    Args:
        bench: see there.
        subject: the network and the clips.
        attacked: modalities.
        precision: tf32 or bf16.
        eps: radius in the units of the peers' tensor.
    """

    def __init__(self, bench: Bench, subject: Subject, attacked: tuple[str, ...], precision: str, eps: float) -> None:
        self.bench, self.subject, self.precision, self.eps = bench, subject, precision, eps
        media = subject.dataset.media
        self.view = View(subject.model, subject.batch, media, attacked, lowered=precision == "bf16")
        self.threat = our_threat(self.view, "linf", eps)
        self.steps = bench.size.steps

    def ours(self, **fields: object) -> Mapping[str, Tensor]:
        """Our verified PGD."""
        precision = PRECISIONS[self.precision]
        return run_ours(
            self.subject, self.subject.batch, "pgd", {"steps": self.steps, **fields}, self.threat, precision
        )

    def peer(self, name: str) -> Mapping[str, Tensor]:
        """A peer's."""
        settings = Settings(eps=self.eps, steps=self.steps, classes=self.bench.size.classes)
        with frozen(self.subject.model):  # as ours and the bare loop are: a network that learns is slower
            return run_peer(PEERS[name], self.view, self.subject.batch, settings)

    def bare(self, *, kept: bool = False) -> Mapping[str, Tensor]:
        """By hand; with `kept`, the modalities that are not attacked are encoded once."""
        model, batch = self.subject.model, self.subject.batch
        clean = {name: batch.inputs[name] for name in self.view.attacked}
        eps = {name: self.view.radius(name, self.eps) for name in clean}
        with frozen(model):
            forward = self.forward(kept=kept)
            moved = bare_ascent(forward, clean, batch.targets, eps, self.view.limits, self.steps)
        return {**batch.inputs, **moved}

    def forward(self, *, kept: bool = False) -> Callable[[Mapping[str, Tensor]], Tensor]:
        """From the attacked modalities to logits, in this precision."""
        model, device = self.subject.model, self.bench.device
        fixed = {name: x for name, x in self.subject.batch.inputs.items() if name not in self.view.attacked}
        with torch.no_grad(), lowered(device, self.precision):
            encoded = model.encode(fixed) if kept else {}

        def logits(x: Mapping[str, Tensor]) -> Tensor:
            with lowered(device, self.precision):
                found: Tensor = model.classify({**encoded, **model.encode(x)}) if kept else model({**fixed, **x})
            return found.float()

        return logits

    def run(
        self,
        parties: Mapping[str, Callable[[], Mapping[str, Tensor]]],
        turns: int,
        also: Sequence["Rivals"] = (),
        aside: frozenset[str] = frozenset(),
    ) -> Comparison:
        """All of them in turn, after a short run of each that does not count.

        Args:
            parties: by name.
            turns: of all.
            also: whose some of the parties are.
            aside: parties that are run once, for the record.
        """
        for each in (self, *also):
            each.steps = WARM_STEPS
        for party in parties.values():
            with suppress(Exception):  # it fails again when it counts, and is reported then
                party()
        for each in (self, *also):
            each.steps = self.bench.size.steps
        judged = partial(measured, self.subject, self.subject.batch, self.view, "linf", self.eps, self.bench.now)
        return compare({name: partial(judged, party) for name, party in parties.items()}, turns, aside)


@contextmanager
def frozen(model: torch.nn.Module) -> Iterator[None]:
    """No gradients of parameters inside."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def gradient_step(forward: Callable[[Mapping[str, Tensor]], Tensor], clean: Mapping[str, Tensor]) -> None:
    """A forward pass and the gradient of what is attacked."""
    leaves = {name: x.detach().requires_grad_() for name, x in clean.items()}
    views = {name: x.view_as(x) for name, x in leaves.items()}  # torch's counter of operations trips over leaves
    torch.autograd.grad(forward(views).logsumexp(dim=1).sum(), list(leaves.values()))


def still(bench: Bench, attacked: str, precision: str) -> dict[str, Any]:
    """PGD of everybody where nobody stops early; how much of the card's peak the bare loop's work comes to."""
    rivals = Rivals(bench, bench.subject(), ATTACKED[attacked], precision, STILL)
    parties: dict[str, Callable[[], Mapping[str, Tensor]]] = {
        OURS: rivals.ours,
        "without random start": partial(rivals.ours, random_start=False),
        "bare": rivals.bare,
        **{name: partial(rivals.peer, name) for name in PEERS},
    }
    if attacked != "joint":
        parties["bare, the other encoded once"] = partial(rivals.bare, kept=True)
    found = rivals.run(parties, bench.size.turns, aside=frozenset({"without random start"}))
    report = summary(found, bench.size.batch, ours=(OURS, "without random start"))
    # Not the count of what a party did, which encodes less where it can, but of the task as all of them state it.
    flop = bench.size.steps * operations(rivals) / bench.size.batch
    rates = report["clips_per_second"]
    report["tflop_per_clip"] = round(flop / 1e12, 4)
    report["tflop_per_second"] = {name: round(rate * flop / 1e12, 3) for name, rate in rates.items()}
    peak = bench.found.get("card", {}).get("tflop_per_second", {}).get(precision)
    if peak:
        report["share_of_peak"] = {name: round(rate * flop / 1e12 / peak, 4) for name, rate in rates.items()}
    return report


def robust(bench: Bench, precision: str) -> dict[str, Any]:
    """Joint PGD at a radius that leaves about half of the clips robust: who is done first, and who leaves more.

    Ours also with what `channels_last: auto` and `cudnn_benchmark: auto` choose; of `attack_compile` see `compiled`.
    """
    subject = bench.subject()
    eps = bench.found.setdefault("half", half_broken(bench, subject))
    rivals = Rivals(bench, subject, ATTACKED["joint"], precision, eps)
    tuned = bench.subject()
    media = tuned.dataset.media
    victim = Victim(tuned.model, media=media, task=tuned.dataset.task, precision=PRECISIONS[precision])
    with victim.frozen(), _cudnn(benchmark=False):
        settings = tune(
            tuned.model,
            tuned.batch.inputs,
            ["channels_last", "cudnn_benchmark"],
            victim.lowered,
            CompiledEncoders(tuned.model),
        )
    searched = WHOLE in settings.get("cudnn_benchmark", {}) and settings["cudnn_benchmark"][WHOLE].taken
    best = Rivals(bench, tuned, ATTACKED["joint"], precision, eps)
    found = rivals.run(
        {
            OURS: rivals.ours,
            TUNED: partial(_searched, best, searched),
            **{name: partial(rivals.peer, name) for name in PEERS},
        },
        bench.size.turns,
        also=[best],
    )
    report = summary(found, bench.size.batch, ours=(OURS, TUNED))
    left = report["robust_clips"]
    strongest = min((left[name] for name in PEERS if name in left), default=None)
    return {
        "eps": eps,
        "settings": {name: {part: tried.to_json() for part, tried in by.items()} for name, by in settings.items()},
        **report,
        "gap_in_clips": {
            name: left[name] - strongest for name in (OURS, TUNED) if name in left and strongest is not None
        },
    }


def _searched(rivals: Rivals, searched: bool) -> Mapping[str, Tensor]:
    """Ours, with cuDNN's search for algorithms or without."""
    with _cudnn(benchmark=searched):
        return rivals.ours()


def half_broken(bench: Bench, subject: Subject) -> float:
    """The radius of the peers' tensor at which short PGD leaves the share of clips nearest to one half."""
    low, high = 1e-6, 0.3
    best = (1.0, high)
    for _ in range(7):
        eps = (low * high) ** 0.5
        rivals = Rivals(bench, subject, ATTACKED["joint"], "tf32", eps)
        rivals.steps = max(3, bench.size.steps // 3)
        with torch.no_grad():
            left = float((subject.model(rivals.ours()).argmax(dim=1) == subject.batch.targets).float().mean())
        best = min(best, (abs(left - 0.5), eps))
        low, high = (eps, high) if left > 0.5 else (low, eps)
    return best[1]


def summary(found: Comparison, clips: int, ours: tuple[str, ...] = (OURS,)) -> dict[str, Any]:
    """Rates of all parties, and ours over the fastest of the peers'."""
    rates = {
        name: round(clips / sorted(record.seconds for record in runs)[(len(runs) - 1) // 2], 4)
        for name, runs in found.runs.items()
    }
    fastest = max((rates[name] for name in PEERS if name in rates), default=None)
    return {
        "clips_per_second": rates,
        "over_fastest_peer": {name: round(rates[name] / fastest, 4) for name in ours if name in rates and fastest},
        "over_bare": {
            name: round(rates[name] / rates["bare"], 4) for name in ours if name in rates and "bare" in rates
        },
        "robust_clips": {name: runs[0].robust for name, runs in found.runs.items()},
        "forwards": {name: runs[0].costs.forwards for name, runs in found.runs.items()},
        "backwards": {name: runs[0].costs.backwards for name, runs in found.runs.items()},
        "could_not_run": found.failures,
    }


def operations(rivals: Rivals) -> float:
    """Floating-point operations of one gradient step on the whole batch; a multiplication and an addition are two."""
    clean = {name: rivals.subject.batch.inputs[name] for name in rivals.view.attacked}
    with frozen(rivals.subject.model), FlopCounterMode(display=False) as counter:
        gradient_step(rivals.forward(), clean)
    return float(counter.get_total_flops())


def waits(bench: Bench) -> dict[str, Any]:
    """How often the host waits for the device: in a whole attack, verification and all, and in each step more."""
    if bench.device.type != "cuda":
        return {"not_run": "torch counts waits on a GPU only; tests/plugins/attacks/test_waits.py counts them here"}
    subject = bench.subject()
    batch = subject.first(4)
    view = View(subject.model, batch, subject.dataset.media, ATTACKED["joint"])
    found: dict[str, Any] = {}
    for name, (length, fields) in WAITING.items():
        threat = our_threat(view, "l2" if name in ("cw", "ddn") else "linf", STILL)
        counts = {
            n: _waits(partial(run_ours, subject, batch, name, {**fields, length: n}, threat)) for n in (FEW, MANY)
        }
        found[name] = {"whole": counts[FEW], "per_step": round((counts[MANY] - counts[FEW]) / (MANY - FEW), 3)}
    return found


def _waits(run: Callable[[], object]) -> int:
    run()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def starts(bench: Bench) -> dict[str, Any]:
    """Seconds of a batch's random starts, and over those of a joint PGD without them."""
    subject = bench.subject()
    rivals = Rivals(bench, subject, ATTACKED["joint"], "tf32", STILL)
    victim = Victim(subject.model, media=subject.dataset.media, task=subject.dataset.task)
    bound = victim.bind(subject.batch, rivals.threat)
    seconds = bench.seconds(lambda: bound.sample("start"))
    clean = dict(bound.clean)
    bare = bench.seconds(lambda: {name: torch.empty_like(x).uniform_(-1, 1) for name, x in clean.items()})
    return {"seconds": round(seconds, 5), "seconds_of_bare_draws": round(bare, 6), "clips": len(subject.batch)}


def variants(bench: Bench) -> dict[str, Any]:
    """Gradient steps per second of each modality's encoder and of both, clips of a batch each: what settings pay."""
    from avrobust_core.models.model import channels_last

    found: dict[str, Any] = {}
    for last in (False, True):
        subject = bench.subject()
        if last:
            channels_last(subject.model)
        for tuned in (False, True):
            for precision in PRECISIONS:
                label = " ".join([precision, *["channels-last"] * last, *["cudnn.benchmark"] * tuned])
                with _cudnn(benchmark=tuned):
                    found[label] = {
                        name: _rate(bench, Rivals(bench, subject, attacked, precision, STILL))
                        for name, attacked in ATTACKED.items()
                    }
                if bench.left < 0:
                    return found
    return found


def _rate(bench: Bench, rivals: Rivals) -> float:
    clean = {name: rivals.subject.batch.inputs[name] for name in rivals.view.attacked}
    with frozen(rivals.subject.model):
        forward = rivals.forward(kept=len(clean) == 1)
        seconds = bench.seconds(lambda: gradient_step(forward, clean))
    return round(bench.size.batch / seconds, 3)


@contextmanager
def _cudnn(*, benchmark: bool) -> Iterator[None]:
    kept = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = benchmark
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = kept


def compiled(bench: Bench) -> dict[str, Any]:
    """The same with `torch.compile`, and the seconds it takes before the first step; no code is made in a rehearsal."""
    found: dict[str, Any] = {}
    for precision in PRECISIONS:
        subject = bench.subject()
        for name in ("audio", "video"):
            try:
                found[f"{name} {precision}"] = _compiled(bench, subject, name, precision)
            except Exception as error:  # noqa: BLE001 - what a compiler cannot do is a finding
                found[f"{name} {precision}"] = {"error": one_line(error)}
            if bench.left < 0:
                return found
    return found


def _compiled(bench: Bench, subject: Subject, name: str, precision: str) -> dict[str, float]:
    rivals = Rivals(bench, subject, ATTACKED[name], precision, STILL)
    subject.model.encoders[name].compile(backend="inductor" if bench.device.type == "cuda" else "eager")
    began = bench.now()
    with frozen(subject.model):
        gradient_step(rivals.forward(kept=True), {name: subject.batch.inputs[name]})
    seconds = bench.now() - began
    return {"rate": _rate(bench, rivals), "seconds": round(seconds, 1)}


def kernels(bench: Bench) -> dict[str, Any]:
    """The operations that take longest in one joint gradient step: milliseconds, and calls."""
    found: dict[str, Any] = {}
    cuda = bench.device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CUDA if cuda else torch.profiler.ProfilerActivity.CPU]
    subject = bench.subject()
    for precision in PRECISIONS:
        rivals = Rivals(bench, subject, ATTACKED["joint"], precision, STILL)
        clean = {name: subject.batch.inputs[name] for name in rivals.view.attacked}
        with frozen(subject.model):
            forward = rivals.forward()
            gradient_step(forward, clean)
            with torch.profiler.profile(activities=activities) as profile:
                gradient_step(forward, clean)
                bench.now()
        rows = [
            (event.self_device_time_total if cuda else event.self_cpu_time_total, event.count, event.key[:100])
            for event in profile.key_averages()
        ]
        found[precision] = [
            {"ms": round(micro / 1e3, 3), "calls": calls, "name": name}
            for micro, calls, name in sorted(rows, reverse=True)[:20]
        ]
    return found
