"""The metric's configuration; free of torch."""

from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from avrobust_core import Config, ThreatModel

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class CertifiedAccuracyConfig(Config):
    """Configuration of `certified-accuracy`."""

    sigma: dict[str, Positive] = Field(min_length=1)
    """Standard deviation of the noise on each modality, in its own units; no change of any other modality is
    certified."""
    first: int = Field(default=100, ge=1)
    """Draws that choose the class of a clip (n0 of the paper)."""
    draws: int = Field(default=1000, ge=1)
    """Draws that bound how likely that class is (n of the paper): they bound the radius that can be certified, too."""
    alpha: float = Field(default=0.001, gt=0, lt=0.5)
    """Probability, for each clip, that its certificate is wrong."""
    radii: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.25, 0.5, 1.0, 2.0)
    """Radii at which accuracy is certified, in standard deviations: all changes d with a sum over modalities of
    (|d|_2 / sigma)^2 below radius^2."""
    threat: ThreatModel | None = None
    """Certify a threat too, as in a spec's `threats`: its l2, l1 and linf budgets, on all modalities at once."""

    @field_validator("radii")
    @classmethod
    def _ascending(cls, radii: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(radii)) != len(radii):
            raise ValueError(f"radii: {list(radii)} names a radius twice")
        return tuple(sorted(radii))

    @model_validator(mode="after")
    def _certifiable(self) -> Self:
        for name, budget in self.threat.items() if self.threat is not None else ():
            if name not in self.sigma:
                raise ValueError(f"threat: no noise is put on {name}, so nothing is certified of it: give it a sigma")
            if budget.space != "input":
                raise ValueError(f"threat: {name}: the noise is put on raw inputs; leave out `space`")
            if budget.norm == "l0":
                raise ValueError(f"threat: {name}: an l0 budget has no l2 radius that Gaussian noise could certify")
        return self
