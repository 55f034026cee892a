"""Budgets and threat models: what an attacker may change, as data; free of torch."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator, model_validator

from avrobust_core.config.field_docs import Described, Phrase

NormName = Literal["linf", "l2", "l1", "l0"]
Space = Literal["input", "features"]
ThreatKind = Literal["separate", "shared"]


class Snr(Described):
    """A budget relative to the clip: the signal-to-noise ratio that a perturbation filling the ball has."""

    snr_db: float = Field(ge=-300, le=300)
    """Signal-to-noise ratio in dB: higher is a smaller perturbation."""


def _fraction(value: Any) -> Any:
    if isinstance(value, bool):  # pydantic would read them as 1.0 and 0.0
        raise ValueError(f"{str(value).lower()} is not a radius")  # noqa: TRY004 - pydantic reports ValueError only
    if isinstance(value, str):
        # Matched first: Fraction("1e999999999") would take for ever.
        found = _FRACTION.fullmatch(value) if len(value) <= _LONGEST_FRACTION else None
        if found is None or (found[2] and not int(found[2])):
            shown = value if len(value) <= _LONGEST_FRACTION else f"{value[:_LONGEST_FRACTION]}..."
            raise ValueError(f"{shown!r} is neither a number nor a fraction such as '8/255'")
        return float(found[1]) / int(found[2] or 1)
    return value


_FRACTION = re.compile(r" *([-+]?[0-9]+(?:\.[0-9]*)?) *(?:/ *([0-9]+) *)?")
_LONGEST_FRACTION = 100


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(type(step) is int for step in value)


_RADIUS_SCHEMA = {
    "anyOf": [
        {"type": "number", "minimum": 0, "maximum": 1e12},
        {
            "type": "string",
            "pattern": r"^ *\+? *[0-9]+(\.[0-9]*)? *(/ *[0-9]+ *)?$",
            "description": "A fraction such as 8/255.",
        },
    ]
}
"""Its validator hides both the limit and the fractions from pydantic."""

MAX_RADIUS = 1e12
"""Beyond it, squares no longer fit into the numbers that models compute with."""

Radius = Annotated[
    float, BeforeValidator(_fraction), Field(ge=0, le=MAX_RADIUS, allow_inf_nan=False), WithJsonSchema(_RADIUS_SCHEMA)
]


class Budget(Described):
    """The most that one modality may be moved."""

    norm: NormName = "linf"
    """Norm of one clip's perturbation: linf (largest change of a sample), l2 (Euclidean, over all samples), l1 (sum of
    absolute changes), l0 (how many samples, or frames, change)."""
    eps: Annotated[Radius | Snr, Phrase("a number, a fraction like 8/255, or {snr_db: 30}")]
    """Radius: in raw units (0.03), as a fraction ('8/255'), or per clip as {snr_db: 30}; for l0 a whole number."""
    bounds: tuple[float, float] | None = None
    """Lowest and highest value of a perturbed sample; by default the bounds that the data set states."""
    space: Space = "input"
    """The space that is perturbed: raw input, or features after the encoder's frontend (which only `bounds` limits)."""
    frames: tuple[tuple[int, int], ...] | None = None
    """Steps of time that may change, as ranges [first, end) of the modality's time axis; null for all but padding."""
    time_invariant: bool = False
    """Require the same perturbation at every step of time (linf and l2)."""
    per: Literal["sample", "frame"] = "sample"
    """The unit that l0 counts: single samples, or frames (all samples at `frame_steps` successive steps of time)."""
    frame_steps: int = Field(default=1, ge=1)
    """Steps of time that one frame of an l0 budget has."""
    cap: Radius | None = None
    """Largest change of a single sample under l0; null for what the bounds leave."""

    @field_validator("frames", mode="before")
    @classmethod
    def _ranges(cls, value: Any) -> Any:
        if value is not None and not (isinstance(value, (list, tuple)) and all(map(_is_pair, value))):
            raise ValueError(f"frames: {value!r} is not a list of ranges [first, end), like [[0, 4], [8, 12]]")
        for first, end in value or ():
            if not 0 <= first < end:
                raise ValueError(f"frames [{first}, {end}]: a range needs 0 <= first < end")
        if value is not None and not value:
            raise ValueError("frames: an empty list leaves nothing to attack; leave the modality out of the threat")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "Budget":
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"bounds {list(self.bounds)}: the first must be below the second")
        if self.norm == "l0":
            if isinstance(self.eps, Snr) or self.eps != int(self.eps):
                raise ValueError("eps: an l0 budget counts samples or frames: a whole number")
        elif self.per != "sample" or self.frame_steps != 1 or self.cap is not None:
            raise ValueError(f"per, frame_steps and cap belong to l0; the norm here is {self.norm}")
        if self.time_invariant and self.norm not in ("linf", "l2"):
            raise ValueError(f"time_invariant is defined for linf and l2, not for {self.norm}")
        return self

    @property
    def needs_time(self) -> bool:
        """True if it means anything only where the time axis is known."""
        return self.frames is not None or self.time_invariant or self.per == "frame"

    def scaled(self, factor: float) -> "Budget":
        """The same budget with its radius multiplied by `factor` (> 0); an l0 count is rounded down."""
        if not factor > 0:
            raise ValueError(f"factor must be positive, not {factor}")
        if isinstance(self.eps, Snr):
            decibels = self.eps.snr_db - 20 * math.log10(factor)
            eps: float | Snr = self.eps.model_copy(update={"snr_db": decibels})
        else:
            eps = float(math.floor(self.eps * factor * (1 + 1e-9))) if self.norm == "l0" else self.eps * factor
        return self.model_copy(update={"eps": eps})


class ThreatModel(Described):
    """A budget for each modality that is attacked, by its name; one that is absent is not touched, bit for bit.

    `kind: separate` (the default) gives each modality a ball of its own. `kind: shared` puts all of them into ONE ball
    (CRMT, Yang et al., ICLR 2024): the squares of the modalities' Euclidean norms, each over its own eps, sum to 1 at
    most. With equal eps that is the plain l2 ball of all modalities laid end to end.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Budget]

    kind: ThreatKind = "separate"
    """separate: a ball for each modality; shared: one l2 ball for all of them together."""

    @model_validator(mode="after")
    def _consistent(self) -> "ThreatModel":
        if not self.budgets:
            raise ValueError("a threat needs a budget for at least one modality, like audio: {norm: linf, eps: 0.002}")
        if self.kind == "shared":
            other = [name for name, budget in self.items() if budget.norm != "l2"]
            if other:
                raise ValueError(f"a shared threat is one l2 ball: give {', '.join(other)} norm: l2")
        return self

    @classmethod
    def of(cls, budgets: Mapping[str, Budget], kind: ThreatKind = "separate") -> "ThreatModel":
        """The threat model of these budgets."""
        return cls.model_validate({"kind": kind, **budgets})

    @property
    def budgets(self) -> dict[str, Budget]:
        """The budgets by attacked modality."""
        return self.__pydantic_extra__ or {}

    @property
    def modalities(self) -> tuple[str, ...]:
        """The attacked modalities, sorted."""
        return tuple(sorted(self.budgets))

    def __getitem__(self, modality: str) -> Budget:
        return self.budgets[modality]

    def items(self) -> Iterator[tuple[str, Budget]]:
        """(modality, budget), sorted by modality."""
        return iter(sorted(self.budgets.items()))

    def restricted(self, modalities: Iterable[str]) -> "ThreatModel | None":
        """The part of this threat that touches these modalities; None if there is none.

        A shared ball of one modality is that modality's own.
        """
        kept = {name: self[name] for name in modalities if name in self.budgets}
        return ThreatModel.of(kept, self.kind if len(kept) > 1 else "separate") if kept else None

    def scaled(self, factor: float) -> "ThreatModel":
        """The same threat with every radius multiplied by `factor`."""
        return ThreatModel.of({name: budget.scaled(factor) for name, budget in self.items()}, self.kind)
