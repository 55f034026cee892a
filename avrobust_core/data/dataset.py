"""The base class of data sets, for plugins to subclass."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from avrobust_core.data.batches import Clip
from avrobust_core.data.media import MediaSpec, Task

if TYPE_CHECKING:
    from scipy.sparse import csr_array


@dataclass(frozen=True, slots=True)
class Locality:
    """Where the clips of a split lie, for data sets that are slow to read at random.

    Attributes:
        blocks: the number of the block of each clip, in the order of `ids`; clips of a block are read fastest together.
        window: how many blocks training may mix at a time.
    """

    blocks: Sequence[int]
    window: int


class Dataset(ABC):
    """Clips with labels, in named splits. It must be picklable: worker processes get a copy.

    Attributes:
        media: what each modality is.
        classes: the class names, in the order of the targets' indices.
        task: whether a clip has one label or several.
        max_unreadable: the share of a split's clips that may fail to load before the run ends with an error.
        redrawn: whether `read_to_learn` gives other parts of clips than `read`. Such a data set cannot be packed.
    """

    media: Mapping[str, MediaSpec]
    classes: tuple[str, ...]
    task: Task
    max_unreadable: float = 0.0
    redrawn: bool = False

    @property
    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The names of the splits: "train" and "test" at least; "val" is used for selection where there is one."""

    @abstractmethod
    def ids(self, split: str) -> Sequence[str]:
        """The ids of a split's clips, in order: unique over all splits, known without reading any media."""

    def groups(self, split: str) -> Sequence[str] | None:
        """The group that each clip of a split was drawn with (a speaker, a source video), in the order of `ids`.

        Clips of one group are not independent draws: intervals then resample groups. None, as here, if every clip
        stands for itself.
        """
        return None

    def label_matrix(self, split: str) -> "csr_array | None":
        """The labels of a split's clips, known without reading any media: (n, K) zeros and ones, in the order of `ids`.

        None, as here, where they are not: what needs them then cannot be used.
        """
        return None

    def provenance(self) -> Mapping[str, Any]:
        """What the clips were taken from, as JSON data; a run keeps it in result.json. Empty, as here, if all is said.

        `summary`, where it is there, is one sentence that the run prints: what was listed, found and missing.
        """
        return {}

    def locality(self, split: str) -> Locality | None:
        """Where the clips of a split lie: training then mixes neighbouring ones. None, as here, for any order.

        The fits of a study depend on the order, so that the fingerprint must cover what this returns.
        """
        return None

    @abstractmethod
    def read(self, split: str, index: int) -> Clip:
        """Read one clip; deterministic.

        Raises:
            ClipError: if it cannot be read; the loader skips it, counts it and names it.
            DatasetFailure: if the fault is not the clip's, but that of what holds them all: it ends the run.
        """

    def read_to_learn(self, split: str, index: int, draw: int) -> Clip:
        """Read one clip for a fit to learn from: as `read` gives it, as here, or another part of it in each epoch.

        Args:
            split: the split.
            index: the clip's position in it.
            draw: what chance is drawn from, together with the clip's id: one number for an epoch of a fit. The same
                gives the same clip. Validation, attacks and measurements are of what `read` gives.

        Raises:
            ClipError: as from `read`.
            DatasetFailure: as from `read`.
        """
        return self.read(split, index)

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of all that decides what `read` returns, but not of where it lies: part of every cell's id."""
