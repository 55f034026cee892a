"""The configuration of `rounded`; free of torch."""

from pydantic import Field

from avrobust_core import AttackChoice, Config


class RoundedConfig(Config):
    """Configuration of `rounded`."""

    attack: AttackChoice = Field(default_factory=lambda: AttackChoice(use="avrobust:pgd"))
    """The attack that searches, like {use: apgd, with: {steps: 100}}; any that looks at a clip alone and keeps to the
    radius."""
