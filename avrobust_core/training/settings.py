"""The settings of a fit: the optimiser's, and how its weights are averaged and selected."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from avrobust_core.config.sections import Section


class Regime(Section):
    """A training regime: AdamW or SGD with linear warm-up and cosine decay."""

    later: ClassVar[frozenset[str]] = frozenset({"optimizer", "momentum", "nesterov", "accumulate", "ema", "against"})
    """Fields that are no part of a regime's identity where they have their default: it was so before there were any."""

    epochs: int = Field(ge=0, le=1_000_000)
    """Passes over the training split; 0 leaves the initial weights."""
    batch_size: int = Field(default=32, ge=1, le=1_000_000)
    """Clips per optimiser step, over all processes together."""
    accumulate: int = Field(default=1, ge=1, le=1_000_000)
    """Parts of a process's share of a batch that are learned from one after another, for one optimiser step: memory for
    batch_size / accumulate clips, and the gradient of the whole batch. Batch normalisation and augmentations that pair
    clips see a part at a time."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or stochastic gradient descent."""
    learning_rate: float = Field(default=1e-3, gt=0, le=1e6)
    """Peak learning rate."""
    momentum: float | None = Field(default=None, ge=0, lt=1, allow_inf_nan=False)
    """Of sgd; null for 0.9."""
    nesterov: bool = False
    """Of sgd: Nesterov's momentum."""
    weight_decay: float = Field(default=1e-2, ge=0, le=1e6)
    """AdamW's decoupled weight decay, or what sgd adds to the gradient; not applied to biases and normalisation."""
    warmup: float = Field(default=0.1, ge=0, le=1)
    """Share of the steps over which the learning rate rises from 0."""
    gradient_clip: float | None = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Largest Euclidean norm of the gradient; null for none."""
    ema: float | None = Field(default=None, gt=0, lt=1, allow_inf_nan=False)
    """Decay, per step, of an exponential moving average of the weights, which then takes the weights' place in
    validation, selection, attacks and files; null for none."""
    validation: float = Field(default=0.1, ge=0, lt=1)
    """Share of the training split held out for selection, where the data set has no "val" split; by clip id."""
    select: Literal["best", "robust", "map", "last"] = "best"
    """The weights that are attacked: those of the epoch with the best accuracy on the validation clips, the best robust
    accuracy (`against`) or, with several labels per clip, the best mAP; or the last, which need no such clips."""
    against: str | None = None
    """With `select: robust`: an attack and a threat of the spec, as attack/threat, by which up to 1,000 validation
    clips are attacked after each epoch."""

    @model_validator(mode="after")
    def _fields_fit(self) -> "Regime":
        if self.optimizer != "sgd" and (self.momentum is not None or self.nesterov):
            given = "momentum" if self.momentum is not None else "nesterov"
            raise ValueError(f"{given}: belongs to `optimizer: sgd`")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: needs a momentum above 0")
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate: a batch of {self.batch_size} has no {self.accumulate} parts")
        if (self.select == "robust") != (self.against is not None):
            raise ValueError(
                "against: belongs to `select: robust`, and `select: robust` needs it: an attack and a threat of this "
                "spec, like pgd/both"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """What decides the weights, as JSON data; fields that came `later` only where they are not at their default."""
        fields = Regime.model_fields
        return {
            name: value
            for name, value in self.model_dump(mode="json", include=set(fields)).items()
            if name not in self.later or value != fields[name].default
        }
