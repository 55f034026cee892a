"""The command `avrobust cite`: BibTeX of what a study uses."""

from __future__ import annotations

import argparse
import re
import string
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from avrobust_core._version import __version__
from avrobust_core.cli.layout import say
from avrobust_core.cli.options import add_spec_arguments, loaded_spec

if TYPE_CHECKING:
    from avrobust_core.registry.registry import RegistryEntry

_ARXIV = re.compile(r"arxiv(?:\.org/(?:abs|pdf)/|[:.])\s*(\d{4}\.\d{4,5}|[a-z-]+(?:\.[a-z]{2})?/\d{7})", re.IGNORECASE)
_DOI = re.compile(r"\b10\.\d{4,9}/\S+")
_STARTING_POINT = "2203.12122"
_SPECIAL = str.maketrans({sign: f"\\{sign}" for sign in "{}$&#%_"} | {"\\": "/", "~": "-", "^": "-"})


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `cite`."""
    cite = commands.add_parser(
        "cite",
        help="print BibTeX of avrobust and of the sources of what a spec or a run uses",
        description="Print BibTeX of avrobust, of the paper that it starts from, and of the sources that components "
        "of a spec or a run state. Sources are known by number (arXiv, DOI) or address: a reference manager "
        "completes their authors and titles.",
    )
    add_spec_arguments(cite)
    cite.set_defaults(run=_cite)


def _cite(options: argparse.Namespace) -> int:
    version = __version__
    folder = Path(options.spec)
    if folder.is_dir():
        from avrobust_core.files import read_json, refuse_changed

        refuse_changed(folder)
        options.spec = str(folder / "resolved.yaml")
        version = read_json(folder / "lock.json").get("avrobust", version)
    loaded, _ = loaded_spec(options)
    entries = (entry for component in loaded.components.values() for entry in component.entries())
    say("\n\n".join((*_always(version), *bibtex(entries))))
    return 0


def bibtex(entries: Iterable[RegistryEntry]) -> Iterator[str]:
    """An entry for each source that components state, with the components in its note, in their order.

    Args:
        entries: of the components; the paper that avrobust starts from is left out.
    """
    users: dict[str, dict[str, None]] = {}
    fields: dict[str, dict[str, str]] = {}
    for entry in entries:
        for reference in entry.component.references:
            key, found = _source(reference)
            if found.get("eprint") != _STARTING_POINT:
                fields[key] = found
                users.setdefault(key, {})[f"{entry.kind} {entry.component.name}"] = None
    for key, found in fields.items():
        yield _entry("misc", key, found | {"note": f"Used by avrobust: {', '.join(users[key])}".translate(_SPECIAL)})


def _source(reference: str) -> tuple[str, dict[str, str]]:
    """The key and the fields of a source, by its number on arXiv, its DOI, its address, or as it is written."""
    if arxiv := _ARXIV.search(reference):
        number = arxiv[1]
        year = {"year": f"20{number[:2]}"} if number[:1].isdigit() else {}
        eprint = {"eprint": number, "archiveprefix": "arXiv", "url": f"https://arxiv.org/abs/{number}"}
        return f"arxiv-{number}", eprint | year
    if doi := _DOI.search(reference):
        number = doi[0].rstrip(".,;)")
        return f"doi-{_plain(number)}", {"doi": number, "url": f"https://doi.org/{number}"}
    if reference.startswith(("http://", "https://")):
        return _plain(reference.split("://")[1]), {"url": re.sub(r"[\s{}\\]", "", reference)}
    return _plain(reference), {"howpublished": reference.translate(_SPECIAL)}


def _plain(text: str) -> str:
    """What BibTeX takes for a key."""
    return "".join(sign if sign in string.ascii_letters + string.digits + ".-" else "-" for sign in text).strip("-")


def _entry(kind: str, key: str, fields: dict[str, str]) -> str:
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join((f"@{kind}{{{key},", *lines, "}"))


def _always(version: str) -> Iterator[str]:
    title = "{avrobust}: the adversarial robustness of audio-visual models"
    yield _entry("software", "avrobust", {"title": title, "author": "{The avrobust authors}", "version": version})
    yield _entry(
        "inproceedings",
        f"arxiv-{_STARTING_POINT}",
        {
            "title": "On Adversarial Robustness of Large-scale Audio Visual Learning",
            "author": "Li, Juncheng B and Qu, Shuhui and Li, Xinjian and Huang, Po-Yao and Metze, Florian",
            "booktitle": "IEEE International Conference on Acoustics, Speech and Signal Processing (ICASSP)",
            "year": "2022",
            "eprint": _STARTING_POINT,
            "archiveprefix": "arXiv",
            "url": f"https://arxiv.org/abs/{_STARTING_POINT}",
        },
    )
