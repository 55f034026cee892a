import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avrobust_core.data.dataset import Locality
from avrobust_core.data.loader import Loader
from avrobust_core.data.loading import (
    Selection,
    Skipped,
    epoch_order,
    in_batches,
    select,
    split_for_training,
)
from avrobust_core.errors import DataError


def _selection(n: int) -> Selection:
    return Selection("train", tuple(range(n)), tuple(f"clip-{i}" for i in range(n)))


@given(n=st.integers(1, 200), world=st.integers(1, 7))
def test_every_clip_is_in_exactly_one_process_share(n: int, world: int) -> None:
    shares = [_selection(n).share(rank, world) for rank in range(world)]
    assert sorted(i for share in shares for i in share.indices) == list(range(n))


@given(n=st.integers(1, 200), size=st.integers(1, 50), epoch=st.integers(0, 3))
def test_an_epoch_is_a_permutation_in_full_batches(n: int, size: int, epoch: int) -> None:
    batches = in_batches(epoch_order(_selection(n), seed=3, epoch=epoch), size)
    seen = [i for batch in batches for i in batch]
    assert len(seen) == len(set(seen))
    assert set(seen) <= set(range(n))
    assert len(batches) == max(1, n // size)
    assert batches == in_batches(epoch_order(_selection(n), seed=3, epoch=epoch), size)


def test_epochs_and_seeds_differ_in_order() -> None:
    orders = {str(epoch_order(_selection(40), seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


@given(n=st.integers(1, 150), size=st.integers(1, 20), window=st.integers(1, 6), epoch=st.integers(0, 3))
def test_an_order_that_keeps_neighbours_together_is_a_permutation_too(
    n: int, size: int, window: int, epoch: int
) -> None:
    chosen = _selection(n).where(i % 5 != 3 for i in range(n))
    locality = Locality([i // size for i in range(n)], window)
    order = epoch_order(chosen, 3, epoch, locality)
    assert sorted(order) == list(chosen.indices)
    assert order == epoch_order(chosen, 3, epoch, locality)
    blocks = list(dict.fromkeys(i // size for i in order))
    for start in range(0, len(blocks), window):
        here = set(blocks[start : start + window])
        positions = [place for place, i in enumerate(order) if i // size in here]
        assert positions == list(range(positions[0], positions[0] + len(positions))), "no block is read twice"


def test_an_order_that_keeps_neighbours_together_mixes_blocks_and_clips() -> None:
    locality = Locality([i // 10 for i in range(400)], 4)
    orders = [epoch_order(_selection(400), 0, epoch, locality) for epoch in (0, 1)]
    assert orders[0] != orders[1]
    for order in orders:
        first = [i // 10 for i in order[:40]]
        assert len(set(first)) == 4
        assert max(first) - min(first) > 4, "blocks are of all places"
        assert first != sorted(first, key=first.index), "clips of a window's blocks are mixed"


def test_the_global_random_states_are_not_touched(blobs) -> None:
    before = (random.getstate(), torch.random.get_rng_state())
    epoch_order(_selection(10), 0, 0)
    dataset = blobs()
    list(Loader(dataset).batches("test", [[0, 1]], Skipped(dataset)))
    assert random.getstate() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])


def test_a_subset_for_evaluation_depends_on_ids_not_on_position(blobs) -> None:
    few = select(blobs(test=50), "test", 10)
    assert len(few) == 10
    assert list(few.indices) == sorted(few.indices)
    more = select(blobs(test=50), "test", 20)
    assert set(few.ids) < set(more.ids), "a larger subset contains the smaller one"


def test_an_unknown_split_is_named_with_those_there_are(blobs) -> None:
    with pytest.raises(DataError, match=r"no split 'tset'; it has: train, test"):
        select(blobs(), "tset")


def test_validation_clips_are_held_out_by_id_and_never_trained_on(blobs) -> None:
    train, held = split_for_training(blobs(train=500), 0.2)
    assert held is not None
    assert not set(train.ids) & set(held.ids)
    assert len(train) + len(held) == 500
    assert 60 <= len(held) <= 140
    larger_train, larger_held = split_for_training(blobs(train=1000), 0.2)
    assert larger_held is not None
    assert set(held.ids) <= set(larger_held.ids), "a clip's place does not depend on the others"
    assert set(train.ids) <= set(larger_train.ids)


def test_unreadable_clips_are_left_out_counted_and_named(blobs) -> None:
    dataset = blobs(corrupt=["test-1", "test-4", "test-5"])
    skipped = Skipped(dataset)
    batches = list(Loader(dataset).batches("test", [[0, 1, 2], [4, 5], [6]], skipped))
    assert [batch.ids if batch else None for batch in batches] == [("test-0", "test-2"), None, ("test-6",)]
    assert skipped.by_split == {"test": dict.fromkeys(("test-1", "test-4", "test-5"), "made corrupt")}


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_unreadable_clips_end_the_run_and_are_named(blobs, workers: int) -> None:
    dataset = blobs(test=20, corrupt=["test-1", "test-4", "test-5"], max_unreadable=0.1)
    with pytest.raises(DataError, match=r"3 of the 20 clips of split 'test'.*test-1: made corrupt"):
        list(Loader(dataset, workers=workers).batches("test", [[i] for i in range(20)], Skipped(dataset)))


def test_a_clip_of_the_wrong_shape_or_with_nan_is_skipped_with_the_reason(blobs) -> None:
    class Faulty(blobs):  # type: ignore[misc]
        def read(self, split, index):
            clip = super().read(split, index)
            if index == 0:
                clip.inputs["left"] = clip.inputs["left"][:, :5]
            if index == 1:
                clip.inputs["right"][0, 0, 0] = float("nan")
            if index == 2:
                raise KeyError("a bug of the reader")
            if index == 3:
                del clip.inputs["left"]
            if index == 5:
                return type(clip)(clip.id, clip.inputs, clip.target.float())
            if index == 6:
                return type(clip)("another", clip.inputs, clip.target)
            if index == 7:
                return type(clip)(clip.id, clip.inputs, torch.tensor(3))
            if index == 8:
                return type(clip)(clip.id, clip.inputs, torch.tensor(-1))
            if index == 9:
                return clip.inputs
            return clip

    dataset = Faulty()
    skipped = Skipped(dataset)
    (batch,) = Loader(dataset).batches("test", [list(range(10))], skipped)
    assert batch is not None
    assert batch.ids == ("test-4",)
    reasons = skipped.by_split["test"]
    assert "(1, 5)" in reasons["test-0"]
    assert "not finite" in reasons["test-1"]
    assert "a bug of the reader" in reasons["test-2"]
    assert "not left, right" in reasons["test-3"]
    assert "its target is torch.float32" in reasons["test-5"]
    assert "calls itself 'another'" in reasons["test-6"]
    assert "its target is 3, none of the 3 classes" in reasons["test-7"]
    assert "its target is -1, none of the 3 classes" in reasons["test-8"]
    assert "is dict, not a Clip" in reasons["test-9"]


def test_only_an_optional_modality_may_be_nan_and_only_throughout(blobs) -> None:
    class Lacking(blobs):  # type: ignore[misc]
        media = blobs.media | {"left": replace(blobs.media["left"], optional=True)}

        def read(self, split, index):
            clip = super().read(split, index)
            if index < 3:
                clip.inputs["right" if index == 0 else "left"][:, : 2 if index == 1 else None] = float("nan")
            return clip

    dataset = Lacking()
    skipped = Skipped(dataset)
    (batch,) = Loader(dataset).batches("test", [[0, 1, 2, 3]], skipped)
    assert batch is not None
    assert batch.ids == ("test-2", "test-3")
    assert skipped.by_split["test"] == {
        "test-0": "right has values that are not finite",
        "test-1": "left has values that are not finite",
    }


def test_targets_of_several_labels_are_zeros_and_ones(blobs) -> None:
    class Several(blobs):  # type: ignore[misc]
        task = "multi-label"

        def read(self, split, index):
            clip = super().read(split, index)
            target = torch.tensor([1.0, 0.0, 1.0]) if index else torch.tensor([1.0, 0.5, 0.0])
            return type(clip)(clip.id, clip.inputs, target)

    skipped = Skipped(Several())
    (batch,) = Loader(Several()).batches("test", [[0, 1]], skipped)
    assert batch is not None
    assert batch.ids == ("test-1",)
    assert "has the value 0.5, not zeros and ones" in skipped.by_split["test"]["test-0"]


def test_the_ids_of_a_split_are_asked_for_once_not_per_clip(blobs) -> None:
    calls = []

    class Counting(blobs):  # type: ignore[misc]
        def ids(self, split):
            calls.append(split)
            return super().ids(split)

    dataset = Counting()
    list(Loader(dataset).batches("test", [[i] for i in range(20)], Skipped(dataset)))
    assert len(calls) == 1, "a split may have millions of clips"


class SomeConstant:
    """Clip 1 is silent on the left, clip 2 is 2.5 on both sides, clip 3 differs in its last value alone."""

    def __init__(self, dataset) -> None:
        self.dataset = dataset

    def __getattr__(self, name):
        return getattr(self.dataset, name)

    def read(self, split, index):
        clip = self.dataset.read(split, index)
        if index in (1, 2):
            clip.inputs["left"].fill_(0 if index == 1 else 2.5)
        if index in (2, 3):
            clip.inputs["right"].fill_(2.5)
        if index == 3:
            clip.inputs["right"][-1, -1, -1] = 2
        return clip


def test_clips_that_are_the_same_throughout_are_read_and_named(blobs) -> None:
    dataset = SomeConstant(blobs())
    skipped = Skipped(dataset)
    for _ in range(2):
        batches = list(Loader(dataset).batches("test", [[0, 1], [2, 3]], skipped))
    assert [len(batch) for batch in batches] == [2, 2]
    wanted = {"test-1": "left is 0 throughout", "test-2": "left is 2.5 throughout, right is 2.5 throughout"}
    assert skipped.to_json() == {"skipped": {}, "constant": {"test": wanted}, "padded": {}}


@pytest.mark.parametrize("workers", [0, 2])
def test_clips_that_are_padded_are_read_and_named_whoever_reads_them(blobs, workers: int) -> None:
    class Short(blobs):  # type: ignore[misc]
        def read(self, split, index):
            clip = super().read(split, index)
            return replace(clip, padded={"right": 0.25, "left": 2 / 3}) if index in (2, 3) else clip

    dataset = Short(corrupt=["test-1"])
    skipped = Skipped(dataset)
    with Loader(dataset, workers=workers) as loader:
        for _ in range(2):
            list(loader.batches("test", [[0, 1, 2], [3, 4]], skipped))
    wanted = dict.fromkeys(("test-2", "test-3"), "67 % of left, 25 % of right is padding")
    found = {"skipped": {"test": {"test-1": "made corrupt"}}, "constant": {}, "padded": {"test": wanted}}
    assert skipped.to_json() == found
    together = Skipped(dataset)
    together.merge({**found, "clips": 5})
    assert together.to_json() == found
    together.merge({"skipped": {}})  # a record of an earlier version
    assert together.to_json() == found
