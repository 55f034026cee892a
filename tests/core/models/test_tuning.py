"""What makes attacks faster is taken, encoder by encoder, where it was measured to be faster."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from math import inf

import pytest
import torch
import torch._dynamo.exc
from torch import Tensor, nn

from avrobust_core import AVModel, Encoded, EncodedDims, Encoder
from avrobust_core.models.compiling import CompiledEncoders
from avrobust_core.models.constant import constant_weights, made_once
from avrobust_core.models.tuning import Tried, tune
from avrobust_core.testing.oracles import LinearFusion


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


class Timed(Encoder):
    """Takes so many seconds as it is, and so many with channels-last."""

    def __init__(self, clock: Clock, plain: float, last: float, *, convolutions: bool = True) -> None:
        super().__init__()
        self.dims = EncodedDims(token=4, embed=4)
        self.frontend = nn.Identity()
        self.layer = nn.Conv2d(3, 4, 3) if convolutions else nn.Linear(6, 4)
        self.passes = 0
        self._clock, self._seconds = clock, (plain, last)

    @property
    def last(self) -> bool:
        weight = self.layer.weight
        return weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)

    def encode(self, features: Tensor) -> Encoded:
        self.passes += 1
        self._clock.time += self._seconds[self.last]
        pooled = self.layer(features).flatten(2).mean(dim=2) if features.dim() == 4 else self.layer(features)
        return Encoded(pooled.unsqueeze(1), pooled)


def out_of_memory(x: Tensor) -> Tensor:
    raise torch.OutOfMemoryError("none left")


def timed_model(encoders: dict[str, Timed]) -> AVModel:
    torch.manual_seed(0)
    fusion = LinearFusion(torch.randn(3, 4 * len(encoders)), torch.zeros(3))
    return AVModel(encoders, fusion, 3).requires_grad_(False)


def test_each_encoder_is_left_in_the_order_that_is_faster() -> None:
    clock = Clock()
    encoders = {
        "faster": Timed(clock, 2.0, 1.0),
        "slower": Timed(clock, 1.0, 2.0),
        "alike": Timed(clock, 1.0, 0.984375),
        "without": Timed(clock, 1.0, 1.0, convolutions=False),
    }
    model = timed_model(encoders)
    inputs = {name: torch.randn(2, 3, 6, 6) for name in encoders} | {"without": torch.randn(2, 6)}
    plain = {name: encoders[name](x).pooled for name, x in inputs.items()}
    compiled = CompiledEncoders(model)
    found = tune(model, inputs, ["channels_last", "cudnn_benchmark"], lambda device: nullcontext(), compiled, clock)
    assert found == {"channels_last": {"faster": Tried(0.5), "slower": Tried(2.0), "alike": Tried(0.984375)}}
    assert [tried.taken for tried in found["channels_last"].values()] == [True, False, False]
    assert [encoder.last for encoder in encoders.values()] == [True, False, False, False]
    for name, x in inputs.items():
        torch.testing.assert_close(encoders[name](x).pooled, plain[name])
    assert str(found["channels_last"]["faster"]) == "taken, 0.50 of the time"
    assert found["channels_last"]["slower"].to_json() == {"taken": False, "time_ratio": 2.0}


def test_encoders_are_compiled_where_that_is_faster_and_what_cannot_be_compiled_is_said(monkeypatch) -> None:
    clock = Clock()
    encoders = {name: Timed(clock, 4.0, 4.0) for name in ("faster", "slower", "impossible", "wrong")}
    seconds = {"faster": -2.0, "slower": 1.0}  # what a form adds to the pass itself
    asked: list[str] = []

    def compile_(forward):
        name = next(name for name, encoder in encoders.items() if encoder is forward.__self__)

        def form(x: Tensor) -> Encoded:
            asked.append(name)
            if name == "wrong":
                raise RuntimeError("view size is not compatible")
            if name not in seconds:
                raise torch._dynamo.exc.Unsupported("a loop over files")
            clock.time += seconds[name]
            return forward(x)

        return form

    monkeypatch.setattr(torch, "compile", compile_)
    model = timed_model(encoders)
    compiled, inputs = CompiledEncoders(model), {name: torch.randn(2, 3, 6, 6) for name in encoders}

    @contextmanager
    def lowered(device: torch.device) -> Iterator[None]:
        with compiled.in_place():
            yield

    found = tune(model, inputs, ["compile"], lowered, compiled, clock)["compile"]
    assert {name: tried.ratio for name, tried in found.items()} == {
        "faster": 0.5,
        "slower": 1.25,
        "impossible": inf,
        "wrong": inf,
    }
    assert "view size" in str(found["wrong"])
    assert "a loop over files" in str(found["impossible"])
    assert "engine.attack_compile" in found["impossible"].to_json()["problem"]
    asked.clear()
    with lowered(torch.device("cpu")):
        model(inputs)
    assert asked == ["faster"]
    model(inputs)
    assert asked == ["faster"], "outside of attacks' passes encoders are as they are"
    assert all("forward" not in vars(encoder) for encoder in encoders.values())


def test_a_setting_is_tried_beside_those_that_were_taken_and_first_passes_do_not_count(monkeypatch) -> None:
    clock = Clock()
    encoder = Timed(clock, 4.0, 2.0)
    called: list[bool] = []

    def compile_(forward):
        def form(x: Tensor) -> Encoded:
            clock.time += 30.0 if not called else -0.5  # to compile takes long, once
            called.append(True)
            return forward(x)

        return form

    monkeypatch.setattr(torch, "compile", compile_)
    model = timed_model({"only": encoder})
    compiled, settings = CompiledEncoders(model), ["channels_last", "compile"]
    found = tune(model, {"only": torch.randn(2, 3, 6, 6)}, settings, lambda _: compiled.in_place(), compiled, clock)
    assert found == {"channels_last": {"only": Tried(0.5)}, "compile": {"only": Tried(0.75)}}


def test_a_mistake_of_the_encoders_own_is_not_taken_for_the_compilers(monkeypatch) -> None:
    encoder = Timed(Clock(), 1.0, 1.0)
    monkeypatch.setattr(torch, "compile", lambda forward: forward)
    model = timed_model({"only": encoder})
    with CompiledEncoders(model, ["only"]).in_place():
        with pytest.raises(RuntimeError, match="channels"):
            model({"only": torch.randn(2, 5, 6, 6)})
        monkeypatch.setattr(encoder.layer, "forward", out_of_memory)
        with pytest.raises(torch.OutOfMemoryError, match="none left"):  # so that batches are halved
            model({"only": torch.randn(2, 3, 6, 6)})


def test_what_a_compiler_traces_works_its_weights_out_in_each_pass(monkeypatch) -> None:
    weight, made = torch.ones(2), []

    def make() -> tuple[Tensor]:
        made.append(0)
        return (weight * 2,)

    with constant_weights():
        made_once((weight,), make)
        made_once((weight,), make)
        assert len(made) == 1
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        made_once((weight,), make)
        assert len(made) == 2


def test_what_was_worked_out_of_a_weight_is_not_kept_when_its_order_changes() -> None:
    conv = nn.Conv2d(3, 4, 3).requires_grad_(False)

    def folded() -> Tensor:
        return made_once((conv.weight,), lambda: (conv.weight * 2,))[0]

    with constant_weights():
        before = folded()
        conv.to(memory_format=torch.channels_last)
        assert folded().is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(folded(), before)
