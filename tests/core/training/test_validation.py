"""Selection of an epoch: by accuracy, by robust accuracy on attacked clips, by mean average precision."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from avrobust_core.data.batches import Clip
from avrobust_core.errors import BatchTimeout, DataError
from avrobust_core.training import validation
from avrobust_core.training.validation import mean_average_precision

ROBUST = {"select": "robust", "against": "pgd/both"}


def history(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


class _Table:
    """An attack that leaves so many of the clips that it is given in each epoch, and remembers them."""

    def __init__(self, fit, left: list[int]) -> None:
        self.fit, self.left = fit, left
        self.attacked: list[list[str]] = [[] for _ in left]

    def __call__(self, batch):
        epoch = self.fit().progress.epoch
        assert not self.fit().module.training
        self.attacked[epoch] += batch.ids
        logits = self.fit().module(batch.inputs)
        assert (logits.argmax(dim=1) == batch.targets).all(), "a clip that is wrong already is not attacked"
        margin = torch.full((len(batch),), -1.0)
        margin[: max(0, self.left[epoch] - len(self.attacked[epoch]) + len(batch))] = 1.0
        return {
            "margin": margin,
            "queries": margin.new_full(margin.shape, 5),
            "backwards": margin.new_full(margin.shape, 3),
        }


def test_the_epoch_with_the_best_robust_accuracy_is_kept_and_its_cost_counted(tmp_path, new_fit, blobs) -> None:
    dataset = blobs()
    dataset.sizes["val"] = 20
    table = _Table(lambda: fit, [2, 9, 5])
    fit = new_fit(tmp_path, dataset, attack=table, learning_rate=0.05, **ROBUST)
    record = fit.run()
    assert record["best_epoch"] == 2
    rows = history(tmp_path)
    assert [row["validation_robust_accuracy"] for row in rows] == [2 / 20, 9 / 20, 5 / 20]
    attacked = sum(map(len, table.attacked))
    assert attacked == sum(round(row["validation_accuracy"] * 20) for row in rows)
    assert record["clip_forwards"] == 3 * 48 + 3 * 20 + 5 * attacked
    assert record["clip_backwards"] == 3 * 48 + 3 * attacked


def test_the_same_few_clips_are_attacked_after_each_epoch(tmp_path, new_fit, blobs, monkeypatch) -> None:
    monkeypatch.setattr(validation, "MOST_ATTACKED", 8)
    dataset = blobs()
    dataset.sizes["val"] = 20
    table = _Table(lambda: fit, [1, 2, 3])
    fit = new_fit(tmp_path, dataset, attack=table, learning_rate=0.05, **ROBUST)
    fit.run()
    assert len({clip_id for ids in table.attacked for clip_id in ids}) <= 8
    assert history(tmp_path)[2]["validation_robust_accuracy"] == 3 / 8
    assert fit.validation is not None
    assert {*fit.validation.attacked.ids, *fit.validation.others.ids} == {f"val-{i}" for i in range(20)}


def test_where_the_threat_touches_nothing_clean_accuracy_selects(tmp_path, new_fit) -> None:
    best = new_fit(tmp_path / "best", epochs=6, learning_rate=0.3).run()
    robust = new_fit(tmp_path / "robust", epochs=6, learning_rate=0.3, **ROBUST).run()
    assert robust["best_epoch"] == best["best_epoch"]
    assert all(row["validation_robust_accuracy"] == row["validation_accuracy"] for row in history(tmp_path / "robust"))


def test_an_attack_on_validation_clips_that_hangs_is_named(tmp_path, new_fit) -> None:
    def hang(batch):
        while True:
            pass

    fit = new_fit(tmp_path, attack=hang, learning_rate=0.05, **ROBUST)
    fit.steps.batch_timeout = 1.0
    with pytest.raises(BatchTimeout, match=r"fitting: epoch 1, attacking validation clips \(clips? .*1 s"):
        fit.run()


@pytest.mark.parametrize(("select", "more"), [("robust", {"against": "pgd/both"}), ("map", {})])
def test_no_validation_clips_are_refused_where_they_are_needed(tmp_path, new_fit, select: str, more) -> None:
    with pytest.raises(DataError, match=f"select: {select} needs clips to select by"):
        new_fit(tmp_path, validation=0, select=select, **more)


def test_map_is_refused_of_clips_with_one_label(tmp_path, new_fit) -> None:
    with pytest.raises(DataError, match="select: map is for several labels per clip"):
        new_fit(tmp_path, select="map")


@given(st.integers(2, 40), st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**31))
def test_average_precision_is_scikit_learns_also_where_logits_tie(clips, classes, levels, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(levels, (clips, classes), generator=generator).float()
    targets = (torch.rand(clips, classes, generator=generator) < 0.4).float()
    measured = [k for k in range(classes) if 0 < targets[:, k].sum() < clips]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = [average_precision_score(targets[:, k], logits[:, k]) for k in measured]
    found = mean_average_precision(logits, targets)
    assert found == pytest.approx(sum(wanted) / len(wanted) if wanted else 0.0, abs=1e-9)


def test_the_epoch_with_the_best_map_is_kept(tmp_path, new_fit, new_model, blobs) -> None:
    class Several(blobs):
        task = "multi-label"

        def read(self, split, index):
            clip = super().read(split, index)
            labels = torch.tensor([clip.target == 0, clip.target == 1, index % 2 == 0]).float()
            return Clip(clip.id, clip.inputs, labels)

    dataset = Several()
    dataset.sizes["val"] = 24
    fit = new_fit(tmp_path, dataset, epochs=6, learning_rate=0.3, select="map")
    answers: list[torch.Tensor] = []
    fit.module.register_forward_hook(lambda module, args, out: None if module.training else answers.append(out))
    record = fit.run()
    rows = history(tmp_path)
    targets = torch.stack([dataset.read("val", i).target for i in range(24)]).numpy()
    logits = torch.cat(answers).reshape(6, 24, 3).numpy()
    wanted = [sum(average_precision_score(targets[:, k], each[:, k]) for k in range(3)) / 3 for each in logits]
    assert [row["validation_map"] for row in rows] == pytest.approx(wanted, abs=1e-9)
    assert record["best_epoch"] == 1 + max(range(6), key=lambda i: (wanted[i], -rows[i]["validation_loss"]))
