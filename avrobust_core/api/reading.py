"""Reading a caller's loader, again and again: its batches checked, its clips the same each time."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from avrobust_core.api.requests import media_of
from avrobust_core.attacks.running import AttackRun
from avrobust_core.attacks.victim import Victim
from avrobust_core.data.batches import Batch
from avrobust_core.data.checking import as_batch, refuse_other_modalities
from avrobust_core.data.media import MediaSpec, Task
from avrobust_core.data.readings import Readings
from avrobust_core.errors import DataError
from avrobust_core.evaluation.predictions import Predictions, evaluate_batch, from_table
from avrobust_core.evaluation.shards import MicroBatches, to_table


class Reader:
    """Reads the loader, again and again, knows what its modalities are, and sees to it that it is the same each time.

    Attributes:
        first: the first batch, as it was given.
        batch_size: of the first batch.
        device: the model's.
        media: of each modality.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        media: Mapping[str, MediaSpec] | None,
        bounds: Mapping[str, tuple[float, float]] | None,
        task: Task,
        device: torch.device,
    ) -> None:
        self._loader = loader
        self._task: Task = task
        self.device = device
        self._readings = Readings()
        self._shapes: dict[str, tuple[torch.Size, ...]] = {}
        if isinstance(loader, Iterator):
            raise DataError("the loader is an iterator, which can be read only once: pass a list or a DataLoader")
        first = next(self._given(), None)
        if first is None:
            raise DataError("the loader gives no batch; it is read repeatedly: pass a list or a DataLoader")
        self._readings.take(first)
        self.first = first
        self.batch_size = len(first)
        self.media = media_of(media, bounds, {name: tuple(x.shape[1:]) for name, x in first.inputs.items()})

    @property
    def shuffled(self) -> bool:
        """True if the clips came in another order than at first."""
        return self._readings.shuffled

    def batches(self) -> Iterator[Batch]:
        """All batches, on the model's device; their tensors may be the caller's."""
        for batch in self._readings.follow(self._given()):
            refuse_other_modalities(batch, self.first)
            self._shapes |= dict.fromkeys(
                batch.ids, tuple(batch.inputs[name].shape[1:] for name in sorted(batch.inputs))
            )
            yield batch.to(self.device)

    def alike(self, ids: Sequence[str]) -> NDArray[np.bool_]:
        """Flag clips of the shape that most of them have: (N,) bool."""
        most, _ = Counter(self._shapes.values()).most_common(1)[0]
        return np.array([self._shapes[clip] == most for clip in ids])

    def predictions(self, victim: Victim, run: AttackRun | None) -> Predictions:
        """Predictions for every clip, clean or attacked, in the order of the first reading."""
        evaluate_part = MicroBatches(lambda batch: evaluate_batch(victim, batch, run), victim.spare)
        tables = [to_table(batch, evaluate_part(batch)) for batch in self.batches()]
        table = pa.concat_tables(tables).combine_chunks()
        place = {clip: i for i, clip in enumerate(table["id"].to_pylist())}
        return from_table(table.take(pa.array([place[clip] for clip in self._readings.ids])), 0.0)

    def _given(self) -> Iterator[Batch]:
        try:
            items = iter(self._loader)
        except TypeError:
            raise DataError(
                f"the loader is {type(self._loader).__name__}, which cannot be read batch by batch: pass a list or a "
                "DataLoader"
            ) from None
        position = 0
        for number, item in enumerate(items):
            batch = as_batch(item, number, position, self._task)
            position += len(batch)
            yield batch


def rebatched(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """The same clips in the same order, in batches of `size`, the last one of what is left."""
    left: Batch | None = None
    for batch in batches:
        if left is not None and any(x.shape[1:] != left.inputs[name].shape[1:] for name, x in batch.inputs.items()):
            raise DataError(
                f"clip {batch.ids[0]} is of another shape than clip {left.ids[0]}: an attack that must see the clips "
                "first, in batches of its own size, needs all of them to be of one shape"
            )
        left = batch if left is None else left.join(batch)
        whole = len(left) - len(left) % size
        positions = torch.arange(len(left), device=left.targets.device)
        yield from (left.select(positions[first : first + size]) for first in range(0, whole, size))
        left = left.select(positions[whole:]) if whole < len(left) else None
    if left is not None:
        yield left
