"""Neighbours are right whatever the magnitude of some rows or all of them, and however the numbers lie in memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from avrobust_geometry import density, graph_convexity
from avrobust_geometry.density.balls import Balls
from avrobust_geometry.knn import nearest, nearest_by_class
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray


def _truth(points: NDArray[Any], reference: NDArray[Any], *, itself: bool) -> NDArray[np.longdouble]:
    """All distances (N, M), by differences in extended precision; infinite to the point itself."""
    apart = points.astype(np.longdouble)[:, None] - reference.astype(np.longdouble)[None]
    distances = np.sqrt((apart**2).sum(axis=2))
    if itself:
        np.fill_diagonal(distances, np.inf)
    return distances


def _assert_right(found: Any, truth: NDArray[np.longdouble]) -> None:
    expected = np.sort(truth, axis=1)[:, : found.distances.shape[1]]
    np.testing.assert_allclose(found.distances, expected.astype(np.float64), rtol=1e-9)
    listed = np.take_along_axis(truth, found.indices, axis=1).astype(np.float64)
    np.testing.assert_allclose(listed, expected.astype(np.float64), rtol=1e-9)
    assert all(len(set(row)) == len(row) for row in found.indices.tolist())


def _data(seed: int, n: int = 90, width: int = 6) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((n, width)) + 2 * generator.integers(0, 3, n)[:, None]


MAGNITUDES = st.integers(-40, 38).map(lambda e: 10.0**e)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 99),
    outliers=st.lists(st.tuples(MAGNITUDES, st.integers(0, 89), st.booleans()), max_size=6),
    overall=st.sampled_from([1.0, 1e-38, 1e-30, 1e-20, 1e10, 1e19, 1e30]),
    dtype=st.sampled_from([np.float32, np.float64]),
    duplicates=st.integers(0, 20),
    constant=st.sampled_from([None, 0.0, 1e6]),
    k=st.sampled_from([1, 5, 30]),
)
def test_outliers_of_any_magnitude_change_no_other_neighbours(
    seed: int, outliers: Any, overall: float, dtype: Any, duplicates: int, constant: float | None, k: int
) -> None:
    data = _data(seed) * overall
    for size, row, whole in outliers:
        data[row, slice(None) if whole else 0] = size * np.sign(data[row, 0])
    data[: duplicates + 1] = data[0]
    if constant is not None:
        data[:, 1] = constant * overall
    data = np.clip(data, -1e38, 1e38).astype(dtype)
    truth = _truth(data, data, itself=True)
    _assert_right(nearest(data, k, exact=True), truth)
    labels = np.arange(len(data)) % 3
    pairs = nearest_by_class(data, labels, 4)
    for values, mask in ((pairs.same, True), (pairs.other, False)):
        among = np.where((labels[:, None] == labels) == mask, truth, np.inf)
        np.testing.assert_allclose(values, np.sort(among, axis=1)[:, 3].astype(np.float64), rtol=1e-9)
    several = np.stack([labels == 0, labels != 1, np.arange(len(data)) < 40], axis=1)
    pairs = nearest_by_class(data, several, 2)
    for pair in range(0, len(pairs.clip), 7):
        among = np.where(several[:, pairs.cls[pair]], truth[pairs.clip[pair]], np.inf)
        np.testing.assert_allclose(pairs.same[pair], float(np.sort(among)[1]), rtol=1e-9)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 99), size=MAGNITUDES, side=st.sampled_from(["points", "reference", "both"]), k=st.integers(1, 9)
)
def test_a_reference_of_its_own_is_searched_as_well(seed: int, size: float, side: str, k: int) -> None:
    points, reference = _data(seed, 40).astype(np.float32), _data(seed + 1, 60)
    if side != "reference":
        points[3] = size
    if side != "points":
        reference[5] = -size
    _assert_right(nearest(points, k, reference=reference), _truth(points, reference, itself=False))


@pytest.mark.parametrize("apart", [1e8, 1e12, 1e15])
def test_two_groups_far_apart_are_told_by_differences(apart: float) -> None:
    data = _data(0)
    data[::2] += apart
    found = nearest(data, 4, exact=True)
    assert found.report["by_differences"] > 0 or apart == 1e8
    truth = _truth(data, data, itself=True)
    np.testing.assert_allclose(found.distances, np.sort(truth, axis=1)[:, :4].astype(np.float64), rtol=1e-9)


def test_more_differences_than_hours_allow_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avrobust_geometry.knn.tiles.MOST_APART", 1000)
    data = _data(0)
    data[::2] += 1e15
    with pytest.raises(ValueError, match=r"lie so far apart.*leave out rows of another order"):
        nearest(data, 4, exact=True)


@pytest.mark.parametrize("size", [1e150, 1e200, 1e308])
def test_what_float64_cannot_square_is_refused_by_its_row(size: float) -> None:
    data = _data(0)
    data[[7, 9]] = size
    with pytest.raises(ValueError, match=r"points has values too large to be squared.* in row 7, 9: leave"):
        nearest(data, 3)
    with pytest.raises(ValueError, match=r"points has values too large"):
        nearest(data, 3, reference=_data(1))
    with pytest.raises(ValueError, match=r"too large"):
        Balls(data, np.ones(90), reference=_data(1))
    _assert_right(nearest(_data(0) * 1e300, 3), _truth(_data(0) * 1e300, _data(0) * 1e300, itself=True))


def test_ordinary_rows_need_no_second_search() -> None:
    data = np.random.default_rng(0).standard_normal((600, 32)).astype(np.float32)
    report = nearest(data, 10, exact=True).report
    assert (report["searched_again"], report["by_differences"]) == (0, 0)
    data[0] = 1e10
    report = nearest(data, 10, exact=True).report
    assert report["searched_again"] <= 1


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.astype(">f4"),
        lambda x: x.astype(">f8"),
        lambda x: x.astype("<f2"),
        lambda x: x.astype(">f2"),
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=0)[::2],
        lambda x: x[::-1][::-1].copy()[::-1],
        lambda x: np.ascontiguousarray(x[:, ::-1])[:, ::-1],
        lambda x: torch.from_numpy(x).to(torch.bfloat16),
    ],
    ids=[
        "big-endian",
        "big-endian double",
        "half",
        "big-endian half",
        "fortran",
        "strided",
        "backwards",
        "mirrored",
        "bf16",
    ],
)
def test_numbers_are_read_however_they_lie(change: Any) -> None:
    data = change(_data(0, 300).astype(np.float32))
    plain = data.float().numpy() if isinstance(data, torch.Tensor) else np.ascontiguousarray(data.astype(np.float64))
    found = nearest(data, 5, exact=True)
    _assert_right(found, _truth(plain, plain, itself=True))


@pytest.mark.parametrize("dtype", [">f4", "<f4", ">f8"])
def test_read_only_maps_are_read(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "x.npy", _data(0).astype(dtype))
    data = np.load(tmp_path / "x.npy", mmap_mode="r")
    _assert_right(nearest(data, 5), _truth(np.asarray(data), np.asarray(data), itself=True))


def test_numbers_that_torch_does_not_have_are_refused() -> None:
    for data in (_data(0).astype(np.longdouble), _data(0).astype(complex), np.arange(12).reshape(4, 3)):
        with pytest.raises(ValueError, match="give float32 or float64"):
            nearest(data, 2)


def test_the_density_of_other_clips_does_not_change_with_an_outlier() -> None:
    data, labels = _data(0, 120).astype(np.float32), np.arange(120) % 3
    mild, wild = data.copy(), data.copy()
    mild[0], wild[0] = 1e3, 1e9
    before, after = density(mild, labels, k=5, resamples=100), density(wild, labels, k=5, resamples=100)
    for name in ("class-ratio-plain", "lid", "lof", "density"):
        np.testing.assert_allclose(after.per_clip[name][1:], before.per_clip[name][1:], rtol=1e-5)
    assert after.details["m"] == pytest.approx(before.details["m"], rel=0.01)


def test_a_mean_that_one_clip_makes_is_told() -> None:
    data, labels = _data(0, 120).astype(np.float32), np.arange(120) % 3
    assert "dominated" not in density(data, labels, k=5, resamples=100).details
    data[17] = 1e8
    found = density(data, labels, k=5, resamples=100).details["dominated"]
    assert set(found) == {"lid", "lof"}
    assert found["lof"]["clip"] == 17
    assert found["lof"]["share"] > 0.99


@pytest.mark.parametrize("scale", [1e-30, 1e19, 1e30])
def test_the_graph_of_any_scale_is_that_of_scale_1(scale: float) -> None:
    data, labels = _data(0).astype(np.float32), np.arange(90) % 3
    plain = graph_convexity(data, labels, k=4, pairs=200)
    scaled = graph_convexity((data * np.float32(2.0 ** np.round(np.log2(scale)))), labels, k=4, pairs=200)
    assert scaled.values == plain.values
    data[5] = 1e30
    assert np.isfinite(graph_convexity(data, labels, k=4, pairs=200).values["graph"].value)


def test_the_graph_of_distances_near_the_largest_float_is_found() -> None:
    data, labels = _data(0), np.arange(90) % 3
    assert graph_convexity(data * 2.0**1018, labels, k=4).values == graph_convexity(data, labels, k=4).values
