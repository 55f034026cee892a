"""The published indices of robustness against corruptions, from accuracies, or errors, alone.

Sources: absolute and relative robustness, Schiappa et al., "A Large-Scale Robustness Analysis of Video Action
Recognition Models", CVPR 2023 (arXiv 2207.01398), which AVRobustBench (Maharana et al. 2025, arXiv 2506.00358) measures
audio-visual models by; the mean and relative mean corruption error, Hendrycks and Dietterich, ICLR 2019 (arXiv
1903.12261), section 4. All take shares in [0, 1], where the papers write per cent.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Errors = Mapping[str, Sequence[float]]
"""By kind, the share of clips classified wrong at each severity."""


def absolute_robustness(clean: ArrayLike, corrupted: ArrayLike) -> NDArray[np.float64]:
    """1 - (A_clean - A_corrupted): 1 where nothing is lost.

    Args:
        clean: accuracy on clean clips, in [0, 1].
        corrupted: accuracy on the same clips corrupted; of several kinds and severities, the mean accuracy.

    Returns:
        Of the shape of the arguments.
    """
    return 1 - (np.asarray(clean, dtype=np.float64) - np.asarray(corrupted, dtype=np.float64))


def relative_robustness(clean: ArrayLike, corrupted: ArrayLike) -> NDArray[np.float64]:
    """1 - (A_clean - A_corrupted) / A_clean, the share of the accuracy that is kept; NaN where there was none."""
    before = np.asarray(clean, dtype=np.float64)
    return 1 - (before - np.asarray(corrupted, dtype=np.float64)) / np.where(before == 0, np.nan, before)


def corruption_errors(errors: Errors, reference: Errors) -> dict[str, float]:
    """By kind CE = sum over severities of E / sum over severities of E_reference: 1 is the reference's.

    Args:
        errors: of the model.
        reference: of the model that it is compared with, AlexNet in the paper; the same kinds and severities.

    Raises:
        ValueError: if kinds or severities differ, or the reference makes no errors at all.
    """
    return _ratios(errors, reference, 0, 0)


def mean_corruption_error(errors: Errors, reference: Errors) -> float:
    """mCE, the mean of the corruption errors over the kinds.

    Raises:
        ValueError: as `corruption_errors`.
    """
    return float(np.mean(list(corruption_errors(errors, reference).values())))


def relative_mean_corruption_error(errors: Errors, clean: float, reference: Errors, reference_clean: float) -> float:
    """Relative mCE, the mean over kinds of sum(E - E_clean) / sum(E_reference - E_reference_clean).

    Args:
        errors: of the model on corrupted clips.
        clean: its error on clean ones.
        reference: of the model that it is compared with.
        reference_clean: that one's error on clean clips.

    Raises:
        ValueError: as `corruption_errors`; also if a kind costs the reference nothing.
    """
    return float(np.mean(list(_ratios(errors, reference, clean, reference_clean).values())))


def _ratios(errors: Errors, reference: Errors, clean: float, reference_clean: float) -> dict[str, float]:
    if not errors:
        raise ValueError("no errors are given, of any kind of corruption")
    if {kind: len(each) for kind, each in errors.items()} != {kind: len(each) for kind, each in reference.items()}:
        raise ValueError(
            f"errors are of {_shown(errors)}, the reference's of {_shown(reference)}: both models must be measured on "
            "the same kinds and severities"
        )
    found = {}
    for kind, each in errors.items():
        cost = float(np.sum(np.asarray(reference[kind]) - reference_clean))
        if cost == 0:
            raise ValueError(f"{kind} costs the reference nothing, so that nothing can be measured by it")
        found[kind] = float(np.sum(np.asarray(each) - clean)) / cost
    return found


def _shown(errors: Errors) -> str:
    return ", ".join(f"{kind} ({len(each)})" for kind, each in sorted(errors.items()))
