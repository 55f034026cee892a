"""The commands that read a spec's data set and nothing else: data pack, data check."""

import argparse
import csv
import io
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from avrobust_core.cli.layout import complain, say
from avrobust_core.cli.options import add_spec_arguments, loaded_spec
from avrobust_core.cli.output import print_json

if TYPE_CHECKING:
    from avrobust_core.data.dataset import Dataset
    from avrobust_core.data.packing import Packed
    from avrobust_core.data.survey import Survey


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `data` with `pack` and `check`."""
    data = commands.add_parser("data", help="pack a spec's data set once, or read it through and list its faults")
    tasks = data.add_subparsers(title="commands", metavar="COMMAND", required=True)
    pack = tasks.add_parser(
        "pack",
        help="decode all clips once, into shards that the data set `shards` reads",
        description=(
            "Read all clips of a spec's data set and write them into shards, without loss, for the data set `shards`. "
            "What is whole is kept: the same command goes on where it stopped."
        ),
    )
    add_spec_arguments(pack)
    pack.add_argument("--out", type=Path, metavar="DIR", required=True, help="the folder to pack into")
    pack.add_argument(
        "--part",
        type=_part,
        default=(1, 1),
        metavar="I/N",
        help="make the I-th of N parts of the shards, from 1; whichever part ends last writes the index",
    )
    pack.add_argument(
        "--shard-clips",
        type=_positive,
        metavar="N",
        help="clips in each shard, the same for all parts (default: 1 GiB of them as float32, at most 10,000)",
    )
    _add_common(pack, "at the end")
    pack.set_defaults(run=_pack, resumes=True)
    check = tasks.add_parser(
        "check",
        help="read all clips once; list those that cannot be read or have no content, and show a few of each class",
        description=(
            "Read all clips of a spec's data set once. Writes faults.csv (split, id, fault), constant.csv, counts.json "
            "and, where Pillow is installed, contact sheets. The exit status is 1 if more clips cannot be read than "
            "the data set allows."
        ),
    )
    add_spec_arguments(check)
    check.add_argument("--out", type=Path, metavar="DIR", help="the folder to write into (default: checks/<name>)")
    check.add_argument(
        "--show", type=_count, default=4, metavar="N", help="clips of each class on the contact sheets (default: 4)"
    )
    _add_common(check, "instead of text")
    check.set_defaults(run=_check)


def _add_common(parser: argparse.ArgumentParser, when: str) -> None:
    parser.add_argument("--workers", type=_count, metavar="N", help="processes that read (default: engine.workers)")
    parser.add_argument("--json", action="store_true", help=f"print one JSON object {when}")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def _pack(options: argparse.Namespace) -> int:
    from avrobust_core.data.packing import pack
    from avrobust_core.notes import collected
    from avrobust_core.study.console import Monitor

    monitor = Monitor(silent=options.quiet)
    with collected(lambda note: complain(f"note: {note}")):
        dataset, workers, name = _dataset(options)
        with monitor.task(f"packing {name}"):
            found = pack(
                dataset,
                options.out,
                part=options.part,
                shard_clips=options.shard_clips,
                workers=workers,
                report=monitor.say,
                progress=monitor.update,
            )
    if options.json:
        print_json(found.to_json())
    else:
        say(_told(found))
    return 0


def _told(found: "Packed") -> str:
    told = f"{found.finished} of {found.shards} shards whole in {found.folder} ({found.made} made now): "
    told += f"{found.clips} clips, {found.unreadable} of them unreadable, {found.bytes / 2**20:.1f} MiB"
    return told if found.complete else f"{told}; the index is written when all shards are whole"


def _check(options: argparse.Namespace) -> int:
    from avrobust_core.data.survey import survey
    from avrobust_core.errors import AvrobustError
    from avrobust_core.files import write_json, write_text
    from avrobust_core.notes import collected
    from avrobust_core.report.sheets import write_sheets
    from avrobust_core.study.console import Monitor

    monitor = Monitor(silent=options.quiet)
    with collected(lambda note: complain(f"note: {note}")):
        dataset, workers, name = _dataset(options)
        with monitor.task(f"reading {name}"):
            found = survey(dataset, workers=workers, show=options.show, progress=monitor.update)
    out = Path("checks") / name if options.out is None else options.out
    counts = _counts(found)
    write_text(out / "faults.csv", _table("fault", found.unreadable))
    write_text(out / "constant.csv", _table("found", found.constant))
    write_text(out / "padded.csv", _table("found", found.padded))
    write_json(out / "counts.json", counts)
    with suppress(FileNotFoundError):
        for earlier in out.glob("sheet-*.png"):
            earlier.unlink()
    try:
        write_sheets(found.shown, dataset.media, out)
    except AvrobustError as error:
        complain(f"note: {error}")
    if options.json:
        print_json({"out": str(out), **counts})
    else:
        _say(found, out)
    return 1 if found.too_many else 0


def _say(found: "Survey", out: Path) -> None:
    for split, count in found.clips.items():
        kinds = (found.unreadable, found.constant, found.padded)
        unreadable, constant, padded = (len(each.get(split, {})) for each in kinds)
        say(f"{split}: {count} clips, {unreadable} unreadable, {constant} without content, {padded} padded")
    for split in found.too_many:
        say(f"more of split {split!r} cannot be read than the allowed share of {found.limit:g} (max_unreadable)")
    say(f"the lists, counts and contact sheets are in {out}")


def _counts(found: "Survey") -> dict[str, object]:
    return {
        "max_unreadable": found.limit,
        "too_many_unreadable": found.too_many,
        "splits": {
            split: {
                "clips": count,
                "unreadable": len(found.unreadable.get(split, {})),
                "constant": len(found.constant.get(split, {})),
                "padded": len(found.padded.get(split, {})),
                "labels": dict(found.labels[split]),
            }
            for split, count in found.clips.items()
        },
    }


def _table(column: str, by_split: dict[str, dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("split", "id", column))
    writer.writerows((split, clip, what) for split, clips in by_split.items() for clip, what in clips.items())
    return text.getvalue()


def _dataset(options: argparse.Namespace) -> "tuple[Dataset, int, str]":
    """The data set of a spec, the processes that read it, and the spec's name."""
    loaded, registry = loaded_spec(options)
    from avrobust_core.study.building import Builder

    spec = loaded.spec
    workers = spec.engine.workers if options.workers is None else options.workers
    return Builder(spec, registry).dataset(), workers, spec.name


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    number, parts = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= parts:
        raise argparse.ArgumentTypeError(f"{text!r} is no part: write 1/4 for the first of four, up to 4/4")
    return number, parts


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)
