"""The layers that plugins share: as defined, exact where probabilities are extreme, in float32 under autocast."""

import pytest
import torch
from torch import nn

from avrobust_core import AttentionPooling, TransformerLayer, VitLayer, attend, sinusoids


def test_the_layer_is_a_transformer_layer_that_normalises_first() -> None:
    torch.manual_seed(0)
    layer = TransformerLayer(8, 2).eval()
    theirs = nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True)
    names = {
        "self_attn.in_proj_": "qkv.",
        "self_attn.out_proj.": "proj.",
        "linear1.": "fc1.",
        "linear2.": "fc2.",
        "norm1.": "norm1.",
        "norm2.": "norm2.",
    }
    state = layer.state_dict()
    for own in names.values():
        for kind in ("weight", "bias"):
            nn.init.normal_(state[f"{own}{kind}"], std=0.3)
    theirs.load_state_dict(
        {f"{key}{kind}": state[f"{own}{kind}"] for key, own in names.items() for kind in ("weight", "bias")}
    )
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(layer(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("written_out", [False, True])
def test_attention_is_that_of_the_definition_in_float32_also_under_autocast(written_out: bool) -> None:
    torch.manual_seed(0)
    query, key, value = (3 * torch.randn(2, steps, 8).bfloat16() for steps in (5, 7, 7))
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(query, key, value, heads=2, written_out=written_out)
    assert found.dtype == torch.bfloat16
    q, k, v = (x.double().view(2, -1, 2, 4).transpose(1, 2) for x in (query, key, value))
    exact = ((q @ k.transpose(2, 3) / 2).softmax(dim=3) @ v).transpose(1, 2).reshape(2, 5, 8)
    # What a rounding of the result, and of the weights, to 8 bits comes to; scores of 8 bits are further off.
    assert (found.double() - exact).abs().max() < 2**-8 * v.abs().max()


def test_written_out_attention_has_second_derivatives_and_finds_nothing_in_no_tokens() -> None:
    parts = [torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradgradcheck(lambda q, k, v: attend(q, k, v, heads=2, written_out=True), parts)
    nothing = torch.zeros(1, 0, 4, dtype=torch.float64)
    assert torch.equal(attend(parts[0], nothing, nothing, heads=2, written_out=True), torch.zeros_like(parts[0]))


@pytest.mark.parametrize("level", [-20.0, 20.0])
def test_pooling_stays_exact_under_autocast(level: float) -> None:
    torch.manual_seed(0)
    head = AttentionPooling(4, 3)
    nn.init.constant_(head.prob.bias, level)
    tokens = torch.randn(2, 7, 4)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(tokens)
        prob, att = head.prob(tokens).double(), head.att(tokens).double()
    assert logits.dtype == torch.float32
    weights = att.softmax(dim=1)
    expected = ((weights * prob.sigmoid()).sum(dim=1) / (weights * (-prob).sigmoid()).sum(dim=1)).log()
    torch.testing.assert_close(logits.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_vit_layer_is_the_flat_layer_under_other_names() -> None:
    torch.manual_seed(0)
    flat, nested = TransformerLayer(8, 2).eval(), VitLayer(8, 2).eval()
    state = flat.state_dict()
    for name in list(state):
        outer = {"qkv": "attn.", "proj": "attn.", "fc1": "mlp.", "fc2": "mlp."}.get(name.partition(".")[0], "")
        state[outer + name] = state.pop(name)
    nested.load_state_dict(state)
    x = torch.randn(3, 5, 8)
    assert torch.equal(nested(x), flat(x))


@pytest.mark.parametrize("width", [5, 8])
def test_positions_differ_and_do_not_depend_on_the_length(width: int) -> None:
    long, short = sinusoids(torch.arange(50), width), sinusoids(torch.arange(9), width)
    assert long.shape == (50, width)
    assert torch.equal(long[:9], short)
    assert torch.cdist(long, long).fill_diagonal_(1).min() > 1e-2


@pytest.mark.parametrize("level", [-60.0, 0.0, 60.0])
def test_its_logits_are_finite_and_steep_where_the_probability_is_next_to_0_or_1(level: float) -> None:
    head = AttentionPooling(4, 3)
    nn.init.constant_(head.prob.bias, level)
    tokens = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    logits = head(tokens)
    (gradient,) = torch.autograd.grad(logits.sum(), tokens)
    assert (logits - level).abs().max() < 5
    assert gradient.isfinite().all()
    assert (gradient != 0).any()
    p = (torch.softmax(head.att(tokens), dim=1).double() * torch.sigmoid(head.prob(tokens).double())).sum(dim=1)
    if level <= 0:
        torch.testing.assert_close(logits.double(), torch.log(p / (1 - p)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [30.0, -30.0, 200.0, -200.0])
def test_logits_are_exact_where_the_probability_is_0_or_1(scale: float) -> None:
    head = AttentionPooling(2, 1)
    nn.init.constant_(head.prob.bias, scale)
    nn.init.zeros_(head.prob.weight)
    tokens = torch.randn(2, 5, 2, requires_grad=True)
    logits = head(tokens)
    torch.testing.assert_close(logits, torch.full((2, 1), scale))
    (gradient,) = torch.autograd.grad(logits.sum(), head.prob.bias)
    torch.testing.assert_close(gradient, torch.tensor([2.0]))


def test_attention_weighs_the_frames_of_each_class_by_itself() -> None:
    head = AttentionPooling(2, 2)
    with torch.no_grad():
        head.prob.weight.copy_(torch.tensor([[1.0, -1.0], [1.0, -1.0]]))
        head.att.weight.copy_(torch.tensor([[90.0, -90.0], [-90.0, 90.0]]))
    logits = head(torch.eye(2)[None])
    torch.testing.assert_close(logits, torch.tensor([[1.0, -1.0]]))
