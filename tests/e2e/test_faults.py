"""Faults in a run's folder, met by processes of the command: nothing is lost, and one sentence says what to do.

A full disk, a folder that cannot be written to, two processes in one folder, damaged files, other plugins and versions.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from avrobust_core.files import HOLDER, TEMPORARY, read_record

pytestmark = pytest.mark.slow

SPEC = """\
version: 1
name: tiny
data: {use: toy-av, with: {classes: 3, train: 24, val: 6, test: 8, size: 16, frames: 4, sample_rate: 4000}}
encoders:
  audio: {use: cnn, with: {channels: [8], n_mels: 16, hop_ms: 16}}
  video: {use: video-patches, with: {width: 16, patch_size: 8}}
models:
  audio-only: {encoders: [audio]}
  concat: {encoders: [audio, video], fusion: concat}
training: {standard: {epochs: 1, batch_size: 12}}
threats: {both: {audio: {eps: 0.01}, video: {eps: 6.4/255}}}
attacks: {pgd: {use: pgd, with: {steps: 2}}}
metrics: [accuracy, {use: density, with: {k: 3}}]
evaluation: {resamples: 100}
engine: {accelerator: cpu, batch_size: 4}
"""

Answer = dict[str, Any]
Command = Callable[..., Answer]


@pytest.fixture(scope="module")
def command() -> Iterator[Command]:
    """Run the command in a process of its own; see forks.py for what may befall it. It never ends in a traceback."""
    script = Path(__file__).with_name("forks.py")
    server = subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )
    assert server.stdin is not None
    assert server.stdout is not None

    def run(*arguments: object, **befalls: object) -> Answer:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps({"arguments": [str(each) for each in arguments], **befalls}) + "\n")
        server.stdin.flush()
        answer: Answer = json.loads(server.stdout.readline())
        assert "Traceback" not in answer["err"], answer["err"]
        return answer

    yield run
    server.stdin.close()
    server.wait(60)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spec") / "tiny.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture(scope="module")
def whole(command: Command, spec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests copy it."""
    out = tmp_path_factory.mktemp("whole") / "run"
    done = command("run", spec, "--out", out, "--quiet")
    assert done["status"] == 0, done
    return out


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "run")


def figures(run: Path) -> Any:
    """What must be the same in two runs of the spec."""
    left_out = ("run", "reused", "notes", "made_otherwise", "files")

    def strip(data: Any) -> Any:
        if isinstance(data, dict):
            kept = {key: value for key, value in data.items() if key not in left_out and not key.endswith("seconds")}
            return {key: strip(value) for key, value in kept.items()}
        return [strip(item) for item in data] if isinstance(data, list) else data

    return strip(json.loads((run / "result.json").read_text()))


def tables(run: Path) -> dict[str, bytes]:
    """What is the same, byte for byte, however a run came to its end."""
    kept = ("model.safetensors", "last.safetensors", "samples.parquet", "per_class.csv", "fused.npy")
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.name in kept}


def nothing_is_half_written(folder: Path) -> None:
    """Every file that is there is whole, and none is left that a killed process was writing."""
    assert not [path for path in folder.rglob("*") if path.name.startswith(TEMPORARY)]
    for path in folder.rglob("*.json"):
        json.loads(path.read_text())
    for name in ("fit.json", "record.json"):
        for path in folder.rglob(name):
            read_record(path)


def one_sentence(answer: Answer, status: int, *words: str) -> None:
    assert answer["status"] == status, answer
    last = answer["err"].strip().splitlines()[-1]
    for word in words:
        assert word in last, answer["err"]


# Damaged files


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x80
    path.write_bytes(bytes(content))


def another(path: Path) -> None:
    path.write_text("{}")


def gone(path: Path) -> None:
    path.unlink()


MENDED = (
    "spec.yaml", "resolved.yaml", "lock.json", "result.json", "report.html", "cells/*/cell.json", "cells/*/result.json",
    "cells/*/samples.parquet", "cells/*/per_class.csv", "cells/*/audits/*.json",
    "cells/*/evaluations/*/record.json", "cells/*/evaluations/*/predictions.parquet",
    "cells/*/measurements/*.json", "cells/*/measurements/*.parquet",
    "cells/*/embeddings/*/record.json", "cells/*/embeddings/*/clips.parquet", "cells/*/embeddings/*/*.npy",
)  # fmt: skip
"""The files of a run that `run` makes anew."""


@pytest.mark.parametrize("damage", [cut, flip, another, gone])
def test_whatever_is_damaged_beside_the_weights_is_made_anew_to_the_same_figures(
    command: Command, spec: Path, run: Path, whole: Path, damage: Callable[[Path], None]
) -> None:
    for pattern in MENDED:
        paths = list(run.glob(pattern))
        assert paths, pattern
        for path in paths:
            damage(path)
    again = command("run", spec, "--out", run)
    assert again["status"] == 0, again["err"]
    if damage is not gone:
        for what in ("clean", "pgd/both"):
            assert f"{what} is computed again" in again["err"]
    assert figures(run) == figures(whole)
    assert tables(run) == tables(whole)
    nothing_is_half_written(run)


@pytest.mark.parametrize(
    ("name", "damage", "why"),
    [
        ("model.safetensors", cut, "is damaged"),
        ("model.safetensors", flip, "is damaged"),
        ("model.safetensors", gone, "No such file"),
        ("fit.json", cut, "cannot be read"),
        ("fit.json", another, "is damaged"),
    ],
)
def test_damaged_weights_are_named_with_the_way_out_by_whatever_uses_them(
    command: Command, spec: Path, run: Path, whole: Path, tmp_path: Path, name: str, damage, why: str
) -> None:
    cells = {json.loads(path.read_text())["model"]: path.parent for path in run.glob("cells/*/cell.json")}
    file = cells["concat"] / name
    damage(file)
    again = command("run", spec, "--out", run)
    assert again["status"] == 1
    for words in (str(file), why, f"delete {cells['concat']} to fit this model again"):
        assert words in again["err"]
    result = json.loads((run / "result.json").read_text())
    assert ["error" in cell for cell in result["cells"]] == [False, True], "the other cell stands"
    for arguments in (("transfer", run), ("export", run, "--cells", "concat", "--out", tmp_path / "x")):
        one_sentence(command(*arguments, "--quiet"), 1, str(file), why, f"delete {cells['concat']}")
    assert not (tmp_path / "x").exists()
    shutil.rmtree(cells["concat"])
    assert command("run", spec, "--out", run)["status"] == 0
    assert figures(run) == figures(whole)


READ = [
    ("resolved.yaml", cut, "report", 0, "resolved.yaml is damaged"),
    ("resolved.yaml", cut, "compare", 1, "resolved.yaml: is damaged, or was changed"),
    ("resolved.yaml", flip, "transfer", 1, "resolved.yaml: is damaged, or was changed"),
    ("resolved.yaml", gone, "export", 1, "holds no resolved.yaml"),
    ("lock.json", cut, "report", 0, "lock.json: cannot be read"),
    ("lock.json", another, "compare", 1, "cannot be read as a run of this version"),
    ("lock.json", cut, "export", 1, "lock.json: cannot be read"),
    ("result.json", cut, "report", 1, "result.json: cannot be read"),
    ("result.json", another, "report", 1, "result.json: is no result of a run"),
    ("result.json", another, "compare", 1, "cannot be read as a run of this version"),
    ("result.json", gone, "compare", 1, "holds no finished run: it has no result.json"),
    ("cells/*/cell.json", another, "compare", 1, "cannot be read as a run of this version"),
    ("cells/*/cell.json", cut, "compare", 1, "cell.json: cannot be read"),
    ("cells/*/result.json", another, "export", 1, "result.json: is no result of a cell"),
    ("cells/*/result.json", cut, "export", 1, "result.json: cannot be read"),
    ("cells/*/samples.parquet", flip, "report", 0, "samples.parquet is damaged"),
    ("cells/*/samples.parquet", gone, "compare", 1, "samples.parquet is missing, damaged"),
    ("cells/*/evaluations/*/record.json", another, "compare", 1, "record.json: is damaged"),
    ("cells/*/evaluations/*/record.json", cut, "export", 1, "record.json: cannot be read"),
    ("cells/*/evaluations/*/predictions.parquet", flip, "compare", 1, "predictions.parquet: is damaged"),
    ("cells/*/evaluations/*/predictions.parquet", flip, "export", 1, "predictions.parquet: is damaged"),
]


@pytest.mark.parametrize(("pattern", "damage", "reads", "status", "why"), READ)
def test_what_reads_a_run_names_the_damaged_file_and_changes_nothing(
    command: Command, run: Path, whole: Path, tmp_path: Path, pattern: str, damage, reads: str, status: int, why: str
) -> None:
    for path in run.glob(pattern):
        damage(path)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    arguments = {
        "report": ("report", run, "--out", tmp_path / "x"),
        "compare": ("compare", run, whole),
        "export": ("export", run, "--clips", 2, "--quiet", "--out", tmp_path / "x"),
        "transfer": ("transfer", run, "--quiet", "--out", tmp_path / "x"),
    }[reads]
    answer = command(*arguments)
    assert answer["status"] == status, answer
    assert why in answer["err"]
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert (tmp_path / "x").exists() == (reads == "report" and not status)


def test_a_damaged_checkpoint_or_shard_of_a_killed_run_costs_no_more_than_itself(
    command: Command, spec: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    often = {"avrobust_core.training.fit:CHECKPOINT_SECONDS": -1, "avrobust_core.evaluation.shards:SHARD_SECONDS": -1}
    kill = ["torch.optim:AdamW.step", 2]
    assert command("run", spec, "--out", out, kill=kill, patch=often)["status"] == -9
    (checkpoint,) = out.glob("cells/*/checkpoint.pt")
    flip(checkpoint)
    named = command("run", spec, "--out", out, "--set", "models={audio-only: {encoders: [audio]}}")
    assert named["status"] == 1
    assert f"{checkpoint}: " in named["err"]
    assert "delete it to fit from the start" in named["err"]
    checkpoint.unlink()
    kill = ["avrobust_core.evaluation.predictions:attack_batch", 2]
    assert command("run", spec, "--out", out, kill=kill, patch=often)["status"] == -9
    shards = list(out.glob("cells/*/evaluations/*/part-*.parquet"))
    assert shards
    for shard in shards:
        cut(shard)
    assert command("run", spec, "--out", out)["status"] == 0
    assert figures(out) == figures(whole)
    assert tables(out) == tables(whole)


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A disk that is given its size in KiB, again and again; what is on it stays."""
    place = tmp_path / "disk"
    place.mkdir()

    def resized(kibibytes: int) -> Path:
        mounted = os.path.ismount(place)
        option = f"size={kibibytes}k"
        call = (
            ["mount", "-o", f"remount,{option}", place]
            if mounted
            else ["mount", "-t", "tmpfs", "-o", option, "x", place]
        )
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
        return place

    yield resized
    if os.path.ismount(place):
        subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_named_and_with_more_room_the_run_goes_on(
    command: Command, spec: Path, whole: Path, small_disk
) -> None:
    for size in (16, 60, 140):
        out = small_disk(size) / "run"
        answer = command("run", spec, "--out", out)
        assert answer["status"] == 1, (size, answer)
        assert "No space left on device; free some space" in answer["err"] + answer["out"], (size, answer)
        assert str(out) in answer["err"] + answer["out"]
        nothing_is_half_written(out)
    small_disk(4096)
    assert command("run", spec, "--out", out)["status"] == 0
    assert figures(out) == figures(whole)
    assert tables(out) == tables(whole)


@pytest.mark.parametrize("size", [8, 16])
def test_what_does_not_fit_on_the_disk_is_not_there_at_all(
    command: Command, spec: Path, run: Path, small_disk, size: int
) -> None:
    disk = small_disk(size)
    for arguments in (
        ("report", run, "--out", disk / "report.html"),
        ("export", run, "--clips", 8, "--quiet", "--out", disk / "export"),
        ("data", "pack", spec, "--out", disk / "packed"),
    ):
        one_sentence(command(*arguments), 1, str(disk), "No space left on device; free some space")
        nothing_is_half_written(disk)
        assert not (disk / "report.html").exists()
        assert not (disk / "export").exists()
        shutil.rmtree(disk / "packed", ignore_errors=True)


def test_a_limit_on_the_size_of_files_is_named_and_without_it_the_run_goes_on(
    command: Command, spec: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for size in (600, 2500, 12_000):
        answer = command("run", spec, "--out", out, file_size=size)
        assert answer["status"] == 1
        assert "File too large; raise the limit on the size of files" in answer["err"] + answer["out"], (size, answer)
        nothing_is_half_written(out)
    assert command("run", spec, "--out", out)["status"] == 0
    assert figures(out) == figures(whole)
    refused = command("transfer", out, file_size=300)
    assert refused["status"] == 1
    assert "File too large; raise the limit" in refused["err"]
    assert command("transfer", out, "--quiet")["status"] == 0
    nothing_is_half_written(out)


# A folder that cannot be written to


def test_a_folder_that_cannot_be_written_to_is_named_read_and_left_alone(
    command: Command, spec: Path, run: Path, whole: Path, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for path in (run, *run.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        for arguments in (
            ("run", spec, "--out", run),
            ("run", spec, "--out", run / "cells" / "new"),
            ("report", run),
            ("export", run, "--clips", 2, "--quiet"),
            ("transfer", run, "--quiet"),
            ("data", "pack", spec, "--out", run / "packed"),
        ):
            one_sentence(command(*arguments, bound=True), 1, str(run), "Permission denied; mend its permissions")
        for arguments in (
            ("report", run, "--out", tmp_path / "report.html"),
            ("export", run, "--clips", 2, "--quiet", "--out", tmp_path / "export"),
            ("transfer", run, "--quiet", "--out", tmp_path / "transfers"),
            ("compare", run, whole),
            ("plan", spec, "--out", run),
        ):
            answer = command(*arguments, bound=True)
            assert answer["status"] == 0, (arguments, answer["err"])
        assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    finally:
        for path in (run, *run.rglob("*")):
            path.chmod(0o755)


# Two processes in one folder


def test_a_second_process_in_a_folder_is_refused_and_what_only_reads_is_not(
    command: Command, spec: Path, run: Path, whole: Path, tmp_path: Path
) -> None:
    assert command("transfer", run, "--quiet")["status"] == 0
    for folder, arguments in ((run, ("run", spec, "--out", run)), (run / "transfers", ("transfer", run, "--quiet"))):
        with (folder / HOLDER).open("r+") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            held.truncate()
            held.write(f"process {os.getpid()} on here")
            held.flush()
            one_sentence(command(*arguments), 1, f"{folder} is in use by process {os.getpid()} on here; wait for it")
            if folder == run:
                for reads in (("report", run), ("compare", run, whole), ("transfer", run, "--quiet")):
                    assert command(*reads)["status"] == 0
        assert command(*arguments)["status"] == 0
    assert figures(run) == figures(whole)


def test_of_two_runs_that_begin_at_once_one_is_refused_and_the_other_is_whole(
    command: Command, spec: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-m", "avrobust_core", "run", str(spec), "--out", str(out), "--quiet"]
    both = [
        subprocess.Popen(call, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment) for _ in range(2)
    ]
    said = [process.communicate(timeout=300)[1].decode() for process in both]
    refused = [text for process, text in zip(both, said, strict=True) if process.returncode]
    assert sum(process.returncode == 0 for process in both) >= 1, said
    assert all("is in use by process" in text for text in refused), said  # none, if one had ended before
    assert figures(out) == figures(whole)
    nothing_is_half_written(out)


# Killed


def test_a_killed_transfer_goes_on_and_a_killed_export_leaves_nothing(
    command: Command, run: Path, tmp_path: Path
) -> None:
    expected = json.loads(command("transfer", run, "--json", "--quiet", "--out", tmp_path / "x")["out"])
    often = {"avrobust_core.evaluation.shards:SHARD_SECONDS": -1}
    for nth in (2, 2):
        killed = command("transfer", run, kill=["avrobust_core.study.transferring:moved_by", nth], patch=often)
        assert killed["status"] == -9
    found = json.loads(command("transfer", run, "--json", "--quiet")["out"])
    assert found.pop("reused") == 1
    expected.pop("reused")
    assert found == expected
    nothing_is_half_written(run)

    for _ in range(2):
        assert command("export", run, "--quiet", kill=["os:replace", 4])["status"] == -9
    left = [path for path in run.iterdir() if path.name.startswith(TEMPORARY)]
    assert len(left) == 1, "the second has removed what the first left"
    assert command("export", run, "--clips", 2, "--quiet")["status"] == 0
    nothing_is_half_written(run)


# Other plugins and versions


PLUGIN = """
from avrobust_core import Attack, AttackResult, Component, Config, hookimpl


class Settings(Config):
    pass


def build(config):
    class Step(Attack):
        norms = frozenset({"linf", "l2"})

        def __call__(self, victim):
            points = victim.sample("step")
            return AttackResult(points, victim.fooled(victim(points)))

    return Step()


@hookimpl
def avrobust_attacks():
    yield Component(name="step", summary="A random step.", config=Settings, build=build, version=VERSION)
"""


def test_a_plugin_that_changed_between_runs_is_told_and_nothing_of_before_is_lost(
    command: Command, spec: Path, run: Path, whole: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"

    def install(release: str, version: int, text: str = PLUGIN) -> None:
        shutil.rmtree(site, ignore_errors=True)
        info = site / f"stepping-{release}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: stepping\nVersion: {release}\n")
        (info / "entry_points.txt").write_text("[avrobust_v1]\nstepping = stepping_plugin\n")
        (site / "stepping_plugin.py").write_text(text.replace("VERSION", str(version)))

    def carried_out(*arguments: object) -> Answer:
        return command(*arguments, patch={"sys:path": [str(site), *sys.path]})

    ask = ("run", spec, "--out", run, "--set", "attacks.step=step")
    install("1.0", 1)
    first = carried_out(*ask)
    assert first["status"] == 0, first["err"]
    assert "pgd/both" not in first["err"], "what was there is taken again"
    expected = figures(run)

    install("2.0", 1)
    told = carried_out(*ask)
    assert told["status"] == 0
    assert "2 of 2 cells reused" in told["out"]
    assert "made with other versions: stepping:step 1.0, now 2.0" in told["out"]
    assert figures(run) == expected

    install("2.0", 2)
    again = carried_out(*ask)
    assert again["status"] == 0
    assert again["err"].count("step/both") >= 2
    assert "pgd/both" not in again["err"]
    assert figures(run) == expected

    for text, status, why in (("raise OSError('no such library')", 2, "no such library"), ("", 2, "step")):
        install("3.0", 3, text)
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        for arguments in (ask, ("transfer", run, "--quiet"), ("export", run, "--quiet")):
            broken = carried_out(*arguments)
            assert broken["status"] == status, broken
            assert "no attack is named 'step'" in broken["err"] or why in broken["err"]
        for arguments in (("report", run, "--out", tmp_path / "report.html"), ("compare", run, whole)):
            assert carried_out(*arguments)["status"] == 0
        assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_another_version_of_a_library_is_told_by_what_takes_earlier_results_again(
    command: Command, spec: Path, run: Path, whole: Path
) -> None:
    assert command("transfer", run, "--quiet")["status"] == 0
    other = {"avrobust_core.study.provenance:__version__": "9.9.9"}
    told = command("run", spec, "--out", run, patch=other)
    assert told["status"] == 0
    assert "2 of 2 cells rest on what was made with other versions: avrobust " in told["out"]
    assert figures(run) == figures(whole)
    again = command("transfer", run, "--quiet", patch=other)
    assert again["status"] == 0
    assert "2 of the sources as an earlier call has left them" in again["out"]
    assert "made with other versions: avrobust " in again["out"]
