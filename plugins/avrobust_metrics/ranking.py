"""Average precision and ROC-AUC of one class for many weightings of the same clips at once.

A bootstrap weighs the clips anew a thousand times, but never moves them in the ranking. So they are ranked once; each
weighting then needs only the weight that lies between one positive and the next, which is a product with a sparse
0/1 matrix, and sums over the positives.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse


class ClassRanking:
    """The clips of one class in the order of their scores, highest first; equal scores share one threshold.

    The matrices gather weights by threshold. Only scores that some positive has can be thresholds that matter: G of
    them. `_positives` (G, N) gathers the positives at each; `_negatives` (G + 1, N) the negatives from just below the
    last such score down to this one, and in its last row those below all; `_tied` (G, N) the negatives at exactly it.

    Args:
        scores: (N,), finite.
        positive: (N,) bool, with a positive and a negative among them.
    """

    def __init__(self, scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> None:
        thresholds = np.unique(scores[positive])  # ascending
        groups = len(thresholds)
        # The number of thresholds above each score: a clip at a threshold belongs to it, one between to the lower one.
        above = groups - np.searchsorted(thresholds, scores, side="right")
        tied = np.isin(scores, thresholds) & ~positive
        self._positives = _gather(above, positive, groups)
        self._negatives = _gather(above, ~positive, groups + 1)
        self._tied = _gather(above, tied, groups) if tied.any() else None

    def evaluate(self, weights: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Average precision and ROC-AUC under each weighting.

        Args:
            weights: (N, R), not negative, C-contiguous; float32 is exact for counts that sum to less than 2^24.

        Returns:
            average precision (R,) and AUC (R,), equal to scikit-learn's with these sample weights; both NaN where no
            positive or no negative has weight.
        """
        positives = self._positives @ weights
        negatives = self._negatives @ weights
        true = np.cumsum(positives, axis=0)
        false = np.cumsum(negatives[:-1], axis=0)
        all_true, all_false = true[-1].astype(np.float64), false[-1] + negatives[-1].astype(np.float64)
        taken = true + false
        precision = np.divide(true, taken, out=np.zeros_like(true), where=taken > 0)
        beaten = (all_false - false).astype(weights.dtype)
        if self._tied is not None:
            beaten += self._tied @ weights / 2
        measurable = (all_true > 0) & (all_false > 0)
        scale = np.where(measurable, all_true, np.nan)
        return (
            np.einsum("gr,gr->r", positives, precision) / scale,
            np.einsum("gr,gr->r", positives, beaten) / (scale * np.where(measurable, all_false, np.nan)),
        )


def _gather(group: NDArray[np.integer], chosen: NDArray[np.bool_], groups: int) -> sparse.csr_array:
    """The matrix (groups, N) that sums the chosen clips' weights by group."""
    columns = np.flatnonzero(chosen)
    ones = np.ones(len(columns), dtype=np.float32)
    return sparse.csr_array((ones, (group[columns], columns)), shape=(groups, len(group)))
