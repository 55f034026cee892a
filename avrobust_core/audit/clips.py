"""The clips that an audit reads again, kept so that each is read once."""

from collections.abc import Callable, Iterable, Sequence

import torch

from avrobust_core.batches import Batch
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
        self._kept: dict[str, Batch] = {}

    def __call__(self, ids: Sequence[str]) -> Batch:
        """These clips, in this order, on the device.

        Raises:
            DataError: if one is no longer there.
        """
        missing = [clip_id for clip_id in ids if clip_id not in self._kept]
        if missing:
            for batch in self._read(missing):
                for place, clip_id in enumerate(batch.ids):
                    if clip_id in missing:
                        self._kept[clip_id] = batch.select(torch.tensor([place], device=batch.targets.device))
        absent = [clip_id for clip_id in missing if clip_id not in self._kept]
        if absent:
            raise DataError(f"the audit could not read {first_of(absent)} again")
        parts = [self._kept[clip_id] for clip_id in ids]
        shapes = {tuple(tuple(x.shape[1:]) for x in part.inputs.values()) for part in parts}
        if len(shapes) > 1:
            raise DataError("the audit compares clips of one shape, and these are of several")
        inputs = {name: torch.cat([part.inputs[name] for part in parts]) for name in parts[0].inputs}
        return Batch(inputs, torch.cat([part.targets for part in parts]), tuple(ids)).to(self._device)
