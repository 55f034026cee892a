"""Graph convexity and equidistant points: parity with nnconvexity, shortest paths by hand, the permuted baseline."""

import sys

import numpy as np
import pytest
import torch
from avrobust_geometry import convexity, graph_convexity
from nnconvexity.euclidean import compute_euclidean_convexity
from nnconvexity.graph import compute_graph_convexity
from scipy.sparse.csgraph import dijkstra
from scipy.spatial.distance import cdist


def clusters(seed, classes=4, each=22, width=5, spread=1.2):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    return rng.normal(size=(classes, width))[labels] * spread + rng.normal(size=(len(labels), width)), labels


@pytest.mark.parametrize(("seed", "k"), [(0, 10), (1, 3), (2, 1)])
def test_the_graph_scores_are_those_of_nnconvexity(seed, k):
    points, labels = clusters(seed)
    whole, by_class = compute_graph_convexity(points, labels, n_neighbors=k)
    found = graph_convexity(points, labels, k=k)
    assert found.details["graph"]["paths"] == 4 * 22 * 21 // 2
    assert 100 * found.values["graph-micro"].value == pytest.approx(whole, abs=0.0051)
    for label, score in by_class.items():
        assert 100 * found.per_class["graph"][str(label)] == pytest.approx(score, abs=0.0051)
    assert found.values["graph"].value == pytest.approx(np.mean(list(found.per_class["graph"].values())))
    if k == 1:
        assert found.details["graph"]["unreachable"] > 0


def test_labels_are_labels_and_not_their_places():
    """nnconvexity takes the place of a label among all labels for it; here any label will do."""
    points, labels = clusters(3)
    names = np.array(["dog", "cat", "bird", "ant"])
    found = graph_convexity(points, names[labels])
    plain = graph_convexity(points, labels)
    for place, name in enumerate(names):
        assert found.per_class["graph"][name] == plain.per_class["graph"][str(place)]
    shifted = graph_convexity(points, labels + 5)
    assert list(shifted.per_class["graph"].values()) == list(plain.per_class["graph"].values())


@pytest.mark.parametrize("seed", [0, 1])
def test_equidistant_points_are_those_of_nnconvexity(seed):
    points, labels = clusters(seed, spread=0.8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4)).double()
    tokens = points.reshape(len(points), 1, 5)

    def predict(x, layer):
        with torch.no_grad():
            return network(x[:, 0]).argmax(dim=1).numpy()

    whole, by_class = compute_euclidean_convexity(tokens, labels, predict, 0)
    found = convexity(torch.from_numpy(tokens), labels, lambda x: network(x[:, 0]), methods=["euclidean"])
    assert 100 * found.values["euclidean-micro"].value == pytest.approx(whole, abs=0.0051)
    for label, score in by_class.items():
        assert 100 * found.per_class["euclidean"][str(label)] == pytest.approx(score, abs=0.0051)
    assert 0 < whole < 100


def test_paths_are_those_of_the_dense_graph_by_hand():
    points, labels = clusters(4, classes=2, each=12, width=2, spread=0.5)
    distances = cdist(points, points)
    order = np.argsort(distances, axis=1)[:, 1:4]
    dense = np.zeros_like(distances)
    for i, row in enumerate(order):
        dense[i, row] = dense[row, i] = distances[i, row]
    before = dijkstra(dense, directed=False, return_predecessors=True)[1]
    scores = {0: [], 1: []}
    for i in range(24):
        for j in range(i + 1, 24):
            if labels[i] == labels[j]:
                inner, at = [], before[i, j]
                while at not in (i, -9999):
                    inner.append(labels[at] == labels[i])
                    at = before[i, at]
                scores[labels[i]].append(0.0 if before[i, j] < 0 else np.mean(inner) if inner else 1.0)
    found = graph_convexity(points, labels, k=3)
    for c in (0, 1):
        assert found.per_class["graph"][str(c)] == pytest.approx(np.mean(scores[c]))


def test_duplicates_are_neighbours_of_each_other():
    line = np.arange(8.0).repeat(2)[:, None]
    found = graph_convexity(line, np.arange(16) % 2, k=3)
    assert found.details["graph"]["unreachable"] == 0
    # Next to each clip of one class lies its duplicate of the other, at distance 0; paths take either of them.
    assert found.details["graph"]["neighbours"]["duplicates"] == 16


def test_a_class_that_surrounds_another_is_less_convex_than_it():
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, size=(600, 2))
    labels = (np.abs(points).max(axis=1) > 0.6).astype(np.int64)
    found = graph_convexity(points, labels)
    assert found.per_class["graph"]["0"] > 0.95
    assert found.per_class["graph"]["1"] < found.per_class["graph"]["0"] - 0.1


def test_the_permuted_baseline_is_chance():
    """Labels that say nothing have the score of the baseline; labels of clusters are far above it."""
    points, labels = clusters(5, classes=5, each=60, spread=3)
    found = graph_convexity(points, labels, pairs=1000)
    baseline = found.values["graph-permuted"]
    assert found.values["graph"].low > baseline.high
    noise = graph_convexity(points, np.random.default_rng(1).permutation(labels), pairs=1000)
    assert noise.values["graph"].value == pytest.approx(baseline.value, abs=0.05)
    assert "graph-permuted" not in found.per_clip


def test_several_labels_per_clip_count_each_by_itself():
    points, labels = clusters(6, classes=3, each=15)
    several = np.zeros((45, 4), dtype=int)
    several[np.arange(45), labels] = 1
    several[::2, 3] = 1
    found = graph_convexity(points, several)
    alone = graph_convexity(points, labels)
    for c in "012":
        assert found.per_class["graph"][c] == pytest.approx(alone.per_class["graph"][c])
    fourth = graph_convexity(points, several[:, 3])
    assert found.per_class["graph"]["3"] == pytest.approx(fourth.per_class["graph"]["1"])


def test_scale_rotation_and_order_change_nothing():
    points, labels = clusters(7)
    ids = [f"c{i}" for i in range(len(labels))]
    plain = graph_convexity(points, labels, ids=ids, pairs=100)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    order = np.random.default_rng(1).permutation(len(labels))
    moved = graph_convexity(7 * points[order] @ turn + 3, labels[order], ids=[ids[i] for i in order], pairs=100)
    for name, estimate in plain.values.items():
        assert moved.values[name].value == pytest.approx(estimate.value), name
    assert np.allclose(moved.per_clip["graph"], plain.per_clip["graph"][order])


def test_many_sources_in_pieces_give_the_same(monkeypatch):
    points, labels = clusters(8)
    whole = graph_convexity(points, labels, pairs=60)
    monkeypatch.setattr(sys.modules["avrobust_geometry.convexity.graph"], "ELEMENTS", 3 * len(labels))
    assert graph_convexity(points, labels, pairs=60).values == whole.values


def test_a_single_clip_has_no_paths_and_bad_arguments_are_refused():
    assert not graph_convexity(np.ones((1, 2)), [0]).values
    with pytest.raises(ValueError, match="must be at least 1"):
        graph_convexity(np.ones((4, 2)), [0, 0, 1, 1], k=0)
    with pytest.raises(ValueError, match="labels have shape"):
        graph_convexity(np.ones((4, 2)), [0, 0, 1])
    with pytest.raises(ValueError, match="zeros and ones"):
        graph_convexity(np.ones((4, 2)), np.full((4, 2), 2))
