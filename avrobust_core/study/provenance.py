"""The provenance of a run and of its records: versions, plugins, git commit, data fingerprint; lock.json."""

import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from avrobust_core._version import __version__
from avrobust_core.data.dataset import Dataset
from avrobust_core.errors import RunError
from avrobust_core.files import read_json
from avrobust_core.registry.choices import Configured
from avrobust_core.registry.registry import Registry
from avrobust_core.study.plan import PlannedCell

DECIDING: Mapping[str, str] = MappingProxyType(
    {"torch": "torch", "torchaudio": "torchaudio", "lightning-fabric": "lightning_fabric", "numpy": "numpy"}
    | {"scipy": "scipy", "scikit-learn": "sklearn"}
    | {name: name for name in ("numba", "pynndescent", "pyarrow", "av", "timm")}
)
"""The libraries that decide numbers: distribution and import name. timm is an extra."""

OTHERS = ("pluggy", "pydantic", "pyyaml", "safetensors")
"""Further libraries that lock.json names."""


def lock(registry: Registry, cells: Sequence[PlannedCell], device: str, world_size: int) -> dict[str, Any]:
    """The versions and the machine of this command, as JSON data: the lock file without its cells, at least one."""
    return {
        "avrobust": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": _installed((*DECIDING, *OTHERS)),
        "plugins": {
            f"{plugin.distribution}:{plugin.name}": {"version": plugin.distribution_version, "status": plugin.status}
            for plugin in registry.plugins
        },
        "git": git_state(Path.cwd()),
        "device": device,
        "processes": world_size,
        "data": cells[0].identity["data"]["fingerprint"],
    }


def made_with(device: str, components: Iterable[Configured]) -> dict[str, Any]:
    """The versions that a record made now is made with, as JSON data: of libraries, those that are imported by now.

    Args:
        device: its type: cpu, cuda.
        components: the components whose work it is; those inside their configurations count, too.
    """
    versions = {o.full_name: o.distribution_version for used in components for o in used.entries()}
    unused = {name for name, module in DECIDING.items() if module not in sys.modules}
    libraries = {name: value for name, value in _versions().items() if name not in unused}
    return {**libraries, "device": device, "components": dict(sorted(versions.items()))}


def made_today(device: str, components: Iterable[Configured]) -> dict[str, Any]:
    """The data of `made_with`, and the versions of the libraries that nothing has imported yet, for `otherwise`."""
    return _versions() | made_with(device, components)


@cache
def _versions() -> dict[str, str]:
    return {"avrobust": __version__, "python": platform.python_version(), **_installed(DECIDING)}


def _installed(names: Iterable[str]) -> dict[str, str]:
    """The versions of those distributions that are installed."""
    found = {}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def records_of(cell: PlannedCell) -> list[dict[str, Any]]:
    """The versions that a cell's records were made with, as JSON data: each set of versions and its records.

    Damaged records are left out.
    """
    paths = {"fit": cell.folder / "fit.json"}
    paths |= {evaluation.label: evaluation.folder / "record.json" for evaluation in cell.evaluations}
    paths |= {f"metric {path.stem}": path for path in sorted((cell.folder / "measurements").glob("*.json"))}
    found: dict[str, dict[str, Any]] = {}
    for label, path in paths.items():
        try:
            record = read_json(path)
            kept = record["made_with"]
        except (RunError, LookupError, TypeError):  # damaged, or not there yet
            continue
        name = f"metric {record['metric']}" if "metric" in record else label
        records = found.setdefault(json.dumps(kept, sort_keys=True), {"made_with": kept, "records": []})["records"]
        if name not in records:
            records.append(name)
    return list(found.values())


def otherwise(records: Iterable[Mapping[str, Any]], today: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The differences between a cell's records and those that would be made today, as JSON data.

    Args:
        records: as `records_of` gives them.
        today: as `made_today` gives it, of all components of the study.

    Returns:
        For each set of versions that differs: `differences` ("torch 2.7.0, now 2.8.0") and `records`.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    now = _flat(today)
    for entry in records:
        kept = _flat(entry["made_with"])
        differences = tuple(f"{k} {v}, now {now[k]}" for k, v in kept.items() if k in now and now[k] != v)
        if differences:
            found.setdefault(differences, []).extend(entry["records"])
    return [{"differences": list(differences), "records": names} for differences, names in found.items()]


def data_used(dataset: Dataset, unreadable: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """What a run's clips were, as JSON data: of copies that differ, runs that read the same ids have the same hashes.

    Args:
        dataset: the run's.
        unreadable: the clips that could not be read, by split and id.

    Returns:
        `splits`: for each the number of `clips`, of those `unreadable` so far, and `ids`, the SHA-256 of the ids of
        all others, sorted, each with a newline behind it; and what the data set says itself (`Dataset.provenance`).
    """
    splits = {}
    for split in dataset.splits:
        ids, left_out = dataset.ids(split), unreadable.get(split, {})
        digest = hashlib.sha256()
        for clip_id in sorted(ids):
            if clip_id not in left_out:
                digest.update(f"{clip_id}\n".encode())
        splits[split] = {"clips": len(ids), "unreadable": len(left_out), "ids": digest.hexdigest()}
    return {**dataset.provenance(), "splits": splits}


def _flat(versions: Mapping[str, Any]) -> dict[str, str]:
    flat = {**versions, **versions["components"]}
    return {name: version for name, version in flat.items() if name != "components"}


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
