"""Neighbours and densities on a device are those of the CPU, and the host seldom waits for it."""

import numpy as np
import pytest
import torch
from avrobust_geometry import density
from avrobust_geometry.knn import nearest, settling

from avrobust_core.testing.elsewhere import ELSEWHERE, elsewhere

ROWS, WIDTH, K = 300, 8, 5


@pytest.fixture
def points() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)


def test_candidates_are_ranked_again_without_a_wait_for_each_chunk(points, monkeypatch) -> None:
    monkeypatch.setattr(settling, "ACCELERATED_CHUNK", 2 * WIDTH * settling.candidates_for(K))  # two rows each
    here = nearest(points, K, exact=True)
    with elsewhere() as waits:
        there = nearest(torch.from_numpy(points).to(ELSEWHERE), K, exact=True, device=ELSEWHERE)
    np.testing.assert_array_equal(there.indices, here.indices)
    np.testing.assert_array_equal(there.distances, here.distances)
    assert len(waits) < 25, waits


@pytest.mark.parametrize("several", [False, True])
def test_densities_are_the_same(points, several: bool) -> None:
    labels = np.arange(ROWS) % 4
    given = np.eye(4, dtype=bool)[labels] | (np.eye(4, dtype=bool)[labels[::-1]] if several else False)
    given = given if several else labels
    here = density(points, given, k=K, resamples=100)
    with elsewhere():
        there = density(torch.from_numpy(points).to(ELSEWHERE), given, k=K, resamples=100, device=ELSEWHERE)
    assert here.per_clip.keys() == there.per_clip.keys()
    for name, values in here.per_clip.items():
        np.testing.assert_allclose(there.per_clip[name], values, rtol=1e-9, err_msg=name)
