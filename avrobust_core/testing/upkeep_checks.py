"""Checks of what an attack leaves behind and what it costs: the model, parameters' gradients, waits, memory."""

from __future__ import annotations

import gc
import pickle
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from avrobust_core.models.model import AVModel
from avrobust_core.testing.counting import counted
from avrobust_core.testing.models import stateful_model
from avrobust_core.testing.oracles import SHAPES, make_problem, make_threat
from avrobust_core.testing.running import CheckFailed, check
from avrobust_core.testing.strength_checks import BOTH
from avrobust_core.testing.subjects import AttackSubject, Case

BATCHES = 5
"""Batches attacked one after the other to see whether the cost of one grows."""

WAITS = 16
"""Times that an attack may wait for the device between two forward passes, beside what its region does: to drop clips
that are done, in every modality, and to end early."""

ALLOWED_GROWTH: Mapping[str, int] = {
    "forward passes": 0,
    "tensor operations": 2,
    "values written": 32,
    "function calls": 50,
    "tensors kept": 1,
    "bytes kept by the attack": 16,
}
"""Growth allowed to each count from the second batch to the last, all of the same clips."""


@check(4)
def check_parameter_gradients(subject: AttackSubject) -> None:
    """No gradient of a parameter is computed, and what lies in `.grad` is not touched."""
    problem = make_problem(seed=71)
    case = Case.of(problem, problem.threat(BOTH, subject.norm, share=0.6))
    model = case.model
    attack = subject.prepared(case)
    model.eval()
    computed: set[str] = set()
    given = {name: torch.full_like(p, 0.5) for name, p in list(model.named_parameters())[::2]}
    model.requires_grad_(True)
    for name, parameter in model.named_parameters():
        parameter.grad = given.get(name)
        parameter.register_hook(partial(_note, computed, name))  # type: ignore[no-untyped-call]
    with subject.engaged(case, attack) as (attack, bound):
        model.requires_grad_(True)  # as an attack finds it that is called without the core
        attack(bound.limited_to(attack.access))
    touched = [
        name
        for name, p in model.named_parameters()
        if p.grad is not given.get(name) or (p.grad is not None and not bool((p.grad == 0.5).all()))
    ]
    if computed or touched:
        raise CheckFailed(
            f"it computed gradients of {len(computed)} parameters and left other `.grad` than it found in "
            f"{len(touched)}: half the work of a step for nothing, and training goes on from it. Take "
            "torch.autograd.grad(loss, perturbation), never backward()"
        )


@check(20)
def check_flags_and_buffers(subject: AttackSubject) -> None:
    """Training flags, `requires_grad`, parameters and buffers (batch normalisation's) are as they were."""
    problem = make_problem(seed=72)
    model = stateful_model(SHAPES, 3)
    case = Case.of(problem, make_threat(BOTH, subject.norm, 2.0 if subject.norm == "l0" else 0.3), lambda _: model)
    attack = subject.prepared(case)
    model.train()
    model.head.eval()
    state = {name: x.clone() for name, x in model.state_dict().items()}
    outside = _flags(model)
    with subject.engaged(case, attack) as (attack, bound):
        inside = _flags(model)
        attack(bound.limited_to(attack.access))
        left = _flags(model)
    changed = [name for name, flag in left.items() if flag != inside[name]]
    changed += [name for name, flag in _flags(model).items() if flag != outside[name]]
    changed += [name for name, x in model.state_dict().items() if not torch.equal(x, state[name])]
    if changed:
        raise CheckFailed(
            f"it changed the model: {', '.join(list(dict.fromkeys(changed))[:5])}. The next attack, or training, goes "
            "on with another model. The victim is in evaluation mode already: leave its modes, flags and buffers alone"
        )


@check(14)
def check_waits_and_copies(subject: AttackSubject) -> None:
    """No wait for the device per clip, no whole batch handed to numpy, no float64 copies of it from step to step."""
    few, many = (_measured(subject, clips) for clips in (4, 16))
    work, passes, allowed = many
    waits, copies, float64 = work["waits"], work["large copies"], work["large float64"]
    if waits > 1.5 * few[0]["waits"] + 8 * len(BOTH):
        raise CheckFailed(
            f"it would wait for the device {few[0]['waits']} times with 4 clips and {waits} times with 16: a loop over "
            "clips asks for values (item, bool, float) one by one. Keep per-clip decisions in tensors (torch.where)"
        )
    if copies:
        raise CheckFailed(
            f"it handed the whole batch to numpy or to Python lists {copies} times: on a device each is a wait and a "
            "copy. torch has what is needed"
        )
    if float64 > 2 * allowed["large float64"] * passes + 16:
        raise CheckFailed(
            f"in {passes} forward passes it made {float64} float64 tensors as large as the batch, where "
            f"{allowed['large float64']} per pass would do to project and to measure: twice the memory, and on a "
            "device up to 32 times the time. Only victim.region measures in float64"
        )
    if waits > (allowed["waits"] + WAITS) * passes + 16:
        raise CheckFailed(
            f"it would wait for the device {waits} times in {passes} forward passes: ask it for values once per step "
            "at most"
        )


@check(21)
def check_cost_per_batch(subject: AttackSubject) -> None:
    """A batch costs the same whether it is the first or the hundredth: nothing is kept, nothing is written again."""
    problem = make_problem(seed=74, clips=4)
    case = Case.of(problem, problem.threat(BOTH, subject.norm, slack=2.0))
    attack = subject.prepared(case)
    found: list[Counter[str]] = []
    for number in range(BATCHES):
        with subject.engaged(case, attack) as (_, bound):
            if number not in (1, BATCHES - 1):  # the first makes what is made once
                attack(bound.limited_to(attack.access))
                continue
            with counted(1 << 30, calls=True) as work:
                attack(bound.limited_to(attack.access))
        work["forward passes"] = int(bound.queries.sum())
        gc.collect()
        work["tensors kept"] = sum(1 for kept in gc.get_objects() if type(kept) is Tensor)
        with suppress(Exception):  # an attack need not be one that can be pickled
            work["bytes kept by the attack"] = len(pickle.dumps(attack))
        found.append(work)
    second, last = found
    for what, growth in ALLOWED_GROWTH.items():
        if last[what] > second[what] + growth:
            raise CheckFailed(
                f"{what} grow from batch to batch: {second[what]} at the second, {last[what]} at the {BATCHES}th batch "
                "of the same clips. Whatever is kept or written of earlier batches makes a long evaluation quadratic: "
                "the core keeps the results"
            )


def _note(computed: set[str], name: str, gradient: Tensor) -> None:
    del gradient
    computed.add(name)


def _flags(model: nn.Module) -> Mapping[str, object]:
    return {
        **{f"{name or 'model'}.training": module.training for name, module in model.named_modules()},
        **{f"{name}.requires_grad": p.requires_grad for name, p in model.named_parameters()},
    }


def _measured(subject: AttackSubject, clips: int) -> tuple[Counter[str], int, Counter[str]]:
    """The work on so many clips that cannot be broken, its forward passes, and what one of them may cost besides."""
    problem = make_problem({"audio": (1, 64), "video": (2, 2, 4, 4)}, seed=73, clips=clips)
    case = Case.of(problem, problem.unbreakable(subject.norm))
    attack = subject.prepared(case)
    large = min(x.numel() for x in problem.batch.inputs.values())
    passes: list[None] = []
    cast(AVModel, case.model).head.register_forward_hook(lambda *_: passes.append(None))
    with subject.engaged(case, attack) as (_, bound):
        x = {name: ball.center + 0.01 for name, ball in bound.balls.items()}
        with counted(large) as allowed:
            bound.region.project(x)
            bound.region.size(x)
        with counted(large) as work:
            attack(bound.limited_to(attack.access))
    return work, max(len(passes), 1), allowed
