from pathlib import Path

import numpy as np
import pytest
import torch

from avrobust_core.data.loader import Loader
from avrobust_core.data.loading import Skipped, select
from avrobust_core.errors import DataError
from avrobust_core.evaluation import shards
from avrobust_core.files import read_record
from avrobust_core.study import embedding

ALL = frozenset({"pooled", "tokens", "fused"})


def _record(folder: Path):
    path = folder / embedding.RECORD
    return read_record(path) if path.exists() else None


def _embed(folder: Path, dataset, model, kinds, *, batch_size=7, shares=1, until=None):
    selection = select(dataset, "test")
    skipped = Skipped(dataset)
    calls = []

    def work(batch):
        calls.append(batch.ids)
        if until is not None and len(calls) > until:
            raise KeyboardInterrupt
        return embedding.embed_batch(model, batch, kinds)

    for rank in range(shares):
        shards.carry_out(
            embedding.parts_folder(folder, kinds),
            selection.share(rank, shares),
            work,
            batch_size=batch_size,
            read=lambda split, batches: Loader(dataset).batches(split, batches, skipped),
            skipped=skipped,
            device=torch.device("cpu"),
            rank=rank,
            report=lambda done, total: None,
        )
    embedding.collect(folder, selection, kinds, {"identity": {"split": "test"}}, _record(folder))
    return embedding.load(folder)


def test_layers_hold_what_the_model_makes_of_each_clip(tmp_path, blobs, new_model) -> None:
    dataset, model = blobs(corrupt=["test-3"]), new_model().eval()
    found = _embed(tmp_path, dataset, model, ALL)
    assert found.ids == tuple(f"test-{i}" for i in range(20) if i != 3)
    assert set(found.layers) == {"pooled/left", "pooled/right", "tokens/left", "tokens/right", "fused"}
    assert found.layers["tokens/left"].shape == (19, 1, 6)
    assert isinstance(found.layers["fused"], np.memmap)
    assert found.layers["fused"].dtype == np.float32
    for i, clip_id in enumerate(found.ids):
        clip = dataset.read("test", int(clip_id.removeprefix("test-")))
        inputs = {name: x.unsqueeze(0) for name, x in clip.inputs.items()}
        with torch.no_grad():
            encoded = model.encode(inputs)
            fused = model.embed(inputs)[0]
        np.testing.assert_allclose(found.layers["pooled/right"][i], encoded["right"].pooled[0], atol=1e-5)
        np.testing.assert_allclose(found.layers["tokens/left"][i], encoded["left"].tokens[0], atol=1e-5)
        np.testing.assert_allclose(found.layers["fused"][i], fused, atol=1e-5)
        np.testing.assert_allclose(found.logits[i], model.head(fused).detach(), atol=1e-5)
        assert found.targets[i] == clip.target


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"shares": 3, "batch_size": 2}])
def test_embeddings_do_not_depend_on_batch_size_or_number_of_processes(tmp_path, blobs, new_model, options) -> None:
    dataset, model = blobs(), new_model().eval()
    whole = _embed(tmp_path / "whole", dataset, model, ALL)
    other = _embed(tmp_path / "other", dataset, model, ALL, **options)
    assert other.ids == whole.ids
    np.testing.assert_array_equal(other.targets, whole.targets)
    for name, layer in whole.layers.items():
        np.testing.assert_allclose(other.layers[name], layer, atol=1e-5)


def test_an_interrupted_embedding_goes_on_where_it_stopped(tmp_path, blobs, new_model, monkeypatch) -> None:
    monkeypatch.setattr(shards, "SHARD_SECONDS", -1.0)
    dataset, model = blobs(), new_model().eval()
    with pytest.raises(KeyboardInterrupt):
        _embed(tmp_path, dataset, model, ALL, until=1)
    assert _record(tmp_path) is None
    dataset.reads.clear()
    found = _embed(tmp_path, dataset, model, ALL)
    assert dataset.reads == [f"test-{i}" for i in range(7, 20)]
    assert len(found) == 20
    embedding.remove_leftovers(tmp_path)
    assert not list(tmp_path.glob("parts-*"))


def test_layers_that_are_asked_for_later_join_those_that_are_there(tmp_path, blobs, new_model) -> None:
    dataset, model = blobs(), new_model().eval()
    _embed(tmp_path, dataset, model, frozenset({"fused"}))
    assert _record(tmp_path)["kinds"] == ["fused"]
    before = (tmp_path / "fused.npy").stat().st_ino
    found = _embed(tmp_path, dataset, model, frozenset({"pooled", "tokens"}))
    assert (tmp_path / "fused.npy").stat().st_ino == before, "what is there is not made again"
    assert _record(tmp_path)["kinds"] == ["fused", "pooled", "tokens"]
    assert set(found.layers) == {"pooled/left", "pooled/right", "tokens/left", "tokens/right", "fused"}


def test_a_part_is_written_when_memory_is_full(tmp_path, blobs, new_model, monkeypatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 0)
    dataset, model = blobs(), new_model().eval()
    with pytest.raises(KeyboardInterrupt):
        _embed(tmp_path, dataset, model, ALL, until=2)
    assert len(shards.paths(embedding.parts_folder(tmp_path, ALL))) == 2


def test_a_split_of_which_nothing_can_be_read_is_an_error(tmp_path, blobs, new_model) -> None:
    dataset = blobs(corrupt=[f"test-{i}" for i in range(20)], max_unreadable=1.0)
    with pytest.raises(DataError, match="no clip of split 'test' could be read"):
        _embed(tmp_path, dataset, new_model().eval(), ALL)
