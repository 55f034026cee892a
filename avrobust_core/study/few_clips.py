"""The first clips of a data set, for a calibration."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from avrobust_core.data.batches import Clip
from avrobust_core.data.dataset import Dataset

if TYPE_CHECKING:
    from scipy.sparse import csr_array


class FewClips(Dataset):
    """A data set of which each split has a few clips at most: its first.

    Args:
        dataset: to read from.
        clips: of each split.
    """

    def __init__(self, dataset: Dataset, clips: int) -> None:
        self.dataset = dataset
        self.clips = clips
        self.media, self.classes, self.task = dataset.media, dataset.classes, dataset.task
        self.max_unreadable, self.redrawn = dataset.max_unreadable, dataset.redrawn

    @property
    def splits(self) -> tuple[str, ...]:
        return self.dataset.splits

    def ids(self, split: str) -> Sequence[str]:
        return self.dataset.ids(split)[: self.clips]

    def groups(self, split: str) -> Sequence[str] | None:
        groups = self.dataset.groups(split)
        return None if groups is None else groups[: self.clips]

    def label_matrix(self, split: str) -> "csr_array | None":
        labels = self.dataset.label_matrix(split)
        return None if labels is None else labels[: len(self.ids(split))]

    def provenance(self) -> Mapping[str, Any]:
        return self.dataset.provenance()

    def read(self, split: str, index: int) -> Clip:
        return self.dataset.read(split, index)

    def read_to_learn(self, split: str, index: int, draw: int) -> Clip:
        return self.dataset.read_to_learn(split, index, draw)

    def fingerprint(self) -> str:
        return f"{self.dataset.fingerprint()}, {self.clips} clips"
