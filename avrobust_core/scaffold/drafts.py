"""The component that a new plugin begins with, for each kind: what it is, in the words of its record and its README."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A small component that works; its code is in the templates of its kind.

    Attributes:
        summary: one line, as `Component.summary`.
        about: one sentence or two for the README.
        references: as `Component.references`.
        example: as `Component.example`, written in Python.
    """

    summary: str
    about: str
    references: tuple[str, ...] = ()
    example: str


DRAFTS: Mapping[str, Draft] = MappingProxyType(
    {
        "dataset": Draft(
            summary="Generated clips of four classes: a low or high tone, and a square that moves down or across.",
            about="It generates clips of four classes: a low or a high tone, and a square that moves down or across.",
            example='{"train": 64, "test": 16}',
        ),
        "encoder": Draft(
            summary="A small convolutional network on the waveform.",
            about="It is a small convolutional network that hears the waveform itself, without a spectrogram.",
            references=("https://arxiv.org/abs/1610.00087",),
            example='{"channels": [8, 16]}',
        ),
        "fusion": Draft(
            summary="The product of a map of each modality's embedding: low-rank bilinear pooling.",
            about="It multiplies what each modality says (low-rank bilinear pooling), so that none decides alone.",
            references=("https://arxiv.org/abs/1610.04325",),
            example='{"dim": 16}',
        ),
        "attack": Draft(
            summary="Steepest ascent whose step halves, clip by clip, where it gains nothing.",
            about="It climbs the loss, and halves a clip's step where one gains nothing; in linf, l2 and l1.",
            references=("https://doi.org/10.2140/pjm.1966.16.1",),
            example='{"steps": 10}',
        ),
        "metric": Draft(
            summary="Expected calibration error: how far confidence and accuracy lie apart.",
            about="It measures how far a model's confidence and accuracy lie apart, on clean and on attacked clips.",
            references=("https://arxiv.org/abs/1706.04599",),
            example='{"bins": 10}',
        ),
        "augmentation": Draft(
            summary="Each clip's sound louder or softer, by a gain drawn evenly in decibels.",
            about="It makes each clip's sound louder or softer while a model is trained.",
            example='{"decibels": 6.0}',
        ),
        "tracker": Draft(
            summary="Curves and results of each cell as lines of JSON in the run's folder.",
            about="It writes the curves and results of each cell as lines of JSON into the run's folder.",
            example='{"every": 1}',
        ),
    }
)
"""By kind."""
