"""The approximate path: what becomes of pynndescent's graph, how it is audited, and when it is not used."""

import threading

import numpy as np
import pytest
from avrobust_geometry.knn import approximate, cost, nearest, search

from avrobust_core import AvrobustError


def clustered(n, width=32, dimension=8, seed=0):
    rng = np.random.default_rng(seed)
    inner = 2 * rng.normal(size=(20, dimension))[rng.integers(20, size=n)] + rng.normal(size=(n, dimension))
    return np.tanh(inner @ rng.normal(size=(dimension, width)) / dimension**0.5).astype(np.float32)


class Graphs:
    """Stands in for pynndescent, whose compilation takes half a minute: true neighbours, of which a share is lost."""

    def __init__(self, lost=0.0, unfinished=(), without_self=()):
        self.lost, self.unfinished, self.without_self = lost, unfinished, without_self
        self.asked = []

    def __call__(self, data, asked, seed, threads):
        self.asked.append(asked)
        distances = np.linalg.norm(data[:, None].astype(float) - data[None], axis=2)
        np.fill_diagonal(distances, -1)
        gone = np.random.default_rng(seed).random(distances.shape) < self.lost
        np.fill_diagonal(gone, False)
        graph = np.where(gone, np.inf, distances).argsort(axis=1, kind="stable")[:, :asked].astype(np.int32)
        graph[list(self.unfinished), 3:] = -1
        for row in self.without_self:
            graph[row, :-1] = graph[row, 1:].copy()
            graph[row, -1] = (row + 1) % len(data)
        return graph


@pytest.fixture
def use(monkeypatch):
    def install(**kwargs):
        graphs = Graphs(**kwargs)
        monkeypatch.setattr(approximate, "_graph", graphs)
        return graphs

    return install


def test_a_good_graph_gives_the_exact_answer_without_the_points_themselves(use):
    points = clustered(400)
    graphs = use()
    found, truth = nearest(points, 10, exact=False), nearest(points, 10, exact=True)
    assert (found.report["method"], truth.report["method"]) == ("pynndescent", "exact")
    np.testing.assert_array_equal(found.indices, truth.indices)
    np.testing.assert_allclose(found.distances, truth.distances, rtol=1e-5)
    assert graphs.asked == [51]
    assert found.report["audit"]["rows"] == 400
    assert found.report["audit"]["recall"] == 1
    assert found.report["attempts"][0]["unfinished"] == 0


def test_data_in_float64_are_ranked_in_float64(use):
    points = clustered(300).astype(np.float64)
    points[1] = points[0] + 1e-12
    use()
    found = nearest(points, 3, exact=False)
    assert found.distances[0, 0] == pytest.approx(np.linalg.norm(points[1] - points[0]), rel=1e-12)
    assert found.report["duplicates"] == 0


def test_rows_that_pynndescent_left_unfinished_are_searched_exactly(use):
    points = clustered(300)
    use(unfinished=[7, 100])
    found, truth = nearest(points, 10, exact=False), nearest(points, 10, exact=True)
    np.testing.assert_array_equal(found.indices, truth.indices)
    assert found.report["attempts"][0]["unfinished"] == 2


def test_a_row_that_duplicates_have_displaced_from_its_own_list_loses_no_neighbour(use):
    points = clustered(300)
    use(without_self=[5])
    found, truth = nearest(points, 10, exact=False), nearest(points, 10, exact=True)
    np.testing.assert_array_equal(found.indices, truth.indices)


def test_enough_neighbours_are_asked_for_but_no_more_than_there_are():
    assert approximate.neighbours_asked(10, 10_000) == 51
    assert approximate.neighbours_asked(50, 10_000) == 101
    assert approximate.neighbours_asked(200, 300) == 300


def test_the_audit_measures_recall_and_the_change_of_the_radius(use):
    points = clustered(900)
    use(lost=0.03)
    found, truth = nearest(points, 10, exact=False), nearest(points, 10, exact=True)
    audit = found.report["audit"]
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.indices, truth.indices, strict=True)])
    assert audit["rows"] == 500
    assert audit["recall"] == pytest.approx(recall, abs=0.01)
    change = found.distances[:, -1] / truth.distances[:, -1] - 1
    assert audit["radius_change"] == pytest.approx(change.mean(), rel=0.2)
    assert 0 < audit["radius_change_max"] <= change.max() * 1.001


def test_a_bad_graph_is_tried_again_with_more_neighbours_and_then_replaced(use, monkeypatch):
    points = clustered(400)
    monkeypatch.setattr(search, "approximate_seconds", lambda *_, **__: 0.0)
    graphs = use(lost=0.3)
    found, truth = nearest(points, 10), nearest(points, 10, exact=True)
    assert found.report["method"] == "exact"
    assert "recall" in found.report["reason"]
    assert graphs.asked == [51, 102]
    assert len(found.report["attempts"]) == 2
    assert found.report["audit"]["recall"] < 0.8
    np.testing.assert_array_equal(found.indices, truth.indices)


def test_a_bad_graph_is_replaced_at_once_where_exact_search_costs_less_than_another(use, monkeypatch):
    estimates = iter([0.0, 1e9])
    monkeypatch.setattr(search, "approximate_seconds", lambda *_, **__: next(estimates))
    graphs = use(lost=0.3)
    assert nearest(clustered(400), 10).report["method"] == "exact"
    assert graphs.asked == [51]


@pytest.mark.parametrize("exact", [False, "auto"])
def test_a_bad_graph_is_kept_with_a_word_where_nothing_else_is_wanted_or_affordable(use, monkeypatch, exact):
    monkeypatch.setattr(search, "approximate_seconds", lambda *_, **__: 1.0)
    monkeypatch.setattr(search, "exact_seconds", lambda *_, **__: 1e6)
    use(lost=0.3)
    found = nearest(clustered(400), 10, exact=exact)
    assert found.report["method"] == "pynndescent"
    assert "recall stayed below 0.95" in found.report["reason"]


def test_auto_takes_what_is_estimated_to_be_faster(use, monkeypatch):
    use()
    points = clustered(300)
    monkeypatch.setattr(search, "exact_seconds", lambda *_, **__: 2.0)
    for seconds, method in ((1.0, "pynndescent"), (3.0, "exact")):
        monkeypatch.setattr(search, "approximate_seconds", lambda *_, seconds=seconds, **__: seconds)
        found = nearest(points, 5)
        assert found.report["method"] == method
        assert (found.report["seconds"]["exact"], found.report["seconds"]["approximate"]) == (2.0, seconds)


def test_few_points_and_references_are_searched_exactly_even_if_not_asked_to(use):
    graphs = use()
    points = clustered(300)
    assert nearest(points[:100], 5, exact=False).report["method"] == "exact"
    assert "reference" in nearest(points, 5, reference=points, exact=False).report["reason"]
    assert graphs.asked == []


def test_outside_the_main_thread_it_is_exact_or_an_error(use, monkeypatch):
    graphs = use()
    monkeypatch.setattr(search, "approximate_seconds", lambda *_, **__: 0.0)
    points, answers = clustered(300), []

    def work():
        answers.append(nearest(points, 5).report["method"])
        try:
            nearest(points, 5, exact=False)
        except AvrobustError as error:
            answers.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers[0] == "exact"
    assert "main thread" in answers[1]
    assert graphs.asked == []


def test_estimates_grow_as_the_work_does():
    import torch

    cpu = torch.device("cpu")
    exact = [cost.exact_seconds(n, n, 512, 10, itself=True, device=cpu, threads=1) for n in (50_000, 100_000)]
    assert 3.5 < exact[1] / exact[0] < 4.1
    queries = cost.exact_seconds(100_000, 100_000, 512, 10, itself=False, device=cpu, threads=1)
    assert 1.5 < queries / exact[1] < 2
    graph = [cost.approximate_seconds(n, 512, 51, compiled=True, threads=1) for n in (50_000, 500_000)]
    assert 1 < np.log10(graph[1] / graph[0]) < 1.25
    fresh = cost.approximate_seconds(50_000, 512, 51, compiled=False, threads=1)
    assert fresh > graph[0]
    assert cost.approximate_seconds(50_000, 512, 51, compiled=True, threads=2) < graph[0]


@pytest.mark.slow
def test_pynndescent_itself_is_audited_repeats_itself_and_costs_compilation_once():
    points = clustered(6000, width=64, dimension=12)
    points[100:104] = points[50]
    assert not approximate.compiled()
    first = nearest(points, 10, exact=False, seed=3, threads=1)
    second = nearest(points, 10, exact=False, seed=3, threads=1)
    assert approximate.compiled()
    assert second.report["seconds"]["approximate"] < first.report["seconds"]["approximate"]
    np.testing.assert_array_equal(first.indices, second.indices)
    np.testing.assert_array_equal(first.distances, second.distances)
    truth = nearest(points, 10, exact=True)
    recall = (first.distances <= truth.distances[:, -1:] * (1 + 1e-6)).mean()
    assert first.report["audit"]["recall"] == pytest.approx(recall, abs=0.01)
    assert recall > 0.99
    assert not (first.indices == np.arange(6000)[:, None]).any()
    assert first.report["duplicates"] == 5
    shifted = nearest(points.astype(np.float64) + 100, 10, exact=False, seed=3, threads=1)
    assert (shifted.distances <= truth.distances[:, -1:] * (1 + 1e-6)).mean() > 0.99
    assert nearest(np.ones((600, 4), dtype=np.float32), 10, exact=False).distances.max() == 0


@pytest.mark.parametrize("scale", [1e19, 1e-30])
@pytest.mark.parametrize("mapped", [False, True])
def test_distances_are_right_at_any_scale_and_beside_an_outlier(use, tmp_path, scale: float, mapped: bool) -> None:
    use()
    points = clustered(300) * np.float32(scale)
    if mapped:
        np.save(tmp_path / "x.npy", points)
        points = np.load(tmp_path / "x.npy", mmap_mode="r")
    found, truth = nearest(points, 5, exact=False), nearest(points, 5, exact=True)
    assert found.report["method"] == "pynndescent"
    np.testing.assert_allclose(found.distances, truth.distances, rtol=1e-5)
    if not mapped:
        points[3] = 1e38
        found, truth = nearest(points, 5, exact=False), nearest(points, 5, exact=True)
        np.testing.assert_allclose(np.delete(found.distances, 3, 0), np.delete(truth.distances, 3, 0), rtol=1e-9)
