"""Exact neighbours are those of a brute force in float64, whatever the data look like and however they are stored."""

import numpy as np
import pytest
import torch
from avrobust_geometry.knn import nearest, tiles
from avrobust_geometry.knn.rows import Prepared, Rows
from avrobust_geometry.knn.selection import Best
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors


def brute(points, k, reference=None, own=None):
    among = points if reference is None else reference
    own = np.arange(len(points)) if reference is None else np.full(len(points), -1) if own is None else own
    indices, distances = [], []
    for point, mine in zip(points.astype(np.float64), own, strict=True):
        line = np.sqrt(((among.astype(np.float64) - point) ** 2).sum(axis=1))
        if mine >= 0:
            line[mine] = np.inf
        order = np.argsort(line, kind="stable")[:k]
        indices.append(order)
        distances.append(line[order])
    return np.array(indices), np.array(distances)


def same(found, expected):
    indices, distances = expected
    np.testing.assert_allclose(found.distances, distances, rtol=1e-12)
    np.testing.assert_array_equal(found.indices, indices)


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles so small that a few hundred points make many of them, with a ragged last one."""
    monkeypatch.setattr(tiles, "TILE", 48)


@settings(max_examples=60)
@given(
    n=st.integers(2, 90),
    m=st.integers(1, 90) | st.none(),
    width=st.integers(1, 9),
    k=st.integers(1, 20),
    steps=st.sampled_from([None, 2, 6]),
    double=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_any_set_agrees_with_brute_force(n, m, width, k, steps, double, seed):
    rng = np.random.default_rng(seed)
    draw = (lambda size: rng.normal(size=size)) if steps is None else (lambda size: rng.integers(steps, size=size) / 1)
    kind = np.float64 if double else np.float32
    points = draw((n, width)).astype(kind)
    reference = None if m is None else draw((m, width)).astype(kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE", 16)
        found = nearest(points, k, reference=reference, exact=True)
    _, distances = brute(points, k, reference)
    there = n - 1 if m is None else m
    assert found.distances.shape == (n, min(k, there))
    np.testing.assert_allclose(found.distances, distances[:, : min(k, there)], rtol=1e-12)
    # On a lattice many are equally far: which of them are named is free, that they are that far is not.
    among = points if reference is None else reference
    named = np.linalg.norm(among.astype(float)[found.indices] - points.astype(float)[:, None], axis=2)
    np.testing.assert_allclose(named, found.distances, rtol=1e-12, atol=1e-12)
    assert all(len(set(line)) == len(line) for line in found.indices.tolist())
    if m is None:
        assert not (found.indices == np.arange(n)[:, None]).any()


def test_many_tiles_agree_with_scikit_learn(small_tiles):
    points = np.random.default_rng(0).normal(size=(700, 12)).astype(np.float32)
    found = nearest(points, 15, exact=True)
    distances, indices = NearestNeighbors(n_neighbors=16, algorithm="brute").fit(points.astype(np.float64)).kneighbors()
    np.testing.assert_array_equal(found.indices, indices[:, :15])
    np.testing.assert_allclose(found.distances, distances[:, :15], rtol=1e-9)


@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
def test_the_order_of_the_points_does_not_matter(small_tiles, order):
    line = np.random.default_rng(1).normal(size=(600, 1)).cumsum(axis=0).astype(np.float32)
    line = {"ascending": np.sort, "descending": lambda x, axis: -np.sort(x, axis=axis), "random": lambda x, axis: x}[
        order
    ](line, axis=0)
    same(nearest(line, 9, exact=True), brute(line, 9))


def test_a_constant_of_100_on_every_feature_changes_nothing():
    points = np.random.default_rng(2).normal(size=(400, 64)).astype(np.float32)
    shifted = (points.astype(np.float64) + 100).astype(np.float64)
    plain, moved = nearest(points, 10, exact=True), nearest(shifted, 10, exact=True)
    np.testing.assert_array_equal(plain.indices, moved.indices)
    np.testing.assert_allclose(plain.distances, moved.distances, rtol=1e-9)
    assert moved.report["searched_again"] == 0


def test_rows_that_float32_products_cannot_tell_apart_are_searched_again(small_tiles):
    rng = np.random.default_rng(3)
    centres = 1e4 * rng.normal(size=(5, 16))
    points = (centres[rng.integers(5, size=400)] + rng.normal(size=(400, 16)) * 1e-2).astype(np.float32)
    found = nearest(points, 5, exact=True)
    _, distances = brute(points, 5)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-12)
    assert found.report["searched_again"] > 300
    assert nearest(rng.normal(size=(400, 16)), 5, exact=True).report["searched_again"] == 0


def test_duplicates_are_at_distance_zero_and_counted_and_no_point_is_its_own_neighbour():
    points = np.random.default_rng(4).normal(size=(50, 8)).astype(np.float32) + 7
    points[[10, 20, 30]] = points[5]
    found = nearest(points, 3, exact=True)
    assert found.report["duplicates"] == 4
    assert (found.distances[[5, 10, 20, 30]] == 0).all()
    assert found.indices[10].tolist() == [5, 20, 30]
    everything = nearest(np.ones((40, 3), dtype=np.float32), 4, exact=True)
    assert (everything.distances == 0).all()
    assert not (everything.indices == np.arange(40)[:, None]).any()


def test_a_query_is_excluded_by_its_row_even_where_another_is_as_near():
    reference = np.zeros((6, 2), dtype=np.float32)
    reference[3:] = [[3, 4], [6, 8], [9, 12]]
    found = nearest(reference[:2], 2, reference=reference, exclude=[1, -1])
    assert found.indices.tolist() == [[0, 2], [0, 1]]
    assert found.distances.tolist() == [[0, 0], [0, 0]]


def test_queries_of_a_reference_in_many_tiles(small_tiles):
    rng = np.random.default_rng(5)
    reference = rng.normal(size=(500, 6)).astype(np.float32)
    own = rng.integers(-1, 500, size=300)
    points = np.where(own[:, None] < 0, rng.normal(size=(300, 6)), reference[own]).astype(np.float32)
    same(nearest(points, 7, reference=reference, exclude=own), brute(points, 7, reference, own))


def test_tensors_memory_maps_and_strided_arrays_give_the_same(tmp_path, monkeypatch):
    points = np.random.default_rng(6).normal(size=(300, 10)).astype(np.float32)
    expected = nearest(points, 6, exact=True)
    np.save(tmp_path / "points.npy", points)
    monkeypatch.setattr("avrobust_geometry.knn.rows.BLOCK_BYTES", 1000)
    wide = np.zeros((300, 20), dtype=np.float32)
    wide[:, ::2] = points
    for held in (4 << 30, 0):
        monkeypatch.setattr("avrobust_geometry.knn.rows.HELD_BYTES", held)
        for data in (
            torch.from_numpy(points).requires_grad_(),
            np.load(tmp_path / "points.npy", mmap_mode="r"),
            np.load(tmp_path / "points.npy", mmap_mode="c"),
            wide[:, ::2],
        ):
            found = nearest(data, 6, exact=True)
            np.testing.assert_array_equal(found.indices, expected.indices)
            np.testing.assert_array_equal(found.distances, expected.distances)


def test_what_a_private_memory_map_has_changed_is_kept(tmp_path):
    np.save(tmp_path / "points.npy", np.random.default_rng(7).normal(size=(3000, 8)).astype(np.float32))
    private = np.load(tmp_path / "points.npy", mmap_mode="c")
    private[1] = private[0]
    assert nearest(private, 1, exact=True).report["duplicates"] == 2
    assert (private[1] == private[0]).all()


def test_the_callers_precision_and_threads_are_put_aside_and_back():
    before = torch.get_float32_matmul_precision(), torch.get_num_threads()
    torch.set_float32_matmul_precision("medium")
    try:
        found = nearest(np.random.default_rng(8).normal(size=(60, 4)), 2, threads=1)
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.get_num_threads() == before[1]
        assert found.report["n_jobs"] == 1
    finally:
        torch.set_float32_matmul_precision(before[0])


def test_k_is_clipped_to_what_there_is_and_the_report_says_so():
    points = np.random.default_rng(9).normal(size=(5, 3))
    found = nearest(points, 10)
    assert found.distances.shape == (5, 4)
    assert (found.report["asked"], found.report["k"]) == (10, 4)
    assert nearest(points, 10, reference=points).distances.shape == (5, 5)
    assert nearest(points, 10, reference=points, exclude=[0, -1, -1, -1, -1]).distances.shape == (5, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": np.zeros(3)}, "shape"),
        ({"points": np.zeros((3, 0))}, "shape"),
        ({"points": np.zeros((3, 2), dtype=int)}, "float32 or float64"),
        ({"points": np.array([[0.0], [np.nan], [1.0], [np.inf]])}, "row 1, 3"),
        ({"reference": np.zeros((3, 3))}, "2 features, the reference 3"),
    ],
)
def test_what_is_wrong_is_said(arguments, message):
    with pytest.raises(ValueError, match=message):
        nearest(**({"points": np.zeros((4, 2)), "k": 1} | arguments))


def test_finite_values_whose_sum_overflows_are_no_error():
    points = np.full((4, 2), 1.5e308)
    with np.errstate(over="ignore"):
        assert Rows(points, "points").n == 4


@settings(max_examples=40)
@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 400),
    keep=st.integers(1, 40),
    parts=st.integers(1, 8),
    transposed=st.booleans(),
    rising=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_the_best_of_tiles_is_the_best_of_all(rows, columns, keep, parts, transposed, rising, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, columns * parts, generator=generator)
    if rising:
        scores = scores.sort(dim=1).values
    scores[torch.rand(scores.shape, generator=generator) < 0.1] = -torch.inf
    best = Best(rows + 3, keep, torch.device("cpu"))
    for part in range(parts):
        tile = scores[:, part * columns : (part + 1) * columns]
        best.offer(tile.T.contiguous().T if transposed else tile.contiguous(), 2, part * columns)
    values, places = best.take()
    expected = torch.nn.functional.pad(scores, (0, keep), value=-torch.inf).topk(keep, dim=1).values
    torch.testing.assert_close(values[2:-1], expected, rtol=0, atol=0)
    assert torch.isneginf(values[:2]).all()
    assert ((places == -1) == torch.isneginf(values)).all()
    found = scores.gather(1, places[2:-1].clamp(min=0))
    torch.testing.assert_close(found.masked_fill(places[2:-1] < 0, -torch.inf), values[2:-1], rtol=0, atol=0)


def test_products_of_prepared_rows_are_half_of_squared_distances():
    rows = Rows(np.random.default_rng(10).normal(size=(20, 5)) + 50, "points")
    prepared = Prepared(rows, rows.frame, torch.device("cpu"))
    scores = (prepared.left(0, 20) @ prepared.right(3, 9).T) / rows.frame.scale**2
    exact = torch.cdist(rows.block(0, 20), rows.block(3, 9)) ** 2 / -2
    torch.testing.assert_close(scores.double(), exact, rtol=1e-5, atol=1e-5)


def test_one_row_that_a_tile_floods_while_it_leaves_the_others_alone_gets_all_of_its_best():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(16, 2048, generator=generator)
    scores[0, 1024:] += 100
    scores[1:, 1024:] -= 100
    best = Best(16, 10, torch.device("cpu"))
    best.offer(scores[:, :1024].contiguous(), 0, 0)
    best.offer(scores[:, 1024:].contiguous(), 0, 1024)
    torch.testing.assert_close(best.take()[0], scores.topk(10, dim=1).values, rtol=0, atol=0)
