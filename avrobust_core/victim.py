"""The victim: a model frozen for attack, and its binding to a batch under a threat model."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from avrobust_core.balls import Ball
from avrobust_core.batches import Batch, Encoded, select_inputs
from avrobust_core.border.answers import ask, refuse_non_finite, refuse_written, rounding
from avrobust_core.border.readings import same_bits
from avrobust_core.border.trial import refuse_unsteady
from avrobust_core.budgets import ThreatModel
from avrobust_core.contracts import Encoder
from avrobust_core.errors import DataError
from avrobust_core.goals import Aim, Goal, make_goal
from avrobust_core.media import MediaSpec, Task
from avrobust_core.model import AVModel
from avrobust_core.naming import first_of
from avrobust_core.randomness import clip_generator
from avrobust_core.recurrence import differentiable_recurrence
from avrobust_core.regions import REGIONS, Region, make_ball

AttackPrecision = Literal["32-true", "bf16-mixed"]


class Victim:
    """A model under attack: evaluation mode, parameters without gradients, both restored by `frozen`.

    Args:
        model: an `AVModel`, or any module from a dict of modalities to logits (B, K).
        media: what each modality is; its bounds limit every perturbation.
        task: decides loss and success.
        seed: of the random numbers that attacks draw per clip.
        samples: forward passes whose mean logits stand for the model: more than 1 for a model with randomness of its
            own, so that gradients are in expectation over it (EoT, Athalye et al. 2018).
        precision: of the attacks' own forward and backward passes; what they find is confirmed in float32.
        classes: how many logits it must return; None for as many as it returns first.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        media: Mapping[str, MediaSpec],
        task: Task,
        seed: int = 0,
        samples: int = 1,
        precision: AttackPrecision = "32-true",
        classes: int | None = None,
    ) -> None:
        if samples < 1:
            raise ValueError(f"samples must be at least 1, not {samples}")
        self.model = model
        self.media = media
        self.task: Task = task
        self.seed = seed
        self.samples = samples
        self.precision: AttackPrecision = precision
        self.classes = classes
        self._answered: set[torch.dtype] = set()
        self._tried = False

    @contextmanager
    def frozen(self) -> "Iterator[None]":
        """Evaluation mode and no parameter gradients inside; every flag as it was afterwards.

        Torch's own recurrent layers on a GPU are in training mode without dropout; see `differentiable_recurrence`.
        """
        modes = [(module, module.training) for module in self.model.modules()]
        flags = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        self.model.eval()
        try:
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            with differentiable_recurrence(self.model):
                yield
        finally:
            for module, mode in modes:
                module.training = mode
            for parameter, flag in flags:
                parameter.requires_grad_(flag)

    @torch.no_grad()
    def logits(self, inputs: Mapping[str, Tensor], features: Collection[str] = ()) -> Tensor:
        """Plain forward passes of the whole model in float32, their mean over `samples`: (B, K).

        Args:
            inputs: by modality.
            features: the modalities whose inputs are features after the frontend.

        Raises:
            ModelError: if the model returns no logits; see `border.answers`.
        """
        if features:
            model = self._audio_visual()
            return self.mean_of(lambda: self.ask(lambda: model.classify(model.encode(inputs, features)), inputs))
        return self.mean_of(lambda: self.ask(lambda: self.model(dict(inputs)), inputs))

    def ask(self, forward: Callable[[], Any], inputs: Mapping[str, Tensor]) -> Tensor:
        """One forward pass as the border lets it in: logits (B, K) float32, differentiable; waits for no device.

        Args:
            forward: the pass.
            inputs: what goes into it, each (B, ...).

        Raises:
            ModelError: if the model returns no logits, or other than before, or writes into its inputs.
        """
        found = ask(self.model, forward, inputs, self.classes)
        self.classes = found.shape[1]
        self._answered.add(found.dtype)
        return found.float()

    @torch.no_grad()
    def clean_logits(self, batch: Batch) -> Tensor:
        """The logits (B, K) of clean clips, with all that can be told of the model by them.

        The first batch is the model's trial: of one that answers otherwise when it is asked again, no attack could say
        anything, unless `samples` are taken.

        Raises:
            ModelError: if the model returns no logits, or some that are not finite; writes into its inputs; has
                randomness of its own while `samples` is 1; or lets an answer depend on other clips of the batch.
        """
        logits = self.logits_unwritten(batch.inputs)
        refuse_non_finite(self.model, logits, batch.ids, batch.inputs)
        if self.samples == 1 and not self._tried:
            self.refuse_unsteady(batch)
        self._tried = True
        return logits

    def refuse_unsteady(self, batch: Batch) -> None:
        """Try whether the model answers alike twice, on a few clips.

        Raises:
            ModelError: if it does not; see `border.trial`.
        """
        refuse_unsteady(self.model, self.logits, batch, self.rounding(batch.targets.device))

    def logits_unwritten(self, inputs: Mapping[str, Tensor], features: Collection[str] = ()) -> Tensor:
        """As `logits`, and the inputs are compared with what they were, bit for bit.

        Raises:
            ModelError: if they are no longer the same.
        """
        given = {name: x.clone() for name, x in inputs.items()}
        logits = self.logits(given, features)
        refuse_written(self.model, [name for name, x in inputs.items() if not same_bits(x, given[name])])
        return logits

    def refuse_writes(self, inputs: Mapping[str, Tensor], attacked: Collection[str]) -> None:
        """Try whether the model writes into what an attack asks it about, with gradients and without.

        Args:
            inputs: by modality, raw.
            attacked: the modalities that need a gradient.

        Raises:
            ModelError: if it does.
        """
        self.logits_unwritten(inputs)
        given = {name: x.clone().requires_grad_(name in attacked) for name, x in inputs.items()}
        with torch.enable_grad():
            self.ask(lambda: self.model(dict(given)), given)
        refuse_written(self.model, [name for name, x in inputs.items() if not same_bits(x, given[name])])

    def rounding(self, device: torch.device) -> float:
        """What two passes over one clip may differ by, as a share of the largest logit."""
        return rounding(self.model, self._answered, device)

    def mean_of(self, forward: Callable[[], Tensor]) -> Tensor:
        """The mean of `samples` forward passes."""
        if self.samples == 1:
            return forward()
        return torch.stack([forward() for _ in range(self.samples)]).mean(dim=0)

    def bind(self, batch: Batch, threat: ThreatModel, aim: Aim | None = None) -> "BoundVictim":
        """Bind to a batch; the modalities that `threat` does not name are encoded here, once.

        Args:
            batch: the clips.
            threat: what may be changed.
            aim: the attack's goal; by default any other class.

        Raises:
            DataError: if the batch lacks an attacked modality, a clean clip is outside its bounds, or the threat asks
                for features or time where the model or the data set has none.
        """
        features = frozenset(name for name, budget in threat.items() if budget.space == "features")
        balls = {name: self._ball(batch, threat, name) for name in threat.modalities}
        fixed = {name: x for name, x in batch.inputs.items() if name not in balls}
        encoded: dict[str, Encoded] = {}
        if isinstance(self.model, AVModel):
            with torch.no_grad():
                encoded = self.model.encode(fixed)
            fixed = {}
        aim = aim or Aim()
        logits = self.logits(batch.inputs) if aim.targeted else torch.empty(len(batch), 0, device=batch.targets.device)
        goal = make_goal(aim, logits, batch.targets, self.task, batch.ids, self.seed)
        return BoundVictim(
            self,
            threat=threat,
            region=REGIONS[threat.kind](balls),
            goal=goal,
            ids=batch.ids,
            hidden=_Hidden(fixed, encoded, features),
        )

    def _ball(self, batch: Batch, threat: ThreatModel, name: str) -> Ball:
        budget = threat[name]
        if name not in batch.inputs:
            raise DataError(f"the threat attacks {name!r}, but the batch has only: {', '.join(sorted(batch.inputs))}")
        spec = self.media.get(name)
        clean = batch.inputs[name]
        if budget.space == "input":
            bounds, time_axis = (spec.bounds, spec.time_axis) if spec is not None else (None, None)
        else:  # the media's bounds say nothing of features
            encoders = self._audio_visual().encoders
            if name not in encoders:
                raise DataError(f"the threat attacks features of {name!r}, which the model does not read")
            encoder = cast(Encoder, encoders[name])
            with torch.no_grad():
                clean = encoder.frontend(clean)
            bounds, time_axis = None, encoder.time_axis
        ball = make_ball(clean, budget, bounds, time_axis)
        _check_bounds(name, ball, batch.ids)
        return ball

    def _audio_visual(self) -> AVModel:
        if not isinstance(self.model, AVModel):
            raise DataError(
                f"the threat attacks features, but {type(self.model).__name__} is no avrobust_core.AVModel with "
                "encoders and frontends: attack the input, or wrap the model"
            )
        return self.model


@dataclass(frozen=True, slots=True)
class _Hidden:
    """What an attack has no business with.

    Attributes:
        fixed: raw inputs of modalities that are not attacked, for models that are no `AVModel`.
        encoded: encodings of the modalities that are not attacked.
        features: the attacked modalities that are attacked after the frontend.
    """

    fixed: Mapping[str, Tensor]
    encoded: Mapping[str, Encoded]
    features: frozenset[str]

    @property
    def encodings(self) -> dict[str, Tensor]:
        """The tensors of `encoded`, named for errors: what goes into the fusion again and again must stay as it is."""
        return {
            f"{part} of {name}": tensor
            for name, encoding in self.encoded.items()
            for part, tensor in (("tokens", encoding.tokens), ("pooled", encoding.pooled))
        }

    def select(self, index: Tensor) -> "_Hidden":
        encoded = {name: encoding.select(index) for name, encoding in self.encoded.items()}
        return _Hidden(select_inputs(self.fixed, index), encoded, self.features)


class Gradients:
    """Which clips a gradient was asked for, and whether one that is not zero ever came back, by modality.

    Recorded by hooks on what goes into the model and what comes out, so that no attack need say it. Where a modality
    is rounded, detached or ignored, no attack by gradients has attacked it, whatever it says.

    Attributes:
        passes: (B,) int64: how many backward passes went through the clip's logits, each sample of the model counted.
        reached: by attacked modality, (B,) bool: the gradient was not zero in at least one of these passes.
    """

    def __init__(self, modalities: Collection[str], clips: int, device: torch.device) -> None:
        self.passes = torch.zeros(clips, dtype=torch.int64, device=device)
        self.reached = {name: torch.zeros(clips, dtype=torch.bool, device=device) for name in modalities}

    def watch(self, perturbed: Mapping[str, Tensor], positions: Tensor) -> dict[str, Tensor]:
        """The same inputs, those that need a gradient as views that tell what reaches them."""
        return {name: self._watched(name, x, positions) for name, x in perturbed.items()}

    def _watched(self, name: str, x: Tensor, positions: Tensor) -> Tensor:
        if not (x.requires_grad and torch.is_grad_enabled()):
            return x

        def note(gradient: Tensor) -> None:
            self.reached[name][positions] |= gradient.flatten(1).any(dim=1)

        view = x.view_as(x)  # a hook on `x` itself would stay there, call after call
        view.register_hook(note)  # type: ignore[no-untyped-call]
        return view

    def expect(self, logits: Tensor, positions: Tensor, samples: int) -> None:
        """Count the backward passes that come through these logits, the mean of so many samples."""
        if logits.requires_grad:

            def note(_: Tensor) -> None:
                self.passes[positions] += samples

            logits.register_hook(note)  # type: ignore[no-untyped-call]

    @property
    def missing(self) -> dict[str, Tensor]:
        """By attacked modality, (B,) bool: gradients were asked for, and all of them were zero."""
        asked = self.passes > 0
        return {name: asked & ~reached for name, reached in self.reached.items()}


class BoundVictim:
    """A victim bound to a batch: a callable from the attacked modalities to logits.

    Attributes:
        region: what the attack may return.
        threat: the threat model behind it.
        goal: what the attack wants; decides loss and success.
        ids: the clips' ids.
        start: a point of the region to begin from, where an attack under a smaller budget has been before; None if
            there was none. An attack is free to take no notice of it.
        queries: (B,) int64: how many forward passes each clip has cost, counted here; shared with selections.
        gradients: which clips a gradient was asked for, and reached in which modality; shared with selections.
        unanswered: (B,) bool: for which clips the model once returned what is not finite; shared with selections. No
            comparison with NaN holds, so that an attack may take such a point for one that does not reach its goal.
    """

    def __init__(
        self,
        victim: Victim,
        *,
        threat: ThreatModel,
        region: Region,
        goal: Goal,
        ids: tuple[str, ...],
        hidden: _Hidden,
        start: Mapping[str, Tensor] | None = None,
        queries: Tensor | None = None,
        gradients: "Gradients | None" = None,
        unanswered: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> None:
        self.victim = victim
        self.threat = threat
        self.region = region
        self.goal = goal
        self.ids = ids
        self.start = start
        self._hidden = hidden
        device = goal.labels.device
        self.queries = torch.zeros(len(ids), dtype=torch.int64, device=device) if queries is None else queries
        self.gradients = Gradients(region.balls, len(ids), device) if gradients is None else gradients
        self.unanswered = torch.zeros_like(self.queries, dtype=torch.bool) if unanswered is None else unanswered
        self._positions = torch.arange(len(ids), device=device) if positions is None else positions

    @property
    def task(self) -> Task:
        """Whether clips have one label or several."""
        return self.victim.task

    @property
    def balls(self) -> dict[str, Ball]:
        """The region's balls, by attacked modality."""
        return self.region.balls

    @property
    def clean(self) -> dict[str, Tensor]:
        """The clean clips, attacked modalities only. Not to be changed in place."""
        return self.region.clean

    @property
    def device(self) -> torch.device:
        """Where the clips are."""
        return self.goal.labels.device

    @property
    def features(self) -> frozenset[str]:
        """The attacked modalities that are attacked after the frontend."""
        return self._hidden.features

    @property
    def exact(self) -> bool:
        """Whether calls are in float32; if not, successes must be looked at again with `confirm`."""
        return self.victim.precision == "32-true"

    @property
    def repeatable(self) -> bool:
        """Whether two looks at one point agree: one forward pass stands for the model (`samples` is 1).

        Of a model with randomness of its own, the best of many looks is the luckiest: what an attack keeps must be told
        by looks that chose nothing, and it returns what it has found of every clip, for the core to look at afresh.
        """
        return self.victim.samples == 1

    def __len__(self) -> int:
        return len(self.ids)

    def __call__(self, perturbed: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, K) float32 of the batch with the attacked modalities replaced; differentiable in `perturbed`."""
        watched = self.gradients.watch(perturbed, self._positions)
        with self._precision(next(iter(perturbed.values())).device.type):
            logits = self._forward(watched).float()
        self.gradients.expect(logits, self._positions, self.victim.samples)
        return logits

    @torch.no_grad()
    def confirm(self, perturbed: Mapping[str, Tensor], readings: int = 1) -> Tensor:
        """As a call, in float32 whatever the precision of the attack, and without a gradient.

        Args:
            perturbed: by attacked modality, (B, ...).
            readings: passes of which the mean is taken, each of them of `samples`: for models with randomness of their
                own.
        """
        if readings == 1:
            return self._forward(perturbed)
        return torch.stack([self._forward(perturbed) for _ in range(readings)]).mean(dim=0)

    def loss(self, logits: Tensor) -> Tensor:
        """The classification loss per clip, (B,), that an attack raises."""
        return self.goal.loss(logits)

    def fooled(self, logits: Tensor) -> Tensor:
        """Whether each clip is where the attack's goal wants it: (B,) bool."""
        return self.goal.reached(logits)

    def generators(self, purpose: str) -> list[torch.Generator]:
        """One generator per clip, from (seed, clip id, purpose)."""
        return [clip_generator(self.victim.seed, clip_id, purpose) for clip_id in self.ids]

    def select(self, index: Tensor) -> "BoundVictim":
        """The same victim bound to the clips at `index` (int64 positions); nothing is encoded again."""
        return BoundVictim(
            self.victim,
            threat=self.threat,
            region=self.region.select(index),
            goal=self.goal.select(index),
            ids=tuple(self.ids[i] for i in index.tolist()),
            hidden=self._hidden.select(index),
            start=None if self.start is None else select_inputs(self.start, index),
            queries=self.queries,
            gradients=self.gradients,
            unanswered=self.unanswered,
            positions=self._positions[index],
        )

    def scaled(self, factor: float, start: Mapping[str, Tensor] | None = None) -> "BoundVictim":
        """The same victim under the threat scaled by `factor`, to be attacked from `start`; nothing is encoded."""
        threat = self.threat.scaled(factor)
        balls = {
            name: make_ball(ball.center, threat[name], ball.bounds, self._time_axis(name))
            for name, ball in self.balls.items()
        }
        return BoundVictim(
            self.victim,
            threat=threat,
            region=REGIONS[threat.kind](balls),
            goal=self.goal,
            ids=self.ids,
            hidden=self._hidden,
            start=start,
            queries=self.queries,
            gradients=self.gradients,
            unanswered=self.unanswered,
            positions=self._positions,
        )

    def _time_axis(self, name: str) -> int | None:
        if name in self.features:
            return cast(Encoder, cast(AVModel, self.victim.model).encoders[name]).time_axis
        spec = self.victim.media.get(name)
        return spec.time_axis if spec is not None else None

    def _precision(self, device: str) -> AbstractContextManager[object]:
        return nullcontext() if self.exact else torch.autocast(device, dtype=torch.bfloat16)

    def _forward(self, perturbed: Mapping[str, Tensor]) -> Tensor:
        self.queries[self._positions] += self.victim.samples
        model, hidden = self.victim.model, self._hidden
        if isinstance(model, AVModel):
            whole = model

            def once() -> Tensor:
                return whole.classify({**hidden.encoded, **whole.encode(perturbed, hidden.features)})

            given: Mapping[str, Tensor] = {**perturbed, **hidden.encodings}
        else:
            given = {**hidden.fixed, **perturbed}

            def once() -> Tensor:
                return cast(Tensor, model(dict(given)))

        logits = self.victim.mean_of(lambda: self.victim.ask(once, given))
        self.unanswered[self._positions] |= ~logits.detach().isfinite().all(dim=1)  # waits for no device
        return logits


def _check_bounds(modality: str, ball: Ball, ids: tuple[str, ...]) -> None:
    low, high = ball.bounds or (-torch.inf, torch.inf)
    flat = ball.center.flatten(1)
    lowest, highest = flat.amin(dim=1), flat.amax(dim=1)
    outside = ~((lowest >= low) & (highest <= high) & lowest.isfinite() & highest.isfinite())  # true of NaN, too
    if not outside.any():
        return
    infinite = ~(lowest.isfinite() & highest.isfinite())
    if infinite.any():
        raise DataError(
            f"the threat attacks {modality}, but its values are NaN or infinite: {_where(ids, infinite)}; leave "
            "these clips out, or give them values: NaN may stand for what a clip lacks only where no threat attacks it"
        )
    raise DataError(
        f"{modality}: clean clips outside the bounds [{low}, {high}]: {_where(ids, outside)}; "
        "mend the data set, or state the bounds it really has"
    )


def _where(ids: tuple[str, ...], flags: Tensor) -> str:
    return first_of([clip_id for clip_id, flag in zip(ids, flags.tolist(), strict=True) if flag])
