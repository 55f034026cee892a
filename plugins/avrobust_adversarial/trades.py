"""TRADES: the loss of clean clips, and how far an attacker can drive the prediction away from theirs."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from avrobust_adversarial.ascent import ascend, drawn
from avrobust_adversarial.configs import TradesConfig
from avrobust_adversarial.crafting import crafting, to_attack
from avrobust_adversarial.threats import Threats, part_of, put
from avrobust_core import Augmentation, AugmentedStep, Batch, BoundVictim, ForwardPass, Task, TrainingStep, counting

START = 0.03
"""The ascent begins this share of the way to a random point: the divergence has no gradient at the clean clip.
The paper adds normal noise of deviation 0.001 at a radius of 0.031."""


class Trades(Augmentation):
    """TRADES (Zhang et al. 2019, arXiv 1901.08573, eq. 5): loss(clean) + beta * KL(clean || attacked).

    The attacked clip is the last iterate of an ascent of that divergence, against the model in evaluation mode. The
    pass of the clean clips is training's own, with all that the other augmentations made of its inputs; the attacked
    clips take one more pass, in training mode. Both predictions are learned from. What was done to encodings between
    encoders and fusion is not done to the attacked clips: such augmentations do not go with this one.

    Args:
        config: of `trades`. Every clip is attacked.
    """

    def __init__(self, config: TradesConfig) -> None:
        self.threats = Threats(config.all_threats, purpose="trades", warmup=config.warmup)
        self.beta = config.beta
        self.steps = config.steps
        self.step_size = config.step_size or 2.5 / config.steps

    def begin(self, batch: Batch, step: TrainingStep) -> AugmentedStep:
        """The batch as it is, to whose losses the divergence is added.

        Raises:
            DataError: from `loss`, if a threat names a modality that the data set does not have, or a clip is outside
                its bounds.
            AvrobustError: from `loss`, if no gradient reaches the attacked modalities.
        """
        return _WithDivergence(batch, self, step)

    def worst(self, bound: BoundVictim, clean: Tensor) -> dict[str, Tensor]:
        """The inputs where the ascent of the divergence from the clean logits (B, K) ends, by attacked modality."""
        random, center = drawn(bound), bound.clean
        start = bound.region.project({name: torch.lerp(center[name], x, START) for name, x in random.items()})
        objective = partial(divergence, clean, task=bound.task)
        return ascend(bound, objective, start, steps=self.steps, step_size=self.step_size)


@dataclass(eq=False)
class _WithDivergence(AugmentedStep):
    """The pass of a batch whose attacked clips take one more."""

    trades: Trades
    step: TrainingStep

    def loss(self, losses: Tensor, forward: ForwardPass) -> Tensor:
        trades, step, batch = self.trades, self.step, forward.batch
        assigned = trades.threats.assigned(batch, step)
        if not assigned:
            return losses
        inputs = {name: x.detach() for name, x in batch.inputs.items()}
        with crafting(step, trades.threats.purpose) as victim:
            for threat, index in assigned:
                part = to_attack(part_of(batch, index), step.task)
                inputs = put(inputs, index, trades.worst(victim.bind(part, threat), victim.logits(part.inputs)))
        with counting(step.model, step.cost):
            attacked = step.model(inputs)
        return losses + trades.beta * divergence(forward.logits, attacked, step.task)


def divergence(of: Tensor, to: Tensor, task: Task) -> Tensor:
    """KL(p || q) per clip, (B,) float32, between the predictions of two tensors of logits (B, K).

    Single-label: of the softmax. Multi-label: of each class's Bernoulli distribution, averaged over classes, as the
    loss is.

    Args:
        of: logits of p.
        to: logits of q.
        task: decides which.
    """
    of, to = of.float(), to.float()
    if task == "single-label":
        p, q = F.log_softmax(of, dim=1), F.log_softmax(to, dim=1)
        return (p.exp() * (p - q)).sum(dim=1)
    has = of.sigmoid() * (F.logsigmoid(of) - F.logsigmoid(to))
    lacks = (-of).sigmoid() * (F.logsigmoid(-of) - F.logsigmoid(-to))
    return (has + lacks).mean(dim=1)
