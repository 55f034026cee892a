"""`engine.channels_last: auto` in a run: what it measured and chose is said, and kept with the results."""

import json
from pathlib import Path
from typing import Any


def test_what_is_chosen_by_measuring_is_said_and_kept_with_the_results(study: Any, tmp_path: Path, capsys: Any) -> None:
    study("engine.channels_last=auto", "attacks={fgsm: fgsm}", "audit=off")
    assert "convolutions of audio: " in capsys.readouterr().err
    records = [json.loads(path.read_text()) for path in tmp_path.glob("out/cells/*/evaluations/*/record.json")]
    assert len(records) == 2
    for record in records:
        (choice,) = record["channels_last"].values()
        assert choice["taken"] == (choice["time_ratio"] <= 0.97)
