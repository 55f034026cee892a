"""Channels-last is taken, encoder by encoder, where it was measured to be faster."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from avrobust_core import AVModel, Encoded, EncodedDims, Encoder
from avrobust_core.models.constant import constant_weights, made_once
from avrobust_core.models.tuning import choose_layouts
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


def test_each_encoder_is_left_in_the_order_that_is_faster() -> None:
    clock = Clock()
    encoders = {
        "faster": Timed(clock, 2.0, 1.0),
        "slower": Timed(clock, 1.0, 2.0),
        "alike": Timed(clock, 1.0, 0.984375),
        "without": Timed(clock, 1.0, 1.0, convolutions=False),
    }
    torch.manual_seed(0)
    model = AVModel(encoders, LinearFusion(torch.randn(3, 16), torch.zeros(3)), 3).requires_grad_(False)
    inputs = {name: torch.randn(2, 3, 6, 6) for name in encoders} | {"without": torch.randn(2, 6)}
    plain = {name: encoders[name](x).pooled for name, x in inputs.items()}
    found = choose_layouts(model, inputs, lambda device: nullcontext(), clock)
    assert found == {"faster": 0.5, "slower": 2.0, "alike": 0.984375}
    assert [encoder.last for encoder in encoders.values()] == [True, False, False, False]
    for name, x in inputs.items():
        torch.testing.assert_close(encoders[name](x).pooled, plain[name])


def test_what_was_worked_out_of_a_weight_is_not_kept_when_its_order_changes() -> None:
    conv = nn.Conv2d(3, 4, 3).requires_grad_(False)

    def folded() -> Tensor:
        return made_once((conv.weight,), lambda: (conv.weight * 2,))[0]

    with constant_weights():
        before = folded()
        conv.to(memory_format=torch.channels_last)
        assert folded().is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(folded(), before)
