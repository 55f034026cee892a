"""What the data set says of padding reaches the metrics that put clips through the model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from avrobust_data.toy import ToyAV

MARGIN = "metrics=[{use: margin, with: {threat: {audio: {eps: 0.01}}}}]"


def rises(out: Path) -> np.ndarray:
    """The rise of the loss by audio, of each clip of the first model that was measured."""
    path = next(path for path in sorted(out.glob("cells/*/measurements/*.parquet")))
    return np.asarray(pq.read_table(path)["loss-rise/audio"])


def test_margin_in_a_run_leaves_out_what_is_padding(study: Any, tmp_path: Path, monkeypatch: Any) -> None:
    study(MARGIN, "attacks={}", "audit=off", out=tmp_path / "whole")
    read = ToyAV.read

    def padded(self: Any, split: str, index: int) -> Any:
        return replace(read(self, split, index), padded={"audio": 0.75} if index % 2 else {})

    monkeypatch.setattr(ToyAV, "read", padded)
    study(MARGIN, "attacks={}", "audit=off", out=tmp_path / "padded")
    ratio = rises(tmp_path / "padded") / rises(tmp_path / "whole")
    np.testing.assert_allclose(ratio[::2], 1, rtol=1e-5)
    assert (ratio[1::2] < 0.9).all()
