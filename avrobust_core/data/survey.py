"""Reading a data set through: which clips cannot be read and why, which have no content, and a few of each class."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from avrobust_core.data.batches import Batch, Clip
from avrobust_core.data.dataset import Dataset
from avrobust_core.data.loader import Loader
from avrobust_core.data.loading import Skipped, check_ids
from avrobust_core.errors import ClipError

_AT_ONCE = 8


class _All(Skipped):
    """Records clips that cannot be read, however many there are."""

    def add(self, split: str, error: ClipError) -> None:
        self.by_split.setdefault(split, {})[error.clip_id] = error.reason


@dataclass(frozen=True, slots=True)
class Survey:
    """What a reading of all clips found.

    Attributes:
        clips: how many each split has.
        unreadable: by split and id: why.
        constant: by split and id, the clips with a modality that has one value throughout: which, and its value.
        padded: by split and id, the clips that are shorter than what was asked for: by how much.
        labels: by split: how often each class was read.
        limit: the share of a split's clips that the data set allows to be unreadable.
        shown: by class, the first clips that were read, as many as were asked for.
    """

    clips: dict[str, int]
    unreadable: dict[str, dict[str, str]]
    constant: dict[str, dict[str, str]]
    padded: dict[str, dict[str, str]]
    labels: dict[str, Counter[str]]
    limit: float
    shown: dict[str, list[Clip]] = field(default_factory=dict)

    @property
    def too_many(self) -> list[str]:
        """The splits of which more clips cannot be read than the data set allows: they would end a run."""
        return [
            split for split, faults in self.unreadable.items() if len(faults) > self.limit * self.clips.get(split, 0)
        ]


def survey(
    dataset: Dataset,
    *,
    workers: int = 0,
    show: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Survey:
    """Read all clips of a data set once.

    Args:
        dataset: any.
        workers: processes that read; 0 reads in this one.
        show: how many clips of each class to keep.
        progress: told (clips read, clips in all).

    Raises:
        DataError: if the data set's ids are not unique.
        RunError: if the system fails, or a process that reads dies; names the clips.
    """
    check_ids(dataset)
    skipped = _All(dataset)
    shown: dict[str, list[Clip]] = {name: [] for name in dataset.classes}
    labels: dict[str, Counter[str]] = {}
    done, total = 0, sum(len(dataset.ids(split)) for split in dataset.splits)
    progress(done, total)
    with Loader(dataset, workers=workers) as loader:
        for split in dataset.splits:
            count = len(dataset.ids(split))
            batches = [list(range(start, min(start + _AT_ONCE, count))) for start in range(0, count, _AT_ONCE)]
            labels[split] = Counter()
            for asked, batch in zip(batches, loader.batches(split, batches, skipped), strict=True):
                if batch is not None:
                    _count(batch, dataset, labels[split], shown, show)
                done += len(asked)
                progress(done, total)
    notes = skipped.to_json()
    return Survey(
        clips={split: len(dataset.ids(split)) for split in dataset.splits},
        unreadable=notes["skipped"],
        constant=notes["constant"],
        padded=notes["padded"],
        labels=labels,
        limit=dataset.max_unreadable,
        shown={name: clips for name, clips in shown.items() if clips},
    )


def _count(batch: Batch, dataset: Dataset, labels: Counter[str], shown: dict[str, list[Clip]], show: int) -> None:
    for i, clip_id in enumerate(batch.ids):
        target = batch.targets[i]
        numbers = [int(target)] if dataset.task == "single-label" else target.nonzero().flatten().tolist()
        names = [dataset.classes[number] for number in numbers]
        labels.update(names)
        for name in names:
            if len(shown[name]) < show:
                shown[name].append(Clip(clip_id, {key: x[i].clone() for key, x in batch.inputs.items()}, target))
