"""The ensemble's configuration; free of torch."""

from typing import Any

from pydantic import ConfigDict, Field, model_validator

from avrobust_attacks.gradient.configs import LossName
from avrobust_core import Config


class Member(Config):
    """One attack of an ensemble, as a spec names it: a bare name, or `use` and `with`."""

    model_config = ConfigDict(serialize_by_alias=True)

    use: str
    """Name of an installed attack."""
    settings: dict[str, Any] = Field(default_factory=dict, alias="with")
    """Its configuration."""

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"use": value} if isinstance(value, str) else value


class EnsembleConfig(Config):
    """Configuration of `ensemble`."""

    members: tuple[Member, ...] | None = Field(default=None, min_length=1)
    """Attacks in their order, cheap ones first; null for pgd (ce, targeted), apgd (ce, dlr, targeted),
    fmn and square."""
    loss: LossName = "ce"
    """With several labels per clip: the loss by which the strongest of the members' results is chosen."""
