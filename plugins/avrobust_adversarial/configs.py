"""The configurations of adversarial training; free of torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from avrobust_core import AttackChoice, Config, ThreatModel

Bits = Literal[16, 8, 2, 1]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class ThreatsConfig(Config):
    """The configuration that all adversarial training shares: threats, and their warm-up."""

    threat: ThreatModel | None = None
    """The attacker's budget for each attacked modality, as in a spec's `threats`. Of a model that does not read one of
    the modalities, the others are attacked."""
    threats: tuple[ThreatModel, ...] = ()
    """In place of `threat`: several, of which each clip is attacked under one, drawn anew in each epoch."""
    warmup: int = Field(default=0, ge=0)
    """Epochs over which all radii grow linearly: from 0 in the first, which leaves the clips clean, to their full size
    in the one after the last of these; 0 for the full size at once."""

    @model_validator(mode="after")
    def _threats_fit(self) -> "ThreatsConfig":
        if (self.threat is None) == (not self.threats):
            raise ValueError("give either `threat` or `threats`, like threat: {audio: {norm: linf, eps: 0.002}}")
        hidden = sorted({name for each in self.all_threats for name, budget in each.items() if budget.space != "input"})
        if hidden:
            raise ValueError(
                f"{', '.join(hidden)}: training learns from raw inputs, so that features cannot be attacked; "
                "leave out `space`"
            )
        return self

    @property
    def all_threats(self) -> tuple[ThreatModel, ...]:
        """The threats, one at least."""
        return self.threats if self.threat is None else (self.threat,)


class ReplacingConfig(ThreatsConfig):
    """The configuration of regimes that learn from attacked clips in place of the clean ones."""

    share: float = Field(default=1.0, gt=0, le=1, allow_inf_nan=False)
    """Probability that a clip is attacked in an epoch; by its id, not by its batch. The others stay clean."""
    mode: Literal["eval", "train"] = "eval"
    """The mode of the model that is attacked: as it will be evaluated (eval), or with the batch's own statistics in its
    batch normalisation (train), as learning sees it. In both, dropout is off and no running mean moves. With train, a
    clip's perturbation depends on its batch mates."""

    @model_validator(mode="after")
    def _whole_batches(self) -> "ReplacingConfig":
        if self.mode == "train" and (self.share < 1 or len(self.all_threats) > 1):
            raise ValueError("mode: train takes statistics of whole batches: it needs share: 1 and a single threat")
        return self


class AdversarialConfig(ReplacingConfig):
    """Configuration of `adversarial`."""

    attack: AttackChoice | None = None
    """Any installed attack that looks at a clip alone, like {use: apgd, with: {steps: 7}}; null for the paper's PGD,
    which climbs to its last step even where the model is wrong already. Most attacks stop at the first success, which
    trains against weaker examples."""
    steps: int | None = Field(default=None, ge=1)
    """Of the paper's PGD: gradient steps; null for 7."""
    step_size: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Of the paper's PGD: length of a step as a share of each modality's radius; null for 2.5 / steps, which crosses
    the ball from a random start in any number of steps: lengths that sum to less than 2 do not."""
    random_start: bool | None = None
    """Of the paper's PGD: start from a point drawn from the ball instead of the clean clip; null for true."""

    @model_validator(mode="after")
    def _attack_fits(self) -> "AdversarialConfig":
        own = {"steps": self.steps, "step_size": self.step_size, "random_start": self.random_start}
        given = [name for name, value in own.items() if value is not None]
        if self.attack is not None and given:
            raise ValueError(f"{', '.join(given)}: with `attack`, this belongs into the attack's own `with`")
        if self.attack is not None and self.mode == "train":
            raise ValueError(
                "mode: train cannot be had with `attack`: attacks drop clips on the way, and with them the batch's "
                "statistics; leave out `attack` for the paper's PGD, or `mode`"
            )
        return self


class FastAtConfig(ReplacingConfig):
    """Configuration of `fast-at`."""

    variant: Literal["n", "rs"] = "n"
    """n: from a start in a larger ball, without a way back into the smaller one (N-FGSM), which keeps the single step
    from being learned by heart; rs: from a start in the ball, and back into it."""
    step_size: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Length of the step as a share of each modality's radius; null for 1 (n) or 1.25 (rs)."""
    noise: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """With n: the size of the ball that starts are drawn from, as a multiple of each modality's radius; null for 2."""

    @model_validator(mode="after")
    def _noise_fits(self) -> "FastAtConfig":
        if self.variant == "rs" and self.noise is not None:
            raise ValueError("noise: belongs to `variant: n`; with rs, starts are drawn from the ball itself")
        return self


class FreeAtConfig(ThreatsConfig):
    """Configuration of `free-at`."""

    replays: int = Field(default=4, ge=1)
    """Optimiser steps on each batch, each of which moves the perturbation too; divide the epochs by it for equal
    cost."""
    step_size: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Distance that each replay moves the perturbation, as a share of each modality's radius."""
    memory: bool = False
    """Go on from the clip's own last perturbation, of the epoch before as a rule, instead of a random point: with
    replays: 1 adversarial training at the cost of standard training. Keeps two perturbations per clip in the fit's
    folder until the fit ends."""
    bits: Bits | None = None
    """Of each value that the memory keeps: 16 and 8 are integers, 2 are (-1, 0, 1), 1 is the sign, times a scale per
    clip; null for 8."""

    @model_validator(mode="after")
    def _bits_fit(self) -> "FreeAtConfig":
        if self.bits is not None and not self.memory:
            raise ValueError("bits: belongs to `memory: true`")
        return self


class TradesConfig(ThreatsConfig):
    """Configuration of `trades`."""

    beta: float = Field(default=6.0, gt=0, allow_inf_nan=False)
    """Weight of the divergence against the loss of the clean clips: more costs clean accuracy."""
    steps: int = Field(default=10, ge=1)
    """Gradient steps that raise the divergence."""
    step_size: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Length of a step as a share of each modality's radius; null for 2.5 / steps."""


class VertexMixupConfig(ThreatsConfig):
    """Configuration of `vertex-mixup`. Its radii are those of the vertices: 2.5 times those to be withstood do well."""

    ratio: tuple[Share, Share] = (0.5, 1.0)
    """The vertex's part in the clip that is learned from: drawn uniformly between these, anew in each epoch."""
    softening: Share = 0.4
    """Part of its target that a clip loses to the other classes at its vertex; in proportion before."""
    together: bool = True
    """One ratio for all modalities of a clip; else each draws its own, and the target follows their mean."""
    step_size: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Distance that each gradient moves the vertex, as a share of each modality's radius."""
    steps: int = Field(default=0, ge=0)
    """Gradient steps of its own before each pass, at one more pass each: 1 withstands larger radii than 0 in equally
    many passes."""
    bits: Bits = 8
    """Of each value of a vertex that is kept from one epoch to the next: 16 and 8 are integers, 2 are (-1, 0, 1), 1 is
    the sign, times a scale per clip."""

    @model_validator(mode="after")
    def _ratio_in_order(self) -> "VertexMixupConfig":
        if self.ratio[0] > self.ratio[1]:
            raise ValueError(f"ratio: {self.ratio[0]} is more than {self.ratio[1]}; give the smaller one first")
        return self
