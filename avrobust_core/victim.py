"""The victim: a model frozen for attack, and its binding to a batch under a threat model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from avrobust_core.balls import Ball, make_ball
from avrobust_core.batches import Batch, Encoded, select_inputs
from avrobust_core.budgets import ThreatModel
from avrobust_core.errors import DataError
from avrobust_core.media import MediaSpec, Task
from avrobust_core.model import AVModel
from avrobust_core.objectives import classification_loss, correct
from avrobust_core.randomness import clip_generator


class Victim:
    """A model under attack: evaluation mode, parameters without gradients, both restored by `frozen`.

    Args:
        model: an `AVModel`, or any module from a dict of modalities to logits (B, K).
        media: what each modality is; its bounds limit every perturbation.
        task: decides loss and success.
        seed: of the random numbers that attacks draw per clip.
    """

    def __init__(self, model: nn.Module, *, media: Mapping[str, MediaSpec], task: Task, seed: int = 0) -> None:
        self.model = model
        self.media = media
        self.task: Task = task
        self.seed = seed

    @contextmanager
    def frozen(self) -> "Iterator[None]":
        """Evaluation mode and no parameter gradients inside; every flag as it was afterwards."""
        modes = [(module, module.training) for module in self.model.modules()]
        flags = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        self.model.eval()
        try:
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            for parameter, flag in flags:
                parameter.requires_grad_(flag)

    @torch.no_grad()
    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """A plain forward pass of the whole model: (B, K)."""
        out: Tensor = self.model(dict(inputs))
        return out

    def bind(self, batch: Batch, threat: ThreatModel) -> "BoundVictim":
        """Bind to a batch; the modalities that `threat` does not name are encoded here, once.

        Raises:
            DataError: if the batch lacks an attacked modality, or a clean clip is outside its bounds.
        """
        balls = {}
        for name, budget in threat.items():
            if name not in batch.inputs:
                raise DataError(
                    f"the threat attacks {name!r}, but the batch has only: {', '.join(sorted(batch.inputs))}"
                )
            spec = self.media.get(name)
            ball = make_ball(batch.inputs[name], budget, spec.bounds if spec is not None else None)
            _check_bounds(name, ball, batch.ids)
            balls[name] = ball
        fixed = {name: x for name, x in batch.inputs.items() if name not in balls}
        encoded: dict[str, Encoded] = {}
        if isinstance(self.model, AVModel):
            with torch.no_grad():
                encoded = self.model.encode(fixed)
            fixed = {}
        return BoundVictim(self, balls=balls, fixed=fixed, encoded=encoded, targets=batch.targets, ids=batch.ids)


class BoundVictim:
    """A victim bound to a batch: a callable from the attacked modalities to logits.

    Attributes:
        balls: by attacked modality, the set of points that the attack may return.
        targets: (B,) int64 or (B, K) float32.
        ids: the clips' ids.
        queries: (B,) int64: how many forward passes each clip has cost, counted here; shared with selections.
    """

    def __init__(
        self,
        victim: Victim,
        *,
        balls: Mapping[str, Ball],
        fixed: Mapping[str, Tensor],
        encoded: Mapping[str, Encoded],
        targets: Tensor,
        ids: tuple[str, ...],
        queries: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> None:
        self.victim = victim
        self.balls = balls
        self.targets = targets
        self.ids = ids
        self._fixed = fixed
        self._encoded = encoded
        self.queries = torch.zeros(len(ids), dtype=torch.int64, device=targets.device) if queries is None else queries
        self._positions = torch.arange(len(ids), device=targets.device) if positions is None else positions

    @property
    def task(self) -> Task:
        """What `targets` is: one label or several."""
        return self.victim.task

    @property
    def clean(self) -> dict[str, Tensor]:
        """The clean clips, attacked modalities only. Not to be changed in place."""
        return {name: ball.center for name, ball in self.balls.items()}

    def __len__(self) -> int:
        return len(self.ids)

    def __call__(self, perturbed: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, K) of the batch with the attacked modalities replaced; differentiable in `perturbed`."""
        self.queries[self._positions] += 1
        model = self.victim.model
        if isinstance(model, AVModel):
            return model.classify({**self._encoded, **model.encode(perturbed)})
        out: Tensor = model({**self._fixed, **perturbed})
        return out

    def loss(self, logits: Tensor) -> Tensor:
        """The classification loss per clip, (B,): what an untargeted attack raises."""
        return classification_loss(logits, self.targets, self.task)

    def fooled(self, logits: Tensor) -> Tensor:
        """Whether each clip is misclassified: (B,) bool."""
        return ~correct(logits, self.targets, self.task)

    def generators(self, purpose: str) -> list[torch.Generator]:
        """One generator per clip, from (seed, clip id, purpose)."""
        return [clip_generator(self.victim.seed, clip_id, purpose) for clip_id in self.ids]

    def select(self, index: Tensor) -> "BoundVictim":
        """The same victim bound to the clips at `index` (int64 positions); nothing is encoded again."""
        return BoundVictim(
            self.victim,
            balls={name: ball.select(index) for name, ball in self.balls.items()},
            fixed=select_inputs(self._fixed, index),
            encoded={name: encoding.select(index) for name, encoding in self._encoded.items()},
            targets=self.targets[index],
            ids=tuple(self.ids[i] for i in index.tolist()),
            queries=self.queries,
            positions=self._positions[index],
        )


def _check_bounds(modality: str, ball: Ball, ids: tuple[str, ...]) -> None:
    if ball.bounds is None:
        return
    low, high = ball.bounds
    flat = ball.center.flatten(1)
    outside = ~((flat.amin(dim=1) >= low) & (flat.amax(dim=1) <= high))  # true of NaN, too
    if outside.any():
        names = [clip_id for clip_id, bad in zip(ids, outside.tolist(), strict=True) if bad]
        raise DataError(
            f"{modality}: clean clips outside the bounds [{low}, {high}]: {', '.join(names[:5])}"
            f"{f' and {len(names) - 5} more' if len(names) > 5 else ''}; "
            "mend the data set, or state the bounds it really has"
        )
