"""Processes of the command that start in no time: one that has imported everything forks one for each call.

    python forks.py

reads a JSON object per line from standard input: `arguments` of the command, and what is to befall it:

- `file_size`: no file may grow beyond so many bytes.
- `bound`: as for a user who is not root, permissions hold.
- `kill`: [MODULE:FUNCTION, N]: SIGKILL at the N-th call.
- `patch`: {MODULE:NAME: value}: set beforehand, as a library of another version would be.

It answers with an object per line: `status`, as of subprocess, `out` and `err`.
"""

import ctypes
import importlib
import json
import os
import resource
import sys
import traceback
from threading import Thread
from typing import Any

from kill_at import kill_at, owner_of

MODULES = (
    "avrobust_core.report.exporting",
    "avrobust_core.report.html.page",
    "avrobust_core.report.tables",
    "avrobust_core.study.comparing_runs",
    "avrobust_core.study.runner",
    "avrobust_core.study.transferring",
)


def main() -> None:
    for module in MODULES:
        importlib.import_module(module)
    for line in sys.stdin:
        print(json.dumps(_forked(json.loads(line))), flush=True)


def _forked(asked: dict[str, Any]) -> dict[str, Any]:
    pipes = [os.pipe(), os.pipe()]
    child = os.fork()
    if not child:
        for number, (_, write) in enumerate(pipes, start=1):
            os.dup2(write, number)
        _carry_out(asked)
    said: list[bytes] = [b"", b""]

    def read(which: int) -> None:
        os.close(pipes[which][1])
        with os.fdopen(pipes[which][0], "rb") as pipe:
            said[which] = pipe.read()

    readers = [Thread(target=read, args=(which,)) for which in range(2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    _, status = os.waitpid(child, 0)
    return {"status": os.waitstatus_to_exitcode(status), "out": said[0].decode(), "err": said[1].decode()}


def _carry_out(asked: dict[str, Any]) -> None:
    status = 70
    try:
        from avrobust_core.cli import main as command

        for place, value in asked.get("patch", {}).items():
            owner, name = owner_of(place)
            setattr(owner, name, value)
        if "kill" in asked:
            kill_at(*asked["kill"])
        if asked.get("bound"):
            _give_up_capabilities()
        if "file_size" in asked:
            resource.setrlimit(resource.RLIMIT_FSIZE, (asked["file_size"],) * 2)
        try:
            status = command(asked["arguments"])
        except SystemExit as error:
            status = int(error.code or 0)
        sys.stdout.flush()
    except Exception:  # noqa: BLE001  the parent sees the traceback
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _give_up_capabilities() -> None:
    """Root writes whatever the permissions say, by capabilities; without them it is a user like any other."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    main()
