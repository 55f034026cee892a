"""What a model returns: logits are unwrapped and cast; everything else is one sentence that names model and shape."""

from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from avrobust_core import Attack, AttackResult, AVModel, Batch, ModelError, Victim, logits_of
from avrobust_core.models.answers import probabilities, rounding
from avrobust_core.study.embedding import embed_batch


class Output(OrderedDict):
    """As transformers' ModelOutput: a mapping whose entries are attributes, too."""

    def __getattr__(self, name):
        return self[name]


Pair = namedtuple("Pair", "logits embedding")

HOLDERS = {
    "an object": lambda z, x: SimpleNamespace(logits=z),
    "a model output": lambda z, x: Output(loss=z.mean(), logits=z),
    "a dict": lambda z, x: {"logits": z, "embedding": torch.zeros(len(z), 9)},
    "a named tuple": lambda z, x: Pair(z, torch.zeros(len(z), 9)),
    "a tuple": lambda z, x: (z,),
    "a tuple with hidden states": lambda z, x: (z, torch.zeros(len(z), 5, 9), None),
    "a tuple that holds an output": lambda z, x: ({"logits": z}, 1),
    "float64": lambda z, x: z.double(),
}


def test_what_a_model_says_as_it_fails_reaches_no_terminal_as_escapes(net, attack):
    def fails(z, x):
        raise RuntimeError("\x1b[31mno such\x1b[0m\n layer")

    with pytest.raises(ModelError, match=r"RuntimeError: no such layer$"):
        attack(net(fails))


@pytest.mark.parametrize("name", HOLDERS)
def test_logits_are_unwrapped_wherever_they_stand(net, attack, name):
    plain, found = attack(), attack(net(HOLDERS[name]))
    assert found.summary["clean_accuracy"]["value"] == plain.summary["clean_accuracy"]["value"] == 0.75
    assert found.summary["robust_accuracy"]["fgsm"]["audio"] == plain.summary["robust_accuracy"]["fgsm"]["audio"]
    assert found.summary["robust_accuracy"]["fgsm"]["audio"]["value"] < 0.75


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_low_precision_are_taken_as_float32(net, attack, dtype):
    found = attack(net(lambda z, x: z.to(dtype)), attacks={"p": {"use": "pgd", "with": {"steps": 5}}, "fmn": "fmn"})
    assert found.clean.logits.dtype == np.float32
    assert found.summary["clean_accuracy"]["value"] == pytest.approx(0.75, abs=0.05)
    assert found.summary["robust_accuracy"]["p"]["audio"]["value"] < 0.75


def test_a_model_in_bfloat16_may_claim_what_its_own_rounding_moves(net):
    model = net()
    assert rounding(model, {torch.float32}, torch.device("cpu")) == 1e-4
    assert rounding(model, {torch.bfloat16}, torch.device("cpu")) == 2**-5
    assert rounding(model.bfloat16(), {torch.float32}, torch.device("cpu")) == 2**-5


REFUSED = {
    "one logit": (lambda z, x: z[:, :1], r"Net returns torch.float32 of shape \(8, 1\).*torch.cat\(\[torch.zeros_like"),
    "a flat logit": (lambda z, x: z[:, 0], r"of shape \(8,\) for 8 clips, one logit per clip"),
    "classes": (lambda z, x: z.argmax(1), r"Net returns torch.int64 of shape \(8,\).*before any argmax"),
    "one-hot": (lambda z, x: nn.functional.one_hot(z.argmax(1), 3), r"torch.int64 of shape \(8, 3\)"),
    "complex": (lambda z, x: z + 0j, r"torch.complex64"),
    "clips last": (lambda z, x: z.T, r"Net returns torch.float32 of shape \(3, 8\) for 8 clips; wanted .* \(8, K\)"),
    "frames": (lambda z, x: z[:, None].expand(-1, 5, -1), r"of shape \(8, 5, 3\)"),
    "a mean over clips": (lambda z, x: z.mean(0), r"of shape \(3,\)"),
    "nothing": (lambda z, x: None, r"Net returns NoneType; wanted are logits"),
    "an array": (lambda z, x: z.detach().numpy(), r"Net returns ndarray"),
    "another key": (lambda z, x: {"out": z}, r"Net returns dict with 'out'; wanted .* \['logits'\]"),
    "two of them": (lambda z, x: [z, z], r"Net returns list of float32 \(8, 3\), float32 \(8, 3\), and which of them"),
    "an embedding first": (lambda z, x: (torch.zeros(len(z), 9), z), r"tuple of float32 \(8, 9\), float32 \(8, 3\)"),
    "a loss first": (lambda z, x: (z.mean(), z), r"tuple of float32 \(\), float32 \(8, 3\), and which of them"),
    "infinite": (
        lambda z, x: torch.cat([z, -torch.inf * z[:, :1].abs()], 1),
        r"infinite for clips 0, 1, 2, 3, 4 and",
    ),
    "an error": (
        lambda z, x: x["sound"],
        r"Net fails on .*\(audio float32 \(8, 1, 12\).*KeyError: 'sound'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_logits_is_refused_in_one_sentence(net, attack, name):
    after, message = REFUSED[name]
    with pytest.raises(ModelError, match=message) as caught:
        attack(net(after))
    assert "\n" not in str(caught.value)


def test_the_number_of_classes_tells_logits_from_an_embedding(net, attack):
    found = attack(net(lambda z, x: (z, torch.zeros(len(z), 9))), classes=["a", "b", "c"])
    assert found.summary["clean_accuracy"]["value"] == 0.75
    with pytest.raises(ModelError, match=r"\(8, 3\) .*; wanted are logits \(8, 4\), since there are 4 classes"):
        attack(classes=["a", "b", "c", "d"])


def test_one_logit_is_no_better_with_several_labels(net, clips, attack):
    loader = [(clips[0], (clips[1] == 0).float()[:, None])]
    with pytest.raises(ModelError, match="one logit per clip"):
        attack(net(lambda z, x: z[:, :1]), loader, task="multi-label")


def test_the_remedy_for_one_logit_has_its_sign_for_a_class(net, clips, attack):
    with torch.no_grad():
        z = net()(clips[0])[:, :1]
    loader = [(clips[0], (z[:, 0] > 0).long())]
    wrapped = net(lambda z, x: torch.cat([torch.zeros_like(z[:, :1]), z[:, :1]], dim=1))
    assert attack(wrapped, loader).summary["clean_accuracy"]["value"] == 1.0


def test_a_model_whose_parameters_are_half_says_what_to_do(net, attack):
    with pytest.raises(ModelError, match=r"its parameters are bfloat16: let it cast its inputs, or make it float32"):
        attack(net().bfloat16())


def test_the_clips_without_an_answer_are_named_with_what_is_odd_about_them(net, batches, attack):
    loader = batches()
    loader[1][0]["audio"][2] = 0
    model = net(lambda z, x: z / x["audio"].std(dim=(1, 2))[:, None])
    for options in ({"attacks": [], "threats": {}}, {}, {"metrics": ["accuracy"], "attacks": []}):
        with pytest.raises(ModelError, match=r"returns logits .* for clip 10 \(audio there is one and the same value"):
            attack(model, loader, **options)


class Shy(Attack):
    """Tries the corner of its region, and returns the clean clips: what is NaN is not fooled."""

    norms = frozenset({"linf"})

    def __call__(self, victim):
        corner = victim.region.project({name: x + 1 for name, x in victim.clean.items()})
        return AttackResult(dict(victim.clean), victim.fooled(victim(corner)))


def test_a_model_that_has_no_answer_where_an_attack_looked_is_blamed_not_called_robust(net, attack):
    def after(z, x):
        return torch.where((x["audio"].abs().amax((1, 2)) < 0.7)[:, None], z, torch.nan * z.detach())

    inputs = {"audio": torch.full((4, 1, 12), 0.69), "video": torch.zeros(4, 3, 2, 2, 2)}
    with torch.no_grad():
        loader = [(inputs, net()(inputs).argmax(dim=1))]
    with pytest.raises(ModelError, match=r"Net returns logits .* where attack 'shy' looked"):
        attack(net(after), loader, attacks={"shy": Shy()})


def test_an_embedding_that_is_not_finite_is_refused(stub_model):
    model, batch = stub_model
    model.eval()
    model.fusion.register_forward_hook(lambda module, args, out: out / 0 if module.spoilt else out)
    model.fusion.spoilt = False
    embed_batch(model, batch, {"fused"})
    model.fusion.spoilt = True
    with pytest.raises(ModelError, match="AVModel returns fused that are NaN or infinite for clips c0, c1"):
        embed_batch(model, batch, {"fused"})


@pytest.fixture
def stub_model():
    from avrobust_core.testing.models import stateful_model

    generator = torch.Generator().manual_seed(0)
    shapes = {"audio": (1, 12), "video": (2, 4)}
    inputs = {name: torch.rand(3, *shape, generator=generator) for name, shape in shapes.items()}
    return stateful_model(shapes, 3), Batch(inputs, torch.zeros(3).long(), ("c0", "c1", "c2"))


@pytest.mark.parametrize("head", [nn.Linear(10, 1), nn.Linear(10, 4), nn.Unflatten(1, (2, 5))])
def test_a_model_of_parts_must_return_as_many_logits_as_there_are_classes(stub_model, head):
    model, batch = stub_model
    assert isinstance(model, AVModel)
    model.head = head
    with pytest.raises(ModelError, match=r"AVModel returns torch.float32 of shape \(3, .*wanted are logits \(3, 3\)"):
        model(batch.inputs)


def test_a_fusion_that_writes_into_the_encodings_it_is_given_is_blamed(stub_model):
    model, batch = stub_model
    forward = model.fusion.forward

    def writing(encoded):
        encoded["video"].pooled.mul_(0.5)
        return forward(encoded)

    model.fusion.forward = writing
    victim = Victim(model, media={}, task="single-label")
    from avrobust_core import ThreatModel

    with victim.frozen():
        bound = victim.bind(batch, ThreatModel.model_validate({"audio": {"eps": 0.1}}))
        with pytest.raises(ModelError, match=r"AVModel writes into its inputs in place \(pooled of video\)"):
            bound(bound.clean)


def test_one_class_alone_is_refused(attack):
    with pytest.raises(ModelError, match="Net is to tell 1 class from none; a classifier needs at least 2 classes"):
        attack(classes=["a"])


def test_the_adapter_is_public():
    z = torch.zeros(2, 3)
    assert logits_of({"logits": z}) is z
    with pytest.raises(ModelError, match="the model returns dict with 'scores'"):
        logits_of({"scores": z})


SCORES = torch.randn(50, 6, generator=torch.Generator().manual_seed(3)) * 3


@pytest.mark.parametrize(
    ("values", "task", "found"),
    [
        (SCORES.softmax(1), "single-label", True),
        ((60 * SCORES).softmax(1), "single-label", True),
        (SCORES.softmax(1).bfloat16(), "single-label", True),
        (SCORES.sigmoid(), "multi-label", True),
        (SCORES, "single-label", False),
        (SCORES, "multi-label", False),
        (SCORES.log_softmax(1), "single-label", False),
        (SCORES.sigmoid(), "single-label", False),
        (SCORES.softmax(1) * 20, "single-label", False),
        (torch.zeros(50, 6), "single-label", False),
        (torch.zeros(0, 6), "single-label", False),
    ],
)
def test_probabilities_are_told_from_logits(values, task, found):
    assert probabilities(values, task) is found
    assert probabilities(values.float().numpy(), task) is found


def test_probabilities_are_marked_wherever_the_numbers_are_printed(net, attack):
    found = attack(net(lambda z, x: (5 * z).softmax(1)))
    (caveat,) = [caveat for caveat in found.summary["caveats"] if caveat["check"] == "probabilities"]
    assert caveat["attack"] is None
    assert "return what goes into the softmax" in caveat["message"]
    assert "% ?" in str(found)
    assert not attack().summary["caveats"]


def test_a_model_that_returns_labels_is_marked_as_one(net, attack):
    """Not as one whose softmax could be left out: it has none."""
    found = attack(net(lambda z, x: torch.nn.functional.one_hot(z.argmax(1), z.shape[1]) + 0 * z))
    (caveat,) = [caveat for caveat in found.summary["caveats"] if caveat["attack"] is None]
    assert caveat["check"] == "labels"
    assert "attacks by logits or gradients have nothing to climb" in caveat["message"]
    assert "% ?" in str(found)
