"""`avrobust data pack` and `avrobust data check`, on a data set of a distribution that is made for the test."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from avrobust_core import PackedClips
from avrobust_core.cli import main
from avrobust_core.registry.hookspecs import ENTRY_POINT_GROUP as GROUP
from avrobust_core.study.console import Monitor

PLUGIN = """
from avrobust_core import Component, Config, hookimpl


class FewConfig(Config):
    faulty: int = 1
    \"\"\"Clips that cannot be read.\"\"\"


def few(config):
    import torch
    from avrobust_core import Clip, ClipError, Dataset, MediaSpec

    class Few(Dataset):
        task, classes, splits, max_unreadable = "single-label", ("dog, \\x1b[31mred", "cat"), ("train", "test"), 0.2
        media = {"audio": MediaSpec(kind="audio", shape=(1, 800), rate=800.0, bounds=(-1, 1), time_axis=1),
                 "video": MediaSpec(kind="video", shape=(3, 2, 8, 8), rate=2.0, bounds=(0, 1), time_axis=1),
                 "scalar": MediaSpec(kind="scalar", shape=())}

        def ids(self, split):
            return [f"{split}{i}" for i in range(10)]

        def read(self, split, index):
            if split == "train" and index < config.faulty:
                raise ClipError(f"{split}{index}", 'it says "no",\\nand is cut short')
            x = torch.full((1, 800), 0.5) if index == 4 else torch.sin(torch.arange(800.0))[None]
            video = torch.linspace(0, 1, 384).reshape(3, 2, 8, 8)
            inputs = {"audio": x, "video": video, "scalar": torch.tensor(float(index))}
            return Clip(f"{split}{index}", inputs, torch.tensor(index % 2), {"audio": 0.5} if index > 7 else {})

        def fingerprint(self):
            return "few"

    return Few()


@hookimpl
def avrobust_datasets():
    yield Component(name="few", summary="Few clips.", config=FewConfig, build=few, example={})
"""

SPEC = """
version: 1
name: few
data: {use: few, with: {faulty: 1}}
encoders: {audio: {use: cnn, with: {channels: [4]}}}
models: {heard: {encoders: [audio]}}
training: {standard: {epochs: 1}}
"""


@pytest.fixture
def spec(fake_distribution: Callable[..., Path], tmp_path: Path, monkeypatch) -> str:
    fake_distribution("few", "1", {GROUP: {"few": "few_plugin"}}, {"few_plugin.py": PLUGIN})
    (tmp_path / "spec.yaml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    return str(tmp_path / "spec.yaml")


def test_packing_tells_what_it_made_and_what_is_missing(spec: str, tmp_path: Path, capsys) -> None:
    command = ["data", "pack", spec, "--out", "packed", "--shard-clips", "6"]
    assert main([*command, "--part", "2/2"]) == 0
    told = capsys.readouterr()
    assert "shard-00001.tar: 4 clips of split 'train'\n" in told.err
    assert "2 of 4 shards whole in packed (2 made now)" in told.out
    assert "the index is written when all shards are whole" in told.out
    assert main([*command, "--part", "1/2", "--json", "--workers", "1"]) == 0
    output = capsys.readouterr()
    assert "shard-00000.tar: 6 clips of split 'train', 1 of them unreadable" in output.err
    found = json.loads(output.out)
    assert (found["clips"], found["unreadable"], found["complete"]) == (20, 1, True)
    assert len(PackedClips(tmp_path / "packed").ids("test")) == 10
    assert main(command) == 0
    assert "4 of 4 shards whole in packed (0 made now): 20 clips, 1 of them unreadable" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_packing_that_a_signal_stops_says_how_to_go_on_and_goes_on(
    spec: str, tmp_path: Path, monkeypatch, capsys, ordinary_signals, number: signal.Signals, status: int
) -> None:
    told: list[tuple[int, int]] = []

    def update(monitor: Monitor, done: int, total: int) -> None:
        told.append((done, total))
        if done > 8:  # in the second shard
            os.kill(os.getpid(), number)

    command = ["data", "pack", "spec.yaml", "--out", "packed", "--shard-clips", "6"]
    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "update", update)
        assert main(command) == status
    assert told == [(0, 20), (6, 20), (10, 20)]
    err = capsys.readouterr().err
    assert f"stopped by {number.name}; the same command goes on where it stopped: avrobust {' '.join(command)}" in err
    assert not [path for path in (tmp_path / "packed").iterdir() if "unfinished" in path.name]
    assert main([*command, "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert "4 of 4 shards whole in packed (3 made now)" in out
    assert err == ""


def test_a_spec_of_packed_clips_is_checked_as_that_of_the_set_itself(spec: str, tmp_path: Path, capsys) -> None:
    assert main(["data", "pack", spec, "--out", "packed"]) == 0
    assert main(["data", "check", spec, "--out", "of-files", "--json"]) == 0
    Path(spec).write_text(SPEC.replace("{use: few, with: {faulty: 1}}", "{use: shards, with: {root: packed}}"))
    assert main(["data", "check", spec, "--out", "of-shards", "--json"]) == 0
    for name in ("faults.csv", "constant.csv", "padded.csv", "counts.json", "sheet-01.png"):
        assert (tmp_path / "of-shards" / name).read_bytes() == (tmp_path / "of-files" / name).read_bytes()


def test_a_check_lists_faults_and_constant_clips_and_counts_labels(spec: str, tmp_path: Path, capsys) -> None:
    assert main(["data", "check", spec]) == 0
    out = tmp_path / "checks" / "few"
    told = capsys.readouterr().out
    assert "train: 10 clips, 1 unreadable, 1 without content, 2 padded\ntest: 10 clips, 0 unreadable, 1 with" in told
    with (out / "padded.csv").open(newline="") as file:
        assert list(csv.reader(file))[:2] == [["split", "id", "found"], ["test", "test8", "50 % of audio is padding"]]
    with (out / "faults.csv").open(newline="") as file:
        faults = list(csv.reader(file))
    assert faults == [["split", "id", "fault"], ["train", "train0", 'it says "no",\nand is cut short']]
    with (out / "constant.csv").open(newline="") as file:
        constant = list(csv.reader(file))
    assert [row[:2] for row in constant] == [["split", "id"], ["test", "test4"], ["train", "train4"]]
    assert {row[2] for row in constant[1:]} == {"audio is 0.5 throughout"}, "a single value is not constant"
    counts = json.loads((out / "counts.json").read_text())
    assert counts["splits"]["train"]["labels"] == {"dog, \x1b[31mred": 4, "cat": 5}
    assert counts["splits"]["train"]["padded"] == 2
    assert counts["too_many_unreadable"] == []


def test_too_many_faults_are_all_listed_and_tell_in_the_exit_status(spec: str, tmp_path: Path, capsys) -> None:
    assert main(["data", "check", spec, "--set", "data.with.faulty=3", "--workers", "1"]) == 1
    assert (
        "more of split 'train' cannot be read than the allowed share of 0.2 (max_unreadable)" in capsys.readouterr().out
    )
    assert (tmp_path / "checks" / "few" / "faults.csv").read_text().count("cut short") == 3
    assert main(["data", "check", spec, "--set", "data.with.faulty=2"]) == 0


def test_without_pillow_a_check_goes_on_and_says_what_is_missing(
    spec: str, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert main(["data", "check", spec]) == 0
    assert "contact sheets need Pillow: pip install 'avrobust[sheet]'" in capsys.readouterr().err
    assert not list((tmp_path / "checks" / "few").glob("*.png"))


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "1/0", "-1/2", "a/b"])
def test_a_part_that_there_is_not_is_refused(spec: str, part: str, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["data", "pack", spec, "--out", "packed", f"--part={part}"])
    assert "is no part: write 1/4 for the first of four" in capsys.readouterr().err


def test_the_commands_load_nothing_heavy_before_they_work() -> None:
    code = (
        "import sys; from avrobust_core.cli import command_parser; command_parser();"
        "heavy = {'torch', 'numpy', 'pydantic', 'pyarrow'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
