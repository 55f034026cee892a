"""The indices agree with their published definitions, and with published numbers."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from avrobust_corruptions.__main__ import main
from avrobust_corruptions.indices import (
    absolute_robustness,
    corruption_errors,
    mean_corruption_error,
    relative_mean_corruption_error,
    relative_robustness,
)
from avrobust_corruptions.runs import read_run, summary

from avrobust_core import AvrobustError

# Hendrycks and Dietterich 2019 (arXiv 1903.12261). AlexNet: error on each kind of ImageNet-C, a mean over severities,
# as published with the paper's code, and its clean error. ResNet-50: its corruption errors in per cent (table 1),
# clean error 23.9, mCE 76.7, relative mCE 105.0.
ALEXNET_CLEAN, RESNET_CLEAN = 0.4348, 0.239
ALEXNET = [
    *(0.886428, 0.894468, 0.922640, 0.819880, 0.826268, 0.785948, 0.798360, 0.866816),
    *(0.826572, 0.819324, 0.564592, 0.853204, 0.646056, 0.717840, 0.606500),
]
RESNET_CE = [80, 82, 83, 75, 89, 78, 80, 78, 75, 66, 57, 71, 85, 77, 77]


def test_absolute_and_relative_robustness_are_as_defined() -> None:
    # 1 - (A - A') and 1 - (A - A') / A, worked out by hand.
    assert absolute_robustness(0.8, 0.6) == pytest.approx(0.8)
    assert relative_robustness(0.8, 0.6) == pytest.approx(0.75)
    assert absolute_robustness(0.5, 0.5) == 1
    assert relative_robustness(0.5, 0.0) == 0
    assert relative_robustness(0.4, 0.5) == pytest.approx(1.25)  # better than clean
    assert np.isnan(relative_robustness(0.0, 0.1))
    many = relative_robustness(np.array([0.8, 0.0, 0.5]), np.array([0.2, 0.3, 0.25]))
    assert many[[0, 2]] == pytest.approx([0.25, 0.5])
    assert np.isnan(many[1])


def test_corruption_errors_agree_with_the_published_table() -> None:
    alexnet = {f"kind-{i}": [error] for i, error in enumerate(ALEXNET)}
    resnet = {f"kind-{i}": [ce / 100 * error] for i, (ce, error) in enumerate(zip(RESNET_CE, ALEXNET, strict=True))}
    assert list(corruption_errors(resnet, alexnet).values()) == pytest.approx(np.array(RESNET_CE) / 100)
    assert 100 * mean_corruption_error(resnet, alexnet) == pytest.approx(76.7, abs=0.3)  # of rounded entries
    relative = 100 * relative_mean_corruption_error(resnet, RESNET_CLEAN, alexnet, ALEXNET_CLEAN)
    assert relative == pytest.approx(105.0, abs=1)


def test_severities_are_summed_before_they_are_divided() -> None:
    # (0.2 + 0.6) / (0.4 + 0.6) and not the mean of 0.5 and 1; relative: (0.8 - 0.2) / (1 - 0.4).
    errors, reference = {"rain": [0.2, 0.6]}, {"rain": [0.4, 0.6]}
    assert mean_corruption_error(errors, reference) == pytest.approx(0.8)
    assert relative_mean_corruption_error(errors, 0.1, reference, 0.2) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="same kinds and severities"):
        mean_corruption_error({"rain": [0.2]}, reference)
    with pytest.raises(ValueError, match="costs the reference nothing"):
        relative_mean_corruption_error(errors, 0.1, reference, 0.5)


def a_run(folder: Path) -> Path:
    """Two cells, four clips, rain at two severities; what is right is written down here."""
    right = {"sure": [(1, 1, 1, 1), (1, 1, 1, 0), (1, 0, 1, 0)], "weak": [(1, 1, 0, 1), (0, 0, 1, 0), (0, 0, 0, 0)]}
    spec = {
        "rain-1": {"use": "avrobust-corruptions:corruption", "with": {"kind": "rain", "severity": 1}},
        "rain-2": {"use": "avrobust-corruptions:corruption", "with": {"kind": "rain", "severity": 2}},
        "pgd": {"use": "avrobust:pgd", "with": {}},
    }
    (folder / "resolved.yaml").write_text(json.dumps({"attacks": spec}))
    cells = [{"id": f"id-{name}", "model": name, "training": "standard", "seed": 0} for name in right]
    (folder / "result.json").write_text(json.dumps({"cells": cells}))
    for name, rows in right.items():
        table = [
            {"id": f"{i}", "attack": attack, "threat": attack and "both", "group": None, "correct": bool(each)}
            for attack, row in zip((None, "rain-1", "rain-2", "pgd"), (*rows, (0, 0, 0, 0)), strict=True)
            for i, each in enumerate(row)
        ]
        (folder / "cells" / f"id-{name}").mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(table), folder / "cells" / f"id-{name}" / "samples.parquet")
    return folder


def test_a_runs_indices_are_those_of_its_clips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = a_run(tmp_path)
    sure, weak = summary(read_run(run), reference="weak/standard")
    assert sure["absolute"]["value"] == pytest.approx(1 - (1 - 5 / 8))
    assert weak["clean_accuracy"] == 0.75
    assert weak["absolute"]["value"] == pytest.approx(1 - (3 / 4 - 1 / 8))
    assert weak["relative"]["value"] == pytest.approx((1 / 8) / (3 / 4))
    assert weak["mce"] == weak["relative_mce"] == 1
    assert sure["mce"] == pytest.approx((1 / 4 + 2 / 4) / (3 / 4 + 1))
    assert sure["relative_mce"] == pytest.approx((3 / 4) / (7 / 4 - 2 / 4))
    assert sure["absolute"]["low"] <= sure["absolute"]["value"] <= sure["absolute"]["high"]
    assert main([str(run), "--reference", "weak/standard"]) == 0
    assert "sure/standard: clean accuracy 1.000, absolute robustness 0.625" in capsys.readouterr().out


def test_what_cannot_be_summed_up_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "holds no finished run" in capsys.readouterr().err
    run = a_run(tmp_path)
    with pytest.raises(AvrobustError, match="no cell is named 'other'; there are: sure/standard, weak/standard"):
        summary(read_run(run), reference="other")
    with pytest.raises(AvrobustError, match="name the threat"):
        read_run(run, threat="nowhere")
