"""The presets: published threats, each with its version and the source of its numbers."""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from avrobust_core.config.suggest import did_you_mean
from avrobust_core.errors import RunError

_KEYS = frozenset({"name", "version", "title", "summary", "sources", "data", "headline", "notes", "spec"})


@dataclass(frozen=True, slots=True)
class Preset:
    """What is asked of a model, the same whoever asks it.

    Attributes:
        name: without the version.
        version: raised when anything of it changes that changes a number.
        title: the paper, or the standard.
        summary: one line.
        sources: of its numbers.
        data: on which it was published, or for which it is meant.
        headline: the attack and the threat of the number that stands for all; the attack None for the worst of all.
        notes: what the source leaves open, and how it is read here.
        spec: threats, attacks, metrics and audit, as in a spec.
        digest: a hash of the file: 32 hexadecimal digits.
    """

    name: str
    version: int
    title: str
    summary: str
    sources: tuple[str, ...]
    data: str
    headline: dict[str, str | None]
    notes: tuple[str, ...]
    spec: dict[str, Any]
    digest: str

    @property
    def full_name(self) -> str:
        """With its version: "standard-v1"."""
        return f"{self.name}-v{self.version}"


@cache
def presets() -> dict[str, Preset]:
    """All of them, by full name, in their order."""
    folder = files("avrobust_core.bench") / "presets"
    texts = [entry.read_bytes() for entry in folder.iterdir() if entry.name.endswith(".yaml")]
    found = sorted(map(_read, texts), key=lambda preset: (preset.name, preset.version))
    return {preset.full_name: preset for preset in found}


def _read(text: bytes) -> Preset:
    data = yaml.safe_load(text)
    assert data.keys() == _KEYS, data.keys() ^ _KEYS  # they are our own files
    digest = hashlib.blake2b(text, digest_size=16).hexdigest()
    return Preset(**data | {"sources": tuple(data["sources"]), "notes": tuple(data["notes"])}, digest=digest)


def preset(name: str) -> Preset:
    """One preset, by its full name or by its bare one: then the newest version.

    Raises:
        RunError: if there is none; says which there are.
    """
    known = presets()
    of_name = [each for each in known.values() if name in (each.name, each.full_name)]
    if not of_name:
        hint = did_you_mean(name, known) or f"; there are: {', '.join(known)}"
        raise RunError(f"no bench is named {name!r}{hint}")
    return max(of_name, key=lambda each: each.version)
