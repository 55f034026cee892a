"""Tied names, views, expanded buffers and extra state are saved and come back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from avrobust_core.errors import RunError, WeightsError
from avrobust_core.models.module_state import plain_state
from avrobust_core.models.saving import load_weights, save_weights
from avrobust_core.models.weights import load_strictly, read_checkpoint


class Shared(nn.Module):
    """Two names for one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = self.a


class TiedWeights(nn.Module):
    """Two names for one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.e = nn.Embedding(5, 4)
        self.o = nn.Linear(4, 5, bias=False)
        self.o.weight = self.e.weight


class Views(nn.Module):
    """Buffers that are views of one another, or of what is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        whole = torch.rand(8)
        self.register_buffer("p", whole)
        self.register_buffer("q", whole[:4])
        self.register_buffer("r", torch.rand(4, 4).T)
        self.register_buffer("s", torch.rand(100)[::25])


class Expanded(nn.Module):
    """A buffer with one place in memory for several values."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("w", torch.rand(1, 3).expand(5, 3))


class Odd(nn.Module):
    """Empty, scalar, complex and half tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("e", torch.empty(0))
        self.register_buffer("t", torch.rand(()))
        self.register_buffer("z", torch.rand(2, dtype=torch.complex64))
        self.register_buffer("h", torch.rand(3).half())


class Extra(nn.Module):
    """Extra state of any kind."""

    def __init__(self, extra: Any = None) -> None:
        super().__init__()
        self.l = nn.Linear(2, 2)
        self.extra = extra

    def get_extra_state(self) -> Any:
        """Whatever there is."""
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        """Take it up."""
        self.extra = state


@pytest.mark.parametrize("kind", [Shared, TiedWeights, Views, Expanded, Odd])
@pytest.mark.parametrize("way", ["cell", "weights"])
def test_every_tensor_comes_back(tmp_path: Path, kind: type[nn.Module], way: str) -> None:
    model, other = kind(), kind()
    save_weights(model, tmp_path / "w.safetensors")
    if way == "cell":
        load_weights(other, tmp_path / "w.safetensors")
    else:
        load_strictly(other, read_checkpoint(tmp_path / "w.safetensors"), "w")
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
    pairs = list(zip(model.parameters(), other.parameters(), strict=True))
    assert len(pairs) == len(list(kind().parameters()))  # what was tied still is


@pytest.mark.parametrize("extra", [{"a": 1, "b": [torch.ones(2), "text"]}, None, 3.5, torch.tensor([1, 2]), b"bytes"])
def test_extra_state_comes_back(tmp_path: Path, extra: Any) -> None:
    save_weights(Extra(extra), tmp_path / "w.safetensors")
    model, again = Extra(), Extra()
    load_weights(model, tmp_path / "w.safetensors")
    load_strictly(again, read_checkpoint(tmp_path / "w.safetensors"), "w")
    torch.save(Extra(extra).state_dict(), tmp_path / "w.pt")
    third = Extra({})
    load_strictly(third, read_checkpoint(tmp_path / "w.pt"), "w")
    for found in (model.extra, again.extra, third.extra):
        assert str(found) == str(extra)


def test_extra_state_that_would_execute_code_is_refused_before_it_is_needed() -> None:
    with pytest.raises(WeightsError, match=r"^_extra_state: .*execute code"):
        plain_state(Extra(Extra()))
    with pytest.raises(WeightsError, match=r"^_extra_state: the extra state cannot be saved"):
        plain_state(Extra(lambda: None))


def test_two_names_of_one_tensor_must_agree_and_one_of_them_is_enough() -> None:
    model = TiedWeights()
    value = torch.rand(5, 4)
    load_strictly(model, {"e.weight": value}, "w")
    assert torch.equal(model.o.weight, value)
    with pytest.raises(WeightsError, match=r"one tensor in the model.*: e\.weight and o\.weight"):
        load_strictly(model, {"e.weight": value, "o.weight": value + 1}, "w")
    assert torch.equal(model.e.weight, value)


def test_a_file_of_another_model_names_the_keys(tmp_path: Path) -> None:
    save_weights(nn.Linear(2, 2, bias=False), tmp_path / "w.safetensors")
    with pytest.raises(RunError, match=r"belongs to another model, without bias; delete"):
        load_weights(nn.Linear(2, 2), tmp_path / "w.safetensors")
    with pytest.raises(RunError) as raised:
        load_weights(nn.Linear(3, 2, bias=False), tmp_path / "w.safetensors")
    assert str(raised.value).isprintable()


def test_every_key_has_memory_of_its_own() -> None:
    state = plain_state(Views())
    places: list[int] = [x.untyped_storage().data_ptr() for x in state.values() if isinstance(x, Tensor)]
    assert len(set(places)) == len(places) == 4
