"""Results of one preset side by side: who withstands most, and what stands between two numbers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

from avrobust_core.bench.results import BenchResult, ModelResult, Number
from avrobust_core.errors import RunError


@dataclass(frozen=True, slots=True)
class Row:
    """One model of one file.

    Attributes:
        source: the file.
        result: of the model.
        headline: the number that stands for it; None if it reads nothing of what is attacked.
        numbers: clean, then one for each column; None where the model was not attacked so.
    """

    source: str
    result: ModelResult
    headline: Number | None
    numbers: tuple[Number | None, ...]


@dataclass(frozen=True, slots=True)
class Side:
    """The comparison, ready to be shown.

    Attributes:
        title: the preset's full name.
        headline: what the number is that stands for a model.
        columns: headings of the numbers.
        rows: the highest headline first; those without one last.
        differences: between the files, in sentences: what keeps their numbers from being compared as they stand.
        doubts: what speaks against numbers, by model.
    """

    title: str
    headline: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    differences: tuple[str, ...]
    doubts: tuple[str, ...]


def side_by_side(results: Sequence[tuple[str, BenchResult]]) -> Side:
    """Compare files of one preset.

    Args:
        results: each with the name of its file; one at least.

    Raises:
        RunError: if they are of several presets or versions: their numbers mean different things.
    """
    benches = {f"{result.bench.name}-v{result.bench.version}" for _, result in results}
    if len(benches) > 1:
        raise RunError(f"these are results of several benches, which cannot be compared: {', '.join(sorted(benches))}")
    first = results[0][1].bench
    pairs = dict.fromkeys(
        (attack, threat)
        for _, result in results
        for model in result.models
        for attack, threats in model.robust.items()
        for threat in threats
    )
    threats = dict.fromkeys(threat for _, result in results for model in result.models for threat in model.worst)
    rows = [
        Row(
            source,
            model,
            result.headline(model),
            (
                model.clean,
                *(model.robust.get(attack, {}).get(threat) for attack, threat in pairs),
                *(model.worst.get(threat) for threat in threats),
            ),
        )
        for source, result in results
        for model in result.models
    ]
    rows.sort(key=lambda row: -1.0 if row.headline is None else row.headline.value, reverse=True)
    doubts = dict.fromkeys(
        f"{row.source}, {row.result.label}: {doubt}"
        for row in rows
        for number in row.numbers
        if number is not None
        for doubt in number.doubts
    )
    return Side(
        title=f"{first.name}-v{first.version}",
        headline=f"{first.headline_attack or 'the worst of all attacks'} on {first.headline_threat}",
        columns=("clean", *(f"{a} on {t}" for a, t in pairs), *(f"worst on {t}" for t in threats)),
        rows=tuple(rows),
        differences=tuple(_differences(results)),
        doubts=tuple(doubts),
    )


def _differences(results: Sequence[tuple[str, BenchResult]]) -> Iterator[str]:
    """What differs between the files and changes what their numbers mean."""
    (name, one), *others = results
    for other_name, other in others:
        pair = f"{other_name} and {name}"
        if other.bench.digest != one.bench.digest:
            yield f"{pair} were made by different texts of the preset: its version should have been raised"
        if other.data.component != one.data.component:
            yield f"{pair} are of different data sets: {other.data.component} and {one.data.component}"
        elif other.data.fingerprint != one.data.fingerprint:
            yield f"{pair} are of different clips of {one.data.component}, or of clips read otherwise"
        if other.data.clips != one.data.clips:
            yield f"{pair} are over {other.data.clips} and {one.data.clips} clips"
        if other.data.confidence != one.data.confidence:
            yield f"{pair} have intervals of {other.data.confidence:g} and {one.data.confidence:g} confidence"
        if other.made_with.avrobust != one.made_with.avrobust:
            yield f"{pair} were made by avrobust {other.made_with.avrobust} and {one.made_with.avrobust}"
    for source, result in results:
        if not result.data.whole:
            yield f"{source} is of {result.data.clips} clips, not of the whole split"
        if result.data.unreadable:
            yield f"{source}: {result.data.unreadable} clips could not be read"
        for model in result.models:
            if model.audit not in ("passed", "off"):
                yield f"{source}, {model.label}: the audit says {model.audit}"
            if model.audit == "off":
                yield f"{source}, {model.label}: its numbers were not audited"


def page(side: Side) -> str:
    """The comparison as one HTML page that opens offline."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        autoescape=True,
        loader=PackageLoader("avrobust_core.bench"),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    style = (files("avrobust_core.report.html") / "templates" / "report.css").read_text(encoding="utf-8")
    return environment.get_template("bench.html.jinja").render(side=side, style=style)
