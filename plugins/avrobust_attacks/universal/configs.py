"""The configuration of the universal attack; free of torch."""

from pydantic import Field, model_validator

from avrobust_attacks.gradient.configs import LossName
from avrobust_core import Config


class UniversalConfig(Config):
    """Configuration of `universal`."""

    epochs: int = Field(default=20, ge=1)
    """Passes over the set."""
    step_size: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    """Length of a step as a share of each modality's radius; one step for each batch. Where all of them together would
    not reach the edge, it is as long as it must be for that, unless `projected` is false."""
    split: str | None = None
    """The set that the perturbation is made for: null for the split that is attacked (as in the reference: an upper
    bound of the damage); "train" for one that has to carry over to clips it has not seen."""
    batch_size: int = Field(default=32, ge=1)
    """Clips for each step; results depend on it."""
    loss: LossName = "ce"
    """Loss that is raised, summed over the clips: ce (cross-entropy), margin, dlr or rank."""
    projected: bool = True
    """Keep the perturbation inside the ball. false: it is accumulated without bound, as in the code of
    arXiv 2203.12122, for comparison with its numbers only: the budget does not hold, and the results say how far it
    went."""

    @model_validator(mode="after")
    def _steps_inside(self) -> "UniversalConfig":
        if self.projected and self.step_size > 2:
            raise ValueError(f"step_size: {self.step_size} radii is longer than the ball is wide; take 2 at most")
        return self
