import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from avrobust_core.errors import WeightsError
from avrobust_core.models.layouts import CheckpointLayout
from avrobust_core.models.weights import fingerprint, load_checkpoint, load_fitting_head, load_strictly, read_checkpoint


def _net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def _state() -> dict[str, torch.Tensor]:
    return {name: torch.randn_like(x).abs() if x.is_floating_point() else x for name, x in _net().state_dict().items()}


OTHER = CheckpointLayout(
    name="Other",
    marks=("w", "gamma"),
    convert=lambda state: {
        "0.weight": state["w"], "0.bias": state["b"], "1.weight": state["gamma"], "1.bias": state["beta"],
        "1.running_mean": state["m"], "1.running_var": state["v"], "head.weight": state["fc"],
    },
)  # fmt: skip


@pytest.mark.parametrize("wrapper", [None, "model", "model_state", "state_dict", "twice"])
@pytest.mark.parametrize("parallel", [False, True])
def test_wrappers_and_the_prefix_of_parallel_training_are_taken_away(tmp_path: Path, wrapper, parallel) -> None:
    state = _state()
    saved = {f"module.{key}": value for key, value in state.items()} if parallel else state
    if wrapper == "twice":
        saved = {"state_dict": {"model": saved, "epoch": 3}}
    elif wrapper is not None:
        saved = {wrapper: saved, "epoch": 3, "optimizer": {"lr": 0.1}}
    torch.save(saved, tmp_path / "w.pt")
    net = _net()
    load_strictly(net, read_checkpoint(tmp_path / "w.pt"), "w.pt")
    assert all(torch.equal(net.state_dict()[key], value) for key, value in state.items())


def test_safetensors_are_recognised_by_their_content_not_their_name(tmp_path: Path) -> None:
    save_file(_state(), tmp_path / "weights.bin")
    net = _net()
    load_checkpoint(net, read_checkpoint(tmp_path / "weights.bin"), (), "w")


class _Evil:
    def __reduce__(self):
        return os.system, (f"touch {self.path}",)  # type: ignore[attr-defined]


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_malicious_pickle_does_nothing(tmp_path: Path, writer: str) -> None:
    evil = _Evil()
    evil.path = tmp_path / "executed"  # type: ignore[attr-defined]
    if writer == "torch":
        torch.save({"model": _state(), "extra": evil}, tmp_path / "w.pt")
    else:
        (tmp_path / "w.pt").write_bytes(pickle.dumps(evil))
    with pytest.raises(WeightsError, match="execute code"):
        read_checkpoint(tmp_path / "w.pt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "cannot be read|refused"), (b"not a checkpoint at all", "cannot be read|refused"), (None, "no such file")],
)
def test_what_is_no_checkpoint_is_an_error(tmp_path: Path, content, message) -> None:
    if content is not None:
        (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(tmp_path / "w.pt")


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    for name, save in (("a.safetensors", save_file), ("b.pt", torch.save)):
        save(_state(), tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) * 2 // 3])
        with pytest.raises(WeightsError, match=name):
            read_checkpoint(tmp_path / name)


def test_a_file_without_tensors_is_an_error(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="no tensors in it, only epoch"):
        read_checkpoint(tmp_path / "w.pt")


def test_missing_unexpected_and_misshaped_keys_are_all_listed_and_nothing_is_loaded() -> None:
    net = _net()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = _state() | {"extra": torch.zeros(1), "0.bias": torch.zeros(9)}
    del state["1.running_var"]
    with pytest.raises(WeightsError) as raised:
        load_strictly(net, state, "file.pt")
    message = str(raised.value)
    for part in ("1 missing: 1.running_var", "1 unexpected: extra", "0.bias (9,) instead of (4,)", "file.pt"):
        assert part in message
    assert all(torch.equal(net.state_dict()[key], value) for key, value in before.items())


def test_counters_of_batch_normalisation_may_be_missing() -> None:
    state = _state()
    del state["1.num_batches_tracked"]
    load_strictly(_net(), state, "file.pt")


def test_a_published_layout_is_recognised_and_its_head_is_given_back() -> None:
    net = _net()
    state = {"w": torch.randn(4, 3), "b": torch.randn(4), "fc": torch.randn(5, 4)} | {
        name: torch.rand(4) for name in ("gamma", "beta", "m", "v")
    }
    name, head = load_checkpoint(net, state, (OTHER,), "w")
    assert name == "Other"
    assert torch.equal(net.state_dict()["1.running_mean"], state["m"])
    assert list(head) == ["weight"]
    with pytest.raises(WeightsError, match=r"its own, Other.*keys are w, b"):
        load_checkpoint(net, {"w": state["w"], "b": state["b"]}, (OTHER,), "w")


def test_an_encoder_finds_its_part_in_a_whole_model_of_this_project() -> None:
    net, state = _net(), _state()
    whole = {f"encoders.audio.{key}": value for key, value in state.items()} | {"head.weight": torch.zeros(2, 4)}
    _, head = load_checkpoint(net, whole, (), "w", "encoders.audio.")
    assert torch.equal(net.state_dict()["0.weight"], state["0.weight"])
    assert head == {}


def test_a_head_of_other_classes_is_left_as_it_was() -> None:
    head = nn.Linear(4, 5)
    state = {"weight": torch.ones(5, 4), "bias": torch.ones(5)}
    assert load_fitting_head(head, state)
    assert torch.equal(head.weight, state["weight"])
    assert not load_fitting_head(head, {"weight": torch.zeros(6, 4), "bias": torch.zeros(6)})
    assert not load_fitting_head(head, {})
    assert torch.equal(head.weight, state["weight"])


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    for name, content in (("a", b"x"), ("b", b"x"), ("c", b"y")):
        (tmp_path / name).write_bytes(content)
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b") != fingerprint(tmp_path / "c")
