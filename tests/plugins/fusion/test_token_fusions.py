"""The fusions of tokens, `early`, `mid` and `attention`: who sees whom, any length, any modalities, also missing."""

import math
from collections.abc import Mapping

import pytest
import torch
from avrobust_fusion.bottlenecks import BottleneckTransformer
from avrobust_fusion.configs import AttentionConfig, EarlyConfig, MidConfig
from avrobust_fusion.cross_modal import CrossModalAttention
from avrobust_fusion.joint import JointTransformer
from avrobust_fusion.transformer import Attention, CommonTokens, TransformerLayer, clip_positions
from torch import Tensor, nn
from torch.nn import functional as F

from avrobust_core import Encoded, EncodedDims

WIDTHS = {"video": 3, "audio": 5, "depth": 2}
SMALL = {"width": 8, "heads": 2}


def dims(widths: Mapping[str, int]) -> dict[str, EncodedDims]:
    return {name: EncodedDims(token=width, embed=width) for name, width in widths.items()}


def encode(widths: Mapping[str, int] = WIDTHS, n: int = 3, scale: float = 1.0) -> dict[str, Encoded]:
    made = {}
    for i, (name, width) in enumerate(sorted(widths.items())):
        tokens = scale * torch.randn(n, 3 + i, width, generator=torch.Generator().manual_seed(i))
        made[name] = Encoded(tokens, tokens.mean(dim=1))
    return made


def moved(encoded: Mapping[str, Encoded], name: str) -> dict[str, Encoded]:
    """The same encodings, but for other tokens of one modality."""
    one = encoded[name]
    return {**encoded, name: Encoded(one.tokens.flip(2) - 0.7, one.pooled)}


def reference_attention(attention: Attention, x: Tensor, source: Tensor) -> Tensor:
    """torch's own multi-head attention with the same weights."""
    width = x.shape[2]
    other = nn.MultiheadAttention(width, attention.heads, batch_first=True)
    with torch.no_grad():
        other.in_proj_weight.copy_(torch.cat([attention.q.weight, attention.kv.weight]))
        other.in_proj_bias.copy_(torch.cat([attention.q.bias, attention.kv.bias]))
        other.out_proj.load_state_dict(attention.proj.state_dict())
    return other(x, source, source, need_weights=False)[0]


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """The same module with no parameter left at a special value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module


class TestTransformer:
    @pytest.mark.parametrize("source_steps", [1, 4, 9])
    def test_attention_is_that_of_torch(self, source_steps: int) -> None:
        attention = randomised(Attention(8, 2))
        x, source = torch.randn(3, 5, 8), torch.randn(3, source_steps, 8)
        torch.testing.assert_close(attention(x, source), reference_attention(attention, x, source))  # type: ignore[arg-type]

    def test_a_layer_is_that_of_torch_with_the_norm_first(self) -> None:
        layer = randomised(TransformerLayer(EarlyConfig(width=8, heads=2, mlp_ratio=3)))
        assert isinstance(layer, TransformerLayer)
        other = nn.TransformerEncoderLayer(8, 2, 24, dropout=0, activation=F.gelu, batch_first=True, norm_first=True)
        with torch.no_grad():
            mine, q = layer.state_dict(), layer.attention
            other.self_attn.in_proj_weight.copy_(torch.cat([q.q.weight, q.kv.weight]))
            other.self_attn.in_proj_bias.copy_(torch.cat([q.q.bias, q.kv.bias]))
            other.self_attn.out_proj.load_state_dict(q.proj.state_dict())
            names = {"norm1": "norm1", "norm2": "norm2", "fc1": "linear1", "fc2": "linear2"}
            for name, theirs in names.items():
                for part in ("weight", "bias"):
                    other.get_parameter(f"{theirs}.{part}").copy_(mine[f"{name}.{part}"])
        x = torch.randn(3, 6, 8)
        torch.testing.assert_close(layer(x), other(x))

    def test_a_layer_that_looks_at_others_normalises_them_as_it_does_its_own(self) -> None:
        layer = randomised(TransformerLayer(EarlyConfig(width=8, heads=2)))
        x, source = torch.randn(3, 5, 8), 4 * torch.randn(3, 6, 8) + 1
        assert isinstance(layer, TransformerLayer)
        torch.testing.assert_close(layer(x, x), layer(x))
        scaled = layer(x, 3 * source - 2)
        torch.testing.assert_close(scaled, layer(x, source), atol=1e-4, rtol=1e-4)
        assert not torch.allclose(scaled, layer(x))

    def test_from_no_tokens_attention_finds_nothing_but_its_bias(self) -> None:
        attention = randomised(Attention(8, 2))
        found = attention(torch.randn(2, 3, 8), torch.zeros(2, 0, 8))
        torch.testing.assert_close(found, attention.proj.bias.expand(2, 3, 8))  # type: ignore[union-attr, operator]

    def test_dropout_acts_in_training_only(self) -> None:
        layer, x = TransformerLayer(EarlyConfig(width=8, heads=2, dropout=0.5)), torch.randn(2, 5, 8)
        assert not torch.equal(layer(x), layer(x))
        assert torch.equal(layer.eval()(x), layer(x))

    @pytest.mark.parametrize("steps", [1, 2, 50])
    @pytest.mark.parametrize("width", [1, 7, 8])
    def test_positions_have_any_number_and_any_width(self, steps: int, width: int) -> None:
        found = clip_positions(steps, width, torch.zeros(1))
        assert found.shape == (steps, width)
        assert found.abs().max() <= 1

    def test_the_same_moment_has_the_same_position_however_many_tokens_there_are(self) -> None:
        coarse, fine = clip_positions(3, 8, torch.zeros(1)), clip_positions(9, 8, torch.zeros(1))
        torch.testing.assert_close(coarse, fine[1::3], atol=1e-4, rtol=0)
        assert (fine[1:] - fine[:-1]).abs().amax(dim=1).min() > 0.1
        torch.testing.assert_close(fine[0, 0], torch.tensor(math.sin(100 / 18)))

    def test_tokens_are_normalised_mapped_and_marked_with_their_modality(self) -> None:
        common, encoded = CommonTokens(EarlyConfig(width=8, positions=False), dims(WIDTHS)), encode()
        found = common(encoded)
        assert list(found) == [0, 1, 2]
        for i, name in enumerate(("audio", "depth", "video")):
            tokens = encoded[name].tokens
            expected = common.maps[i](F.layer_norm(tokens, tokens.shape[2:])) + common.modality_embedding[i]
            torch.testing.assert_close(found[i], expected)
        placed = CommonTokens(EarlyConfig(width=8, positions=True), dims(WIDTHS))
        placed.load_state_dict(common.state_dict())
        for i, x in placed(encoded).items():
            torch.testing.assert_close(x - found[i], clip_positions(x.shape[1], 8, x).expand_as(x))


class TestJoint:
    def test_is_one_transformer_over_the_tokens_of_all_modalities_and_a_class_token(self) -> None:
        fusion, encoded = JointTransformer(EarlyConfig(layers=2, **SMALL), dims(WIDTHS)), encode()
        assert fusion.class_token is not None
        tokens = torch.cat(list(fusion.tokens(encoded).values()), dim=1)
        x = torch.cat([fusion.class_token.expand(3, 1, -1), tokens], dim=1)
        for layer in fusion.layers:
            x = layer(x)
        torch.testing.assert_close(fusion(encoded), fusion.norm(x)[:, 0])

    def test_with_mean_every_modality_counts_alike_however_many_tokens_it_has(self) -> None:
        fusion, encoded = JointTransformer(EarlyConfig(layers=1, pool="mean", **SMALL), dims(WIDTHS)), encode()
        assert fusion.class_token is None
        lengths = [3, 4, 5]
        x = fusion.norm(fusion.layers[0](torch.cat(list(fusion.tokens(encoded).values()), dim=1)))
        expected = sum(part.mean(dim=1) for part in torch.split(x, lengths, dim=1)) / 3
        torch.testing.assert_close(fusion(encoded), expected)

    def test_with_positions_the_order_of_tokens_matters_and_without_it_does_not(self) -> None:
        encoded = encode()
        turned = {name: Encoded(one.tokens.flip(1), one.pooled) for name, one in encoded.items()}
        for positions in (False, True):
            fusion = randomised(JointTransformer(EarlyConfig(positions=positions, layers=1, **SMALL), dims(WIDTHS)))
            off = (fusion(encoded) - fusion(turned)).abs().max()
            assert (off > 1e-3) == positions


class TestBottlenecks:
    def layers(self, fusion: BottleneckTransformer, index: int) -> list[TransformerLayer]:
        return list(fusion.layers[index])  # type: ignore[arg-type]

    @pytest.mark.parametrize("pool", ["class", "mean"])
    def test_is_the_definition(self, pool: str) -> None:
        config = MidConfig(layers=3, bottlenecks=2, pool=pool, **SMALL)
        fusion = randomised(BottleneckTransformer(config, dims({"a": 3, "v": 4})))
        assert isinstance(fusion, BottleneckTransformer)
        encoded = encode({"a": 3, "v": 4})
        a, v = fusion.tokens(encoded).values()
        if fusion.class_tokens is not None:
            a = torch.cat([fusion.class_tokens[0].expand(3, 1, -1), a], dim=1)
            v = torch.cat([fusion.class_tokens[1].expand(3, 1, -1), v], dim=1)
        shared = fusion.bottlenecks.expand(3, -1, -1)
        for index in range(3):
            of_a, of_v = self.layers(fusion, index)
            out_a, out_v = of_a(torch.cat([a, shared], dim=1)), of_v(torch.cat([v, shared], dim=1))
            a, v, shared = out_a[:, :-2], out_v[:, :-2], (out_a[:, -2:] + out_v[:, -2:]) / 2
        a, v = fusion.norm(a), fusion.norm(v)
        expected = (a[:, 0] + v[:, 0]) / 2 if pool == "class" else (a.mean(dim=1) + v.mean(dim=1)) / 2
        torch.testing.assert_close(fusion(encoded), expected)

    def test_modalities_learn_of_each_other_through_the_bottlenecks_only(self) -> None:
        fusion = randomised(BottleneckTransformer(MidConfig(layers=2, bottlenecks=2, **SMALL), dims({"a": 3, "v": 4})))
        encoded = encode({"a": 3, "v": 4})
        seen: list[Tensor] = []
        last = self.layers(fusion, 1)[0]  # type: ignore[arg-type]
        last.register_forward_hook(lambda module, inputs, output: seen.append(output[:, 2:].detach()))
        for one in (encoded, moved(encoded, "v")):
            fusion(one)
        assert not torch.allclose(seen[0], seen[1])
        with torch.no_grad():  # the bottlenecks' keys and values are cut, and with them all that is exchanged
            for index in range(2):
                for layer in self.layers(fusion, index):  # type: ignore[arg-type]
                    forward = layer.forward
                    layer.forward = lambda x, forward=forward: torch.cat([x[:, :2], forward(x[:, 2:])], dim=1)  # type: ignore[method-assign, misc]
            for one in (encoded, moved(encoded, "v")):
                fusion(one)
        assert torch.equal(seen[2], seen[3])

    def test_one_layer_would_exchange_nothing_and_is_refused(self) -> None:
        with pytest.raises(ValueError, match="layers 1 would exchange nothing"):
            MidConfig(layers=1)
        assert MidConfig(layers=1, bottlenecks=0).layers == 1

    def test_a_linear_head_gives_the_mean_of_the_logits_of_the_class_tokens(self) -> None:
        fusion, encoded = BottleneckTransformer(MidConfig(**SMALL), dims(WIDTHS)), encode()
        ends: list[Tensor] = []
        fusion.norm.register_forward_hook(lambda module, inputs, output: ends.append(output[:, 0]))
        head = fusion.make_head(4)
        torch.testing.assert_close(head(fusion(encoded)), torch.stack([head(end) for end in ends]).mean(dim=0))


class TestCrossModal:
    def test_each_modality_looks_at_all_the_others_as_they_were_at_first(self) -> None:
        fusion, encoded = CrossModalAttention(AttentionConfig(layers=2, **SMALL), dims(WIDTHS)), encode()
        audio, depth, video = fusion.tokens(encoded).values()
        x = depth
        for layer in fusion.layers[1]:  # type: ignore[union-attr]
            x = layer(x, torch.cat([audio, video], dim=1))
        torch.testing.assert_close(fusion(encoded)[:, 8:16], fusion.norms[1](x).mean(dim=1))
        assert fusion.dim == 24

    def test_alone_a_modality_has_nothing_to_look_at(self) -> None:
        fusion = randomised(CrossModalAttention(AttentionConfig(**SMALL), dims({"a": 3})))
        assert fusion(encode({"a": 3})).isfinite().all()

    def test_the_part_of_a_missing_modality_is_zero(self) -> None:
        fusion, encoded = CrossModalAttention(AttentionConfig(**SMALL), dims(WIDTHS)), encode()
        without = {name: one for name, one in encoded.items() if name != "depth"}
        fused = fusion(without)
        assert torch.equal(fused[:, 8:16], torch.zeros(3, 8))
        audio, _, video = fusion.tokens(encoded).values()
        expected = fusion.norms[0](fusion.layers[0][0](audio, video)).mean(dim=1)  # type: ignore[index]
        torch.testing.assert_close(fused[:, :8], expected)


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("fields", [{"bottlenecks": 0}, {"bottlenecks": 3}, {"pool": "mean"}])
def test_a_missing_modality_leaves_what_a_model_without_it_would_give(layers: int, fields: dict[str, object]) -> None:
    config = MidConfig(layers=layers, **SMALL, **fields)  # type: ignore[arg-type]
    kind = BottleneckTransformer if config.bottlenecks else JointTransformer
    whole = randomised(kind(config, dims(WIDTHS)))
    less = kind(config, dims({name: width for name, width in WIDTHS.items() if name != "video"}))
    state = whole.state_dict()
    fitting = {key: state[key][: len(value)] for key, value in less.state_dict().items()}  # video is the last
    less.load_state_dict(fitting)
    encoded = encode()
    torch.testing.assert_close(whole({name: encoded[name] for name in ("audio", "depth")}), less(encoded))


def test_tokens_that_are_all_zero_give_finite_values_and_gradients() -> None:
    encoded = encode(scale=0.0)
    for one in encoded.values():
        one.tokens.requires_grad_()
    for fusion in (
        JointTransformer(EarlyConfig(**SMALL), dims(WIDTHS)),
        BottleneckTransformer(MidConfig(**SMALL), dims(WIDTHS)),
        CrossModalAttention(AttentionConfig(**SMALL), dims(WIDTHS)),
    ):
        fused = randomised(fusion)(encoded)
        gradients = torch.autograd.grad(fused.square().sum(), [one.tokens for one in encoded.values()])
        assert all(x.isfinite().all() for x in (fused, *gradients))
