"""Budgets and threat models: what an attacker may change, as data; free of torch."""

import math
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, RootModel, model_validator

NormName = Literal["linf", "l2"]


class Snr(BaseModel):
    """A budget relative to the clip: the signal-to-noise ratio that a perturbation filling the ball has."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    snr_db: float = Field(allow_inf_nan=False)
    """Signal-to-noise ratio in dB: higher is a smaller perturbation."""


def _fraction(value: Any) -> Any:
    if isinstance(value, bool):  # pydantic would read them as 1.0 and 0.0
        raise ValueError(f"{str(value).lower()} is not a radius")  # noqa: TRY004 - pydantic reports ValueError only
    if isinstance(value, str):
        try:
            return float(Fraction(value.replace(" ", "")))
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"{value!r} is neither a number nor a fraction such as '8/255'") from None
    return value


Radius = Annotated[float, BeforeValidator(_fraction), Field(ge=0, allow_inf_nan=False)]


class Budget(BaseModel):
    """How far one modality may be moved, on the raw input."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    norm: NormName = "linf"
    """Norm of the perturbation of one clip: linf (largest change of a sample) or l2 (Euclidean, over all samples)."""
    eps: Radius | Snr
    """Radius: in raw units (0.03), as a fraction ('8/255'), or per clip as {snr_db: 30}."""
    bounds: tuple[float, float] | None = None
    """Lowest and highest value of a perturbed sample; by default the bounds that the data set states."""

    @model_validator(mode="after")
    def _ordered(self) -> "Budget":
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"bounds {list(self.bounds)}: the first must be below the second")
        return self

    def scaled(self, factor: float) -> "Budget":
        """The same budget with its radius multiplied by `factor` (> 0)."""
        if not factor > 0:
            raise ValueError(f"factor must be positive, not {factor}")
        if isinstance(self.eps, Snr):
            eps: float | Snr = Snr(snr_db=self.eps.snr_db - 20 * math.log10(factor))
        else:
            eps = self.eps * factor
        return self.model_copy(update={"eps": eps})


class ThreatModel(RootModel[dict[str, Budget]]):
    """A budget for each modality that is attacked; a modality that is absent is not touched, bit for bit."""

    model_config = ConfigDict(frozen=True)

    root: Annotated[dict[str, Budget], Field(min_length=1)]

    @classmethod
    def of(cls, budgets: Mapping[str, Budget]) -> "ThreatModel":
        """The threat model of these budgets."""
        return cls(dict(budgets))

    @property
    def modalities(self) -> tuple[str, ...]:
        """The attacked modalities, sorted."""
        return tuple(sorted(self.root))

    def __getitem__(self, modality: str) -> Budget:
        return self.root[modality]

    def items(self) -> Iterator[tuple[str, Budget]]:
        """(modality, budget), sorted by modality."""
        return iter(sorted(self.root.items()))

    def restricted(self, modalities: Iterable[str]) -> "ThreatModel | None":
        """The part of this threat that touches these modalities; None if there is none."""
        kept = {name: self.root[name] for name in modalities if name in self.root}
        return ThreatModel(kept) if kept else None

    def scaled(self, factor: float) -> "ThreatModel":
        """The same threat with every radius multiplied by `factor`."""
        return ThreatModel({name: budget.scaled(factor) for name, budget in self.root.items()})
