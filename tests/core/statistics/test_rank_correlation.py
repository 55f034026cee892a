import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from avrobust_core.statistics.rank_correlation import partial_spearman, spearman

VALUES = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0, 3.0, float("inf")]), min_size=4, max_size=12)


@settings(max_examples=150)
@given(st.data())
def test_weights_mean_copies_of_clips(data) -> None:
    x = np.array(data.draw(VALUES))
    y = np.array(data.draw(st.lists(st.floats(-5, 5).map(lambda v: round(v, 1)), min_size=len(x), max_size=len(x))))
    copies = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(x), max_size=len(x))))
    found = spearman(x, y)(copies[None].astype(float))[0]
    a, b = stats.rankdata(np.repeat(x, copies)), stats.rankdata(np.repeat(y, copies))
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-9)


def test_it_agrees_with_scipy() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, 200))
    y += x
    assert spearman(x, y)(np.ones((1, 200)))[0] == pytest.approx(stats.spearmanr(x, y).statistic)
    assert spearman(x, -x)(np.ones((1, 200)))[0] == pytest.approx(-1)


def test_a_third_number_takes_away_what_it_accounts_for() -> None:
    generator = np.random.default_rng(1)
    cause = generator.normal(size=4000)
    x, y = cause + 0.5 * generator.normal(size=(2, 4000))
    ones = np.ones((1, 4000))
    assert spearman(x, y)(ones)[0] > 0.7
    assert abs(partial_spearman(x, y, cause)(ones)[0]) < 0.05
    other = generator.normal(size=4000)
    assert partial_spearman(x, y, other)(ones)[0] == pytest.approx(spearman(x, y)(ones)[0], abs=0.01)
    assert np.isnan(partial_spearman(x, y, 3 * x + 1)(ones)[0])


def test_partial_correlation_is_that_of_the_residuals_of_ranks() -> None:
    generator = np.random.default_rng(2)
    z = generator.normal(size=50)
    x, y = generator.normal(size=(2, 50)) + z
    copies = generator.integers(0, 3, size=50)
    ranks = [stats.rankdata(np.repeat(v, copies)) for v in (x, y, z)]
    line = np.vander(ranks[2], 2)
    left = [r - line @ np.linalg.lstsq(line, r, rcond=None)[0] for r in ranks[:2]]
    found = partial_spearman(x, y, z)(copies[None].astype(float))[0]
    assert found == pytest.approx(np.corrcoef(*left)[0, 1], abs=1e-9)
