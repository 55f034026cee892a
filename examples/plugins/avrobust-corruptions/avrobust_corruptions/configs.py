"""The configuration of `corruption`, which a spec writes under `with:`; free of torch."""

from typing import Literal

from pydantic import Field

from avrobust_core import Config

KindName = Literal[
    "gaussian",
    "impulse",
    "shot",
    "speckle",
    "compression",
    "snow",
    "frost",
    "spatter",
    "wind",
    "rain",
    "underwater",
    "concert",
    "smoke",
    "crowd",
    "interference",
]
"""The kinds, by the names that AVRobustBench (arXiv 2506.00358) gives them."""


class CorruptionConfig(Config):
    """Configuration of `corruption`."""

    kind: KindName
    """What happens to the clip, in sound and picture at once: gaussian, impulse, shot, speckle, compression (of the
    device); snow, frost, spatter, wind, rain, underwater (of the place); concert, smoke, crowd, interference (of
    people)."""
    severity: int = Field(default=3, ge=1, le=5)
    """From 1, mild, to 5."""
