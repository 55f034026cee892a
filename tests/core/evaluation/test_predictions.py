from pathlib import Path

import numpy as np
import pytest
import torch

from avrobust_core import Attack, AttackResult, AttackRun, Batch, Budget, ThreatModel, Victim
from avrobust_core.data.loader import Loader
from avrobust_core.data.loading import Skipped, select
from avrobust_core.errors import AttackViolation, DataError, ModelError
from avrobust_core.evaluation import shards
from avrobust_core.evaluation.outcomes import Intervals, Outcome, summarise
from avrobust_core.evaluation.predictions import collect, evaluate_batch, from_parquet, to_parquet
from avrobust_core.evaluation.shards import MicroBatches, carry_out


class Step(Attack):
    """One step of the full radius from a random start."""

    norms = frozenset({"linf", "l2"})

    def __call__(self, victim):
        x = {name: ball.sample(victim.draws(f"start/{name}")).requires_grad_() for name, ball in victim.balls.items()}
        with torch.enable_grad():
            gradients = torch.autograd.grad(victim.loss(victim(x)).sum(), list(x.values()))
        steps = dict(zip(victim.balls, gradients, strict=True))
        moved = victim.region.project(victim.region.step(victim.clean, steps, 1.0))
        return AttackResult(moved, torch.zeros(len(victim), dtype=torch.bool))


THREAT = ThreatModel.of({"left": Budget(eps=0.5), "right": Budget(norm="l2", eps=1.0)})


def _evaluate(folder: Path, dataset, model, *, batch_size=32, run=None, clips=None, shares=1, order=None):
    selection = select(dataset, "test", clips)
    if order is not None:
        selection = type(selection)(
            "test", tuple(selection.indices[i] for i in order), tuple(selection.ids[i] for i in order)
        )
    skipped = Skipped(dataset)
    victim = Victim(model, media=dataset.media, task=dataset.task, seed=1)
    for rank in range(shares):
        with victim.frozen():
            carry_out(
                folder,
                selection.share(rank, shares),
                lambda batch: evaluate_batch(victim, batch, run),
                batch_size=batch_size,
                read=lambda split, batches: Loader(dataset).batches(split, batches, skipped),
                skipped=skipped,
                device=torch.device("cpu"),
                rank=rank,
                report=lambda done, total: None,
            )
    whole = select(dataset, "test", clips)
    return collect(folder, whole), shards.notes_of(folder, whole)["skipped"]["test"]


def test_a_data_set_that_reads_otherwise_each_time_is_refused_by_the_first_clip(tmp_path, blobs, new_model) -> None:
    class Cropping(blobs):
        def read(self, split, index):
            clip = super().read(split, index)
            if index >= 7:
                clip.inputs["left"] = torch.roll(clip.inputs["left"], len(self.reads) % 7, dims=-1)
            return clip

    run = AttackRun("step", Step(), THREAT)
    for dataset in (blobs(), Cropping()):
        folder = tmp_path / type(dataset).__name__
        clean, _ = _evaluate(folder / "clean", dataset, new_model())
        attacked, _ = _evaluate(folder / "step", dataset, new_model(), run=run)
        to_parquet(folder / "kept.parquet", attacked)
        outcome = Outcome("step", "both", ("left", "right"), from_parquet(folder / "kept.parquet", 0.0))
        intervals = Intervals(0.95, 100, seed=0)
        if type(dataset) is blobs:
            summarise(clean, [outcome], intervals)
            continue
        with pytest.raises(DataError, match="step/both: clip test-7 was read with other left than for the clean"):
            summarise(clean, [outcome], intervals)


def test_probabilities_are_a_caveat_of_a_study_and_clean_nan_ends_it(tmp_path, blobs, new_model) -> None:
    model = new_model()
    hook = model.head.register_forward_hook(lambda module, args, out: out.softmax(dim=1))
    clean, _ = _evaluate(tmp_path / "clean", blobs(), model)
    (caveat,) = summarise(clean, [], Intervals(0.95, 100, seed=0))["caveats"]
    assert caveat["check"] == "probabilities"
    hook.remove()
    model.head.register_forward_hook(lambda module, args, out: out / 0)
    with pytest.raises(ModelError, match="AVModel returns logits that are NaN or infinite for clips test-0, test-1"):
        _evaluate(tmp_path / "nan", blobs(), model)


def test_a_model_with_dropout_left_on_is_refused_before_it_is_attacked(tmp_path, blobs, new_model) -> None:
    model = new_model()
    model.head.register_forward_hook(lambda module, args, out: torch.nn.functional.dropout(out, 0.2, training=True))
    with pytest.raises(ModelError, match=r"AVModel has randomness of its own.*evaluation.samples"):
        _evaluate(tmp_path / "clean", blobs(), model)


@pytest.mark.parametrize("run", [None, AttackRun("step", Step(), THREAT)])
def test_results_do_not_depend_on_batch_size_order_or_number_of_processes(tmp_path, blobs, new_model, run) -> None:
    dataset, model = blobs(), new_model()
    whole, _ = _evaluate(tmp_path / "32", dataset, model, run=run)
    order = np.random.default_rng(0).permutation(20).tolist()
    for name, options in {
        "1": {"batch_size": 1},
        "7": {"batch_size": 7},
        "three": {"shares": 3, "batch_size": 7},
        "mixed": {"order": order, "batch_size": 7},
    }.items():
        other, _ = _evaluate(tmp_path / name, dataset, model, run=run, **options)
        assert other.ids == whole.ids
        np.testing.assert_allclose(other.logits, whole.logits, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(other.correct, whole.correct)
        np.testing.assert_array_equal(other.queries, whole.queries)
        for modality, norm in whole.norms.items():
            np.testing.assert_allclose(other.norms[modality], norm, rtol=1e-5)


def test_an_evaluation_stopped_in_the_middle_goes_on_to_the_same_bits(tmp_path, blobs, new_model, monkeypatch) -> None:
    dataset, model = blobs(corrupt=["test-1"]), new_model()
    run = AttackRun("step", Step(), THREAT)
    whole, _ = _evaluate(tmp_path / "whole", dataset, model, batch_size=3, run=run)
    monkeypatch.setattr(shards, "SHARD_SECONDS", -1.0)  # a part after every batch
    calls = []

    class Stop(Step):
        def __call__(self, victim):
            calls.append(victim.ids)
            if len(calls) == 4:
                raise KeyboardInterrupt
            return super().__call__(victim)

    with pytest.raises(KeyboardInterrupt):
        _evaluate(tmp_path / "stopped", dataset, model, batch_size=3, run=AttackRun("step", Stop(), THREAT))
    assert len(list((tmp_path / "stopped").glob("part-*"))) == 3
    dataset.reads.clear()
    again, skipped = _evaluate(tmp_path / "stopped", dataset, model, batch_size=3, run=run)
    assert dataset.reads == [f"test-{i}" for i in range(9, 20)], "what a part holds is neither read nor attacked again"
    assert skipped == {"test-1": "made corrupt"}
    np.testing.assert_array_equal(again.logits, whole.logits)
    assert again.ids == whole.ids


def test_predictions_survive_the_file(tmp_path: Path, blobs, new_model) -> None:
    found, _ = _evaluate(tmp_path, blobs(), new_model(), run=AttackRun("step", Step(), THREAT))
    to_parquet(tmp_path / "p.parquet", found)
    again = from_parquet(tmp_path / "p.parquet", found.seconds)
    for field in ("logits", "targets", "margins", "success", "factor", "queries", "backwards"):
        np.testing.assert_array_equal(getattr(again, field), getattr(found, field))
        assert getattr(again, field).dtype == getattr(found, field).dtype
    assert again.ids == found.ids
    for field in ("norms", "no_gradient", "checksums"):
        kept = getattr(again, field)
        assert kept.keys() == getattr(found, field).keys() == {"left", "right", *(["targets"] * (field == "checksums"))}
        for name, values in kept.items():
            np.testing.assert_array_equal(values, getattr(found, field)[name])


def test_an_attack_that_leaves_its_ball_is_an_error_that_names_it(tmp_path: Path, blobs, new_model) -> None:
    class Cheat(Step):
        def __call__(self, victim):
            result = super().__call__(victim)
            return AttackResult({name: x + 0.01 for name, x in result.inputs.items()}, result.success)

    with pytest.raises(AttackViolation, match=r"'cheat' left the .* ball of .*test-0"):
        _evaluate(tmp_path, blobs(), new_model(), run=AttackRun("cheat", Cheat(), THREAT))


def test_a_split_of_which_nothing_can_be_read_is_an_error(tmp_path: Path, blobs, new_model) -> None:
    dataset = blobs(test=3, corrupt=["test-0", "test-1", "test-2"], max_unreadable=1.0)
    with pytest.raises(DataError, match="no clip of split 'test' could be read"):
        _evaluate(tmp_path, dataset, new_model())


def test_the_model_is_left_as_it_was(tmp_path: Path, blobs, new_model) -> None:
    model = new_model().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _evaluate(tmp_path, blobs(), model, run=AttackRun("step", Step(), THREAT))
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_batch_that_an_attack_changes_in_place_is_noticed(blobs, new_model, tmp_path: Path) -> None:
    class Vandal(Step):
        def __call__(self, victim):
            result = super().__call__(victim)
            victim.balls["left"].center.add_(0.001)
            return result

    with pytest.raises(AttackViolation, match="changed the clean left"):
        _evaluate(tmp_path, blobs(), new_model(), run=AttackRun("vandal", Vandal(), THREAT))


def test_batches_stack_in_order() -> None:
    with pytest.raises(ValueError, match="no clips"):
        Batch.stack([])


class Cramped(Step):
    """Runs out of memory where more than `room` clips are attacked at once."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.sizes: list[int] = []

    def __call__(self, victim):
        self.sizes.append(len(victim))
        if len(victim) > self.room:
            raise torch.OutOfMemoryError("made to fail")
        return super().__call__(victim)


def test_where_memory_runs_out_the_batch_is_halved_to_the_same_results(blobs, new_model) -> None:
    dataset, model = blobs(), new_model()
    victim = Victim(model, media=dataset.media, task=dataset.task)
    batch = Batch.stack([dataset.read("test", i) for i in range(11)])
    cramped = Cramped(3)
    evaluate = MicroBatches(lambda part: evaluate_batch(victim, part, AttackRun("step", cramped, THREAT)))
    with victim.frozen():
        whole = evaluate_batch(victim, batch, AttackRun("step", Step(), THREAT))
        found = evaluate(batch)
        evaluate(batch)
    assert found.keys() == whole.keys()
    for name in whole:
        torch.testing.assert_close(found[name], whole[name])
    assert cramped.sizes == [11, 5, *[2, 2, 2, 2, 2, 1] * 2]  # what did not fit is not tried again


def test_a_clip_that_does_not_fit_by_itself_is_an_error(blobs, new_model) -> None:
    dataset, model = blobs(), new_model()
    victim = Victim(model, media=dataset.media, task=dataset.task)
    batch = Batch.stack([dataset.read("test", i) for i in range(3)])
    with victim.frozen(), pytest.raises(torch.OutOfMemoryError):
        MicroBatches(lambda part: evaluate_batch(victim, part, AttackRun("step", Cramped(0), THREAT)))(batch)
