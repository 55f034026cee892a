"""The metrics' configurations; free of numpy."""

from typing import Annotated

from pydantic import Field, field_validator

from avrobust_core import Config, ThreatModel


class AccuracyConfig(Config):
    """Configuration of `accuracy`."""

    top: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 5)
    """Each k for which top-k accuracy is measured, single-label only; a k that is not below the number of classes is
    left out, because every clip would count as correct."""

    @field_validator("top")
    @classmethod
    def _distinct(cls, top: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(top)) != len(top):
            raise ValueError(f"top: {list(top)} names a k twice")
        return tuple(sorted(top))


class MapConfig(Config):
    """Configuration of `map`; it has no options."""


class MarginConfig(Config):
    """Configuration of `margin`."""

    threat: ThreatModel
    """The budget for each modality, as in a spec's `threats`: distances are multiples of its radii."""
    rivals: int = Field(default=10, ge=1)
    """Classes whose border with the clip's own is looked for: those with the highest logits. Each costs a backward
    pass."""
    cap: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    """Radii beyond which a clip's distance counts as so many: where the gradient vanishes it is infinite."""

    @field_validator("threat")
    @classmethod
    def _on_inputs(cls, threat: ThreatModel) -> ThreatModel:
        for name, budget in threat.items():
            if budget.space != "input":
                raise ValueError(f"{name}: distances are those of raw inputs; leave out `space`")
            if budget.needs_time:
                raise ValueError(f"{name}: a metric does not know the axis of time; leave out what speaks of it")
        return threat
