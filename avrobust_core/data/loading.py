"""What is read from a data set: the choice and order of clips, and a record of those that cannot be read."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from avrobust_core.config.suggest import did_you_mean
from avrobust_core.data.batches import Batch
from avrobust_core.data.dataset import Dataset, Locality
from avrobust_core.errors import ClipError, DataError, DatasetFailure
from avrobust_core.naming import first_of
from avrobust_core.randomness import derive_seed

ClipNotes = dict[str, dict[str, str]]
"""By split and id, what there is to say of a clip."""

NOTE_KINDS: Final = ("skipped", "constant", "padded")
"""What is kept of clips in results: those that could not be read, that have no content, that are shorter."""


@dataclass(slots=True)
class Skipped:
    """The clips that could not be read, by split and id, each with its reason; and what is odd about others.

    A clip that fails again in the next epoch counts once.

    Attributes:
        dataset: whose clips they are.
        by_split: those that could not be read.
        constant: those with a modality of one value throughout.
        padded: those that are shorter than what was asked for.
    """

    dataset: Dataset
    by_split: ClipNotes = field(default_factory=dict)
    constant: ClipNotes = field(default_factory=dict)
    padded: ClipNotes = field(default_factory=dict)
    _totals: dict[str, int] = field(default_factory=dict)

    def add(self, split: str, error: ClipError) -> None:
        """Record a clip.

        Raises:
            DatasetFailure: if more of the split has failed than the data set allows.
        """
        clips = self.by_split.setdefault(split, {})
        clips[error.clip_id] = error.reason
        if split not in self._totals:
            self._totals[split] = len(self.dataset.ids(split))
        total = self._totals[split]
        allowed = self.dataset.max_unreadable
        if len(clips) > allowed * total:
            first = first_of((f"{name}: {reason}" for name, reason in clips.items()), "; ")
            raise DatasetFailure(
                f"{len(clips)} of the {total} clips of split {split!r} cannot be read, more than the allowed share "
                f"of {allowed:g} (max_unreadable): {first}"
            )

    def look_at(self, split: str, batch: Batch) -> None:
        """Record clips that are padded, or of which a modality has one value throughout: silence, or one colour."""
        for clip_id, shares in zip(batch.ids, batch.padded, strict=True):
            if shares:
                found = ", ".join(f"{100 * share:.0f} % of {name}" for name, share in sorted(shares.items()))
                self.padded.setdefault(split, {}).setdefault(clip_id, f"{found} is padding")
        for modality, x in batch.inputs.items():
            if x[0].numel() < 2:  # a single value is no content that could be missing
                continue
            flat = x.flatten(1)
            probe = flat[:, :: max(1, flat.shape[1] // 64)]  # a few values, that most clips need no second look
            for i in (probe == probe[:, :1]).all(1).nonzero().flatten().tolist():
                if bool((flat[i] == flat[i, 0]).all()):
                    found = f"{modality} is {float(flat[i, 0]) + 0.0:g} throughout"  # not "-0"
                    clips = self.constant.setdefault(split, {})
                    earlier = clips.get(batch.ids[i])
                    if earlier is None or found not in earlier:
                        clips[batch.ids[i]] = found if earlier is None else f"{earlier}, {found}"

    def merge(self, record: Mapping[str, Any]) -> None:
        """Take in what was recorded elsewhere: what `to_json` gives, alone or among other things of a record."""
        for name, mine in self._kinds().items():
            for split, clips in record.get(name, {}).items():
                mine.setdefault(split, {}).update(clips)

    def to_json(self) -> dict[str, ClipNotes]:
        """`skipped`, `constant` and `padded`, as results have them: each by split and id, sorted."""
        return {
            name: {split: dict(sorted(clips.items())) for split, clips in sorted(notes.items()) if clips}
            for name, notes in self._kinds().items()
        }

    def _kinds(self) -> dict[str, ClipNotes]:
        return dict(zip(NOTE_KINDS, (self.by_split, self.constant, self.padded), strict=True))


@dataclass(frozen=True, slots=True)
class Selection:
    """Clips of one split, in order: positions within the split, and their ids."""

    split: str
    indices: tuple[int, ...]
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def where(self, keep: Iterable[bool]) -> "Selection":
        """The clips for which `keep` is true, in the same order."""
        kept = [i for i, flag in enumerate(keep) if flag]
        return Selection(self.split, tuple(self.indices[i] for i in kept), tuple(self.ids[i] for i in kept))

    def share(self, rank: int, world: int) -> "Selection":
        """One process's clips of `world` processes: every clip in exactly one share, none twice."""
        return self.where(i % world == rank for i in range(len(self)))

    def some(self, clips: int) -> "Selection":
        """So many of the clips, chosen by a hash of their ids, in the same order; all where there are no more."""
        if clips >= len(self):
            return self
        chosen = set(sorted(range(len(self)), key=lambda i: derive_seed("evaluation", self.ids[i]))[:clips])
        return self.where(i in chosen for i in range(len(self)))

    def chunks(self, size: int) -> list[list[int]]:
        """The positions in consecutive batches of at most `size`."""
        return [list(self.indices[start : start + size]) for start in range(0, len(self), size)]


def check_ids(dataset: Dataset) -> None:
    """Refuse clips whose ids cannot tell them apart: results are kept by id, and one would pass for the other.

    Raises:
        DataError: names the first id that is given twice and both its places, or the first that is no text.
    """
    places: dict[str, tuple[str, int]] = {}
    for split in dataset.splits:
        for index, clip_id in enumerate(dataset.ids(split)):
            if not isinstance(clip_id, str) or not clip_id:
                raise DataError(f"clip {index} of split {split!r} has the id {clip_id!r}, which is no text")
            if clip_id in places:
                first = " of split ".join(repr(part) for part in reversed(places[clip_id]))
                raise DataError(
                    f"two clips have the id {clip_id!r}: clip {first}, and clip {index} of split {split!r}; "
                    "every clip of a data set needs an id of its own"
                )
            places[clip_id] = split, index


def refuse_split(dataset: Dataset, split: str) -> None:
    """Refuse a split that the data set does not have.

    Raises:
        DataError: names the splits that there are.
    """
    if split not in dataset.splits:
        raise DataError(
            f"the data set has no split {split!r}; it has: {', '.join(dataset.splits)}"
            + did_you_mean(split, dataset.splits)
        )


def select(dataset: Dataset, split: str, clips: int | None = None) -> Selection:
    """All clips of a split, or `clips` of them chosen by a hash of their ids, in the data set's order.

    Raises:
        DataError: if there is no such split, or it is empty.
    """
    refuse_split(dataset, split)
    ids = tuple(dataset.ids(split))
    if not ids:
        raise DatasetFailure(f"split {split!r} of the data set is empty")
    whole = Selection(split, tuple(range(len(ids))), ids)
    return whole if clips is None else whole.some(clips)


def split_for_training(dataset: Dataset, held_out: float) -> tuple[Selection, Selection | None]:
    """The clips to train on and those to select by: the "val" split, else a share of "train" by a hash of the ids.

    Args:
        dataset: must have the split "train".
        held_out: share of "train" to hold out, in [0, 1), where there is no "val"; 0 holds none out.
    """
    train = select(dataset, "train")
    if "val" in dataset.splits and dataset.ids("val"):
        return train, select(dataset, "val")
    if held_out == 0:
        return train, None
    limit = held_out * 2**63
    held = [derive_seed("validation", clip_id) < limit for clip_id in train.ids]
    if not any(held) or all(held):
        return train, None
    return train.where(not flag for flag in held), train.where(held)


def epoch_order(selection: Selection, seed: int, epoch: int, locality: Locality | None = None) -> list[int]:
    """The positions of one epoch's training clips: a permutation from (seed, epoch) alone, and from where clips lie.

    Args:
        selection: the training clips.
        seed: the fit's.
        epoch: from 0.
        locality: where the split's clips lie. Blocks are then permuted, and the clips of a window of them mixed.
    """
    chance = random.Random(derive_seed(seed, "order", epoch))  # not torch's: no global state is touched
    order = list(selection.indices)
    if locality is None:
        chance.shuffle(order)
        return order
    blocks: dict[int, list[int]] = {}
    for position in order:
        blocks.setdefault(locality.blocks[position], []).append(position)
    numbers = list(blocks)
    chance.shuffle(numbers)
    mixed: list[int] = []
    for start in range(0, len(numbers), locality.window):
        window = [position for number in numbers[start : start + locality.window] for position in blocks[number]]
        chance.shuffle(window)
        mixed += window
    return mixed


def in_batches(order: Sequence[int], batch_size: int) -> list[Sequence[int]]:
    """Runs of neighbours.

    The last batch is left out if it is not full, unless it is the only one: every optimiser step weighs the same.
    """
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) < batch_size else batches
