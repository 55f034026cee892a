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


@hookimpl
def avrobust_metrics():
    yield Component(name="spread", summary="Spread.", config=SpreadConfig, build=spread)
    yield Component(name="hits", summary="Hits.", config=Config, build=hits)
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
        ({"e": X, "l": np.array([{}] * 6)}, [], "cannot be read as a .npy file of labels"),
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
