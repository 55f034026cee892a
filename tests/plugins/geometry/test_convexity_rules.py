"""When a point is of a class: margins as the core's, thresholds of the best F1 as by trying them all."""

import numpy as np
import torch
from avrobust_geometry.convexity.rules import AtLeast, Highest, best_thresholds
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from avrobust_core import margin


@settings(max_examples=60)
@given(data=st.data())
def test_the_highest_logit_has_the_cores_margin_and_a_tie_is_outside(data):
    n, k = data.draw(st.integers(1, 6)), data.draw(st.integers(2, 5))
    cells = st.lists(st.lists(st.integers(-2, 2), min_size=k, max_size=k), min_size=n, max_size=n)
    logits = torch.tensor(data.draw(cells), dtype=torch.float32)
    cls = torch.tensor(data.draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n)))
    found = Highest().margins(logits, cls)
    assert torch.equal(found, margin(logits, cls, "single-label"))
    assert np.array_equal(Highest().holds(found.numpy()), (found > 0).numpy())


@settings(max_examples=60)
@given(data=st.data())
def test_thresholds_have_the_best_f1_of_all(data):
    n = data.draw(st.integers(1, 12))
    logits = np.array(data.draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n)), dtype=np.float32)[:, None]
    own = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))[:, None]
    (threshold,) = best_thresholds(logits, own)
    if not own.any():
        assert np.isnan(threshold)
        return
    best = max(f1_score(own, logits >= cut) for cut in np.unique(logits))
    assert f1_score(own, logits >= threshold) == best
    highest = max(cut for cut in np.unique(logits) if f1_score(own, logits >= cut) == best)
    assert np.array_equal(logits >= threshold, logits >= highest)


def test_a_threshold_is_reached_by_the_logit_itself_or_by_the_log_odds_under_the_softmax():
    logits = torch.tensor([[1.0, 2.0, 0.5], [1.0, 2.0, 0.5], [3.0, 0.0, 0.0]])
    cls = torch.tensor([0, 1, 2])
    plain = AtLeast(np.array([1.0, 1.5, np.nan]))
    assert plain.margins(logits, cls)[:2].tolist() == [0.0, 0.5]
    assert plain.holds(plain.margins(logits, cls).numpy()).tolist() == [True, True, False]
    softmax = AtLeast(np.zeros(3), softmax=True)
    p = logits.double().softmax(dim=1)[torch.arange(3), cls]
    assert torch.allclose(softmax.margins(logits, cls), torch.logit(p))
    assert torch.allclose(softmax.margins(logits + 7, cls), torch.logit(p))
