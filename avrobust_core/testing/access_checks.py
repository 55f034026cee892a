"""Checks of what an attack reads of the model: one that states that labels are enough for it is held to that."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from avrobust_core.testing.models import Rescored
from avrobust_core.testing.oracles import make_problem
from avrobust_core.testing.running import CheckFailed, NotApplicable
from avrobust_core.testing.strength_checks import BOTH
from avrobust_core.testing.subjects import AttackSubject, Case


def check_labels_alone(subject: AttackSubject) -> None:
    """With `access` "labels" it finds, to the bit, the same on a model whose logits tell nothing but the label.

    The victim that it is given refuses whatever is more than a label; this also catches what goes past the victim.
    """
    if subject.make().access != "labels":
        raise NotApplicable('it may read logits (access = "logits")')
    problem = make_problem(seed=71, clips=8)
    threat = problem.threat(BOTH, subject.norm, slack=2.0)
    plain = subject.run(Case.of(problem, threat))
    plain.require_some()
    if bool((plain.bound.gradients.passes > 0).any()):
        raise CheckFailed('it states `access = "labels"`, and took gradients of the model')
    bare = subject.run(Case.of(problem, threat, partial(Rescored, after=_labels_alone)))
    for name, x in plain.result.inputs.items():
        other = bare.result.inputs[name]
        differs = (x != other).flatten(1).any(dim=1)
        if differs.any():
            raise CheckFailed(
                f'it states `access = "labels"`, but {int(differs.sum())} of {len(differs)} clips come out differently '
                "where the model's logits are 0 and 1 and every label is the same: it reads more than `victim.labels`"
            )


def _labels_alone(logits: Tensor) -> Tensor:
    """1 for the class that comes first and 0 for the others: (B, K), without a gradient."""
    return torch.nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1]).to(logits.dtype)
