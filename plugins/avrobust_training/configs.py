"""The augmentations' configurations; free of torch."""

from pydantic import Field

from avrobust_core import Config


class MixupConfig(Config):
    """Configuration of `mixup`."""

    alpha: float = Field(default=0.2, gt=0, allow_inf_nan=False)
    """Both parameters of the Beta distribution of the mixing ratio: small leaves most clips nearly as they are, 1
    draws ratios uniformly, large mixes halves."""
