"""`benchmarks/sharing.py`: jobs in processes, each done once, whatever was killed before."""

import argparse
import json
from pathlib import Path

import pytest

from benchmarks import sharing


def work(desk: sharing.Desk):
    """A job that says where it was done; `broken` fails."""
    started = desk.folder / "started"
    started.write_text("x")

    def do(job):
        if job["name"] == desk.options.broken:
            raise ValueError(job["name"])
        assert started.exists()
        return {"double": 2 * job["number"], "fitting": desk.fitting}

    return do


def test_jobs_that_are_done_are_not_done_again_and_a_torn_line_is(tmp_path: Path):
    options = argparse.Namespace(jobs=1, cuda_fits=0, limit=float("inf"), out=tmp_path / "lines.jsonl", broken="c")
    asked = [{"name": name, "number": number} for number, name in enumerate("abc")]
    kept = {"name": "a", "number": 0, "double": "kept"}
    options.out.write_text(json.dumps(kept) + '\n{"name": "b", "num')
    with pytest.raises(RuntimeError, match="1 of 1 processes failed"):
        sharing.share(options, asked, work)
    assert sharing.lines(options.out) == [kept, {"name": "b", "number": 1, "double": 2, "fitting": "cpu"}]
    options.broken = None
    assert [line["double"] for line in sharing.share(options, asked, work)] == ["kept", 2, 4]
    options.jobs = 0
    assert len(sharing.share(options, asked, work)) == 3
