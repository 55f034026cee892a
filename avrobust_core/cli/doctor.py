"""The command `avrobust doctor`: what of this installation does not fit, and what there is to compute on.

What takes time to import is imported inside, so that parsing the command line costs nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from avrobust_core._version import __version__
from avrobust_core.cli.layout import say
from avrobust_core.cli.options import installed
from avrobust_core.cli.output import print_json
from avrobust_core.cli.threads import affinity, quota, waiting

if TYPE_CHECKING:
    from avrobust_core.registry.registry import PluginRecord, Registry

LEAST_FREE = 2**30
"""Bytes below which a disk counts as full: a run's weights and a wheel of torch take more."""

CODECS = ("h264", "hevc", "vp9", "av1", "aac", "mp3", "opus", "vorbis", "flac")
"""The decoders of what published data sets are stored in."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, whether it is as it should be, and what it is.

    Attributes:
        check: what was looked at.
        status: "failed" where something must be mended; "note" where it may be meant.
        message: what was found, and what to do.
    """

    check: str
    status: Literal["ok", "note", "failed"]
    message: str


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `doctor`."""
    doctor = commands.add_parser(
        "doctor",
        help="look for what does not fit: versions, plugins, libraries, devices, disks",
        description="Look for what does not fit in this installation: versions of libraries, plugins, FFmpeg's "
        "libraries, devices, disks. The exit status is 1 if something must be mended.",
    )
    doctor.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    doctor.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    found = []
    for finding in findings(installed(options)):
        found.append(finding)
        if not options.json:
            say(f"{finding.status:<6}  {finding.check}: {finding.message}")
            sys.stdout.flush()  # what comes next may take long, or end the process
    failed = [finding for finding in found if finding.status == "failed"]
    if options.json:
        print_json({"failed": len(failed), "findings": [asdict(finding) for finding in found]})
    else:
        say(f"{len(failed)} of {len(found)} checks failed" if failed else "nothing is amiss")
    return 1 if failed else 0


def findings(registry: Registry) -> Iterator[Finding]:
    """What is found, one after the other; torch is imported last, and for its devices only."""
    yield from _own_version()
    for distribution in dict.fromkeys(("avrobust", *(plugin.distribution for plugin in registry.plugins))):
        extras = {
            extra
            for plugin in registry.plugins
            if plugin.is_of(distribution)
            for entry in plugin.entries
            for extra in entry.component.extras
        }
        yield from requirements(distribution, extras)
    for plugin in registry.plugins:
        yield _plugin(plugin)
        if plugin.slowness is not None:
            yield Finding(f"plugin {plugin.full_name}", "note", plugin.slowness)
        for entry in plugin.entries:
            if lacking := entry.lacking():
                yield Finding(f"{entry.kind} {entry.full_name}", "note", lacking)
    for name in sorted({entry.component.name for entry in registry.entries()}):
        yield from (Finding(f"name {name}", "note", sentence) for sentence in registry.rivalries(name))
    yield from _disks()
    yield _decoding()
    yield _processors()
    yield from _devices()


def _own_version() -> Iterator[Finding]:
    """Whether the code that runs is the one that is installed."""
    versions = sorted({found.version for found in metadata.distributions(name="avrobust")})
    if versions == [__version__]:
        yield Finding("avrobust", "ok", f"{__version__}, Python {sys.version.split()[0]}, {sys.platform}")
    else:
        said = ", ".join(versions) or "not at all"
        yield Finding(
            "avrobust",
            "failed",
            f"the code is of version {__version__}, but installed is {said}: entry points and requirements may be "
            "stale; install it again, once",
        )


def requirements(distribution: str, extras: set[str]) -> Iterator[Finding]:
    """A finding for each requirement of a distribution that is not met, or one that says that all are.

    Args:
        distribution: its name; one that is not installed requires nothing.
        extras: those whose requirements count if they are installed: what components need.
    """
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        of = metadata.distribution(distribution)
    except (metadata.PackageNotFoundError, ValueError):
        return
    amiss = []
    try:
        python = SpecifierSet(of.metadata["Requires-Python"] or "")
        needed = [Requirement(text) for text in of.requires or ()]
    except (InvalidRequirement, InvalidSpecifier) as error:
        yield Finding(f"requirements of {distribution}", "note", f"cannot be read: {error}")
        return
    version = sys.version.split()[0]
    if not python.contains(version, prereleases=True):
        amiss.append(f"Python {version} does not fit {python}")
    for each in needed:
        always = each.marker is None or each.marker.evaluate({"extra": ""})
        if not always and not any(each.marker.evaluate({"extra": extra}) for extra in extras if each.marker):
            continue
        asked = f"{each.name}{each.specifier}"
        try:
            there = metadata.version(each.name)
        except metadata.PackageNotFoundError:
            if always:
                amiss.append(f"{each.name} is not installed: pip install '{asked}'")
            continue
        if not each.specifier.contains(there, prereleases=True):
            amiss.append(f"{each.name} {there} does not fit {asked}: pip install '{asked}'")
    if amiss:
        yield from (Finding(f"requirements of {distribution}", "failed", message) for message in amiss)
    else:
        yield Finding(f"requirements of {distribution}", "ok", f"{of.version}: all are met")


def _plugin(plugin: PluginRecord) -> Finding:
    check = f"plugin {plugin.full_name}"
    if plugin.status == "disabled":
        return Finding(check, "note", "disabled")
    if plugin.status != "ok":
        return Finding(check, "failed", f"{plugin.error} (module {plugin.module}): mend it, or uninstall it")
    gone = [
        f"{entry.component.name} ({entry.component.build})"
        for entry in plugin.entries
        if isinstance(entry.component.build, str) and not _is_there(entry.component.build.partition(":")[0])
    ]
    if gone:
        return Finding(check, "failed", f"the modules of {', '.join(gone)} are not there: install it again")
    return Finding(check, "ok", f"{plugin.distribution_version}, {len(plugin.entries)} components")


def _is_there(module: str) -> bool:
    try:
        return util.find_spec(module) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def _disks() -> Iterator[Finding]:
    """The room where runs, hashes of files and temporary files go."""
    import tempfile

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for what, folder in (("here", Path.cwd()), ("cache", cache), ("temporary files", Path(tempfile.gettempdir()))):
        there = next((each for each in (folder, *folder.parents) if each.exists()), None)
        try:
            free = shutil.disk_usage(there or folder).free
        except OSError as error:
            yield Finding(f"disk, {what}", "failed", f"{folder}: {error.strerror}")
            continue
        status: Literal["ok", "failed"] = "ok" if free >= LEAST_FREE else "failed"
        yield Finding(f"disk, {what}", status, f"{free / 2**30:.1f} GiB free in {folder}")
        if not os.access(there or folder, os.W_OK):
            yield Finding(f"disk, {what}", "failed", f"{folder} cannot be written to")


def _decoding() -> Finding:
    """FFmpeg's libraries inside PyAV, and the decoders that they lack."""
    try:
        import av
        from av.codec import Codec
    except Exception as error:  # noqa: BLE001  a library that does not load raises whatever it likes
        return Finding(
            "FFmpeg", "failed", f"PyAV cannot be imported ({type(error).__name__}: {error}): install it again"
        )
    libraries = ", ".join(f"{name} {'.'.join(map(str, number))}" for name, number in av.library_versions.items())
    missing = []
    for name in CODECS:
        try:
            Codec(name, "r")
        except ValueError:  # UnknownCodecError is one
            missing.append(name)
    if missing:
        return Finding("FFmpeg", "note", f"PyAV {av.__version__} cannot decode {', '.join(missing)}; {libraries}")
    return Finding("FFmpeg", "ok", f"PyAV {av.__version__}, {libraries}")


def _processors() -> Finding:
    """The processors that threads may run on, and how these wait for one another."""
    given, there = quota(), affinity()
    limit = "" if given is None else f", with a quota of {given:g} of them (control groups)"
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return Finding("processors", "ok", f"{there} to run on{limit}{load}; {waiting()}")


def _devices() -> Iterator[Finding]:
    """What torch can compute on."""
    for name in ("torch", "torchaudio"):
        try:
            __import__(name)
        except Exception as error:  # noqa: BLE001  as above
            yield Finding(name, "failed", f"cannot be imported ({type(error).__name__}: {error})")
            return
    import torch

    yield Finding("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads on the CPU")
    try:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        for index in range(count):
            properties = torch.cuda.get_device_properties(index)
            memory = properties.total_memory / 2**30
            yield Finding(f"device cuda:{index}", "ok", f"{properties.name}, {memory:.0f} GiB")
    except Exception as error:  # noqa: BLE001  as above
        yield Finding("devices", "failed", f"CUDA is there, but cannot be used ({type(error).__name__}: {error})")
        return
    if torch.backends.mps.is_available():
        yield Finding("device mps", "ok", "Apple's GPU")
    elif not count:
        yield Finding("devices", "ok", "no accelerator that torch can use: models run on the CPU")
