"""The command `measure`: metrics of bare embeddings, without a model or a study."""

import argparse
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from avrobust_core.contracts import Measurement, Metric, Subject
    from avrobust_core.registry import Registry

LAYER = "embeddings"
"""What the one layer is called."""


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
    from avrobust_core.registry import Registry

    if not 0 < options.confidence < 1 or options.resamples < 100:
        _refuse(
            f"--confidence {options.confidence:g} --resamples {options.resamples}: give a confidence between 0 and 1, "
            "and at least 100 resamples"
        )
    registry = Registry.discover(disabled=options.no_plugin or ())
    settings = _settings(options.set)
    metrics = dict(_metrics(registry, options.metric, settings, logits=options.logits is not None))
    unused = settings.keys() - metrics.keys()
    if unused:
        _refuse(f"--set {min(unused)}.…: that metric is not measured here; these are: {', '.join(metrics)}")
    subject = _subject(options, {want.split or LAYER for metric in metrics.values() for want in metric.latents})
    found = {name: metric.measure(subject) for name, metric in metrics.items()}
    if options.json:
        print(json.dumps(_as_object(subject.classes, len(subject.ids), found), allow_nan=False))
    else:
        _print(found)
    return 0


def _settings(arguments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By metric, its configuration, from METRIC.FIELD=VALUE."""
    from avrobust_core.spec.nodes import MapNode, Place, plain
    from avrobust_core.spec.problems import SpecError
    from avrobust_core.spec.tree import apply_override

    root = MapNode({}, {}, Place("--set", 1, 1, ""))
    for argument in arguments:
        root, problems = apply_override(root, argument)
        if problems:
            raise SpecError(problems)
    found: dict[str, dict[str, Any]] = plain(root)
    for metric, fields in found.items():
        if not isinstance(fields, dict):
            _refuse(f"--set {metric}={fields}: write METRIC.FIELD=VALUE, such as density.k=15")
    return found


def _metrics(
    registry: "Registry", names: list[str] | None, settings: Mapping[str, Mapping[str, Any]], *, logits: bool
) -> "Iterator[tuple[str, Metric]]":
    """The metrics that were asked for, or all that have something to say of embeddings."""
    for name in names or [offer.component.name for offer in registry.offers("metric")]:
        offer, config = registry.configure("metric", name, settings.get(name, {}))
        metric: Metric = offer.component.build(config)
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

    from avrobust_core.contracts import Subject
    from avrobust_core.latents import Latents

    embeddings, labels = _pair(options.embeddings, options.labels)
    reference = None if options.reference is None else _pair(*options.reference)
    targets, others, classes = _targets(labels, None if reference is None else reference[1], options.labels)
    ids = tuple(map(str, range(len(embeddings))))
    logits = np.zeros((len(ids), 0), dtype=np.float32)
    if options.logits is not None:
        logits = _array(options.logits, "logits")
        if logits.shape != (len(ids), len(classes)):
            _refuse(f"{options.logits}: logits are {logits.shape}, not ({len(ids)}, {len(classes)})")
    own = Latents(ids, targets, logits, {LAYER: embeddings})
    against = own
    if reference is not None and others is not None:
        names = tuple(f"reference/{i}" for i in range(len(reference[0])))
        against = Latents(names, others, np.zeros((len(names), 0), dtype=np.float32), {LAYER: reference[0]})
        if reference[0].shape[1:] != embeddings.shape[1:]:
            widths = f"{reference[0].shape[1]} features, {options.embeddings} has {embeddings.shape[1]}"
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
        split=LAYER,
        latents={split: own if split == LAYER else against for split in sorted({LAYER, *splits})},
    )


def _pair(embeddings_path: Path, labels_path: Path) -> "tuple[NDArray[Any], NDArray[Any]]":
    embeddings, labels = _array(embeddings_path, "embeddings"), _array(labels_path, "labels")
    if embeddings.ndim != 2 or embeddings.dtype.kind not in "fiu" or not embeddings.size:
        _refuse(f"{embeddings_path}: embeddings are {embeddings.dtype} of shape {embeddings.shape}, not numbers (N, D)")
    if len(labels) != len(embeddings):
        _refuse(f"{labels_path} has {len(labels)} labels, but {embeddings_path} has {len(embeddings)} embeddings")
    return embeddings, labels


def _array(path: Path, what: str) -> "NDArray[Any]":
    import numpy as np

    try:
        found = np.load(path, mmap_mode="r" if what == "embeddings" else None, allow_pickle=False)
    except FileNotFoundError:
        _refuse(f"{path}: there is no such file")
    except (ValueError, OSError, EOFError) as error:
        _refuse(f"{path}: cannot be read as a .npy file of {what}: {error}")
    if not isinstance(found, np.ndarray) or found.ndim == 0:
        _refuse(f"{path}: is no .npy file of one array of {what}")
    return found


def _targets(
    labels: "NDArray[Any]", others: "NDArray[Any] | None", path: Path
) -> "tuple[NDArray[Any], NDArray[Any] | None, tuple[str, ...]]":
    """Targets as metrics read them, of the evaluated clips and of the reference, and the classes' names."""
    import numpy as np

    if others is not None and (others.ndim != labels.ndim or others.shape[1:] != labels.shape[1:]):
        _refuse(f"{path}: labels are of shape {labels.shape}, those of the reference of shape {others.shape}")
    if labels.ndim == 2:
        if not np.isin(labels, (0, 1)).all() or (others is not None and not np.isin(others, (0, 1)).all()):
            _refuse(f"{path}: labels (N, K) must be zeros and ones")
        names = tuple(map(str, range(labels.shape[1])))
        return labels.astype(np.float32), None if others is None else others.astype(np.float32), names
    if labels.ndim != 1 or labels.dtype.kind not in "iubUS":
        found = f"{path}: labels are {labels.dtype} of shape {labels.shape}"
        _refuse(f"{found}; write (N,) whole numbers or strings, or (N, K) zeros and ones")
    together = labels if others is None else np.concatenate([labels, others])
    values, indices = np.unique(together, return_inverse=True)
    names = tuple(str(value) for value in values.tolist())
    return indices[: len(labels)], None if others is None else indices[len(labels) :], names


def _refuse(message: str) -> NoReturn:
    from avrobust_core.errors import DataError

    raise DataError(message)


def _as_object(classes: tuple[str, ...], clips: int, found: "Mapping[str, Measurement]") -> dict[str, Any]:
    from avrobust_core.study.results import measurement_to_json

    return {
        "clips": clips,
        "classes": len(classes),
        "metrics": {name: measurement_to_json(measurement) for name, measurement in found.items()},
    }


def _print(found: "Mapping[str, Measurement]") -> None:
    from avrobust_core.cli.layout import complain, say, table

    rows = [("metric", "", "value", "interval", "clips")]
    for metric, measurement in found.items():
        for name, value in measurement.values.items():
            rows.append((metric, name, f"{value.value:.4g}", f"[{value.low:.4g}, {value.high:.4g}]", str(value.n)))
    for line in table(rows, right=(2, 4)):
        say(line)
    for metric, measurement in found.items():
        for name, detail in measurement.details.items():
            complain(f"{metric}: {name}: {detail}")
