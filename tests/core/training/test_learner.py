"""What augmentations may do to training, one method at a time."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from avrobust_core import Augmentation, AugmentedStep, AvrobustError, Batch


class Kept(Augmentation):
    """Notes which clips it has seen; its state decides the targets, so that a lost state changes the weights."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def begin(self, batch, step):
        for clip_id in batch.ids:
            self.seen[clip_id] = self.seen.get(clip_id, 0) + 1
        smooth = 0.1 * max(self.seen.values())
        soft = torch.nn.functional.one_hot(batch.targets, step.classes).float() * (1 - smooth) + smooth / step.classes
        return AugmentedStep(Batch(batch.inputs, soft, batch.ids))

    def state_dict(self):
        return {"seen": dict(self.seen)}

    def load_state_dict(self, state):
        self.seen = dict(state["seen"])


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def _same(first: Path, second: Path) -> bool:
    one, two = _weights(first), _weights(second)
    return all(torch.equal(one[name], two[name]) for name in one)


def test_the_order_of_an_epoch_is_the_augmentations(tmp_path: Path, new_fit) -> None:
    read: list[str] = []

    class Backwards(Augmentation):
        def order(self, clips, step):
            self.clips = list(clips)
            return np.arange(len(clips))[::-1]

        def begin(self, batch, step):
            if step.epoch == 2:
                read.extend(batch.ids)
            return super().begin(batch, step)

    backwards = Backwards()
    new_fit(tmp_path, augmentations=[backwards]).run()
    assert read == backwards.clips[::-1][: len(read)]
    assert len(read) > 8


def test_an_order_of_another_length_is_a_plugins_fault(tmp_path: Path, new_fit) -> None:
    class Short(Augmentation):
        def order(self, clips, step):
            return np.arange(len(clips) - 1)

    with pytest.raises(AvrobustError, match=r"Short\.order gave positions of shape"):
        new_fit(tmp_path, augmentations=[Short()]).run()


def test_encodings_may_be_changed_with_their_targets_and_losses_are_added_to(tmp_path: Path, new_fit) -> None:
    spreads: list[float] = []

    class ZeroedStep(AugmentedStep):
        def encodings(self, encoded, targets):
            zero = {name: type(e)(e.tokens * 0, e.pooled * 0) for name, e in encoded.items()}
            return zero, torch.zeros_like(targets)

        def loss(self, losses, forward):
            assert not forward.batch.targets.any()
            assert not any(found.pooled.any() for found in forward.encoded.values())
            spreads.append(float(forward.logits.detach().std(dim=0).max()))
            zeros = torch.zeros(len(losses), dtype=torch.int64)
            torch.testing.assert_close(
                losses, torch.nn.functional.cross_entropy(forward.logits, zeros, reduction="none")
            )
            return losses + 5

    class Zeroed(Augmentation):
        def begin(self, batch, step):
            return ZeroedStep(batch)

    new_fit(tmp_path, augmentations=[Zeroed()]).run()
    assert max(spreads) < 1e-6, "all clips look alike once their encodings are zero"
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert history[0]["loss"] > 5


def test_replays_are_optimiser_steps_on_the_same_batch_and_gradients_reach_leaves(tmp_path: Path, new_fit) -> None:
    calls: list[tuple[tuple[str, ...], int]] = []
    grads: list[float] = []

    class Leaves(AugmentedStep):
        def after_backward(self):
            grads.append(max(float(x.grad.abs().max()) for x in self.batch.inputs.values() if x.grad is not None))

    class Replayed(Augmentation):
        replays = 3

        def begin(self, batch, step):
            calls.append((batch.ids, step.replay))
            leaves = {name: x.detach().clone().requires_grad_() for name, x in batch.inputs.items()}
            return Leaves(Batch(leaves, batch.targets, batch.ids))

    plain = new_fit(tmp_path / "plain").run()
    record = new_fit(tmp_path / "replayed", augmentations=[Replayed()]).run()
    assert [replay for _, replay in calls[:6]] == [0, 1, 2, 0, 1, 2]
    assert calls[0][0] == calls[1][0] == calls[2][0] != calls[3][0]
    assert min(grads) > 0
    assert record["clip_backwards"] == 3 * plain["clip_backwards"]


def test_a_replay_goes_on_from_the_pass_before_it_where_that_says_so(tmp_path: Path, new_fit) -> None:
    passes: list[tuple[int, int]] = []

    class Counted(AugmentedStep):
        number = 0

        def again(self, batch, step):
            following = Counted(batch) if step.replay < 3 else None
            if following is not None:
                following.number = self.number + 1
            return following

        def after_backward(self):
            passes.append((self.number, len(self.batch)))

    class Replayed(Augmentation):
        replays = 4

        def begin(self, batch, step):
            return Counted(batch)

    new_fit(tmp_path, augmentations=[Replayed()], epochs=1).run()
    assert [number for number, _ in passes] == [0, 1, 2, 0] * (len(passes) // 4)


def test_the_time_that_augmentations_take_between_epochs_is_an_epochs_time(tmp_path: Path, new_fit) -> None:
    class Slow(Augmentation):
        def order(self, clips, step):
            time.sleep(0.03)

        def end_epoch(self, step, gather):
            time.sleep(0.02)

    record = new_fit(tmp_path, augmentations=[Slow()], epochs=2).run()
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert all(0.05 <= row["between_epochs_seconds"] <= row["seconds"] for row in rows)
    assert record["between_epochs_seconds"] == pytest.approx(sum(row["between_epochs_seconds"] for row in rows))


def test_what_an_augmentation_spends_is_counted(tmp_path: Path, new_fit) -> None:
    class Costly(Augmentation):
        def begin(self, batch, step):
            step.cost.forwards += 7 * len(batch)
            step.cost.backwards += 2 * len(batch)
            return super().begin(batch, step)

        def end_epoch(self, step, gather):
            assert gather("mine") == ["mine"]
            step.cost.forwards += 1

    plain = new_fit(tmp_path / "plain").run()
    costly = new_fit(tmp_path / "costly", augmentations=[Costly()]).run()
    assert costly["clip_backwards"] == 3 * plain["clip_backwards"]
    assert costly["clip_forwards"] == plain["clip_forwards"] + 7 * plain["clip_backwards"] + 3


@pytest.mark.parametrize("stop_at", [4, 9, 14])
def test_a_fit_that_was_killed_goes_on_with_the_augmentations_state(
    tmp_path: Path, new_fit, monkeypatch, stop_at: int
) -> None:
    monkeypatch.setattr("avrobust_core.training.fit.CHECKPOINT_SECONDS", -1.0)
    new_fit(tmp_path / "whole", augmentations=[Kept()]).run()

    class Killed(Exception):
        pass

    def report(done: int, total: int) -> None:
        if done == stop_at:
            raise Killed

    with pytest.raises(Killed):
        new_fit(tmp_path / "killed", augmentations=[Kept()], report=report).run()
    new_fit(tmp_path / "killed", augmentations=[Kept()]).run()
    assert _same(tmp_path / "whole", tmp_path / "killed")
