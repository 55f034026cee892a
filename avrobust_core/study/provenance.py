"""What a run ran with: versions, plugins, git commit, data fingerprint; written beside its results as lock.json."""

import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from avrobust_core._version import __version__
from avrobust_core.registry import Registry
from avrobust_core.study.plan import PlannedCell

LIBRARIES = ("torch", "torchaudio", "lightning-fabric", "numpy", "scikit-learn", "av", "pydantic", "pluggy")


def lock(registry: Registry, cells: Sequence[PlannedCell], device: str, world_size: int) -> dict[str, Any]:
    """The lock file's content, as JSON data. There is at least one cell."""
    return {
        "avrobust": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "plugins": {
            f"{plugin.distribution}:{plugin.name}": {"version": plugin.distribution_version, "status": plugin.status}
            for plugin in registry.plugins
        },
        "git": git_state(Path.cwd()),
        "device": device,
        "processes": world_size,
        "data": cells[0].identity["data"]["fingerprint"],
        "cells": [{"id": cell.id, "model": cell.model, "training": cell.training, "seed": cell.seed} for cell in cells],
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit of the working tree that a folder is in, and whether it has changes; None outside of one."""

    def ask(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
