"""The command that writes attacked clips of a run as media files: export."""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from avrobust_core.cli.layout import say
from avrobust_core.cli.options import loaded_run
from avrobust_core.cli.output import print_json
from avrobust_core.plain_text import plain_text


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `export`."""
    export = commands.add_parser(
        "export",
        help="write attacked clips of a run as media files, and measure what they are worth once saved",
        description=(
            "Attack a few clips of a finished run again, and write them beside the clean ones, with a manifest that "
            "the data set `clips` reads. Then read them back, and ask the models once more: are they still fooled? "
            "docs/export.md says more."
        ),
    )
    export.add_argument("folder", metavar="RUN", type=Path, help="the run's folder")
    export.add_argument("--cells", nargs="+", metavar="NAME", help="models, model/regime, or ids (default: all)")
    export.add_argument("--attacks", nargs="+", metavar="NAME", help="attacks, or attack/threat (default: all)")
    which = export.add_mutually_exclusive_group()
    which.add_argument(
        "--clips",
        type=_positive,
        default=8,
        metavar="N",
        help="of each model, N that it has right (default: 8)",
    )
    which.add_argument("--ids", nargs="+", metavar="ID", help="these clips, whether classified correctly or not")
    export.add_argument(
        "--sound", default="pcm16", metavar="CODING", help="pcm16 (default), float32, aac:RATE or opus:RATE, as aac:64k"
    )
    export.add_argument("--pictures", default="ffv1", metavar="CODING", help="ffv1 (default), or h264:RATE, as h264:1M")
    export.add_argument("--png", action="store_true", help="write each picture as a PNG file, too")
    export.add_argument("--out", type=Path, metavar="DIR", help="the folder to make (default: RUN/export)")
    export.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override a value of the spec")
    export.add_argument("--json", action="store_true", help="print what was found as one JSON object")
    export.add_argument("--quiet", action="store_true", help="show no progress")
    export.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    loaded, registry = loaded_run(options)
    from avrobust_core.report.export_choice import Asked
    from avrobust_core.report.exporting import export
    from avrobust_core.report.media_files import PICTURES, SOUND, Coding, Writer

    sound, pictures = Coding.of(options.sound, SOUND), Coding.of(options.pictures, PICTURES)
    found = export(
        loaded,
        registry,
        options.folder,
        options.folder / "export" if options.out is None else options.out,
        Asked(options.cells, options.attacks, options.clips, options.ids),
        lambda form: Writer(form, sound, pictures, options.png),
        silent=options.quiet,
    )
    if options.json:
        print_json(found)
    else:
        for line in _lines(found):
            say(plain_text(line))
    return 0


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    from avrobust_core.evaluation.wording import percent

    def counted(share: Mapping[str, Any]) -> str:
        return f"{share['count']} of {share['of']}" + (f" ({percent(share)} %)" if share["of"] else "")

    yield f"saved as {found['sound']} and {found['pictures']}; clips: {found['chosen']}"
    several = len({cell["seed"] for cell in found["cells"]}) > 1
    for cell in found["cells"]:
        name = f"{cell['model']}/{cell['training']}" + (f", seed {cell['seed']}" if several else "")
        yield f"{name}: clean clips right after saving: {counted(cell['clean']['correct_saved'])}"
        for entry in cell["attacks"]:
            rate = entry["success_rate_in_run"]
            line = f"{name}, {entry['attack']} on {entry['threat']}: "
            line += f"still fooled after saving: {counted(entry['still_fooled'])}; fooled before: "
            line += f"{entry['fooled']['count']} of {entry['fooled']['of']}"
            if rate is not None:
                line += f", and in the run {percent(rate)} % of {rate['n']}"
            if entry["beyond_budget"]:
                line += f"; {entry['beyond_budget']} lie beyond their budget once saved"
            if entry["otherwise_than_in_run"]:
                line += f"; {entry['otherwise_than_in_run']} came out otherwise than in the run (another device?)"
            yield line
    yield f"the files, manifest.csv, data.yaml and export.json are in {found['out']}"


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)
