"""Learning from attacked clips in place of clean ones, and the attacks that will do."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from avrobust_adversarial.ascent import LastIterate
from avrobust_adversarial.configs import AdversarialConfig
from avrobust_adversarial.crafting import Mode, crafting, to_attack
from avrobust_adversarial.threats import Threats, part_of, put
from avrobust_core import Attack, Augmentation, AugmentedStep, AvrobustError, Batch, ThreatModel, TrainingStep, per_clip


class LearnFromAttacked(Augmentation):
    """Adversarial training (Madry et al. 2018, arXiv 1706.06083): the model learns from what an attack makes of clips.

    Targets stay as they are, soft ones too; the attack is told the heavier label of a clip with soft single-label
    targets. Of a clip that an attack fails on, where the search ended is learned from, if the attack says so
    (`AttackResult.last`), not the clean clip. The clips of each threat are attacked together, and nothing of a clip
    depends on its batch mates in evaluation mode.

    Args:
        attack: the inner maximisation.
        threats: under what, and which clips.
        mode: of the model that is attacked: eval, or train for batch normalisation by the batch's own statistics.
    """

    def __init__(self, attack: Attack, threats: Threats, *, mode: Mode = "eval") -> None:
        self.attack = attack
        self.threats = threats
        self.mode = mode

    def begin(self, batch: Batch, step: TrainingStep) -> AugmentedStep:
        """The batch with its chosen clips attacked: inputs inside their region, without a history; the same targets.

        Raises:
            DataError: if a threat names a modality that the data set does not have, or a clip is outside its bounds.
            AvrobustError: if no gradient reaches the attacked modalities.
        """
        assigned = self.threats.assigned(batch, step)
        if not assigned:
            return AugmentedStep(batch)
        inputs = dict(batch.inputs)
        with crafting(step, self.threats.purpose, self.mode) as victim:
            for threat, index in assigned:
                bound = victim.bind(to_attack(part_of(batch, index), step.task), threat)
                result = self.attack(bound.limited_to(self.attack.access))
                found = {name: x.detach() for name, x in result.inputs.items()}
                if result.last is not None:
                    for name, x in found.items():
                        found[name] = torch.where(per_clip(result.success, x), x, result.last[name])
                inputs = put(inputs, index, found)
        return AugmentedStep(replace(batch, inputs=inputs))


def make_adversarial(config: AdversarialConfig) -> LearnFromAttacked:
    """Make the augmentation `adversarial`: against the attack chosen, or the paper's PGD.

    Raises:
        AvrobustError: if the attack cannot serve as the inner maximisation.
    """
    if config.attack is None:
        steps = config.steps or 7
        attack = LastIterate(steps, config.step_size or 2.5 / steps, random_start=config.random_start in (None, True))
    else:
        attack = config.attack.build()
        refuse_unfit(config.attack.use, attack, config.all_threats)
    threats = Threats(config.all_threats, purpose="adversarial", warmup=config.warmup, share=config.share)
    return LearnFromAttacked(attack, threats, mode=config.mode)


def refuse_unfit(name: str, attack: object, threats: Sequence[ThreatModel]) -> None:
    """Refuse an attack that cannot serve as the inner maximisation.

    Args:
        name: the attack's, for the error.
        attack: as its component built it.
        threats: that it will be run under.

    Raises:
        AvrobustError: says why.
    """
    if not isinstance(attack, Attack):
        raise AvrobustError(f"attack {name!r} built a {type(attack).__name__}, which is no avrobust_core.Attack")
    why = ""
    if attack.preparation is not None:
        why = "must see a whole set of clips first, and the model changes at every step"
    elif attack.minimal:
        why = "looks for the smallest perturbation that succeeds, not for the worst inside the budget"
    if why:
        raise AvrobustError(f"attack {name!r} cannot be trained against: it {why}; use one such as pgd or apgd")
    asked = {budget.norm for threat in threats for _, budget in threat.items()}
    missing = sorted(asked - attack.norms)
    if missing:
        raise AvrobustError(
            f"attack {name!r} cannot attack in {', '.join(missing)}; it supports: {', '.join(sorted(attack.norms))}"
        )
