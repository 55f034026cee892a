"""TRADES: the loss of clean clips, and how far an attacker can drive the prediction away from theirs."""

import torch
from torch import Tensor
from torch.nn import functional as F

from avrobust_adversarial.ascent import ascend, drawn
from avrobust_adversarial.configs import TradesConfig
from avrobust_adversarial.crafting import counting, crafting, to_attack
from avrobust_adversarial.threats import Threats, part_of, put
from avrobust_core import Augmentation, BoundVictim, Passed, Task, TrainingStep

START = 0.03
"""How far towards a random point of the region the ascent begins: the divergence has no gradient at the clean clip.
The paper adds normal noise of deviation 0.001 at a radius of 0.031."""


class Trades(Augmentation):
    """TRADES (Zhang et al. 2019, arXiv 1901.08573, eq. 5): loss(clean) + beta * KL(clean || attacked).

    The attacked clip is the last iterate of an ascent of that divergence, against the model in evaluation mode. The
    pass of the clean clips is training's own, with all that the other augmentations made of its inputs; the attacked
    clips take one more pass, in training mode. Both predictions are learned from. What was done to encodings between
    encoders and fusion is not done to the attacked clips: such augmentations do not go with this one.

    Args:
        config: says what each of its fields does. Every clip is attacked.
    """

    def __init__(self, config: TradesConfig) -> None:
        self.threats = Threats(config.all_threats, purpose="trades", warmup=config.warmup)
        self.beta = config.beta
        self.steps = config.steps
        self.step_size = config.step_size or 2.5 / config.steps

    def loss(self, losses: Tensor, passed: Passed, step: TrainingStep) -> Tensor:
        """The losses (B,) with the divergence added.

        Raises:
            DataError: if a threat names a modality that the data set does not have, or a clip is outside its bounds.
            AvrobustError: if no gradient reaches the attacked modalities.
        """
        batch = passed.batch
        assigned = self.threats.assigned(batch, step)
        if not assigned:
            return losses
        inputs = {name: x.detach() for name, x in batch.inputs.items()}
        with crafting(step, self.threats.purpose) as victim:
            for threat, index in assigned:
                part = to_attack(part_of(batch, index), step.task)
                inputs = put(inputs, index, self._worst(victim.bind(part, threat), victim.logits(part.inputs)))
        with counting(step.model, step.cost):
            attacked = step.model(inputs)
        return losses + self.beta * divergence(passed.logits, attacked, step.task)

    def _worst(self, bound: BoundVictim, clean: Tensor) -> dict[str, Tensor]:
        random, center = drawn(bound), bound.clean
        start = bound.region.project({name: torch.lerp(center[name], x, START) for name, x in random.items()})
        return ascend(
            bound,
            lambda logits: divergence(clean, logits, bound.task),
            start,
            steps=self.steps,
            step_size=self.step_size,
        )


def divergence(of: Tensor, to: Tensor, task: Task) -> Tensor:
    """KL(p || q) per clip, (B,) float32, of the predictions that two tensors of logits (B, K) stand for.

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
