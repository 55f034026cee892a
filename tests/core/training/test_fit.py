import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from scipy.sparse import csr_array
from torch import nn

from avrobust_core import Augmentation, AugmentedStep, Fusion
from avrobust_core.data.loader import Loader
from avrobust_core.data.loading import epoch_order
from avrobust_core.errors import AvrobustError, BatchTimeout, DataError, ModelError, RunError, WeightsError
from avrobust_core.models.saving import load_weights, save_weights
from avrobust_core.randomness import seeded
from avrobust_core.training import fit as training
from avrobust_core.training.optimization import parameter_groups, schedule


def _weights(folder: Path, name: str = "last.safetensors") -> bytes:
    return (folder / name).read_bytes()


def test_a_fit_learns_and_leaves_its_files(tmp_path: Path, new_fit) -> None:
    record = new_fit(tmp_path, epochs=8).run()
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, 9))
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    assert {p.name for p in tmp_path.iterdir()} == {
        "fit.json",
        "history.jsonl",
        "last.safetensors",
        "model.safetensors",
    }
    assert record["train_clips"] + record["validation_clips"] == 48
    steps = record["train_clips"] // 8
    assert record["clip_backwards"] == 8 * steps * 8


def test_the_same_seed_gives_the_same_weights(tmp_path: Path, new_fit) -> None:
    new_fit(tmp_path / "a").run()
    new_fit(tmp_path / "b").run()
    assert _weights(tmp_path / "a") == _weights(tmp_path / "b")


class _Stopped(Exception):
    pass


def _stop_after(steps: int):
    def report(done: int, total: int) -> None:
        if done == steps:
            raise _Stopped

    return report


@pytest.mark.parametrize("steps", [1, 4, 7, 13])
def test_a_fit_stopped_at_any_step_goes_on_to_the_same_weights(tmp_path, new_fit, monkeypatch, steps: int) -> None:
    whole = new_fit(tmp_path / "whole")
    whole.run()
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)  # checkpoint after every step
    with pytest.raises(_Stopped):
        new_fit(tmp_path / "stopped", report=_stop_after(steps)).run()
    reports: list[int] = []
    resumed = new_fit(tmp_path / "stopped", report=lambda done, total: reports.append(done))
    resumed.run()
    assert reports[0] >= max(steps, 1), "no more than the step that was stopped is done again"
    assert _weights(tmp_path / "stopped") == _weights(tmp_path / "whole")
    assert _weights(tmp_path / "stopped", "model.safetensors") == _weights(tmp_path / "whole", "model.safetensors")

    def history(folder: Path) -> list[dict[str, float]]:
        rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        return [{key: value for key, value in row.items() if "seconds" not in key} for row in rows]

    assert history(tmp_path / "stopped") == history(tmp_path / "whole")


def test_the_best_weights_on_held_out_clips_are_kept(tmp_path: Path, new_fit) -> None:
    record = new_fit(tmp_path, epochs=6, learning_rate=0.3).run()
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    best = max(rows, key=lambda row: (row["validation_accuracy"], -row["validation_loss"]))
    assert record["best_epoch"] == best["epoch"]


def test_selecting_the_last_weights_holds_no_clip_out(tmp_path: Path, new_fit) -> None:
    record = new_fit(tmp_path, select="last").run()
    assert record["validation_clips"] == 0
    assert record["best_epoch"] is None
    assert _weights(tmp_path) == _weights(tmp_path, "model.safetensors")


def test_the_global_random_state_is_restored(tmp_path: Path, new_fit) -> None:
    fit = new_fit(tmp_path)
    before = torch.random.get_rng_state()
    fit.run()
    assert torch.equal(before, torch.random.get_rng_state())


def test_unreadable_clips_are_named_in_the_record_even_after_a_stop(tmp_path, new_fit, blobs, monkeypatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    dataset = blobs(corrupt=["train-3", "train-7"])
    with pytest.raises(_Stopped):
        new_fit(tmp_path, dataset=dataset, report=_stop_after(14)).run()
    record = new_fit(tmp_path, dataset=dataset).run()
    assert set(record["skipped"]["train"]) == {"train-3", "train-7"}


def test_a_loss_that_is_not_finite_is_an_error(tmp_path: Path, new_fit) -> None:
    with pytest.raises(AvrobustError, match="not finite"):
        new_fit(tmp_path, learning_rate=1e6, gradient_clip=None).run()
    assert not (tmp_path / "fit.json").exists()


def test_augmentations_see_the_epoch_and_change_what_is_learned(tmp_path: Path, new_fit) -> None:
    epochs: set[int] = set()

    class Flip(Augmentation):
        def begin(self, batch, step):
            epochs.add(step.epoch)
            soft = torch.nn.functional.one_hot(batch.targets, step.classes).float() * 0.8 + 0.2 / step.classes
            return AugmentedStep(type(batch)({name: -x for name, x in batch.inputs.items()}, soft, batch.ids))

    new_fit(tmp_path / "plain").run()
    new_fit(tmp_path / "flipped", augmentations=[Flip()]).run()
    assert epochs == {0, 1, 2}
    assert _weights(tmp_path / "plain") != _weights(tmp_path / "flipped")


def test_the_schedule_rises_to_one_and_falls_to_zero() -> None:
    rates = [schedule(step, 100, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))


def test_biases_and_normalisation_do_not_decay() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    decaying, others = parameter_groups(model, 0.1)
    assert [p.dim() for p in decaying["params"]] == [2]
    assert len(others["params"]) == 3
    assert others["weight_decay"] == 0.0


def test_a_checkpoint_with_a_malicious_pickle_is_refused(tmp_path: Path, new_fit) -> None:
    class Evil:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return (Path.touch, (tmp_path / "owned",))

    torch.save({"model": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(RunError, match="cannot be read"):
        new_fit(tmp_path).run()
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "content", [{}, [1], {"model": {}, "optimizer": 3}, {"model": {"x": torch.ones(1)}}, "\x1b[1mx"]
)
def test_a_checkpoint_that_holds_something_else_is_a_sentence(tmp_path: Path, new_fit, content) -> None:
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(RunError, match=r"cannot be read.*delete it to fit from the start") as raised:
        new_fit(tmp_path).run()
    assert str(raised.value).isprintable()


class _Siamese(Fusion):
    """Both modalities pass one layer, and its weights have a second name."""

    def __init__(self, fusion: Fusion) -> None:
        super().__init__()
        self.fusion, self.dim = fusion, fusion.dim
        self.one = nn.Linear(fusion.dim, fusion.dim)
        self.other = self.one
        self.register_buffer("scale", torch.tensor([0.5]).expand(fusion.dim))

    def forward(self, encoded):
        fused = self.fusion(encoded)
        return self.one(fused) + self.scale * self.other(fused.flip(1))

    def get_extra_state(self):
        return {"made": "by hand"}

    def set_extra_state(self, state) -> None:
        assert state == {"made": "by hand"}


def test_tied_layers_and_extra_state_are_saved_and_resumed(tmp_path, new_fit, new_model, monkeypatch) -> None:
    def fit(folder: Path, report=None):
        with seeded(1):
            model = new_model()
            model.fusion = _Siamese(model.fusion)
        return new_fit(folder, report=report, model=model)

    whole = fit(tmp_path / "whole")
    whole.run()
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    with pytest.raises(_Stopped):
        fit(tmp_path / "stopped", _stop_after(7)).run()
    resumed = fit(tmp_path / "stopped")
    resumed.run()
    assert _weights(tmp_path / "stopped") == _weights(tmp_path / "whole")
    again = fit(tmp_path / "again").module
    load_weights(again, tmp_path / "whole" / "last.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), whole.module.parameters(), strict=True))
    assert again.fusion.one is again.fusion.other


class _Unsaved(nn.Linear):
    def get_extra_state(self):
        return lambda: None

    def set_extra_state(self, state) -> None: ...


def test_a_model_that_cannot_be_saved_is_refused_before_it_is_trained(tmp_path: Path, new_fit, new_model) -> None:
    model = new_model()
    model.head = _Unsaved(model.head.in_features, model.head.out_features)
    reports: list[int] = []
    with pytest.raises(WeightsError, match="extra state cannot be saved"):
        new_fit(tmp_path, report=lambda done, total: reports.append(done), model=model).run()
    assert reports == []


def test_weights_of_another_layout_are_refused_with_their_keys(tmp_path: Path) -> None:
    save_weights(nn.Linear(3, 2), tmp_path / "w.safetensors")
    load_weights(nn.Linear(3, 2), tmp_path / "w.safetensors")
    with pytest.raises(RunError, match="size mismatch for weight"):
        load_weights(nn.Linear(4, 2), tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"not weights")
    with pytest.raises(RunError, match="cannot be read"):
        load_weights(nn.Linear(3, 2), tmp_path / "w.safetensors")


def _shrunk(blobs, new_fit, folder: Path, batch: int):
    """A data set of which, in the first epoch, all but one clip of a batch cannot be read."""
    fit = new_fit(folder, dataset=blobs())
    order = epoch_order(fit.train, fit.seed, 0)
    spoilt = order[8 * batch : 8 * batch + 7]
    return blobs(corrupt=[f"train-{i}" for i in spoilt])


@pytest.mark.parametrize("batch", [0, 2])
def test_a_batch_that_shrank_to_one_clip_is_passed_over(tmp_path: Path, new_fit, blobs, batch: int) -> None:
    """Batch normalisation cannot learn from one clip: a fit of the model here would end with an error."""
    dataset = _shrunk(blobs, new_fit, tmp_path / "plain", batch)
    record = new_fit(tmp_path / "fit", dataset=dataset, epochs=1).run()
    rows = [json.loads(line) for line in (tmp_path / "fit" / "history.jsonl").read_text().splitlines()]
    steps = record["train_clips"] // 8
    assert rows[0]["clips"] == 8 * (steps - 1)
    assert record["clip_backwards"] == 8 * (steps - 1)
    assert len(record["skipped"]["train"]) == 7


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_a_fit_that_passed_over_a_batch_is_resumed_to_the_same_weights(
    tmp_path: Path, new_fit, blobs, monkeypatch, steps: int
) -> None:
    dataset = _shrunk(blobs, new_fit, tmp_path / "plain", 1)
    record = new_fit(tmp_path / "whole", dataset=dataset).run()
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    with pytest.raises(_Stopped):
        new_fit(tmp_path / "stopped", dataset=dataset, report=_stop_after(steps)).run()
    again = new_fit(tmp_path / "stopped", dataset=dataset).run()
    assert _weights(tmp_path / "stopped") == _weights(tmp_path / "whole")
    assert again["clip_backwards"] == record["clip_backwards"]


def test_batches_of_one_by_design_are_learned_from(tmp_path: Path, new_fit, blobs) -> None:
    fit = new_fit(tmp_path, dataset=blobs(), batch_size=1, epochs=1)
    for module in fit.module.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval = module.train = lambda mode=True, module=module: module  # its running averages do
            module.training = False
    assert fit.run()["clip_backwards"] == len(fit.train)


def test_an_epoch_of_which_nothing_could_be_learned_is_an_error(tmp_path: Path, new_fit, blobs) -> None:
    fit = new_fit(tmp_path, dataset=blobs(train=2, corrupt=["train-1"]), select="last")
    with pytest.raises(DataError, match="nothing was learned in epoch 1: of every training batch fewer than two clips"):
        fit.run()


def test_validation_logits_that_are_not_finite_are_refused_by_clip(tmp_path: Path, new_fit, blobs) -> None:
    fit = new_fit(tmp_path, dataset=blobs())
    assert fit.validation is not None
    fit.module.head.register_forward_hook(lambda module, args, out: out if module.training else out / 0)
    with pytest.raises(ModelError, match=rf"AVModel returns logits .* for clips {fit.validation.clips.ids[0]}, "):
        fit.run()


def test_a_model_that_writes_into_the_clips_it_learns_from_is_refused(tmp_path: Path, new_fit) -> None:
    fit = new_fit(tmp_path)
    fit.module.encoders["left"].register_forward_pre_hook(lambda module, args: (args[0].mul_(0.5),))
    with pytest.raises(ModelError, match=r"AVModel writes into its inputs in place \(left\)"):
        fit.run()


def test_each_epoch_learns_from_another_draw_and_what_is_measured_is_read_plainly(tmp_path, new_fit, blobs) -> None:
    class Varying(blobs):
        def __init__(self) -> None:
            super().__init__()
            self.draws: list[int] = []
            self.plain: set[str] = set()

        def read(self, part, index):
            self.plain.add(part)
            return super().read(part, index)

        def read_to_learn(self, part, index, draw):
            assert part == "train"
            self.draws.append(draw)
            return super().read(part, index)

    first, again = Varying(), Varying()
    for dataset in (first, again):
        dataset.sizes["val"] = 12
        new_fit(tmp_path / str(id(dataset)), dataset=dataset).run()
    assert len(set(first.draws)) == 3  # one for each epoch
    assert first.draws == again.draws
    assert first.plain == {"val"}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_clip_that_hangs_while_it_is_read_is_named(tmp_path: Path, new_fit, blobs, split: str, workers: int) -> None:
    class Hanging(blobs):
        def read(self, part, index):
            if (part, index) == (split, 7):
                time.sleep(1000)
            return super().read(part, index)

    dataset = Hanging()
    dataset.sizes["val"] = 12
    with Loader(dataset, workers=workers) as loader:
        fit = new_fit(tmp_path, loader=loader)
        fit.batch_timeout = 1.0
        with pytest.raises(BatchTimeout, match=rf"fitting: reading \(clips .*{split}-.*took longer than the 1 s"):
            fit.run()


@pytest.mark.slow
def test_processes_pass_over_a_batch_together(tmp_path: Path, new_fit, blobs) -> None:
    """One process has a single clip left of a batch, the other all of its share: neither may wait for the other."""
    plain = new_fit(tmp_path / "plain", dataset=blobs())
    order = epoch_order(plain.train, plain.seed, 0)
    dataset = blobs(corrupt=[f"train-{i}" for i in order[8:11]])  # three of the first process's four

    def fit(fabric: Fabric) -> None:
        new_fit(tmp_path / "both", dataset=dataset, launched=fabric, epochs=2).run()

    Fabric(accelerator="cpu", devices=2, strategy="ddp_fork").launch(fit)
    record = json.loads((tmp_path / "both" / "fit.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "both" / "history.jsonl").read_text().splitlines()]
    steps = record["train_clips"] // 8
    assert rows[0]["clips"] == 8 * (steps - 1)
    assert set(record["skipped"]["train"]) == dataset.corrupt


class _Asking(Augmentation):
    """Remembers what it is told of the labels of an epoch's clips."""

    def __init__(self) -> None:
        self.told: list[tuple[list[str], list[list[float]]]] = []

    def order(self, clips, step):
        labels = step.labels(clips)
        if labels is not None:
            self.told.append((list(clips), labels.toarray().tolist()))


def test_augmentations_are_told_labels_in_their_order_where_the_data_set_states_them(
    tmp_path, new_fit, blobs, monkeypatch
) -> None:
    asking = _Asking()
    new_fit(tmp_path / "silent", epochs=1, augmentations=[asking]).run()
    assert asking.told == []
    rows = [[float(k == i % 3) for k in range(3)] for i in range(48)]
    monkeypatch.setattr(blobs, "label_matrix", lambda self, split: csr_array(np.array(rows)))
    new_fit(tmp_path / "stated", epochs=2, augmentations=[asking]).run()
    assert len(asking.told) == 2
    for clips, labels in asking.told:
        assert labels == [rows[int(clip.removeprefix("train-"))] for clip in clips]
    assert asking.told[0][0] != asking.told[1][0]
