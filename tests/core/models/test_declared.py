"""Encoders and fusions that return other than they declare: named with the component that offers them, and the cure."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from avrobust_core import AVModel, Component, Config, Encoded, EncodedDims, Encoder, Fusion, ModelError
from avrobust_core.registry.choices import Configured
from avrobust_core.registry.discovery import RegistryEntry

X = torch.zeros(3, 4)


class Enc(Encoder):
    """Returns what it is told to, whatever it declares."""

    def __init__(self, config: Config, media: Any = None) -> None:
        super().__init__()
        self.dims = EncodedDims(token=5, embed=4)
        self.frontend = nn.Identity()
        self.returns: Any = Encoded(torch.zeros(3, 2, 5), torch.zeros(3, 4))

    def encode(self, features: Tensor) -> Encoded:
        """What it is told to return."""
        returned: Encoded = self.returns
        return returned


class Fus(Fusion):
    """Returns what it is told to."""

    def __init__(self, config: Config, inputs: Any = None) -> None:
        super().__init__()
        self.dim = 4
        self.returns: Any = torch.zeros(3, 4)

    def forward(self, encoded: Mapping[str, Encoded]) -> Tensor:
        """What it is told to return."""
        returned: Tensor = self.returns
        return returned


def built(kind: str, build: Any) -> Any:
    """As a spec builds a component of a third party."""
    component = Component(name="mine", summary="Mine.", config=Config, build=build)
    entry = RegistryEntry(
        kind=kind, component=component, distribution="acme", distribution_version="1.2", plugin="acme-plugin"
    )
    return Configured(entry, Config()).build(None)


def model() -> AVModel:
    return AVModel({"smell": built("encoder", Enc)}, built("fusion", Fus), classes=3)


def test_as_declared_nothing_is_said() -> None:
    made = model()
    assert made({"smell": X}).shape == (3, 3)
    made.fusion.returns = torch.zeros(3, 7, 4)
    assert made.fuse(made.encode({"smell": X})).shape == (3, 7, 4)


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (torch.zeros(3, 4), ["returned a Tensor; wanted is avrobust_core.Encoded(tokens, pooled)"]),
        (None, ["returned a NoneType; wanted"]),
        (
            Encoded(torch.zeros(3, 2, 5), torch.zeros(3, 9)),
            ["pooled of shape (3, 9), 9 wide", "declares dims.embed=4", "mend EncodedDims(embed=...)"],
        ),
        (Encoded(torch.zeros(3, 2, 6), torch.zeros(3, 4)), ["tokens of shape (3, 2, 6)", "dims.token=5"]),
        (Encoded(torch.zeros(3, 5), torch.zeros(3, 4)), ["tokens of shape (3, 5); wanted is (B, T, D)"]),
        (Encoded(torch.zeros(3, 2, 5), torch.zeros(1, 4)), ["pooled of shape (1, 4) for 3 clips"]),
        (Encoded(torch.zeros(3, 2, 5), torch.zeros(3, 4, dtype=torch.int64)), ["pooled as torch.int64"]),
        (Encoded(torch.zeros(3, 2, 5), [1.0]), ["pooled as list"]),  # type: ignore[arg-type]
    ],
)
def test_an_encoder_that_returns_other_than_it_declares_is_named(returned: Any, told: list[str]) -> None:
    made = model()
    made.encoders["smell"].returns = returned  # type: ignore[assignment]
    with pytest.raises(ModelError) as caught:
        made({"smell": X})
    for part in ["encoder 'mine' (plugin 'acme-plugin' of acme 1.2), which reads 'smell',", *told]:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (torch.zeros(3, 9), ["returned (3, 9), but declares dim=4", "(3, 4), or (3, L, 4)", "mend self.dim"]),
        (torch.zeros(4), ["of shape (4,) for 3 clips"]),
        (torch.zeros(3), ["returned (3,), but declares dim=4"]),
        (torch.zeros(6, 4), ["of shape (6, 4) for 3 clips"]),
        ({"fused": torch.zeros(3, 4)}, ["what is fused as dict; wanted is a floating tensor"]),
    ],
)
def test_a_fusion_that_returns_other_than_it_declares_is_named(returned: Any, told: list[str]) -> None:
    made = model()
    made.fusion.returns = returned
    with pytest.raises(ModelError) as caught:
        made({"smell": X})
    for part in ["fusion 'mine' (plugin 'acme-plugin' of acme 1.2) returned", *told]:
        assert part in str(caught.value)


@pytest.mark.parametrize("lacks", ["dims", "frontend"])
def test_an_encoder_without_what_it_has_to_say_is_refused_where_it_joins_a_model(lacks: str) -> None:
    encoder = built("encoder", Enc)
    delattr(encoder, lacks)
    with pytest.raises(ModelError, match=rf"encoder 'mine' \(plugin .*`{lacks}`: set self\.{lacks}"):
        AVModel({"smell": encoder}, None, classes=3)


@pytest.mark.parametrize("dim", [None, 0, 4.0, True])
def test_a_fusion_without_a_width_is_refused_where_it_joins_a_model(dim: Any) -> None:
    fusion = Fus(Config())
    fusion.dim = dim
    with pytest.raises(ModelError, match=r"fusion Fus has .* as `dim`: set self.dim in its __init__"):
        AVModel({"smell": Enc(Config())}, fusion, classes=3)
