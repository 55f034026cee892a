"""Balanced sampling: the published weights, drawn with replacement, the same for every process and after a restart."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from avrobust_training.balanced_sampling import clip_weights
from scipy.sparse import csr_array

from avrobust_core import DataError

LABELS = np.array([[1, 0, 0]] * 8 + [[0, 1, 0]] * 2 + [[1, 1, 0]])
IDS = [f"clip-{i}" for i in range(len(LABELS))]


def step_of(stand, epoch: int = 0, seed: int = 0):
    rows = {clip: i for i, clip in enumerate(IDS)}
    return replace(stand().step(epoch), seed=seed, labels=lambda clips: csr_array(LABELS[[rows[c] for c in clips]]))


def test_a_clips_weight_is_the_sum_over_its_labels_of_1000_by_their_count() -> None:
    weights = clip_weights(csr_array(LABELS))
    often, rare = 1000 / (9 + 0.01), 1000 / (3 + 0.01)
    np.testing.assert_allclose(weights, [often] * 8 + [rare] * 2 + [often + rare])


def test_clips_are_drawn_in_proportion_to_their_weights(stand, make) -> None:
    augment = make("balanced-sampling")
    counts = np.zeros(len(IDS))
    for epoch in range(2000):
        drawn = augment.order(IDS, step_of(stand, epoch))
        assert drawn.shape == (len(IDS),)
        counts += np.bincount(drawn, minlength=len(IDS))
    weights = clip_weights(csr_array(LABELS))
    share = weights / weights.sum()
    deviation = np.sqrt(share * (1 - share) / counts.sum())
    assert (np.abs(counts / counts.sum() - share) < 4 * deviation).all()


def test_the_draw_depends_on_seed_and_epoch_alone(stand, make) -> None:
    def drawn(clips, epoch=0, seed=0):
        return [clips[i] for i in make("balanced-sampling").order(clips, step_of(stand, epoch, seed))]

    first = drawn(IDS)
    assert drawn(IDS) == first
    assert drawn(IDS[::-1]) == first  # whatever order the epoch would have
    assert Counter(drawn(IDS, epoch=1)) != Counter(first)
    assert Counter(drawn(IDS, seed=1)) != Counter(first)


def test_a_data_set_that_states_no_labels_is_refused(stand, make) -> None:
    with pytest.raises(DataError, match="does not state its labels"):
        make("balanced-sampling").order(IDS, stand().step())
