"""The tables that a cell leaves beside its result: one row per clip and evaluation, and one per class."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from avrobust_core.data.dataset import Dataset
from avrobust_core.evaluation.outcomes import Outcome
from avrobust_core.evaluation.predictions import Predictions
from avrobust_core.files import write_atomically, write_text

SAMPLES = "samples.parquet"
"""The file of a cell's table of clips."""


def write_per_class(path: Path, measured: Sequence[Mapping[str, Any]]) -> None:
    """Write one row per metric, evaluation, name and class: what a metric found of each class; none if it found none.

    `attack` and `threat` are empty for clean clips, and `value` where a class has none.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("metric", "attack", "threat", "name", "class", "value"))
    for entry in measured:
        where = (entry["metric"], entry["attack"], entry["threat"])
        for name, values in entry.get("per_class", {}).items():
            rows.writerows((*where, name, label, value) for label, value in values.items())
    write_text(path, text.getvalue())


def write_samples(
    path: Path, clean: Predictions, outcomes: Sequence[Outcome], dataset: Dataset, grouping: Mapping[str, str]
) -> None:
    """Write one row per clip and evaluation: what was predicted, and what it took.

    The norm of a modality that was not attacked is 0: the core has checked that it is as it was, bit for bit. `factor`
    is null for clean rows and where no budget tried has broken the clip, `group` where every clip stands for itself.
    """
    rows: list[tuple[str | None, str | None, Predictions]] = [(None, None, clean)]
    rows += [(outcome.attack, outcome.threat, outcome.predictions) for outcome in outcomes]
    tables, classes = [], np.array(dataset.classes, dtype=object)
    for attack, threat, predictions in rows:
        count = len(predictions.ids)
        labels = [list(classes[own]) for own in predictions.own]
        tables.append(
            pa.table(
                {
                    "id": pa.array(predictions.ids, type=pa.string()),
                    "attack": pa.array([attack] * count, type=pa.string()),
                    "threat": pa.array([threat] * count, type=pa.string()),
                    "group": pa.array([grouping.get(clip_id) for clip_id in predictions.ids], type=pa.string()),
                    "labels": pa.array(labels, type=pa.list_(pa.string())),
                    "prediction": pa.array(classes[predictions.logits.argmax(axis=1)], type=pa.string()),
                    "correct": predictions.correct,
                    "clean_correct": clean.correct,
                    "margin": predictions.margins,
                    "success": predictions.success,
                    "factor": pa.array(predictions.factor, mask=~np.isfinite(predictions.factor)),
                    "queries": predictions.queries,
                    **{f"norm/{name}": predictions.norms.get(name, np.zeros(count)) for name in sorted(dataset.media)},
                }
            )
        )
    table = pa.concat_tables(tables)
    write_atomically(path, lambda file: pq.write_table(table, file))
