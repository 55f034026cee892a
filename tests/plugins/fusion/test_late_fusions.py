"""What holds for every fusion, and the fusions `concat` and `sum`, joined as their definitions say."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from avrobust_fusion.late import Concat, Sum
from avrobust_fusion.plugin import avrobust_fusions
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from avrobust_core import AvrobustError, Component, Encoded, EncodedDims, Fusion

COMPONENTS: dict[str, Component] = {component.name: component for component in avrobust_fusions()}
TOKENS = {"width": 8, "heads": 2, "layers": 2}
STRICT = [("concat", {}), ("concat", {"hidden": 6}), ("sum", {"dim": 6})]
LENIENT = [
    ("early", TOKENS),
    ("early", {**TOKENS, "pool": "mean"}),
    ("mid", TOKENS),
    ("mid", {**TOKENS, "bottlenecks": 0}),
    ("attention", TOKENS),
    ("gated", {"dim": 6}),
    ("gated", {"dim": 6, "gate": "modality"}),
    ("decision", {"weights": "learned"}),
    ("decision", {"space": "softmax"}),
    ("decision", {"space": "sigmoid"}),
    ("odd-one-out", {"dim": 6, "hidden": 5}),
]
KINDS = STRICT + LENIENT

widths_by_modality = st.dictionaries(st.text(min_size=1, max_size=8), st.integers(1, 9), min_size=1, max_size=4)


def build(name: str, widths: Mapping[str, int], seed: int = 0, **fields: object) -> Fusion:
    torch.manual_seed(seed)
    component = COMPONENTS[name]
    inputs = {modality: EncodedDims(token=3, embed=width) for modality, width in widths.items()}
    return component.make(component.config(**fields), inputs)


def encode(widths: Mapping[str, int], n: int = 3) -> dict[str, Encoded]:
    made = {}
    for i, (modality, width) in enumerate(sorted(widths.items())):
        generator = torch.Generator().manual_seed(i)
        tokens = torch.randn(n, 2 + i, 3, generator=generator)  # as many steps of time as the modality likes
        made[modality] = Encoded(tokens, torch.randn(n, width, generator=generator))
    return made


def with_gradients(
    widths: Mapping[str, int], dtype: torch.dtype = torch.float32
) -> tuple[dict[str, Encoded], list[Tensor]]:
    """Encodings that want gradients, and all of their tensors: tokens and pooled of one modality after the other."""
    encoded = {
        modality: Encoded(one.tokens.to(dtype).requires_grad_(), one.pooled.to(dtype).requires_grad_())
        for modality, one in encode(widths).items()
    }
    return encoded, [tensor for one in encoded.values() for tensor in (one.tokens, one.pooled)]


def with_head(fusion: Fusion) -> nn.Sequential:
    return nn.Sequential(fusion, fusion.make_head(4))


@pytest.mark.parametrize(("name", "fields"), KINDS)
@given(widths=widths_by_modality, data=st.data())
@settings(max_examples=15)
def test_the_order_of_modalities_changes_nothing(
    name: str, fields: dict[str, object], widths: dict[str, int], data: st.DataObject
) -> None:
    assume(name != "odd-one-out" or len(widths) > 1)
    shuffled = {modality: widths[modality] for modality in data.draw(st.permutations(list(widths)))}
    encoded = encode(widths)
    one = build(name, widths, **fields)
    other = build(name, shuffled, **fields)
    out = one(encoded)
    assert out.shape == (3, one.dim)
    assert torch.equal(out, other({modality: encoded[modality] for modality in shuffled}))


def test_concat_puts_embeddings_side_by_side_in_sorted_order() -> None:
    encoded = encode({"video": 2, "audio": 3, "depth": 1})
    fused = build("concat", {"video": 2, "audio": 3, "depth": 1})(encoded)
    assert torch.equal(fused, torch.cat([encoded[name].pooled for name in ("audio", "depth", "video")], dim=1))


def test_concat_alone_has_nothing_to_learn_so_that_its_head_is_linear_in_every_embedding() -> None:
    assert not list(build("concat", {"a": 2, "b": 3}).parameters())


def test_a_hidden_layer_is_a_rectified_linear_map_of_the_concatenation() -> None:
    encoded = encode({"a": 2, "b": 3})
    fusion = build("concat", {"a": 2, "b": 3}, hidden=50)
    assert isinstance(fusion, Concat)
    assert fusion.hidden is not None
    joined = torch.cat([encoded["a"].pooled, encoded["b"].pooled], dim=1)
    expected = (joined @ fusion.hidden.weight.T + fusion.hidden.bias).clamp(min=0)
    torch.testing.assert_close(fusion(encoded), expected)
    assert (expected == 0).any()
    assert (expected > 0).any()


def test_sum_adds_one_linear_map_per_modality() -> None:
    encoded = encode({"b": 3, "a": 2, "c": 4})
    fusion = build("sum", {"b": 3, "a": 2, "c": 4}, dim=5)
    assert isinstance(fusion, Sum)
    weights = [(m.weight, m.bias) for m in fusion.maps]  # type: ignore[union-attr]
    expected = sum(encoded[name].pooled @ w.T + b for name, (w, b) in zip("abc", weights, strict=True))
    torch.testing.assert_close(fusion(encoded), expected)


@given(st.lists(st.floats(-2, 2, width=32), min_size=3, max_size=3))
@settings(max_examples=20)
def test_sum_is_affine_in_each_modality(direction: list[float]) -> None:
    encoded = encode({"a": 2, "b": 3})
    fusion = build("sum", {"a": 2, "b": 3}, dim=5)
    moved = torch.tensor(direction)

    def at(step: float) -> Tensor:
        return fusion({**encoded, "b": Encoded(encoded["b"].tokens, encoded["b"].pooled + step * moved)})

    torch.testing.assert_close(at(2.0) - at(1.0), at(1.0) - at(0.0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "fields"), STRICT)
def test_what_cannot_do_without_a_modality_names_it(name: str, fields: dict[str, object]) -> None:
    fusion = build(name, {"audio": 2, "depth": 2, "video": 3}, **fields)
    encoded = encode({"audio": 2, "depth": 2, "video": 3})
    del encoded["depth"]
    with pytest.raises(KeyError, match="joins audio, depth, video; missing: depth"):
        fusion(encoded)


@pytest.mark.parametrize(("name", "fields"), LENIENT)
def test_what_can_do_without_a_modality_fuses_the_others(name: str, fields: dict[str, object]) -> None:
    fusion = build(name, {"audio": 2, "depth": 2, "video": 3}, **fields)
    encoded = encode({"audio": 2, "depth": 2, "video": 3})
    whole = fusion(encoded)
    for modality in encoded:
        less = fusion({other: encoding for other, encoding in encoded.items() if other != modality})
        assert less.shape == whole.shape
        assert less.isfinite().all()
        assert not torch.allclose(less, whole)
    with pytest.raises(KeyError, match="joins audio, depth, video; missing: audio, depth, video"):
        fusion({})


@pytest.mark.parametrize(("name", "fields"), KINDS)
class TestEveryFusion:
    def test_a_modality_that_it_was_not_built_for_is_ignored(self, name: str, fields: dict[str, object]) -> None:
        encoded = encode({"a": 2, "b": 3, "c": 4})
        fusion = build(name, {"a": 2, "b": 3}, **fields)
        assert torch.equal(fusion(encoded), fusion({"a": encoded["a"], "b": encoded["b"]}))

    def test_no_modality_at_all_is_an_error(self, name: str, fields: dict[str, object]) -> None:
        with pytest.raises(AvrobustError, match="at least one modality"):
            build(name, {}, **fields)

    def test_each_modality_gets_a_gradient_of_its_own(self, name: str, fields: dict[str, object]) -> None:
        encoded, leaves = with_gradients({"a": 2, "b": 3})
        logits = with_head(build(name, {"a": 2, "b": 3}, **fields))(encoded)
        gradients = torch.autograd.grad(logits.square().sum(), leaves, allow_unused=True, materialize_grads=True)
        for of_tokens, of_pooled in (gradients[:2], gradients[2:]):
            assert of_tokens.isfinite().all()
            assert of_pooled.isfinite().all()
            assert of_tokens.abs().sum() + of_pooled.abs().sum() > 0

    def test_second_derivatives_are_those_of_the_definition(self, name: str, fields: dict[str, object]) -> None:
        encoded, leaves = with_gradients({"a": 2, "b": 3}, torch.float64)
        whole = with_head(build(name, {"a": 2, "b": 3}, **fields)).double()

        def at(*moved: Tensor) -> Tensor:
            pairs = zip(encoded, (moved[:2], moved[2:]), strict=True)
            return whole({modality: Encoded(*pair) for modality, pair in pairs}).square().sum()

        assert torch.autograd.gradgradcheck(at, tuple(leaves), fast_mode=True)

    def test_with_and_without_gradients_the_result_is_the_same(self, name: str, fields: dict[str, object]) -> None:
        encoded, _ = with_gradients({"a": 2, "b": 3})
        fusion = build(name, {"a": 2, "b": 3}, **fields).eval()
        with torch.no_grad():
            without = fusion(encoded)
        torch.testing.assert_close(fusion(encoded), without, atol=1e-5, rtol=1e-5)

    def test_tokens_may_be_of_any_number_and_modalities_too(self, name: str, fields: dict[str, object]) -> None:
        for count in (1, 2, 3, 5):
            if name == "odd-one-out" and count == 1:
                continue
            widths = {f"m{i}": 2 + i for i in range(count)}
            fusion = build(name, widths, **fields)
            for steps in (1, 13):
                encoded = {
                    modality: Encoded(torch.randn(2, steps + i, 3), torch.randn(2, width))
                    for i, (modality, width) in enumerate(widths.items())
                }
                assert fusion(encoded).shape == (2, fusion.dim)

    def test_a_clip_does_not_depend_on_its_batch_mates(self, name: str, fields: dict[str, object]) -> None:
        encoded = encode({"a": 2, "b": 3}, n=5)
        fusion = build(name, {"a": 2, "b": 3}, **fields).eval()
        state = torch.get_rng_state()
        together = fusion(encoded)
        for i in range(5):
            alone = fusion({modality: encoding.select(torch.tensor([i])) for modality, encoding in encoded.items()})
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-5)
        assert torch.equal(torch.get_rng_state(), state)

    def test_the_head_reads_the_fused_embedding(self, name: str, fields: dict[str, object]) -> None:
        fusion = build(name, {"a": 2, "b": 3}, **fields)
        assert fusion.make_head(7)(fusion(encode({"a": 2, "b": 3}))).shape == (3, 7)

    def test_weights_round_trip_and_depend_on_the_seed_only(
        self, name: str, fields: dict[str, object], tmp_path: Path
    ) -> None:
        widths = {"a": 2, "b": 3}
        one, other = build(name, widths, seed=1, **fields), build(name, widths, seed=2, **fields)
        again = build(name, widths, seed=1, **fields).state_dict()
        assert all(torch.equal(value, again[key]) for key, value in one.state_dict().items())
        save_file(one.state_dict(), tmp_path / "fusion.safetensors")
        other.load_state_dict(load_file(tmp_path / "fusion.safetensors"))
        assert torch.equal(one(encode(widths)), other(encode(widths)))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("concat", {"hidden": -1}),
        ("sum", {"dim": 0}),
        ("sum", {"hidden": 3}),
        ("early", {"width": 9, "heads": 2}),
        ("mid", {"bottlenecks": -1}),
        ("attention", {"mlp_ratio": 0}),
        ("gated", {"dim": 0}),
        ("odd-one-out", {"hidden": 0}),
    ],
)
def test_refuses_widths_that_make_no_layer(name: str, fields: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        COMPONENTS[name].config(**fields)


def test_the_examples_are_configurations_that_build() -> None:
    assert set(COMPONENTS) == {name for name, _ in KINDS} | {"cav-mae"}
    for name in dict(KINDS):
        assert build(name, {"a": 2, "b": 3}, **COMPONENTS[name].example).dim > 0


def test_naming_the_fusions_imports_nothing_heavy() -> None:
    code = (
        "import sys, avrobust_fusion.plugin as plugin; list(plugin.avrobust_fusions());"
        "print(*{'torch', 'torchaudio', 'numpy'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ""
