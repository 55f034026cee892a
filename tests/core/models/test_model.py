"""The model: encoders by modality, a fusion, a head, whatever the modalities are called."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from avrobust_core import AVModel, Encoded, EncodedDims, Encoder, Fusion

CHANNELS = {"depth": 2, "thermal": 3, "touch": 1}


class Projection(Encoder):
    """Averages time, then projects; counts how often it is called."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.dims = EncodedDims(token=channels, embed=width)
        self.frontend = nn.Identity()
        self.map = nn.Linear(channels, width)
        self.calls = 0

    def encode(self, features: Tensor) -> Encoded:
        """From (B, C, T) to tokens (B, T, C) and pooled (B, width)."""
        self.calls += 1
        return Encoded(features.transpose(1, 2), torch.tanh(self.map(features.mean(dim=2))))


class Product(Fusion):
    """The element-wise product of all embeddings, so that each one matters to the gradient of each other."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, encoded: Mapping[str, Encoded]) -> Tensor:
        """(B, dim)."""
        return torch.stack([encoded[name].pooled for name in sorted(CHANNELS)]).prod(dim=0)


class OwnHead(Product):
    """A fusion whose head is not linear."""

    def make_head(self, classes: int) -> nn.Module:
        """A hidden layer before the logits."""
        return nn.Sequential(nn.Linear(self.dim, 5), nn.ReLU(), nn.Linear(5, classes))


def make_encoders() -> dict[str, Encoder]:
    torch.manual_seed(0)
    return {name: Projection(channels, 4) for name, channels in CHANNELS.items()}


@pytest.fixture
def model() -> AVModel:
    return AVModel(make_encoders(), Product(4), classes=7).eval()


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(6, channels, 5, generator=generator) for name, channels in CHANNELS.items()}


def calls(model: AVModel) -> dict[str, int]:
    return {name: encoder.calls for name, encoder in model.encoders.items()}  # type: ignore[misc]


def test_three_modalities_of_any_name_make_logits(model: AVModel, inputs: dict[str, Tensor]) -> None:
    assert model.modalities == ("depth", "thermal", "touch")
    assert model(inputs).shape == (6, 7)
    assert calls(model) == {"depth": 1, "thermal": 1, "touch": 1}


def test_logits_are_not_probabilities(model: AVModel, inputs: dict[str, Tensor]) -> None:
    logits = model({name: 10 * x for name, x in inputs.items()})
    assert not torch.allclose(logits.sum(dim=1), torch.ones(6))
    assert (logits < 0).any()


def test_the_head_on_the_embedding_is_the_forward_pass(model: AVModel, inputs: dict[str, Tensor]) -> None:
    embedded = model.embed(inputs)
    assert embedded.shape == (6, 4)
    assert torch.equal(model.head(embedded), model(inputs))


def test_classifying_what_was_encoded_is_the_forward_pass(model: AVModel, inputs: dict[str, Tensor]) -> None:
    assert torch.equal(model.classify(model.encode(inputs)), model(inputs))


@pytest.mark.parametrize("attacked", [("depth",), ("thermal", "touch"), ("depth", "thermal", "touch"), ()])
def test_modalities_may_be_encoded_at_different_times(
    model: AVModel, inputs: dict[str, Tensor], attacked: tuple[str, ...]
) -> None:
    expected = model(inputs)
    before = calls(model)
    once = model.encode({name: x for name, x in inputs.items() if name not in attacked})
    for _ in range(3):
        again = model.encode({name: inputs[name] for name in attacked})
        assert torch.equal(model.classify({**once, **again}), expected)
    assert calls(model) == {name: before[name] + (3 if name in attacked else 1) for name in CHANNELS}


def test_encodes_only_what_it_is_given(model: AVModel, inputs: dict[str, Tensor]) -> None:
    assert set(model.encode({"touch": inputs["touch"]})) == {"touch"}
    assert calls(model) == {"depth": 0, "thermal": 0, "touch": 1}


def test_inputs_that_it_does_not_read_are_ignored(model: AVModel, inputs: dict[str, Tensor]) -> None:
    more = {**inputs, "smell": torch.zeros(6, 2)}
    assert torch.equal(model(more), model(inputs))
    assert set(model.encode(more)) == set(CHANNELS)


@pytest.mark.parametrize("missing", [("depth",), ("depth", "touch")])
def test_a_missing_modality_is_an_error_that_names_it(
    model: AVModel, inputs: dict[str, Tensor], missing: tuple[str, ...]
) -> None:
    for name in missing:
        del inputs[name]
    with pytest.raises(KeyError, match=f"depth, thermal, touch; missing: {', '.join(missing)}'"):
        model(inputs)
    assert set(calls(model).values()) == {0}


def test_a_gradient_reaches_every_modality_and_every_encoder(model: AVModel, inputs: dict[str, Tensor]) -> None:
    for x in inputs.values():
        x.requires_grad_()
    model(inputs).square().sum().backward()
    assert all(x.grad is not None and (x.grad.flatten(1).norm(dim=1) > 0).all() for x in inputs.values())
    assert all(p.grad is not None and p.grad.norm() > 0 for p in model.parameters())


def test_several_encoders_need_a_fusion() -> None:
    with pytest.raises(ValueError, match="depth, thermal, touch needs a fusion"):
        AVModel(make_encoders(), None, classes=7)


def test_no_encoder_is_no_model() -> None:
    with pytest.raises(ValueError, match="at least one encoder"):
        AVModel({}, Product(4), classes=7)


def test_one_encoder_needs_no_fusion(inputs: dict[str, Tensor]) -> None:
    encoder = make_encoders()["thermal"]
    model = AVModel({"thermal": encoder}, None, classes=7)
    assert model.modalities == ("thermal",)
    assert torch.equal(model.embed(inputs), encoder(inputs["thermal"]).pooled)
    assert model(inputs).shape == (6, 7)
    with pytest.raises(KeyError, match="missing: thermal"):
        model({"depth": inputs["depth"]})


def test_a_fusion_may_bring_its_own_head(inputs: dict[str, Tensor]) -> None:
    model = AVModel(make_encoders(), OwnHead(4), classes=7)
    assert isinstance(model.head, nn.Sequential)
    assert model(inputs).shape == (6, 7)


def test_weights_are_named_by_modality(model: AVModel) -> None:
    expected = {f"encoders.{name}.map.{kind}" for name in CHANNELS for kind in ("weight", "bias")}
    assert set(model.state_dict()) == expected | {"head.weight", "head.bias"}


def test_the_order_of_the_encoders_changes_no_logits(model: AVModel, inputs: dict[str, Tensor]) -> None:
    reordered = AVModel(dict(reversed(make_encoders().items())), Product(4), classes=7).eval()
    assert reordered.modalities == ("touch", "thermal", "depth")
    reordered.load_state_dict(model.state_dict())
    assert torch.equal(reordered(inputs), model(inputs))


class OwnsHead(Projection):
    """An encoder whose own classifier pools its tokens by their maximum."""

    def make_head(self, classes: int) -> nn.Module:
        class Head(nn.Module):
            def __init__(self, width: int) -> None:
                super().__init__()
                self.map = nn.Linear(width, classes)

            def forward(self, tokens: Tensor) -> Tensor:
                return self.map(tokens).amax(dim=1)

        return Head(self.dims.token)


def test_an_encoder_alone_may_bring_its_own_head_which_reads_its_tokens() -> None:
    torch.manual_seed(0)
    model = AVModel({"depth": OwnsHead(2, 4)}, None, classes=5).eval()
    x = {"depth": torch.randn(3, 2, 6)}
    tokens = model.encode(x)["depth"].tokens
    assert torch.equal(model.embed(x), tokens)
    assert torch.equal(model(x), model.head.map(tokens).amax(dim=1))
    assert model(x).shape == (3, 5)


def test_beside_others_its_head_is_the_fusions() -> None:
    torch.manual_seed(0)
    encoders = {name: OwnsHead(channels, 4) for name, channels in CHANNELS.items()}
    assert isinstance(AVModel(encoders, Product(4), classes=5).head, nn.Linear)


def test_channels_last_changes_the_order_in_memory_and_nothing_else() -> None:
    from avrobust_core.models.model import channels_last

    torch.manual_seed(0)
    make = lambda: nn.Sequential(nn.Conv3d(3, 6, 3), nn.Flatten(2), nn.Unflatten(2, (2, 36)), nn.Conv2d(6, 4, 2))  # noqa: E731
    model, x = make(), torch.randn(2, 3, 4, 8, 8)
    plain = model(x)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert channels_last(model) is model
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert not model[3].weight.is_contiguous()
    torch.testing.assert_close(model(x), plain)
    model.load_state_dict(state)
    assert not model[0].weight.is_contiguous()  # what is loaded is in that order, too
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
