"""Files of weights as people have them: read, or refused in one plain sentence; never executed, never blown up."""

import argparse
import io
import json
import os
import pathlib
import resource
import struct
import sys
import zipfile
from collections import defaultdict, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from avrobust_core.errors import WeightsError
from avrobust_core.models.checkpoints import read_checkpoint
from avrobust_core.models.weights import load_strictly


def _state() -> dict[str, torch.Tensor]:
    return {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}


def _loaded(content: Any, path: Path) -> nn.Linear:
    torch.save(content, path)
    module = nn.Linear(3, 2)
    load_strictly(module, read_checkpoint(path), "w.pt")
    return module


def _refused(path: Path) -> str:
    with pytest.raises(WeightsError) as raised:
        read_checkpoint(path)
    message = str(raised.value)
    assert not any(advice in message for advice in ("weights_only", "trust", "safe_globals"))
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in message), repr(message)
    assert len(message) < 600
    return message


class _Config(dict[str, Any]):
    pass


BESIDE = {
    "a sampler of arrays": {"indexes": np.arange(10), "names": np.array(["a", "b"]), "pointer": 3},
    "a numpy scalar": np.float64(0.43),
    "a numpy random state": np.random.default_rng(0),
    "an older random state": np.random.RandomState(0),
    "a Namespace": argparse.Namespace(lr=1e-3, out=pathlib.Path("runs")),
    "paths": [pathlib.Path("a") / "b", pathlib.PurePosixPath("c")],
    "a defaultdict": defaultdict(list, a=[1]),
    "a deque": deque([1, 2], maxlen=3),
    "a set and a range": [{1, 2}, frozenset({3}), range(3), slice(1, 2)],
    "a dtype": np.dtype("float32"),
}


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
def test_what_scripts_leave_beside_the_weights_does_not_matter(tmp_path: Path, beside: Any) -> None:
    module = _loaded({"model": _state(), "beside": beside}, tmp_path / "w.pt")
    assert torch.equal(module.weight, _state()["weight"])


@pytest.mark.parametrize(
    "content",
    [
        {"model": {"state_dict": _state()}, "epoch": 1},
        {"state_dict": _state(), "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
        {"model": "resnet", "state_dict": _state()},
        {"model": _state(), "model_ema": {key: x * 0 for key, x in _state().items()}},
        {"state_dict_ema": {key: x * 0 for key, x in _state().items()}, "state_dict": _state()},
        {"model_ema": _state(), "epoch": 3},
        {"network_one": _state(), "optimizer": {"a": torch.zeros(3)}, "step": torch.tensor(3)},
        {"model": defaultdict(None, _state())},
    ],
)
def test_the_plain_weights_are_found_in_what_wraps_them(tmp_path: Path, content: Any) -> None:
    if "network_one" in content:
        del content["step"]
    assert torch.equal(_loaded(content, tmp_path / "w.pt").weight, _state()["weight"])


@pytest.mark.parametrize("names", [("student", "teacher"), ("generator", "discriminator"), ("model", "state_dict")])
def test_several_sets_of_weights_are_refused_by_their_names(tmp_path: Path, names: tuple[str, str]) -> None:
    torch.save({names[0]: _state(), names[1]: {key: x + 1 for key, x in _state().items()}}, tmp_path / "w.pt")
    assert f"2 sets of weights, {names[0]}, {names[1]}" in _refused(tmp_path / "w.pt")


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_what_would_execute_code_is_named_and_does_nothing(tmp_path: Path) -> None:
    for name, evil in (
        ("posix.system", {"model": _state(), "beside": _Evil(tmp_path / "executed")}),
        ("torch.nn.modules.linear.Linear", nn.Linear(3, 2)),
        (f"{__name__}._Config", {"model": _state(), "config": _Config(a=1)}),
    ):
        torch.save(evil, tmp_path / "w.pt")
        message = _refused(tmp_path / "w.pt")
        assert f"it holds {name}, and to make that again would execute code; save the weights alone" in message
    assert not (tmp_path / "executed").exists()


def test_a_name_with_terminal_escapes_reaches_no_terminal(tmp_path: Path) -> None:
    torch.save({"model": _state(), "beside": _Evil(tmp_path / "x")}, tmp_path / "w.pt")
    _rewritten(tmp_path / "w.pt", lambda data: data.replace(b"cposix\nsystem", b"cp\x1b[31mx\nsys\x07m"))
    _refused(tmp_path / "w.pt")
    torch.save({f"\x1b]0;x\x07{key}\n": x for key, x in _state().items()}, tmp_path / "w.pt")
    with pytest.raises(WeightsError) as raised:
        load_strictly(nn.Linear(3, 2), read_checkpoint(tmp_path / "w.pt"), "w.pt")
    assert str(raised.value).isprintable()


def _rewritten(path: Path, change: Any, compression: int = zipfile.ZIP_STORED, **replaced: bytes) -> None:
    """The archive again, with another pickle and other content of storages."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            last = name.rpartition("/")[2]
            data = change(data) if last == "data.pkl" else replaced.get(f"data_{last}", data)
            archive.writestr(name, data)


def test_an_archive_that_states_far_more_than_it_holds_is_not_unpacked(tmp_path: Path) -> None:
    path, size = tmp_path / "w.pt", 1 << 28
    torch.save({"weight": torch.zeros(4), "bias": torch.ones(2)}, path)

    def larger(data: bytes) -> bytes:
        data = data.replace(b"cpuq\x06K\x04t", b"cpuq\x06J" + struct.pack("<i", size // 4) + b"t", 1)
        return data.replace(b"K\x00K\x04\x85", b"K\x00J" + struct.pack("<i", size // 4) + b"\x85", 1)

    _rewritten(path, larger, zipfile.ZIP_DEFLATED, data_0=bytes(size))
    assert path.stat().st_size < 1 << 20
    del larger
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "states 268," in _refused(path)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024)
    assert grown < size // 8


def test_a_tensor_that_repeats_few_values_without_end_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1).expand(1 << 20, 1 << 20)}, tmp_path / "w.pt")
    assert "tensors state 4,398,046,511,104 bytes" in _refused(tmp_path / "w.pt")


def test_a_compressed_archive_of_true_weights_is_read(tmp_path: Path) -> None:
    torch.save(_state(), tmp_path / "w.pt")
    _rewritten(tmp_path / "w.pt", lambda data: data, zipfile.ZIP_DEFLATED)
    assert torch.equal(read_checkpoint(tmp_path / "w.pt")["weight"], _state()["weight"])


def _safetensors(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


FLOATS = '{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        _safetensors(b"{}", length=1 << 60),
        _safetensors(FLOATS.encode(), bytes(4)),
        _safetensors(FLOATS.replace("[2]", "[1000000000000]").encode(), bytes(8)),
        _safetensors(FLOATS.replace("8]", "800]").encode(), bytes(8)),
        _safetensors(FLOATS.replace("F32", "X\x1b[31m9").encode(), bytes(8)),
        _safetensors(FLOATS.replace("}}", '}, "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}').encode()),
        _safetensors(b'{"w": 3}'),
        _safetensors(b'{"w"'),
        _safetensors("{\xff}".encode("latin-1")),
        _safetensors(json.dumps({"a" * 5000: 3}).encode()),
    ],
)
def test_a_bad_safetensors_file_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    assert "cannot be read as safetensors" in _refused(tmp_path / "w.safetensors")


def test_files_that_are_something_else_are_named_as_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"x")
    assert "none of torch.save: it holds a.npy" in _refused(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "git lfs pull" in _refused(path)
    torch.save(torch.zeros(3), path)
    assert "it holds one tensor" in _refused(path)
    torch.save(np.zeros(3), path)
    assert "an object of another kind" in _refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/constants.pkl", b"x")
        archive.writestr("w/data.pkl", b"x")
    assert "TorchScript program" in _refused(path)
    assert "is a folder" in _refused(tmp_path)
    torch.save({"weight": torch.eye(3).to_sparse()}, path)
    assert "sparse" in _refused(path)


def test_a_container_that_holds_itself_comes_to_an_end(tmp_path: Path) -> None:
    content: dict[str, Any] = {"epoch": 1}
    content["model"] = content
    torch.save(content, tmp_path / "w.pt")
    _refused(tmp_path / "w.pt")


@pytest.mark.parametrize("at", range(0, 1000, 37))
def test_any_damage_is_a_sentence(tmp_path: Path, at: int) -> None:
    torch.save(
        {"model": _state(), "beside": np.arange(3)}, tmp_path / "w.pt", _use_new_zipfile_serialization=at % 2 == 1
    )
    data = bytearray((tmp_path / "w.pt").read_bytes())
    for offset in range(3):
        data[(at + 101 * offset) % len(data)] ^= 0x55
    (tmp_path / "w.pt").write_bytes(bytes(data))
    try:
        read_checkpoint(tmp_path / "w.pt")
    except WeightsError:
        _refused(tmp_path / "w.pt")


def test_the_files_own_bytes_are_read_back_as_they_were(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(_state(), buffer, _use_new_zipfile_serialization=False)
    (tmp_path / "old.pt").write_bytes(buffer.getvalue())
    assert torch.equal(read_checkpoint(tmp_path / "old.pt")["weight"], _state()["weight"])
