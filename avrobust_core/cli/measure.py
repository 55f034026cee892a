"""The command `measure`: metrics of bare embeddings, without a model or a study."""

import argparse
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any, NoReturn

from avrobust_core.cli.layout import complain, say, table
from avrobust_core.cli.options import UsageError, installed
from avrobust_core.cli.output import print_json
from avrobust_core.errors import DataError
from avrobust_core.plain_text import plain_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from avrobust_core.metrics.metric import Measurement, Metric, Subject
    from avrobust_core.registry.registry import Registry

LAYER = "embeddings"
"""The name of the one layer."""

BLOCK = 1 << 22
"""Numbers that are looked at together."""

HEADER_ERRORS = (
    *(ValueError, TypeError, SyntaxError, OverflowError, MemoryError, RecursionError, LookupError, AttributeError),
    TokenError,
)
"""Errors of numpy at a damaged header, which it parses as if it were a program."""

MOST_RESAMPLES = 1_000_000
"""Resamples at most: more change no digit that is shown."""


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `measure`."""
    parser = commands.add_parser("measure", help="measure embeddings and labels from .npy files, without a model")
    parser.add_argument("embeddings", metavar="EMBEDDINGS.npy", type=Path, help="(N, D) numbers; memory-mapped")
    parser.add_argument(
        "labels", metavar="LABELS.npy", type=Path, help="(N,) whole numbers or strings, or (N, K) zeros and ones"
    )
    parser.add_argument(
        "--reference",
        nargs=2,
        metavar=("EMBEDDINGS.npy", "LABELS.npy"),
        type=Path,
        help="the clips among which neighbours are looked for, such as those trained on (default: the same)",
    )
    parser.add_argument("--logits", metavar="LOGITS.npy", type=Path, help="(N, K) logits, for metrics that read them")
    parser.add_argument(
        "--groups",
        metavar="GROUPS.npy",
        type=Path,
        help="(N,) words or whole numbers, what each clip was drawn with (speakers, videos): intervals are over these",
    )
    parser.add_argument(
        "--metric",
        action="append",
        metavar="NAME",
        help="a metric; may be repeated (default: all that read embeddings)",
    )
    parser.add_argument("--set", action="append", default=[], metavar="METRIC.FIELD=VALUE", help="configure a metric")
    parser.add_argument("--confidence", type=float, default=0.95, help="of the intervals (default: 0.95)")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples over clips (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers (default: 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if not 0 < options.confidence < 1 or not 100 <= options.resamples <= MOST_RESAMPLES or options.seed < 0:
        raise UsageError(
            f"--confidence {options.confidence:g} --resamples {options.resamples} --seed {options.seed}: give a "
            f"confidence between 0 and 1, at least 100 resamples (at most {MOST_RESAMPLES}), and a seed of at least 0"
        )
    registry = installed(options)
    settings = _settings(options.set)
    metrics = dict(_metrics(registry, options.metric, settings, logits=options.logits is not None))
    unused = settings.keys() - metrics.keys()
    if unused:
        _refuse(f"--set {min(unused)}.…: that metric is not measured here; these are: {', '.join(metrics)}")
    subject = _subject(options, {want.split or LAYER for metric in metrics.values() for want in metric.latents})
    found = {name: _measured(name, metric, subject) for name, metric in metrics.items()}
    if options.json:
        from avrobust_core.evaluation.outcomes import measurement_to_json

        metrics_found = {name: measurement_to_json(measurement) for name, measurement in found.items()}
        sizes = {"clips": len(subject.ids), "classes": len(subject.classes)}
        print_json({**sizes, "metrics": metrics_found}, allow_nan=False)
    else:
        _print(found)
    return 0


def _measured(name: str, metric: "Metric", subject: "Subject") -> "Measurement":
    from avrobust_core.metrics.findings import checked_measurement

    try:
        return checked_measurement(metric.measure(subject), f"metric {name!r}", len(subject.ids))
    except ValueError as error:  # what a function on arrays says of its arguments
        _refuse(f"metric {name!r} cannot be measured: {plain_text(error)}")


def _settings(arguments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By metric, its configuration, from METRIC.FIELD=VALUE."""
    from avrobust_core.spec.nodes import MapNode, Place, plain
    from avrobust_core.spec.problems import SpecError
    from avrobust_core.spec.tree import apply_override

    root = MapNode({}, {}, Place("--set", 1, 1, ""))
    for argument in arguments:
        root, problems = apply_override(root, argument)
        if problems:
            _refuse(str(SpecError(problems)))
    found: dict[str, dict[str, Any]] = plain(root)
    for metric, fields in found.items():
        if not isinstance(fields, dict):
            _refuse(f"--set {metric}={fields}: write METRIC.FIELD=VALUE, such as density.k=15")
    return found


def _metrics(
    registry: "Registry", names: list[str] | None, settings: Mapping[str, Mapping[str, Any]], *, logits: bool
) -> "Iterator[tuple[str, Metric]]":
    """The metrics that were asked for, or all that have something to say of embeddings."""
    from avrobust_core.registry.choices import configure

    for name in names or [entry.component.name for entry in registry.entries("metric")]:
        metric: Metric = configure(registry, "metric", name, settings.get(name, {})).build()
        if names is None and not metric.latents:
            continue
        if metric.predictions and not logits:
            if names is not None:
                _refuse(f"metric {name!r} reads logits: give them with --logits LOGITS.npy")
            continue
        yield name, metric


def _subject(options: argparse.Namespace, splits: Collection[str]) -> "Subject":
    """The embeddings as what is evaluated; the reference stands for every other split that is asked for."""
    import numpy as np

    from avrobust_core.metrics.latents import Latents
    from avrobust_core.metrics.metric import Subject

    embeddings, labels = _pair(options.embeddings, options.labels)
    alone = options.reference is None
    reference, other_labels = (embeddings[:0], labels[:0]) if alone else _pair(*options.reference)
    targets, others, classes = _targets(labels, other_labels, options.labels)
    ids = tuple(map(str, range(len(embeddings))))
    logits = np.zeros((len(ids), 0), dtype=np.float32)
    if options.logits is not None:
        logits = _array(options.logits, "logits")
        if logits.shape != (len(ids), len(classes)) or not _numbers(logits):
            _refuse(f"{options.logits}: logits are {_form(logits)}, not numbers ({len(ids)}, {len(classes)})")
        _refuse_not_finite(logits, options.logits, "logits")
    groups = None if options.groups is None else _groups(options.groups, options.embeddings, len(ids))
    own = Latents(ids, targets, logits, {LAYER: embeddings})
    against = own
    if not alone:
        names = tuple(f"reference/{i}" for i in range(len(reference)))
        against = Latents(names, others, np.zeros((len(names), 0), dtype=np.float32), {LAYER: reference})
        if reference.shape[1:] != embeddings.shape[1:]:
            widths = f"{reference.shape[1]} features, {options.embeddings} has {embeddings.shape[1]}"
            _refuse(f"{options.reference[0]} has {widths}")
    return Subject(
        ids=ids,
        logits=logits,
        targets=targets,
        classes=classes,
        task="single-label" if targets.ndim == 1 else "multi-label",
        confidence=options.confidence,
        resamples=options.resamples,
        seed=options.seed,
        groups=groups,
        split=LAYER,
        latents={split: own if split == LAYER else against for split in sorted({LAYER, *splits})},
    )


def _pair(embeddings_path: Path, labels_path: Path) -> "tuple[NDArray[Any], NDArray[Any]]":
    embeddings, labels = _array(embeddings_path, "embeddings"), _array(labels_path, "labels")
    if embeddings.ndim != 2 or not _numbers(embeddings) or not embeddings.size:
        _refuse(f"{embeddings_path}: embeddings are {_form(embeddings)}, not numbers (N, D)")
    _refuse_not_finite(embeddings, embeddings_path, "embeddings")
    if len(labels) != len(embeddings):
        _refuse(f"{labels_path} has {len(labels)} labels, but {embeddings_path} has {len(embeddings)} embeddings")
    return embeddings, labels


def _groups(path: Path, embeddings_path: Path, clips: int) -> tuple[str, ...]:
    """The group of each clip."""
    groups = _array(path, "groups")
    if groups.ndim != 1 or groups.dtype.kind not in "iuU":
        _refuse(f"{path}: groups are {_form(groups)}; write (N,) strings or whole numbers, one for each clip")
    if len(groups) != clips:
        _refuse(f"{path} has groups of {len(groups)} clips, but {embeddings_path} has {clips} embeddings")
    return tuple(map(str, groups.tolist()))


def _array(path: Path, what: str) -> "NDArray[Any]":
    """An array of a file, memory-mapped where its bytes are in this machine's order; nothing in it is executed."""
    import numpy as np

    if not path.exists():
        _refuse(f"{path}: there is no such file")
    if not path.is_file():
        _refuse(f"{path}: is a folder, or no regular file; give a .npy file of {what}")
    try:
        with path.open("rb") as file:
            start = file.read(6)
        if start != b"\x93NUMPY":
            archive = "is an archive, .npz perhaps, and " if start.startswith(b"PK") else ""
            _refuse(f"{path}: {archive}is no .npy file of {what}; write one array with numpy.save")
        # Mapped, so that the file's size is compared with what its header states before memory is asked for.
        found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        _refuse(f"{path}: cannot be read: {plain_text(error.strerror or error, 200)}")
    except HEADER_ERRORS as error:
        reason = plain_text(error, 200)
        if "Python objects" in reason or "Object arrays" in reason:
            _refuse(f"{path}: holds Python objects, which are not read; write {what} as an array of numbers or strings")
        reason = reason.partition(". ")[0] if "allow_pickle" not in reason else "its header is too long"
        _refuse(f"{path}: cannot be read as a .npy file of {what}, it is damaged or cut short ({reason})")
    if found.ndim == 0:
        _refuse(f"{path}: is no .npy file of one array of {what}")
    return found if found.dtype.isnative else np.asarray(found, dtype=found.dtype.newbyteorder("="))


def _numbers(values: "NDArray[Any]") -> bool:
    return values.dtype.kind in "iu" or (values.dtype.kind == "f" and values.dtype.itemsize <= 8)


def _form(values: "NDArray[Any]") -> str:
    return f"{values.dtype.name} of shape {values.shape}"


def _refuse_not_finite(values: "NDArray[Any]", path: Path, what: str) -> None:
    import numpy as np

    from avrobust_core.naming import first_of

    if values.dtype.kind != "f":
        return
    size = max(1, BLOCK // values.shape[1])
    broken: list[int] = []
    for start in range(0, len(values), size):
        wrong = ~np.isfinite(values[start : start + size]).all(axis=1)
        broken += (np.flatnonzero(wrong) + start).tolist()
    if broken:
        _refuse(
            f"{path}: {what} are NaN or infinite in {len(broken)} of {len(values)} rows "
            f"({first_of(broken)}); leave those out"
        )


def _targets(
    labels: "NDArray[Any]", others: "NDArray[Any]", path: Path
) -> "tuple[NDArray[Any], NDArray[Any], tuple[str, ...]]":
    """Targets as metrics read them, of the evaluated clips and of the reference, and the classes' names."""
    import numpy as np

    if others.ndim != labels.ndim or others.shape[1:] != labels.shape[1:]:
        _refuse(f"{path}: labels are of shape {labels.shape}, those of the reference of shape {others.shape}")
    if labels.ndim == 2 and labels.shape[1] and labels.dtype.kind in "iubf":
        if not (np.isin(labels, (0, 1)).all() and np.isin(others, (0, 1)).all()):
            _refuse(f"{path}: labels (N, K) must be zeros and ones; give (N,) for one class per clip")
        return labels.astype(np.float32), others.astype(np.float32), tuple(map(str, range(labels.shape[1])))
    if labels.ndim != 1 or labels.dtype.kind not in "iubUS":
        _refuse(f"{path}: labels are {_form(labels)}; write (N,) whole numbers or strings, or (N, K) zeros and ones")
    if (labels.dtype.kind in "US") != (others.dtype.kind in "US"):
        _refuse(f"{path}: labels are {labels.dtype.name}, those of the reference {others.dtype.name}; write both alike")
    if others.dtype.kind not in "iubUS":
        _refuse(f"{path}: the labels of the reference are {_form(others)}; write (N,) whole numbers or strings")
    together = np.concatenate([labels, others])
    if together.dtype.kind == "f":  # of int64 and uint64 numpy makes floats, among which large numbers are one
        _refuse(f"{path}: labels and those of the reference are of types that have no common one; write both as int64")
    values, indices = np.unique(together, return_inverse=True)
    return indices[: len(labels)], indices[len(labels) :], tuple(map(str, values.tolist()))


def _refuse(message: str) -> NoReturn:
    raise DataError(message)


def _print(found: "Mapping[str, Measurement]") -> None:
    estimates = [value for each in found.values() for value in each.values.values()]
    groups = {estimate.groups for estimate in estimates if estimate.groups is not None}
    over = " over " + " or ".join(f"{count} groups" for count in sorted(groups)) if groups else ""
    rows = [("metric", "", "value", f"interval{over}", "clips")]
    for metric, measurement in found.items():
        for name, value in measurement.values.items():
            rows.append((metric, name, f"{value.value:.4g}", f"[{value.low:.4g}, {value.high:.4g}]", str(value.n)))
    for line in table(rows, right=(2, 4)):
        say(line)
    for metric, measurement in found.items():
        for name, detail in measurement.details.items():
            complain(f"{metric}: {name}: {detail}")
