"""`avrobust measure` with the bundled metrics, on arrays at the edge: numbers, or one plain sentence."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avrobust_core.cli import main


def _measured(
    folder: Path, capsys: pytest.CaptureFixture[str], x: Any, labels: Any, *more: str
) -> tuple[int, str, str]:
    np.save(folder / "x.npy", x)
    np.save(folder / "l.npy", labels)
    paths = [str(folder / "x.npy"), str(folder / "l.npy")]
    status = main(["measure", *paths, "--resamples", "100", "--metric", "density", "--metric", "convexity", *more])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return status, out, err


def _values(out: str, metric: str) -> dict[str, float]:
    return {name: value["value"] for name, value in json.loads(out)["metrics"][metric]["values"].items()}


X = np.random.default_rng(0).standard_normal((60, 5))
LABELS = np.arange(60) % 3


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f2"])
def test_other_orders_of_bytes_and_precisions_give_the_same(tmp_path: Path, capsys: Any, dtype: str) -> None:
    plain = _measured(tmp_path, capsys, X.astype(dtype).astype(np.float64), LABELS, "--json")[1]
    status, out, _ = _measured(tmp_path, capsys, X.astype(dtype), LABELS.astype(">i2"), "--json")
    assert status == 0
    for metric in ("density", "convexity"):
        assert _values(out, metric) == pytest.approx(_values(plain, metric), rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("scale", [1e19, 1e-30, 1e37])
def test_any_scale_is_measured(tmp_path: Path, capsys: Any, scale: float) -> None:
    power = np.float32(2.0 ** np.round(np.log2(scale)))
    plain = _measured(tmp_path, capsys, X.astype(np.float32), LABELS, "--json")[1]
    status, out, _ = _measured(tmp_path, capsys, X.astype(np.float32) * power, LABELS, "--json")
    assert status == 0
    assert _values(out, "convexity") == _values(plain, "convexity")
    free = {"class-ratio", "class-ratio-plain", "lof", "lid", "density"}
    for name, value in _values(plain, "density").items():
        if name in free:
            assert _values(out, "density")[name] == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize(
    ("x", "labels"),
    [
        (X[:2], LABELS[:2]),
        (X, np.zeros(60, dtype=int)),
        (X, np.arange(60)),
        (np.ones((60, 5)), LABELS),
        (X, np.zeros((60, 2), dtype=int)),
        (X, np.ones((60, 1), dtype=bool)),
        (X[:, :1], np.where(LABELS == 1, "owl", "cät")),
        (X.round().astype(int), LABELS * 10**15 - 7),
        (np.where(np.arange(60)[:, None] == 3, 1e30, X), LABELS),
        (np.where(np.arange(60)[:, None] == 3, 1e-40, X), LABELS),
    ],
)
@pytest.mark.parametrize("k", [10, 1000])
def test_small_equal_and_odd_sets_are_measured(tmp_path: Path, capsys: Any, x: Any, labels: Any, k: int) -> None:
    more = ("--set", f"density.k={k}", "--set", f"convexity.k={k}") if k != 10 else ()
    for form in ((), ("--json",)):
        status, out, err = _measured(tmp_path, capsys, x, labels, *more, *form)
        assert status == 0, err
        assert out


def test_one_clip_and_numbers_too_large_are_a_sentence(tmp_path: Path, capsys: Any) -> None:
    status, out, err = _measured(tmp_path, capsys, X[:1], LABELS[:1])
    assert (status in (1, 2), out) == (True, ""), (err, out)
    status, out, err = _measured(tmp_path, capsys, np.where(np.arange(60)[:, None] == 3, 1e300, X), LABELS)
    assert "too large to be squared" in err
    assert "in row 3" in err
