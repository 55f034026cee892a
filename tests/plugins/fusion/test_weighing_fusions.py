"""The fusions that weigh modalities, `gated`, `decision` and `odd-one-out`: as defined, stable, missing ones too."""

import re
from collections.abc import Mapping

import pytest
import torch
from avrobust_fusion.configs import DecisionConfig, GatedConfig, OddOneOutConfig
from avrobust_fusion.decision import Decision, DecisionHead
from avrobust_fusion.gated import Gated
from avrobust_fusion.odd_one_out import OddOneOut
from torch import Tensor
from torch.nn import functional as F

from avrobust_core import AVModel, AvrobustError, Encoded, EncodedDims, Encoder

WIDTHS = {"video": 3, "audio": 2, "depth": 4}


def dims(widths: Mapping[str, int]) -> dict[str, EncodedDims]:
    return {name: EncodedDims(token=width, embed=width) for name, width in widths.items()}


def encode(names: str = "audio depth video", n: int = 5) -> dict[str, Encoded]:
    made = {}
    for i, name in enumerate(("audio", "depth", "video")):
        pooled = torch.randn(n, WIDTHS[name], generator=torch.Generator().manual_seed(i))
        made[name] = Encoded(pooled[:, None], pooled)
    return {name: made[name] for name in names.split()}


class TestGated:
    def test_for_two_modalities_it_is_the_bimodal_unit(self) -> None:
        fusion, encoded = Gated(GatedConfig(dim=6), dims({"audio": 2, "video": 3})), encode("audio video")
        a, v = encoded["audio"].pooled, encoded["video"].pooled
        of_a, of_v = (gate.weight for gate in fusion.gates)
        joined = torch.cat([a, v], dim=1)
        weight = torch.cat([of_a[:6] - of_a[6:], of_v[:6] - of_v[6:]], dim=1)  # type: ignore[index]
        z = (joined @ weight.T).sigmoid()
        expected = z * fusion.maps[0](a).tanh() + (1 - z) * fusion.maps[1](v).tanh()
        torch.testing.assert_close(fusion(encoded), expected)

    @pytest.mark.parametrize(("gate", "size"), [("dimension", 6), ("modality", 1)])
    def test_gates_differ_by_clip_and_sum_to_one(self, gate: str, size: int) -> None:
        fusion = Gated(GatedConfig(dim=6, gate=gate), dims(WIDTHS))
        gates = fusion.gate(encode())
        assert gates.shape == (5, 3, size)
        torch.testing.assert_close(gates.sum(dim=1), torch.ones(5, size))
        assert (gates[0] - gates[1]).abs().min() > 0
        hidden = [m(encode()[name].pooled).tanh() for m, name in zip(fusion.maps, sorted(WIDTHS), strict=True)]
        expected = sum(gates[:, i] * h for i, h in enumerate(hidden))
        torch.testing.assert_close(fusion(encode()), expected)

    def test_without_a_modality_the_gates_of_the_others_sum_to_one_and_see_nothing_of_it(self) -> None:
        fusion = Gated(GatedConfig(dim=6), dims(WIDTHS))
        silent = {**encode(), "depth": Encoded(torch.zeros(5, 1, 4), torch.zeros(5, 4))}
        whole = fusion.gate(silent)[:, [0, 2]]
        torch.testing.assert_close(fusion.gate(encode("audio video")), whole / whole.sum(dim=1, keepdim=True))
        alone = fusion(encode("video"))
        torch.testing.assert_close(alone, fusion.maps[2](encode()["video"].pooled).tanh())


def heads_logits(head: DecisionHead, names: str = "audio depth video") -> dict[str, Tensor]:
    encoded = encode()
    every = {
        name: one(encoded[name].pooled) for one, name in zip(head.classifiers, ("audio", "depth", "video"), strict=True)
    }
    return {name: every[name] for name in names.split()}


class TestDecision:
    def decide(self, names: str = "audio depth video", **fields: object) -> tuple[Tensor, DecisionHead]:
        torch.manual_seed(0)
        fusion = Decision(DecisionConfig(**fields), dims(WIDTHS))
        head = fusion.make_head(4)
        return head(fusion(encode(names))), head

    def test_equal_weights_average_the_logits_of_a_classifier_per_modality(self) -> None:
        logits, head = self.decide()
        torch.testing.assert_close(logits, torch.stack(list(heads_logits(head).values())).mean(dim=0))

    def test_given_weights_are_scaled_to_sum_to_one(self) -> None:
        logits, head = self.decide(weights={"audio": 3, "video": 1, "depth": 4})
        each = heads_logits(head)
        torch.testing.assert_close(logits, 0.375 * each["audio"] + 0.5 * each["depth"] + 0.125 * each["video"])
        assert not [name for name, _ in head.named_parameters() if "weight_scores" in name]

    def test_learned_weights_begin_equal_and_get_a_gradient(self) -> None:
        logits, head = self.decide(weights="learned")
        torch.testing.assert_close(logits, torch.stack(list(heads_logits(head).values())).mean(dim=0))
        F.cross_entropy(logits, torch.arange(5) % 4).backward()
        assert head.weight_scores.grad is not None
        assert (head.weight_scores.grad != 0).all()

    def test_probabilities_are_averaged_in_either_sense(self) -> None:
        weights = {"audio": 1, "depth": 2, "video": 1}
        logits, head = self.decide(weights=weights, space="softmax")
        expected = sum(weights[name] / 4 * one.softmax(dim=1) for name, one in heads_logits(head).items())
        torch.testing.assert_close(logits.softmax(dim=1), expected)
        logits, head = self.decide(weights=weights, space="sigmoid")
        expected = sum(weights[name] / 4 * one.sigmoid() for name, one in heads_logits(head).items())
        torch.testing.assert_close(logits.sigmoid(), expected)

    @pytest.mark.parametrize("space", ["softmax", "sigmoid"])
    @pytest.mark.parametrize("sign", [1, -1])
    def test_logits_and_gradients_are_finite_and_not_flat_where_probabilities_round_to_zero_or_one(
        self, space: str, sign: int
    ) -> None:
        head = DecisionHead((2, 2), 3, (0.5, 0.5), space)  # type: ignore[arg-type]
        fused = torch.tensor([[1.0, 1, 1, 1, 1, 1]], requires_grad=True)
        with torch.no_grad():
            for one in head.classifiers:
                one.weight.copy_(sign * torch.tensor([[200.0, 0], [0, 100], [50, -300]]))  # type: ignore[union-attr, operator]
        logits = head(fused)
        (gradient,) = torch.autograd.grad(logits[0, 0] - logits[0, 1], fused)
        assert logits.isfinite().all()
        assert gradient.isfinite().all()
        assert (gradient[0, :4] != 0).all()

    @pytest.mark.parametrize("space", ["logits", "softmax", "sigmoid"])
    @pytest.mark.parametrize("weights", ["learned", {"audio": 3.0, "depth": 1.0, "video": 1.0}])
    def test_the_weight_of_a_missing_modality_goes_to_the_others_in_proportion(
        self, space: str, weights: object
    ) -> None:
        logits, head = self.decide("audio video", weights=weights, space=space)
        share = 0.5 if weights == "learned" else 0.75
        each = heads_logits(head)
        apply = {"logits": lambda x: x, "softmax": lambda x: x.softmax(dim=1), "sigmoid": lambda x: x.sigmoid()}[space]
        torch.testing.assert_close(apply(logits), share * apply(each["audio"]) + (1 - share) * apply(each["video"]))
        logits.square().sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())
        alone, head = self.decide("depth", weights=weights, space=space)
        torch.testing.assert_close(apply(alone), apply(heads_logits(head)["depth"]))

    def test_weights_of_other_modalities_are_refused_by_name(self) -> None:
        with pytest.raises(AvrobustError, match="given for audio, vido, but the model fuses audio, depth, video"):
            Decision(DecisionConfig(weights={"audio": 1, "vido": 1}), dims(WIDTHS))

    @pytest.mark.parametrize("weights", [{}, {"audio": 0}, {"audio": -1}, {"audio": float("inf")}, "fair"])
    def test_weights_that_are_none_are_refused(self, weights: object) -> None:
        with pytest.raises(ValueError):
            DecisionConfig(weights=weights)

    def test_it_makes_the_head_of_a_model(self) -> None:
        class Plain(Encoder):
            def __init__(self, width: int) -> None:
                super().__init__()
                self.dims = EncodedDims(token=width, embed=width)
                self.frontend = torch.nn.Identity()

            def encode(self, features: Tensor) -> Encoded:
                return Encoded(features[:, None], features)

        fusion = Decision(DecisionConfig(weights="learned"), dims(WIDTHS))
        model = AVModel({name: Plain(width) for name, width in WIDTHS.items()}, fusion, 4)
        logits = model({name: one.pooled for name, one in encode().items()})
        torch.testing.assert_close(logits, torch.stack(list(heads_logits(model.head).values())).mean(dim=0))  # type: ignore[arg-type]


class TestOddOneOut:
    def build(self, widths: dict[str, int] = WIDTHS) -> OddOneOut:
        torch.manual_seed(0)
        fusion = OddOneOut(OddOneOutConfig(dim=6, hidden=7), dims(widths))
        with torch.no_grad():
            for parameter in fusion.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return fusion

    def test_experts_that_leave_one_out_are_mixed_as_the_judge_says(self) -> None:
        fusion, encoded = self.build(), encode()
        a, d, v = (encoded[name].pooled for name in ("audio", "depth", "video"))
        seen = [torch.cat(kept, dim=1) for kept in ((d, v), (a, v), (a, d), (a, d, v))]
        experts = [expert(x).relu() for expert, x in zip(fusion.experts, seen, strict=True)]
        judged = fusion.judge(encoded)
        assert judged.shape == (5, 4)
        torch.testing.assert_close(
            fusion(encoded), sum(judged.softmax(dim=1)[:, i : i + 1] * expert for i, expert in enumerate(experts))
        )

    @pytest.mark.parametrize("odd", [0, 1, 2])
    def test_what_is_judged_odd_does_not_reach_the_fused_embedding(self, odd: int) -> None:
        fusion, encoded = self.build(), encode()
        with torch.no_grad():
            fusion.fc2.weight.zero_()
            fusion.fc2.bias.fill_(-1e4)[odd] = 0
        name = sorted(WIDTHS)[odd]
        attacked = {**encoded, name: Encoded(encoded[name].tokens, 100 * encoded[name].pooled)}
        assert torch.equal(fusion(encoded), fusion(attacked))
        for other in set(WIDTHS) - {name}:
            attacked = {**encoded, other: Encoded(encoded[other].tokens, 100 * encoded[other].pooled)}
            assert not torch.equal(fusion(encoded), fusion(attacked))

    def test_with_two_modalities_an_expert_reads_one_of_them_or_both(self) -> None:
        fusion = self.build({"audio": 2, "video": 3})
        assert [expert.in_features for expert in fusion.experts] == [3, 2, 5]

    @pytest.mark.parametrize("position", [0, 1, 2])
    def test_without_a_modality_the_expert_that_leaves_it_out_decides(self, position: int) -> None:
        fusion = self.build()
        names = [name for i, name in enumerate(sorted(WIDTHS)) if i != position]
        encoded = encode(" ".join(names))
        joined = torch.cat([encoded[name].pooled for name in names], dim=1)
        torch.testing.assert_close(fusion(encoded), fusion.experts[position](joined).relu())

    def test_it_can_do_without_one_modality_and_no_more(self) -> None:
        with pytest.raises(KeyError, match=r"joins audio, depth, video; missing: audio, depth; .* one of them"):
            self.build()(encode("video"))

    def test_one_modality_is_refused(self) -> None:
        with pytest.raises(AvrobustError, match="needs two or more; the model has only: audio"):
            OddOneOut(OddOneOutConfig(), dims({"audio": 3}))

    def test_it_learns_end_to_end_to_leave_out_a_source_that_is_sometimes_wrong(self) -> None:
        torch.manual_seed(0)
        fusion = OddOneOut(OddOneOutConfig(dim=8, hidden=16), dims({"a": 3, "b": 3}))
        head = fusion.make_head(2)
        optimizer = torch.optim.Adam([*fusion.parameters(), *head.parameters()], lr=0.01)

        def batch(n: int) -> tuple[dict[str, Encoded], Tensor, Tensor]:
            labels, odd = torch.randint(2, (n,)), torch.randint(2, (n,))
            signs = 2.0 * labels[:, None] - 1
            pooled = [torch.cat([signs, torch.ones(n, 1), torch.zeros(n, 1)], dim=1) for _ in range(2)]
            for i in range(2):  # the odd source says the opposite, and a third value gives it away
                pooled[i][odd == i, 0] *= -1
                pooled[i][odd == i, 2] = 1
            return {name: Encoded(x[:, None], x) for name, x in zip("ab", pooled, strict=True)}, labels, odd

        for _ in range(200):
            encoded, labels, _ = batch(64)
            optimizer.zero_grad()
            F.cross_entropy(head(fusion(encoded)), labels).backward()
            optimizer.step()
        encoded, labels, _ = batch(500)
        assert (head(fusion(encoded)).argmax(dim=1) == labels).float().mean() > 0.95


@pytest.mark.parametrize(
    "fusion",
    [Gated(GatedConfig(dim=6), dims(WIDTHS)), Decision(DecisionConfig(), dims(WIDTHS))],
    ids=["gated", "decision"],
)
def test_without_any_modality_all_are_named(fusion: Gated | Decision) -> None:
    with pytest.raises(KeyError, match=re.escape("joins audio, depth, video; missing: audio, depth, video")):
        fusion({})
