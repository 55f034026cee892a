"""The clips that an audit reads again, kept so that each is read once."""

from collections.abc import Callable, Iterable, Sequence

import torch

from avrobust_core.data.batches import Batch, Clip
from avrobust_core.errors import DataError
from avrobust_core.naming import first_of


class Clips:
    """From ids to batches; a clip is read once, and kept where it was read.

    Args:
        read: from ids to batches of these clips, in any order.
        device: where batches are wanted.
    """

    def __init__(self, read: Callable[[Sequence[str]], Iterable[Batch]], device: torch.device) -> None:
        self._read = read
        self._device = device
        self._kept: dict[str, Clip] = {}

    def __call__(self, ids: Sequence[str]) -> Batch:
        """These clips, which are of one shape, in this order, on the device.

        Raises:
            DataError: if one is no longer there.
        """
        missing = {clip_id for clip_id in ids if clip_id not in self._kept}
        for batch in self._read([clip_id for clip_id in ids if clip_id in missing]) if missing else ():
            for i, clip_id in enumerate(batch.ids):
                if clip_id in missing:  # cloned, so that the batch need not be kept
                    inputs = {name: x[i].clone() for name, x in batch.inputs.items()}
                    self._kept[clip_id] = Clip(clip_id, inputs, batch.targets[i].clone())
        absent = [clip_id for clip_id in ids if clip_id not in self._kept]
        if absent:
            raise DataError(f"the audit could not read {first_of(absent)} again")
        return Batch.stack([self._kept[clip_id] for clip_id in ids]).to(self._device)
