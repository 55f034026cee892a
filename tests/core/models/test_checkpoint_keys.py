"""Prefixes are taken away where that makes keys a module's own, and only there."""

import itertools

import pytest
import torch
from torch import nn

from avrobust_core.errors import WeightsError
from avrobust_core.models.layouts import CheckpointLayout
from avrobust_core.models.weights import load_checkpoint, load_strictly


def _net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def _state() -> dict[str, torch.Tensor]:
    return {key: torch.rand_like(x) if x.is_floating_point() else x for key, x in _net().state_dict().items()}


def _prefixed(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{key}": value for key, value in state.items()}


def _assert_loads(net: nn.Module, given: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    load_strictly(net, given, "w")
    assert all(torch.equal(net.state_dict()[key], value) for key, value in expected.items())


@pytest.mark.parametrize(
    "prefix",
    ["".join(each) for n in (1, 2, 3) for each in itertools.permutations(("_orig_mod.", "model.", "module."), n)]
    + ["net.", "module.module.", "anything.at.all."],
)
def test_prefixes_in_any_order_and_depth(prefix: str) -> None:
    state = _state()
    _assert_loads(_net(), _prefixed(state, prefix), state)


@pytest.mark.parametrize("child", ["model", "module", "_orig_mod", "net"])
def test_a_child_of_such_a_name_keeps_it(child: str) -> None:
    net = nn.ModuleDict({child: _net(), "other": nn.Linear(2, 2)})
    state = {key: torch.rand_like(x) if x.is_floating_point() else x for key, x in net.state_dict().items()}
    _assert_loads(net, state, state)
    _assert_loads(net, _prefixed(state, "model."), state)
    only = nn.ModuleDict({child: _net()})
    state = _prefixed(_state(), f"{child}.")
    _assert_loads(only, state, state)
    _assert_loads(only, _prefixed(state, "module.model."), state)


def test_parts_that_were_compiled_or_wrapped_by_themselves() -> None:
    state = _state()
    _assert_loads(_net(), {key.replace("0.", "0._orig_mod.", 1): x for key, x in state.items()}, state)
    _assert_loads(_net(), {key.replace("0.", "0.module.", 1): x for key, x in state.items()}, state)
    _assert_loads(nn.ModuleDict({"_orig_mod": _net()}), state, _prefixed(state, "_orig_mod."))


def test_plain_weights_are_taken_where_their_average_is_beside_them() -> None:
    state = _state()
    averaged = {key: x * 0 for key, x in state.items()}
    _assert_loads(_net(), _prefixed(state, "model.") | _prefixed(averaged, "model_ema."), state)
    _assert_loads(_net(), state | _prefixed(averaged, "ema."), state)
    _assert_loads(_net(), _prefixed(state, "ema_model."), state)
    _assert_loads(_net(), _prefixed(state, "module.") | {"n_averaged": torch.tensor(3)}, state)


def test_what_else_is_in_the_file_is_listed_and_nothing_is_loaded() -> None:
    state = _prefixed(_state(), "model.") | {"criterion.weight": torch.ones(3)}
    with pytest.raises(WeightsError, match=r"Sequential: 1 unexpected: criterion\.weight$"):
        load_strictly(_net(), state, "w")
    with pytest.raises(WeightsError, match=r"6 missing.*8 unexpected"):
        load_strictly(_net(), _prefixed(_state(), "student.") | {"teacher.x": torch.ones(1)}, "w")


def test_a_published_layout_is_recognised_under_prefixes() -> None:
    layout = CheckpointLayout(
        name="Other", marks=("w",), convert=lambda state: {"weight": state["w"], "bias": state["b"]}
    )
    linear = nn.Linear(3, 2)
    name, _ = load_checkpoint(
        linear, {"module.model.w": torch.ones(2, 3), "module.model.b": torch.ones(2)}, (layout,), "w"
    )
    assert name == "Other"
    assert bool((linear.weight == 1).all())


@pytest.mark.parametrize(("dtype"), [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_cast(dtype: torch.dtype) -> None:
    state = {"weight": torch.arange(6).reshape(2, 3).to(dtype), "bias": torch.ones(2, dtype=dtype)}
    linear = nn.Linear(3, 2)
    load_strictly(linear, state, "w")
    assert linear.weight.dtype == torch.float32
    assert torch.equal(linear.weight, torch.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("0.weight", torch.full((4, 3), torch.nan), r"1 not finite: 0\.weight \(12 of 12 values\)"),
        ("0.bias", torch.tensor([1.0, torch.inf, 0, 0]), r"1 not finite: 0\.bias \(1 of 4 values\)"),
        ("0.bias", torch.full((4,), 1e300, dtype=torch.float64), r"1 not finite: 0\.bias \(4 of 4 values\)"),
        ("1.running_var", torch.tensor([1.0, -1, 1, 1]), r"1 below 0, which variances cannot be: 1\.running_var"),
        ("0.weight", torch.ones(4, 3, dtype=torch.int8), r"0\.weight torch\.int8 instead of torch\.float32"),
        ("0.weight", torch.ones(4, 3, dtype=torch.complex64), r"0\.weight torch\.complex64 instead of torch\.float32"),
    ],
)
def test_weights_that_would_make_wrong_numbers_are_refused_by_name(key: str, value: torch.Tensor, message: str) -> None:
    net = _net()
    before = {name: x.clone() for name, x in net.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        load_strictly(net, _state() | {key: value}, "w")
    assert all(torch.equal(net.state_dict()[name], x) for name, x in before.items())


def test_a_published_heads_weights_are_looked_at_too() -> None:
    with pytest.raises(WeightsError, match=r"not finite: weight"):
        load_checkpoint(_net(), _state() | {"head.weight": torch.full((2, 4), torch.nan)}, (), "w")


def test_a_mask_of_the_modules_own_may_be_infinite() -> None:
    net = _net()
    net.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    load_strictly(net, _state() | {"mask": torch.tensor([0.0, -torch.inf])}, "w")
    with pytest.raises(WeightsError, match=r"not finite: mask \(1 of 2 values\)"):
        load_strictly(net, _state() | {"mask": torch.tensor([-torch.inf, -torch.inf])}, "w")
