"""The configurations of the attacks for the smallest perturbation; free of torch."""

from pydantic import Field

from avrobust_core import Config


class MinimalConfig(Config):
    """What all of them have."""

    classes: int = Field(default=9, ge=1)
    """Other classes, those of the highest logits, of which the start takes the one whose boundary is nearest by the
    linearised model; each costs one backward pass."""
    trim: int = Field(default=8, ge=0)
    """Forward passes of the bisection that shrinks each success at the end."""


class CwConfig(MinimalConfig):
    """Configuration of `cw`."""

    lead: int = Field(default=60, ge=0)
    """Gradient steps of the `fmn` whose smallest success the first search begins at; 0 for the nearest boundary of the
    linearised model."""
    searches: int = Field(default=1, ge=1)
    """Searches, each with another constant (l2) and from the smallest success so far; the paper has 9, from the clean
    clip."""
    steps: int = Field(default=20, ge=1)
    """Gradient steps of each search, at most."""
    learning_rate: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    """Adam's learning rate, as a share of the perturbation's present size; it falls along a cosine over all steps, the
    lead's among them."""
    patience: int = Field(default=10, ge=1)
    """Steps without a smaller success after which a clip that has one leaves the search it is in."""


class SteppedConfig(MinimalConfig):
    """What `ddn` and `fmn` have."""

    steps: int = Field(default=80, ge=1)
    """Gradient steps after the first-order start, half of them for each of two searches."""
    step_size: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Length of the first step: linf and l2, as a share of the perturbation's present size; l1, as a share of the way
    to the best vertex of the ball; l0 goes all the way. It falls along a cosine."""
    gamma: float = Field(default=0.2, gt=0, lt=1)
    """Share by which the size shrinks or grows at the first step; it falls along a cosine."""
    start: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """The first size of the first search, over that at which the nearest boundary is expected."""
    momentum: float = Field(default=0.7, ge=0, lt=1)
    """Share of the running mean of gradients that each step of the first search keeps; 0 for plain gradients."""


class DdnConfig(SteppedConfig):
    """Configuration of `ddn`."""


class FmnConfig(SteppedConfig):
    """Configuration of `fmn`."""
