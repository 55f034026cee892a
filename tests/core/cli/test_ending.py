"""How a command ends: by a signal, a full disk, a closed output, a plugin that ends the program."""

import argparse
import contextlib
import errno
import io
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from avrobust_core import files as store
from avrobust_core.blame import sentence
from avrobust_core.cli import command_parser, main
from avrobust_core.evaluation.failures import recorded
from avrobust_core.ranks import Ranks

ROOT = Path(__file__).parents[3]


pytestmark = pytest.mark.usefixtures("ordinary_signals")


def _command(monkeypatch, run, *arguments: str) -> int:
    """Run `avrobust run`, whose work is `run`."""
    monkeypatch.setattr("avrobust_core.cli.run._run", run)
    return main(["run", "study.yaml", *arguments])


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_with_a_word_on_how_to_go_on(monkeypatch, capsys, tmp_path, number, status) -> None:
    def run(options) -> int:
        def write(file) -> None:
            file.write(b"half")
            os.kill(os.getpid(), number)
            time.sleep(10)

        store.write_atomically(tmp_path / "file", write)
        return 0

    assert _command(monkeypatch, run, "--set", "name=a b") == status
    err = capsys.readouterr().err
    assert f"stopped by {number.name}; the same command goes on where it stopped" in err
    assert "avrobust run study.yaml --set 'name=a b'" in err
    assert not list(tmp_path.iterdir()), "the unfinished file is gone"


@pytest.mark.parametrize("lost", ["finaliser", "swallowed"])
def test_a_signal_is_not_lost_where_its_exception_is(monkeypatch, capsys, lost: str) -> None:
    class Dying:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    def run(options) -> int:
        try:
            if lost == "finaliser":
                Dying()
            else:
                os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            assert lost == "swallowed"
        for _ in range(100):
            time.sleep(0.1)
        return 0

    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    assert _command(monkeypatch, run) == 143
    assert capsys.readouterr().err.count("stopped by SIGTERM") == 1


@pytest.mark.parametrize("ended", ["returned", "failed", "recorded"])
def test_a_run_that_a_signal_made_fail_ends_as_stopped(monkeypatch, capsys, ended: str) -> None:
    kept: list[object] = []

    class Stopping(io.BytesIO):
        def write(self, data) -> int:
            if len(data) > 1000:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().write(data)

    def run(options) -> int:
        recording = recorded(kept.append) if ended == "recorded" else contextlib.nullcontext()
        try:
            with recording:
                torch.save({"weight": torch.zeros(1000)}, Stopping())
        except RuntimeError:  # raised by torch's tidying up, in the place of the signal's exception
            if ended == "failed":
                raise
        return 1

    assert _command(monkeypatch, run) == 143
    assert capsys.readouterr().err.count("stopped by SIGTERM; the same command goes on") == 1
    assert not kept, "an interrupt is not a failure of the step that it hit"


def test_a_signal_that_is_ignored_stays_ignored(monkeypatch) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def run(options) -> int:
        os.kill(os.getpid(), signal.SIGHUP)
        return 0

    assert _command(monkeypatch, run) == 0
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_handlers_are_as_before_once_a_command_is_done(monkeypatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert _command(monkeypatch, lambda options: 0) == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_signal_ends_the_command_at_once() -> None:
    code = (
        "import os, signal, sys, time\n"
        "from avrobust_core.cli import main\n"
        "import avrobust_core.cli.run as run\n"
        "def work(options):\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT); time.sleep(10)\n"
        "    finally:\n"
        "        os.kill(os.getpid(), signal.SIGINT); time.sleep(60)\n"
        "run._run = work\n"
        "sys.exit(main(['run', 'study.yaml']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 130
    assert "stopped at once by SIGINT" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("status", [0, None, 3, "bye"])
def test_sys_exit_of_a_plugin_is_a_failure_with_its_place(monkeypatch, capsys, status) -> None:
    def run(options) -> int:
        sys.exit(status)

    assert _command(monkeypatch, run) == 1
    err = capsys.readouterr().err
    assert "sys.exit" in err
    assert "test_ending.py:" in err


def test_an_error_of_the_system_is_one_line_with_path_reason_and_what_to_do(monkeypatch, capsys) -> None:
    def run(options) -> int:
        raise OSError(errno.EROFS, "Read-only file system", "runs/x")

    assert _command(monkeypatch, run) == 1
    assert capsys.readouterr().err == (
        "avrobust: error: runs/x: Read-only file system; choose a place that can be written to\n"
    )


def test_a_message_with_control_characters_reaches_no_terminal(monkeypatch, capsys) -> None:
    from avrobust_core.errors import DataError

    def run(options) -> int:
        raise DataError("[/x] \x1b[31mred\x1b[0m \x07\r" + "x" * 2000)

    assert _command(monkeypatch, run) == 1
    err = capsys.readouterr().err
    assert err.startswith("avrobust: error: [/x] red")
    assert not set(err) & set("\x1b\x07\r")
    assert max(map(len, err.splitlines())) <= 500


def test_with_json_standard_output_has_the_json_alone_whatever_is_printed(monkeypatch, capsys) -> None:
    from avrobust_core.cli.output import print_json
    from avrobust_core.study.console import TextConsole

    def run(options) -> int:
        print("a plugin's word")
        sys.stdout.write("a library's\n")
        TextConsole().print("a table")
        print_json({"cells": []})
        print("at the end")
        return 0

    assert _command(monkeypatch, run, "--json") == 0
    out, err = capsys.readouterr()
    assert out == '{"cells": []}\n'
    assert err.splitlines() == ["a plugin's word", "a library's", "a table", "at the end"]
    assert _command(monkeypatch, run) == 0
    assert capsys.readouterr().out.splitlines()[2:] == ["a table", '{"cells": []}', "at the end"]


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        (["plugins"], 0, ""),
        (["show", "no-such-thing"], 1, "no component is named 'no-such-thing'"),
        (["report", "nowhere"], 1, "nowhere"),
        (["validate", "spec.yaml"], 2, "spec.yaml:1:1"),
        (["compare", "one"], 2, "compare needs two runs at least"),
        (["measure", "e.npy", "l.npy", "--confidence", "95"], 2, "between 0 and 1"),
    ],
)
def test_an_exit_status_tells_what_is_not_there_from_what_is_not_understood(
    tmp_path: Path, monkeypatch, capsys, command: list[str], status: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text("version: 2\n")
    assert main(command) == status
    assert said in capsys.readouterr().err


def test_what_the_parser_does_not_know_is_exit_status_2(capsys) -> None:
    for command in (["rnu"], ["run"], ["data", "pack", "spec.yaml"], ["plugins", "--jsn"]):
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 2
    capsys.readouterr()


def test_the_documents_say_of_every_command_what_its_exit_status_1_means() -> None:
    text = (ROOT / "docs" / "left_running.md").read_text(encoding="utf-8")
    table = text.partition("| command | exit status 1 |")[2].partition("\n\n")[0]
    named = [name for line in table.splitlines()[2:] for name in re.findall(r"`([a-z- ]+)`", line.split(" | ")[0])]
    (commands,) = (action for action in command_parser()._actions if isinstance(action, argparse._SubParsersAction))
    (data,) = (action for action in commands.choices["data"]._actions if isinstance(action, argparse._SubParsersAction))
    assert sorted(named) == sorted({*commands.choices} - {"data"} | {f"data {name}" for name in data.choices})


@pytest.mark.parametrize("command", [["plugins"], ["plugins", "--json"], ["show", "pgd"]])
def test_a_full_standard_output_is_a_sentence(command: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "avrobust_core", *command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=100,
        )
    assert done.returncode == 1
    assert done.stderr == (
        "avrobust: error: standard output: No space left on device; free some space, or choose another place\n"
    )


def test_a_closed_standard_output_is_refused_before_anything_is_done(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["plugins"]) == 1
    assert "standard output is closed" in capsys.readouterr().err


def test_a_standard_output_that_fills_while_tables_are_printed_is_named(monkeypatch, capsys) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def fileno(self) -> int:
            return handle

    handle = os.open(os.devnull, os.O_WRONLY)

    def run(options) -> int:
        from avrobust_core.study.console import TextConsole

        TextConsole().print("a table")
        return 0

    monkeypatch.setattr(sys, "stdout", Full())
    try:
        assert _command(monkeypatch, run) == 1
    finally:
        os.close(handle)
    assert "standard output: No space left" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_named_whatever_step_failed(tmp_path: Path, monkeypatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left") as caught:
            store.write_text(tmp_path / "file", "x")
    assert sentence(caught.value).startswith(f"{tmp_path / 'file'}: No space left on device; free some space")
    assert not list(tmp_path.iterdir())

    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").touch()
    with pytest.raises(OSError, match="folder") as caught:
        store.write_text(tmp_path / "folder", "x")
    assert "a folder is in the way of a file" in sentence(caught.value)

    (tmp_path / "plain").touch()
    with pytest.raises(OSError, match="plain") as caught:
        store.write_text(tmp_path / "plain" / "x", "x")
    assert "in the way" in sentence(caught.value)


def test_a_limit_on_the_size_of_files_is_named(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            store.write_text(tmp_path / "large", "x" * 10_000)
        with pytest.raises(OSError, match="too large") as of_torch:  # torch says: unexpected pos
            store.write_atomically(tmp_path / "saved", lambda file: torch.save(torch.zeros(10_000), file))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert sentence(caught.value).startswith(f"{tmp_path / 'large'}: File too large; raise the limit on the size")
    assert sentence(of_torch.value).startswith(f"{tmp_path / 'saved'}: File too large")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EMFILE, errno.EISDIR, errno.ENOTDIR])
def test_what_to_do_about_errors_of_the_system(number: int) -> None:
    said = sentence(OSError(number, os.strerror(number), "some/path"))
    assert said.startswith(f"some/path: {os.strerror(number)}; ")


def test_an_exception_that_cannot_say_what_it_is_is_named_by_its_type() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert sentence(Broken()) == "Broken: (its message cannot be shown)"
    with contextlib.suppress(ValueError):
        assert sentence(ValueError("a\n\x1b[1mb")) == "ValueError: a b"


def test_of_several_processes_the_first_alone_carries_out_what_is_no_run(monkeypatch, capsys) -> None:
    monkeypatch.setattr("avrobust_core.cli.ranks", lambda: Ranks(rank=1, world=2, local=1, local_world=2))
    assert main(["plugins"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("wrong", ["a: [", "version: 1\nname: x\n", None])
def test_of_several_processes_one_on_each_machine_says_what_is_wrong_with_a_spec(
    tmp_path, monkeypatch, capsys, wrong
) -> None:
    spec = tmp_path / "spec.yaml"
    if wrong is not None:
        spec.write_text(wrong)
    waited: list[float] = []
    monkeypatch.setattr("avrobust_core.cli.time.sleep", waited.append)
    for rank, local, speaks in ((0, 0, True), (1, 1, False), (2, 0, True), (3, 1, False)):
        found = Ranks(rank=rank, world=4, local=local, local_world=2)
        monkeypatch.setattr("avrobust_core.cli.ranks", lambda found=found: found)
        assert main(["run", str(spec)]) == 2
        assert bool(capsys.readouterr().err) == speaks
        assert bool(waited) != speaks, "a launcher ends all when one has failed: who says nothing is not the first to"
        waited.clear()
