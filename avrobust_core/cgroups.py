"""Control groups of Linux: those that this process is in, whose limits are those of its container."""

from collections.abc import Iterator
from pathlib import Path

MOUNTED = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def groups(controller: str, root: Path = MOUNTED, own: Path = OWN) -> Iterator[Path]:
    """The folders of this process's groups and of those around them, in both versions of control groups.

    Args:
        controller: of what is limited, such as "cpu" or "memory".
        root: where control groups are mounted.
        own: the file that names this process's groups.
    """
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mounted = root / controllers if controllers else root
        inner = mounted / path.lstrip("/")
        for folder in (inner, *inner.parents):
            yield folder
            if folder == mounted:
                break
