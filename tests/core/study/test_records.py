"""What lies on disk is checked before it is used again: damage is mended or named, never passed on."""

import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from avrobust_core.data.loader import Loader
from avrobust_core.data.loading import Skipped, select
from avrobust_core.errors import RunError
from avrobust_core.evaluation import shards
from avrobust_core.evaluation.predictions import from_parquet, to_parquet
from avrobust_core.files import read_record, write_record
from avrobust_core.registry.registry import Registry


@pytest.fixture
def done(study, tmp_path: Path):
    """A run that is done, and its one cell's folder."""
    result = study()
    assert result["failed"] == 0
    (cell,) = (tmp_path / "out" / "cells").iterdir()
    return result, cell


def _same(result, other) -> bool:
    cells = [
        {key: cell[key] for key in ("clean_accuracy", "robust_accuracy", "worst_case")}
        for cell in (result["cells"][0], other["cells"][0])
    ]
    return cells[0] == cells[1]


def _attacked(cell: Path, attack: str) -> Path:
    (folder,) = [
        path.parent
        for path in (cell / "evaluations").glob("*/record.json")
        if attack in json.loads(path.read_text())["identity"].get("attack", {}).get("component", "")
    ]
    return folder


def _flip(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place < 0 else place] ^= 0x80
    path.write_bytes(content)


def test_a_flipped_sign_in_predictions_is_noticed_and_they_are_computed_again(done, study, capsys) -> None:
    result, cell = done
    path = _attacked(cell, "fgsm") / "predictions.parquet"
    predictions = from_parquet(path, 0.0)
    to_parquet(path, replace(predictions, margins=-predictions.margins))
    again = study()
    assert "fgsm/audio is computed again" in capsys.readouterr().err
    assert _same(result, again)
    assert again["reused"] == 0
    assert study()["reused"] == 1


@pytest.mark.parametrize("how", ["cut", "gone", "record cut", "record of another kind", "record changed"])
def test_damaged_predictions_are_computed_again(done, study, capsys, how: str) -> None:
    result, cell = done
    folder = _attacked(cell, "noise")
    record, predictions = folder / "record.json", folder / "predictions.parquet"
    if how == "cut":
        predictions.write_bytes(predictions.read_bytes()[:100])
    elif how == "gone":
        predictions.unlink()
    elif how == "record cut":
        record.write_text(record.read_text()[:40])
    elif how == "record of another kind":
        record.write_text("[]")
    else:
        record.write_text(record.read_text().replace('"clips": 12', '"clips": 13'))
    again = study()
    assert "noise/audio is computed again" in capsys.readouterr().err
    assert _same(result, again)
    assert again["failed"] == 0


def test_a_flipped_digit_of_a_metric_is_measured_again(done, study, capsys) -> None:
    result, cell = done
    for path in (cell / "measurements").glob("*.json"):
        found = json.loads(path.read_text())
        next(iter(found["values"].values()))["value"] = 0.123
        path.write_text(json.dumps(found))
    again = study()
    assert capsys.readouterr().err.count("accuracy is measured again") == 3
    assert again["cells"][0]["metrics"] == result["cells"][0]["metrics"]


def test_a_metric_is_measured_again_of_other_predictions(done, study) -> None:
    _, cell = done
    for path in (cell / "measurements").glob("*.json"):
        record = {key: value for key, value in json.loads(path.read_text()).items() if key not in ("hash", "files")}
        record["values"] = {}
        write_record(path, record | {"of": "of earlier predictions"})
    assert all(entry["values"] for entry in study()["cells"][0]["metrics"])


def test_damaged_weights_are_named_with_the_way_out_and_other_cells_go_on(study, tmp_path: Path) -> None:
    two = "training={standard: {epochs: 0}, other: {epochs: 0, weight_decay: 0}}"
    first, second = study(two)["cells"]
    weights = tmp_path / "out" / "cells" / first["id"] / "model.safetensors"
    _flip(weights)
    cells = study(two)["cells"]
    assert f"{weights}: is damaged" in cells[0]["error"]["message"]
    assert f"delete {weights.parent}" in cells[0]["error"]["message"]
    assert cells[1]["clean_accuracy"] == second["clean_accuracy"]


def test_predictions_of_other_weights_are_not_reused(done, study, capsys) -> None:
    _, cell = done
    fit = json.loads((cell / "fit.json").read_text())
    _flip(cell / "model.safetensors", place=-1)
    kept = {key: value for key, value in fit.items() if key not in ("hash", "files")}
    write_record(cell / "fit.json", kept, [cell / "model.safetensors"])
    study()
    assert "clean is computed again: the weights are others now" in capsys.readouterr().err


def test_damaged_embeddings_are_made_again(study, tmp_path: Path, capsys) -> None:
    metrics = "metrics=[{use: density, with: {k: 3}}]"
    study(metrics)
    layer = next((tmp_path / "out").glob("cells/*/embeddings/*/fused.npy"))
    content = np.load(layer).copy()
    np.save(layer, -content)
    other = "metrics=[{use: density, with: {k: 4}}]"
    assert study(other)["failed"] == 0
    assert "are made again" in capsys.readouterr().err
    np.testing.assert_array_equal(np.load(layer), content)


def test_one_damaged_old_cell_blocks_neither_new_cells_nor_the_plan(done, study, tmp_path: Path) -> None:
    from avrobust_core.spec.loading import load_spec
    from avrobust_core.study.building import Builder
    from avrobust_core.study.plan import plan, why_stale

    _, cell = done
    for content in ('{"id": ', "[]", "{}", '{"identity": null}', "\x00"):
        (cell / "cell.json").write_text(content)
        registry = Registry.discover()
        loaded = load_spec(str(tmp_path / "tiny.yaml"), registry, ["training.standard.weight_decay=0"])
        builder = Builder(loaded.spec, registry)
        (new,) = plan(builder, builder.dataset(), tmp_path / "out")
        assert why_stale(new, tmp_path / "out") == "never run"
    assert study("training.standard.weight_decay=0")["failed"] == 0


def test_a_damaged_part_of_an_interrupted_evaluation_is_done_again(tmp_path: Path, blobs) -> None:
    dataset = blobs()
    selection = select(dataset, "test")
    skipped = Skipped(dataset)
    asked: list[str] = []

    def work(batch):
        asked.extend(batch.ids)
        return {"sum": batch.inputs["left"].flatten(1).sum(dim=1)}

    def carry_out() -> None:
        shards.carry_out(
            tmp_path,
            selection,
            work,
            batch_size=7,
            read=lambda split, batches: Loader(dataset).batches(split, batches, skipped),
            skipped=skipped,
            device="cpu",
            rank=0,
            report=lambda done, total: None,
        )

    carry_out()
    (part,) = shards.paths(tmp_path)
    sums = pq.read_table(part)["sum"].to_numpy()
    content = part.read_bytes()
    place = content.index(sums[0].tobytes())
    _flip(part, place + 3)
    assert pq.read_table(part)["sum"].to_numpy()[0] == -sums[0], "without its checksum nothing would tell"
    carry_out()
    assert asked == 2 * list(selection.ids)
    (part,) = shards.paths(tmp_path)
    np.testing.assert_array_equal(pq.read_table(part)["sum"].to_numpy(), sums)


def test_a_damaged_checkpoint_is_named_with_the_way_out(tmp_path: Path, new_fit) -> None:
    def stop(done: int, total: int) -> None:
        if done == total - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        new_fit(tmp_path, report=stop).run()
    path = tmp_path / "checkpoint.pt"
    with zipfile.ZipFile(path) as archive:
        tensors = [info for info in archive.infolist() if "/data/" in info.filename]
        tensor = archive.read(max(tensors, key=lambda info: info.file_size))
    _flip(path, path.read_bytes().index(tensor) + 3)
    with pytest.raises(RunError, match=r"checkpoint\.pt: is damaged .*delete it"):
        new_fit(tmp_path).run()


def test_a_record_holds_its_files_to_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"1.0")
    written = write_record(tmp_path / "record.json", {"value": -0.1}, [tmp_path / "data"])
    assert read_record(tmp_path / "record.json") == written
    (tmp_path / "data").write_bytes(b"2.0")
    assert read_record(tmp_path / "record.json", check=())["value"] == -0.1
    with pytest.raises(RunError, match="data: is damaged"):
        read_record(tmp_path / "record.json")
    (tmp_path / "record.json").write_text((tmp_path / "record.json").read_text().replace("-0.1", "0.1"))
    with pytest.raises(RunError, match=r"record\.json: is damaged"):
        read_record(tmp_path / "record.json", check=())
    for text in ('{"value": 1}', "{}", '{"hash": null}'):
        (tmp_path / "record.json").write_text(text)
        with pytest.raises(RunError, match=r"record\.json: is damaged"):
            read_record(tmp_path / "record.json")


def test_results_say_what_reused_records_were_made_with(done, study, tmp_path: Path, monkeypatch) -> None:
    from avrobust_core.cli.run import _closing_lines
    from avrobust_core.study import provenance

    result, _ = done
    assert result["cells"][0]["made_otherwise"] == []
    now = dict(provenance._versions())
    monkeypatch.setattr(provenance, "_versions", lambda: now | {"torch": "9.9"})
    again = study("attacks.late={use: noise, with: {draws: 3}}")
    (entry,) = again["cells"][0]["made_otherwise"]
    assert entry["differences"] == [f"torch {now['torch']}, now 9.9"]
    assert set(entry["records"]) == {"fit", "clean", "fgsm/audio", "noise/audio", "metric accuracy"}
    (line,) = [line for line in _closing_lines(again) if "other versions" in line]
    assert f"torch {now['torch']}, now 9.9" in line
    (locked,) = json.loads((tmp_path / "out" / "lock.json").read_text())["cells"]
    torch_of = {record: made["made_with"]["torch"] for made in locked["made_with"] for record in made["records"]}
    assert torch_of["late/audio"] == "9.9"
    assert torch_of["fit"] == torch_of["clean"] == torch_of["fgsm/audio"] == now["torch"]


def test_a_record_keeps_the_libraries_that_were_at_work_and_a_newer_one_is_told_of(done, tmp_path, monkeypatch) -> None:
    from avrobust_core.study import provenance

    _, cell = done
    kept = json.loads((cell / "fit.json").read_text())["made_with"]
    assert {"torch", "lightning-fabric", "numpy", "pyarrow"} <= kept.keys()
    locked = json.loads((tmp_path / "out" / "lock.json").read_text())["libraries"]
    assert {"torchaudio", "scipy", "scikit-learn", "numba", "pynndescent", "av"} <= locked.keys()
    assert kept["numpy"] == locked["numpy"]

    monkeypatch.setitem(sys.modules, "pynndescent", sys)
    assert "pynndescent" in provenance.made_with("cpu", ())
    monkeypatch.delitem(sys.modules, "pynndescent")
    assert "pynndescent" not in provenance.made_with("cpu", ())
    today = provenance.made_today("cpu", ())
    records = [{"made_with": kept | {"pynndescent": "0.1"}, "records": ["metric density"]}]
    (entry,) = provenance.otherwise(records, today)
    assert entry["differences"] == [f"pynndescent 0.1, now {today['pynndescent']}"]


def test_a_record_keeps_the_versions_of_the_components_that_made_it(done) -> None:
    _, cell = done
    assert set(json.loads((cell / "fit.json").read_text())["made_with"]["components"]) == {
        "avrobust:toy-av",
        "avrobust:cnn",
    }
    record = json.loads((_attacked(cell, "fgsm") / "record.json").read_text())
    assert record["made_with"]["components"].keys() == {"avrobust:fgsm"}
    assert record["made_with"]["device"] == "cpu"
