"""The command `avrobust bench`: published threats by name, and results of them side by side."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from avrobust_core.cli.layout import say, table
from avrobust_core.cli.options import UsageError, installed
from avrobust_core.cli.output import is_first_process, print_json
from avrobust_core.cli.run import CONTRADICTED
from avrobust_core.plain_text import plain_text

if TYPE_CHECKING:
    from avrobust_core.bench.presets import Preset


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `bench`."""
    bench = commands.add_parser(
        "bench",
        help="measure models under published threats, by name; compare such results",
        description="Attack the models of a spec, or of a finished run, as a paper or a standard says, and leave one "
        "JSON file fit for a leaderboard; or compare such files.",
    )
    bench.add_argument("name", nargs="?", metavar="NAME", help="the preset, as --list shows them")
    bench.add_argument("--list", action="store_true", help="list the presets")
    bench.add_argument("--show", action="store_true", help="print what the preset asks, and its sources")
    bench.add_argument("--model", type=Path, metavar="PATH", help="a finished run's folder, or a spec's file")
    bench.add_argument(
        "--cell",
        action="append",
        default=[],
        metavar="MODEL/TRAINING",
        help="this cell, or this model in all its regimes; may be repeated (default: all)",
    )
    bench.add_argument("--clips", type=_count, metavar="N", help="a quick look at N clips, which is no result")
    bench.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override a value of the spec")
    bench.add_argument("--compare", type=Path, nargs="+", metavar="FILE", help="results to be put side by side")
    bench.add_argument("--out", type=Path, help="the run's folder (default: runs/PRESET-NAME); of --compare, a page")
    bench.add_argument("--json", action="store_true", help="print one JSON object")
    bench.add_argument("--quiet", action="store_true", help="show no progress")
    bench.set_defaults(run=_bench, resumes=True, several=True)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of clips")
    return int(text)


def _bench(options: argparse.Namespace) -> int:
    chosen = [bool(options.compare), options.list, options.name is not None]
    if sum(chosen) != 1:
        raise UsageError("say what to do: bench NAME --model PATH, bench NAME --show, --list, or --compare FILE ...")
    if options.compare:
        return _compare(options)
    if options.list:
        return _list(options)
    from avrobust_core.bench.presets import preset

    found = preset(options.name)
    if options.show:
        return _show(found, options)
    if options.model is None:
        raise UsageError("bench needs --model: a finished run's folder, or a spec's file")
    return _measure(found, options)


def _list(options: argparse.Namespace) -> int:
    from avrobust_core.bench.presets import presets

    if options.json:
        print_json({name: {"title": each.title, "summary": each.summary} for name, each in presets().items()})
        return 0
    for line in table([(name, each.title) for name, each in presets().items()], pad_last=True):
        say(line.rstrip())
    return 0


def _show(preset: "Preset", options: argparse.Namespace) -> int:
    from avrobust_core.spec.yaml_writer import write_yaml

    if options.json:
        about = {name: getattr(preset, name) for name in ("name", "version", "title", "summary", "data", "headline")}
        print_json({**about, "sources": preset.sources, "notes": preset.notes, "spec": preset.spec})
        return 0
    attack = preset.headline["attack"] or "the worst of all attacks"
    lines = [f"{preset.full_name}: {preset.title}", f"  {preset.summary}", f"  data: {preset.data}"]
    lines += [f"  headline: {attack} on {preset.headline['threat']}"]
    lines += [f"  source: {source}" for source in preset.sources]
    lines += [f"  note: {note}" for note in preset.notes]
    say("\n".join([*lines, "", write_yaml(preset.spec).rstrip()]))
    return 0


def _measure(preset: "Preset", options: argparse.Namespace) -> int:
    from avrobust_core.bench.composing import Models, compose, refuse_unfitted, take_fits
    from avrobust_core.bench.results import bench_result
    from avrobust_core.files import write_json
    from avrobust_core.report.tables import print_tables
    from avrobust_core.spec.loading import load_spec
    from avrobust_core.study.runner import carry_out

    models = Models.at(options.model)
    stem = models.run.resolve().name if models.run is not None else models.spec.stem
    out: Path = options.out if options.out is not None else Path("runs") / f"{preset.full_name}-{stem}"
    file = out.with_name(f"{out.name}.yaml")
    first = is_first_process()
    compose(
        preset, models, options.cell, file, clips=options.clips
    )  # each process reads it, and none waits for another
    if first and models.run is not None:
        take_fits(models.run, out)
    registry = installed(options)
    loaded = load_spec(file, registry, options.set)
    if first and models.run is not None:
        refuse_unfitted(loaded, registry, models.run, out)
    result = carry_out(loaded, registry, out=out, silent=options.quiet)
    if not first:
        return 0
    found = bench_result(preset, out, loaded.resolved(), whole=loaded.spec.evaluation.clips is None)
    target = out / "bench.json"
    write_json(target, found.model_dump(mode="json"))
    if options.json:
        print_json(found.model_dump(mode="json") | {"file": str(target)})
    else:
        print_tables(result)
        say(plain_text(f"{target}: compare it with others by `avrobust bench --compare`"))
    return CONTRADICTED if result["contradicted"] else 0


def _compare(options: argparse.Namespace) -> int:
    from avrobust_core.bench.comparing import page, side_by_side
    from avrobust_core.bench.results import read_result
    from avrobust_core.files import write_text

    side = side_by_side([(str(path), read_result(path)) for path in options.compare])
    if options.out is not None:
        write_text(options.out, page(side))
    if options.json:
        rows = [
            {
                "file": row.source,
                "model": row.result.label,
                "headline": None if row.headline is None else row.headline.model_dump(),
                "numbers": {
                    name: None if number is None else number.model_dump()
                    for name, number in zip(side.columns, row.numbers, strict=True)
                },
            }
            for row in side.rows
        ]
        print_json({"bench": side.title, "rows": rows, "differences": side.differences, "doubts": side.doubts})
        return 0
    head = ("model", "file", "headline", *side.columns)
    body = [
        (row.result.label, row.source, *("-" if each is None else str(each) for each in (row.headline, *row.numbers)))
        for row in side.rows
    ]
    for line in table([head, *body]):
        say(plain_text(line))
    for text in (*side.differences, *side.doubts):
        say(plain_text(f"? {text}"))
    if options.out is not None:
        say(plain_text(f"{options.out}: opens offline"))
    return 0
