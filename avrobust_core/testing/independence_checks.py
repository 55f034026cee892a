"""Checks of what a clip's result depends on: that clip, the seed, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avrobust_core.data.batches import Batch
from avrobust_core.testing.oracles import make_problem
from avrobust_core.testing.running import CheckFailed, NotApplicable, check
from avrobust_core.testing.strength_checks import BOTH
from avrobust_core.testing.subjects import AttackSubject, Case, Trial
from avrobust_core.threats.budgets import Budget, Snr, ThreatModel

CLOSE = 1e-3
"""Share of the largest change by which two results may differ that should be the same: rounding, after many steps."""


@check(3, 11)
def check_batch_mates(subject: AttackSubject) -> None:
    """A batch of n clips gives, clip by clip, what n batches of one give, and what it gives in another order."""
    problem = make_problem(seed=61, clips=10)
    case = Case.of(problem, problem.threat(BOTH, subject.norm, share=0.6))
    attack = subject.prepared(case)
    whole = subject.run(case, attack)
    clips = len(problem.batch)
    order = torch.arange(clips).flip(0)
    for what, parts in (
        ("each by itself", [torch.tensor([i]) for i in range(clips)]),
        ("in batches of four in another order", [order[i : i + 4] for i in range(0, clips, 4)]),
    ):
        for index in parts:
            part = subject.run(replace(case, batch=case.batch.select(index)), attack)
            if different := _different(whole, part, index):
                raise CheckFailed(
                    f"clip {different} of a batch of {clips} comes out differently {what}: robust accuracy would "
                    "depend on the batch size. Look for sums, means, maxima or early stops over the batch, for random "
                    "numbers that are not from victim.draws, and for steps that depend on len(victim)"
                )


@check(10)
def check_radius_of_batch_mates(subject: AttackSubject) -> None:
    """Radii differ from clip to clip, and a loud clip with a large one does not move the others."""
    norms = [norm for norm in subject.norms if norm != "l0"]
    if not norms:
        raise NotApplicable("it attacks in l0 only, where a radius counts samples and is the same for all clips")
    subject.require_bounded()
    problem = make_problem(seed=62, clips=8, bounds=None)
    quiet = problem.batch
    inputs = {name: torch.cat((x, 40 * x[:1])) for name, x in quiet.inputs.items()}
    loud = Batch(inputs, torch.cat((quiet.targets, quiet.targets[:1])), (*quiet.ids, "loud"))
    for norm in norms:
        budget = Budget(norm=norm, eps=Snr(snr_db=5.0 if norm == "l1" else 8.0))
        case = Case.of(problem, ThreatModel.of(dict.fromkeys(BOTH, budget)))
        attack = subject.prepared(case)
        without = subject.run(case, attack)
        everyone = subject.run(replace(case, batch=loud), attack)
        if different := _different(everyone, without, torch.arange(len(quiet))):
            raise CheckFailed(
                f"in {norm}, clip {different} comes out differently beside a clip 40 times as loud, whose radius is 40 "
                "times as large: a projection takes its maximum, or its radius, over the batch; each clip has its own"
            )


def check_padding(subject: AttackSubject) -> None:
    """What is padding in a clip stays as it is, in every norm, and does not move the clip's batch mates."""
    problem = make_problem(seed=64, clips=6)
    media = {name: replace(spec, time_axis=1) for name, spec in problem.media.items()}
    shares = ((0, 0), (0.5, 0), (0.25, 0.5), (1.0, 1.0), (0, 0), (0, 0))
    padded = tuple({name: share for name, share in zip(BOTH, clip, strict=True) if share} for clip in shares)
    for norm in subject.norms:
        case = Case.of(problem, problem.threat(BOTH, norm, share=0.6))
        case = replace(case, media=media, batch=replace(case.batch, padded=padded))
        attack = subject.prepared(case)
        whole = subject.run(case, attack)
        for position in (0, 2) if norm == subject.norm else ():
            index = torch.tensor([position])
            part = subject.run(replace(case, batch=case.batch.select(index)), attack)
            if different := _different(whole, part, index):
                raise CheckFailed(
                    f"clip {different} comes out differently beside clips of which more, or less, is padding: what may "
                    "change of a clip is told by its own row of victim.region; count and place nothing for all alike"
                )


@check(18)
def check_global_random_state(subject: AttackSubject) -> None:
    """Global random state and global settings are left alone, and results do not depend on them."""
    problem = make_problem(seed=63)
    case = Case.of(problem, problem.threat(BOTH, subject.norm, share=0.6))
    trials = []
    with seeded_globals() as seeds:
        for _ in seeds:
            before = global_state()
            trials.append(subject.run(case))
            refuse_moved(before, "draw from victim.draws(purpose)")
    if different := _different(trials[0], trials[1], torch.arange(len(problem.batch))):
        raise CheckFailed(
            f"clip {different} comes out differently when the global random state does: a run cannot be repeated or "
            "resumed. Draw from victim.draws(purpose)"
        )


def _different(whole: Trial, part: Trial, index: Tensor) -> str | None:
    """The id of the first clip whose result in `part` is not that in `whole`, where it stands at `index`."""
    for place, position in enumerate(index.tolist()):
        same = bool(whole.success[position]) == bool(part.success[place])
        for name, x in part.result.inputs.items():
            clean = part.bound.clean[name][place]
            expected = whole.result.inputs[name][position]
            scale = float((expected - clean).abs().max())
            same &= bool(torch.allclose(x[place], expected, rtol=0, atol=CLOSE * scale + 1e-6))
        if not same:
            return part.bound.ids[place]
    return None


@contextmanager
def seeded_globals() -> Iterator[Iterator[int]]:
    """Two seeds, each set in the global random states of torch, numpy and Python; afterwards they are as they were."""

    def seeds() -> Iterator[int]:
        for seed in (1, 2):
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            yield seed

    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield seeds()
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])
        random.setstate(kept[2])


def global_state() -> dict[str, object]:
    """All that is random or set for the whole process, by what it is called."""
    numpys: Any = np.random.get_state(legacy=False)
    devices = tuple(state.numpy().tobytes() for state in torch.cuda.get_rng_state_all())
    return {
        "torch's global random state": torch.get_rng_state().numpy().tobytes(),
        "the accelerators' global random state": devices,
        "numpy's global random state": (numpys["state"]["key"].tobytes(), numpys["state"]["pos"]),
        "Python's global random state": random.getstate(),
        "whether gradients are recorded": torch.is_grad_enabled(),
        "torch's default type": torch.get_default_dtype(),
        "torch's deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "torch's number of threads": torch.get_num_threads(),
    }


def refuse_moved(before: Mapping[str, object], cure: str) -> None:
    """Refuse what moved global state.

    Args:
        before: the `global_state` that was.
        cure: what to do instead, in half a sentence.

    Raises:
        CheckFailed: says which.
    """
    if changed := [name for name, value in global_state().items() if value != before[name]]:
        raise CheckFailed(
            f"it changed {', '.join(changed)}: whatever else in the study is random, or depends on it, changes with "
            f"it: {cure}, and restore what you must set"
        )
