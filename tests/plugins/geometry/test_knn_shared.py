"""Several processes that search together find the neighbours that one finds, each by a part of the products."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from avrobust_geometry.knn import nearest, nearest_by_class, tiles
from avrobust_geometry.knn.rows import read_sets

from avrobust_core import AvrobustError, Shares


def in_processes(world: int, work: Callable[[Shares], Any]) -> list[Any]:
    """What each of several processes comes to, or raises; here they are threads."""
    gate, sent, found = threading.Barrier(world, timeout=60), [None] * world, [None] * world

    def run(rank: int) -> None:
        def exchange(mine: Any) -> list[Any]:
            sent[rank] = mine
            gate.wait()
            everyone = list(sent)
            gate.wait()
            return everyone

        shares = Shares(rank, world, exchange)
        try:
            found[rank] = shares.together(lambda: work(shares))
        except Exception as error:  # noqa: BLE001  to be looked at
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Rows in nine tiles and a rest, some of them twice, some far away: those are searched again."""
    monkeypatch.setattr(tiles, "TILE", 40)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(383, 6)).astype(np.float32)
    rows[100:110] = rows[:10]
    rows[300:330] = 3e4 + rows[300:330] / 100
    return rows


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("within", [True, False])
def test_processes_that_search_together_find_what_one_finds(world: int, within: bool, points: Any) -> None:
    asked, reference = (points, None) if within else (points[200:350], points)
    exclude = None if within else np.arange(200, 350)
    search = {"k": 5, "reference": reference, "exclude": exclude, "exact": True, "threads": 1}
    alone = nearest(asked, **search)
    for found in in_processes(world, lambda shares: nearest(asked, **search, shares=shares)):
        np.testing.assert_array_equal(found.indices, alone.indices)
        np.testing.assert_array_equal(found.distances, alone.distances)
        assert found.report["searched_again"] == alone.report["searched_again"]
    assert alone.report["searched_again"] > 0


@pytest.mark.parametrize("several", [False, True])
def test_the_same_holds_for_neighbours_inside_and_outside_classes(several: bool, points: Any) -> None:
    rng = np.random.default_rng(1)
    labels = rng.random((len(points), 4)) < 0.3 if several else rng.integers(4, size=len(points))
    alone = nearest_by_class(points, labels, 4)
    for found in in_processes(3, lambda shares: nearest_by_class(points, labels, 4, shares=shares)):
        for name in ("clip", "cls", "same", "other", "n_same", "n_other"):
            np.testing.assert_array_equal(getattr(found, name), getattr(alone, name))


@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_each_tile_is_one_processs(world: int, within: bool, points: Any) -> None:
    asked, among, own = read_sets(
        points if within else points[:150], None if within else points, None, torch.device("cpu")
    )
    for dtype in (torch.float32, None):
        if dtype is None:
            own = torch.arange(asked.n)
        parts = []
        for rank in range(world):
            part: list[tuple[int, int, int]] = []
            take = lambda scores, row, column, part=part: part.append((row, column, scores.numel()))  # noqa: E731
            tiles.scan(asked, among, torch.device("cpu"), dtype, take, own, (rank, world))
            parts.append(part)
        together = [tile for part in parts for tile in part]
        assert len({tile[:2] for tile in together}) == len(together)
        assert sum(size for _, _, size in together) == asked.n * among.n
        most = max(sum(size for _, _, size in part) for part in parts)
        assert most <= asked.n * among.n / world + 4 * 40 * 160, "as much as another's, but for a tile or two"


def test_where_one_process_fails_none_waits_for_it() -> None:
    def work(shares: Shares) -> list[int]:
        shares.gather(0)
        if shares.rank == 1:
            raise ValueError("no room")
        return shares.gather(1)

    first, second, third = in_processes(3, work)
    assert isinstance(second, ValueError)
    for other in (first, third):
        assert isinstance(other, AvrobustError)
        assert str(other) == "process 2 of 3 failed at its share: ValueError: no room"


def test_a_failure_after_the_last_exchange_is_everybodys() -> None:
    def work(shares: Shares) -> None:
        if shares.rank == 0:
            raise ValueError("disk full")

    assert [str(found) for found in in_processes(2, work)] == [
        "disk full",
        "process 1 of 2 failed at its share: ValueError: disk full",
    ]
