"""Epochs that a study selects by an attack: the spec's own attack and threat, and what they mean for a cell."""

import json

import pytest

from avrobust_core.errors import ComponentError

ROBUST = "training={standard: {epochs: 2, batch_size: 4, learning_rate: 0.02, select: robust, against: %s}}"
TRIM = ("metrics=[]", "audit=off", "attacks={fgsm: fgsm}")


def test_an_epoch_is_selected_by_the_attack_that_the_spec_names(study, tmp_path) -> None:
    result = study(*TRIM, ROBUST % "fgsm/audio")
    (cell,) = result["cells"]
    folder = tmp_path / "out" / "cells" / cell["id"]
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert all(0 <= row["validation_robust_accuracy"] <= row["validation_accuracy"] for row in rows)
    best = max(rows, key=lambda row: (row["validation_robust_accuracy"], -row["validation_loss"]))
    assert cell["fit"]["best_epoch"] == best["epoch"]
    learned = 2 * 12
    assert cell["fit"]["clip_forwards"] > learned + 2 * 6, "the attack's passes count"
    assert cell["fit"]["clip_backwards"] > learned


def test_a_cell_depends_on_the_attack_and_not_on_its_name(study, tmp_path) -> None:
    def cell(*settings: str, out: str = "out") -> str:
        return study(*TRIM, *settings, out=tmp_path / out)["cells"][0]["id"]

    first = cell(ROBUST % "fgsm/audio")
    renamed = cell("attacks={quick: fgsm}", "threats={sound: {audio: {eps: 0.01}}}", ROBUST % "quick/sound")
    assert renamed == first
    assert cell("threats.audio.audio.eps=0.02", ROBUST % "fgsm/audio", out="wider") != first


def test_an_attack_that_must_see_a_set_first_is_refused_before_anything_is_fitted(study, tmp_path) -> None:
    with pytest.raises(ComponentError, match=r"training 'standard' cannot be selected by attack 'fgsm': it must see"):
        study(*TRIM, "attacks={fgsm: universal}", ROBUST % "fgsm/audio")
    assert not list(tmp_path.glob("out/cells/*/fit.json"))
