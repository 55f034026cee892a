"""`avrobust measure` on files, with metrics of a distribution that is made for the test."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from avrobust_core.cli import main
from avrobust_core.hookspecs import ENTRY_POINT_GROUP as GROUP

PLUGIN = """
from avrobust_core import Component, Config, hookimpl


class SpreadConfig(Config):
    times: float = 1.0
    \"\"\"Factor.\"\"\"


def spread(config):
    import numpy as np
    from avrobust_core import Estimate, Measurement, Metric, Wanted

    class Spread(Metric):
        predictions = False
        latents = (Wanted(None, frozenset({"fused"})), Wanted("train", frozenset({"fused"})))

        def measure(self, subject):
            own, other = subject.latents[subject.split], subject.latents["train"]
            (layer,), (far,) = own.layers.values(), other.layers.values()
            value = config.times * float(np.abs(layer).mean())
            return Measurement(
                {"spread": Estimate(value, 0.0, value, len(layer), "none"),
                 "reference": Estimate(float(len(far)), 0, 0, len(far), "none")},
                {"count": {name: float((subject.targets == i).sum()) for i, name in enumerate(subject.classes)}},
                details={"task": subject.task, "same": own is other, "mapped": isinstance(layer, np.memmap)},
            )

    return Spread()


def hits(config):
    from avrobust_core import Estimate, Measurement, Metric, Wanted

    class Hits(Metric):
        latents = (Wanted(None, frozenset({"fused"})),)

        def measure(self, subject):
            share = float((subject.logits.argmax(1) == subject.targets).mean())
            return Measurement({"hits": Estimate(share, 0, 1, len(subject.ids), "none")})

    return Hits()


def right(config):
    from avrobust_core import Measurement, Metric, share

    class Right(Metric):
        def measure(self, subject):
            return Measurement({"right": share(subject.logits.argmax(1) == subject.targets, groups=subject.groups)})

    return Right()


@hookimpl
def avrobust_metrics():
    yield Component(name="spread", summary="Spread.", config=SpreadConfig, build=spread)
    yield Component(name="hits", summary="Hits.", config=Config, build=hits)
    yield Component(name="right", summary="Right.", config=Config, build=right)
"""


@pytest.fixture(autouse=True)
def _plugin(fake_distribution: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    fake_distribution("fake", "1.0", {GROUP: {"fake": "fake_measures"}}, {"fake_measures.py": PLUGIN})
    monkeypatch.setenv("AVROBUST_DISABLE_PLUGINS", "avrobust")


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., list[str]]:
    def save(**arrays) -> list[str]:
        for name, array in arrays.items():
            np.save(tmp_path / f"{name}.npy", np.asarray(array), allow_pickle=True)
        return [str(tmp_path / f"{name}.npy") for name in arrays]

    return save


def _measure(capsys, *arguments: str) -> dict:
    assert main(["measure", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


X = np.arange(12.0).reshape(6, 2)


def test_every_metric_that_needs_embeddings_alone_is_measured(files, capsys) -> None:
    found = _measure(capsys, *files(e=X, labels=[3, 3, 7, 7, 7, 9]))
    assert (found["clips"], found["classes"], list(found["metrics"])) == (6, 3, ["spread"])
    spread = found["metrics"]["spread"]
    assert spread["values"]["spread"]["value"] == pytest.approx(5.5)
    assert spread["per_class"] == {"count": {"3": 2.0, "7": 3.0, "9": 1.0}}
    assert spread["details"] == {"task": "single-label", "same": True, "mapped": True}


def test_labels_may_be_strings_or_several_per_clip(files, capsys) -> None:
    found = _measure(capsys, *files(e=X, labels=["owl", "owl", "cat", "owl", "cat", "owl"]))
    assert found["metrics"]["spread"]["per_class"]["count"] == {"cat": 2.0, "owl": 4.0}
    found = _measure(capsys, *files(e=X, labels=np.eye(6, 4)))
    assert found["metrics"]["spread"]["details"]["task"] == "multi-label"


def test_a_reference_a_metrics_fields_and_logits_can_be_given(files, capsys) -> None:
    paths = files(e=X, labels=[0, 1, 0, 1, 0, 1])
    more = files(r=np.ones((9, 2)), rl=[0] * 8 + [5], z=np.tile([2.0, 1.0, 0.0], (6, 1)))
    found = _measure(capsys, *paths, "--reference", *more[:2], "--set", "spread.times=2", "--logits", more[2])
    assert found["classes"] == 3, "the reference's classes count"
    assert found["metrics"]["spread"]["values"]["spread"]["value"] == pytest.approx(11)
    assert found["metrics"]["spread"]["values"]["reference"]["value"] == 9
    assert found["metrics"]["hits"]["values"]["hits"]["value"] == pytest.approx(0.5)


def test_groups_reach_the_metrics_and_are_told(files, capsys) -> None:
    paths = files(e=X, labels=[0, 1, 0, 1, 0, 1], z=np.tile([2.0, 1.0], (6, 1)))
    options = [*paths[:2], "--logits", paths[2], "--metric", "right", "--groups"]
    for groups in (["a", "a", "b", "b", "c", "c"], [5, 5, 7, 7, 5, 9]):
        found = _measure(capsys, *options, *files(g=groups))["metrics"]["right"]["values"]["right"]
        assert (found["value"], found["n"], found["groups"]) == (0.5, 6, 3)
    assert main(["measure", *options, *files(g=groups)]) == 0
    assert "interval over 3 groups" in capsys.readouterr().out
    assert _measure(capsys, *options[:-1])["metrics"]["right"]["values"]["right"]["groups"] is None


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["a"] * 5, "g.npy has groups of 5 clips, but"),
        ([0.5] * 6, "groups are float64 of shape (6,); write (N,) strings or whole numbers"),
        ([["a"]] * 6, "of shape (6, 1)"),
        (np.array([{}] * 6), "g.npy: holds Python objects"),
    ],
)
def test_groups_that_fit_no_clips_are_refused(files, capsys, groups, message: str) -> None:
    paths = files(e=X, labels=[0, 1, 0, 1, 0, 1], g=groups)
    assert main(["measure", *paths[:2], "--groups", paths[2]]) in (1, 2)
    out, err = capsys.readouterr()
    assert message in err
    assert not out


def test_without_json_a_table_is_printed_and_what_one_must_know(files, capsys) -> None:
    assert main(["measure", *files(e=X, labels=[0, 1, 0, 1, 0, 1])]) == 0
    out, err = capsys.readouterr()
    assert "5.5" in out
    assert "spread: task: single-label" in err


LABELS = [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"e": X, "l": LABELS[:5]}, [], "5 labels, but"),
        ({"e": X[0], "l": LABELS}, [], "not numbers (N, D)"),
        ({"e": X.astype(str), "l": LABELS}, [], "not numbers (N, D)"),
        ({"e": X, "l": np.array([{}] * 6)}, [], "l.npy: holds Python objects, which are not read"),
        ({"e": np.array([[1, None]] * 6), "l": LABELS}, [], "e.npy: holds Python objects"),
        ({"e": X[:0], "l": []}, [], "float64 of shape (0, 2), not numbers (N, D)"),
        ({"e": X + 1j, "l": LABELS}, [], "complex128 of shape (6, 2), not numbers"),
        ({"e": X > 3, "l": LABELS}, [], "bool of shape (6, 2), not numbers"),
        ({"e": X.astype(np.longdouble), "l": LABELS}, [], "not numbers (N, D)"),
        ({"e": 3.0, "l": LABELS}, [], "no .npy file of one array"),
        ({"e": np.where(X == 5, np.nan, X), "l": LABELS}, [], "NaN or infinite in 1 of 6 rows (2)"),
        ({"e": np.where(X > 3, np.inf, X), "l": LABELS}, [], "NaN or infinite in 4 of 6 rows (2, 3, 4, 5)"),
        ({"e": X, "l": np.array(LABELS) + 0j}, [], "labels are complex128"),
        ({"e": X, "l": np.array(LABELS).astype("M8[s]")}, [], "labels are datetime64[s]"),
        ({"e": X, "l": np.zeros((6, 0))}, [], "labels are float64 of shape (6, 0)"),
        ({"e": X, "l": np.full((6, 2), "x")}, [], "of shape (6, 2)"),
        ({"e": X, "l": np.full((6, 2), np.nan)}, [], "zeros and ones; give (N,) for one class per clip"),
        ({"e": X, "l": LABELS}, ["--seed", "-1"], "seed of at least 0"),
        ({"e": X, "l": LABELS}, ["--resamples", "1000000000000"], "at most 1000000"),
        ({"e": X, "l": LABELS}, ["--confidence", "nan"], "between 0 and 1"),
        ({"e": X, "l": [0.5] * 6}, [], "whole numbers or strings"),
        ({"e": X, "l": np.full((6, 2), 2)}, [], "zeros and ones"),
        ({"e": X, "l": LABELS}, ["--metric", "hits"], "--logits"),
        ({"e": X, "l": LABELS}, ["--metric", "spred"], "spread"),
        ({"e": X, "l": LABELS}, ["--set", "spread.time=3"], "time"),
        ({"e": X, "l": LABELS}, ["--set", "spread.times"], "path=value"),
        ({"e": X, "l": LABELS}, ["--set", "spread=3"], "METRIC.FIELD=VALUE"),
        ({"e": X, "l": LABELS}, ["--metric", "spread", "--set", "hits.k=3"], "not measured here"),
        ({"e": X, "l": LABELS}, ["--logits", "nowhere.npy"], "no such file"),
        ({"e": X, "l": LABELS}, ["--confidence", "95"], "between 0 and 1"),
        ({"e": X, "l": LABELS}, ["--resamples", "0"], "at least 100"),
    ],
)
def test_what_cannot_be_measured_is_said_in_plain_words(files, capsys, arrays, options, message) -> None:
    assert main(["measure", *files(**arrays), *options]) in (1, 2)
    out, err = capsys.readouterr()
    assert message in err
    assert "Traceback" not in err
    assert not out


def _header(text: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no .npy file"),
        (b"PK\x03\x04", "is an archive, .npz perhaps"),
        (b"\x80\x04N.", "is no .npy file"),
        (b"\x93NUMPY", "cannot be read as a .npy file"),
        (_header(b"{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,)}\n"), "damaged or cut short"),
        (_header(b"{'descr': '<i8', 'fortran_order': False, 'shape': (-1,)}\n"), "cannot be read"),
        (_header(b"{'descr': '<\x1b[31m', 'fortran_order': False, 'shape': (3,)}\n"), "cannot be read"),
        (_header(b"(" * 300 + b"\n"), "cannot be read"),
        (_header(b"{" + b" " * 20000 + b"}\n"), "cannot be read"),
        (_header(b"{'descr': '|O', 'fortran_order': False, 'shape': (6,)}\n") + b"x" * 99, "holds Python objects"),
    ],
)
@pytest.mark.parametrize("which", ["e", "l"])
def test_damaged_files_are_named_without_advice_to_execute_them(
    files, tmp_path, capsys, content: bytes, message: str, which: str
) -> None:
    paths = files(e=X, l=LABELS)
    (tmp_path / f"{which}.npy").write_bytes(content)
    assert main(["measure", *paths]) in (1, 2)
    out, err = capsys.readouterr()
    assert message in err
    assert f"{which}.npy" in err
    assert not out
    assert not any(word in err for word in ("Traceback", "pickle", "trust", "\x1b"))


def test_a_file_cut_short_and_a_folder_are_named(files, tmp_path, capsys) -> None:
    paths = files(e=X, l=LABELS)
    (tmp_path / "e.npy").write_bytes((tmp_path / "e.npy").read_bytes()[:-9])
    assert main(["measure", *paths]) in (1, 2)
    assert "damaged or cut short" in capsys.readouterr().err
    assert main(["measure", str(tmp_path), paths[1]]) in (1, 2)
    assert "is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">f2", ">i4", "<f2", "<i8", "u1"])
def test_numbers_of_either_order_of_bytes_are_read(files, capsys, dtype: str) -> None:
    found = _measure(capsys, *files(e=X.astype(dtype), labels=np.array(LABELS, dtype=">i8")))
    assert found["metrics"]["spread"]["values"]["spread"]["value"] == pytest.approx(5.5)
    assert found["classes"] == 2


def test_class_numbers_may_be_anything_whole(files, capsys) -> None:
    labels = np.array([2**63 - 1, -5, -(2**63), -5, 0, 0])
    counts = _measure(capsys, *files(e=X, labels=labels))["metrics"]["spread"]["per_class"]["count"]
    assert counts == {str(-(2**63)): 1.0, "-5": 2.0, "0": 2.0, str(2**63 - 1): 1.0}
    paths, more = files(e=X, labels=labels), files(r=X, rl=np.array([2**64 - 1] * 6, dtype=np.uint64))
    assert main(["measure", *paths, "--reference", *more]) in (1, 2)
    assert "no common one" in capsys.readouterr().err
