"""The encoder `purified`: it conforms, and an attack through it succeeds where one that takes its gradient does not."""

import pytest
import torch
from avrobust_purification.configs import Step
from avrobust_purification.encoder import Purified
from avrobust_purification.plugin import avrobust_encoders
from torch import Tensor, nn

from avrobust_core import (
    AVModel,
    Batch,
    CheckpointLayout,
    DataError,
    Encoded,
    EncodedDims,
    Encoder,
    Evaluation,
    MediaSpec,
    ModelError,
    Raw,
    Registry,
    WholeModel,
    evaluate,
)
from avrobust_core.testing import check_component

SAMPLES = 400
SOUND = MediaSpec(kind="audio", shape=(1, SAMPLES), rate=8000, bounds=(-1, 1), time_axis=1)
PICTURES = MediaSpec(kind="video", shape=(3, 2, 16, 16), rate=8, bounds=(0, 1), time_axis=1)


def test_conforms() -> None:
    outcomes = list(check_component(Registry.discover().resolve("encoder", "purified")))
    assert {outcome.check for outcome in outcomes} >= {"encodings", "encoder_gradient", "encoder_batch_mates"}
    assert not [f"{each.check}: {each.reason}" for each in outcomes if each.status != "passed"]


class Two(Encoder):
    """How much of each of two tones a clip holds: a matched filter."""

    def __init__(self, media: MediaSpec) -> None:
        super().__init__()
        size = torch.Size(media.shape).numel()
        self.dims = EncodedDims(token=2, embed=2)
        self.frontend = nn.Flatten()
        self.time_axis = media.time_axis
        self.templates = nn.Linear(size, 2, bias=False)
        with torch.no_grad():
            self.templates.weight.copy_(tones(size) / size * 40)

    def encode(self, features: Tensor) -> Encoded:
        found = self.templates(features)
        return Encoded(tokens=found.unsqueeze(1), pooled=found)


def tones(size: int) -> Tensor:
    place = torch.arange(size) / size * 6.2832
    return torch.stack((torch.sin(7 * place), torch.sin(19 * place)))


def data(media: MediaSpec, count: int = 24) -> list[Batch]:
    """Clips with a faint tone of their class, in noise, each classified right by a matched filter."""
    generator = torch.Generator().manual_seed(0)
    size = torch.Size(media.shape).numel()
    targets = torch.arange(count) % 2
    middle = 0.0 if media.kind == "audio" else 0.5
    x = middle + 0.1 * tones(size)[targets] + 0.01 * torch.randn(count, size, generator=generator)
    ids = tuple(f"clip-{i}" for i in range(count))
    return [Batch({media.kind: x.view(count, *media.shape)}, targets, ids)]


def attacked(steps: list[str], media: MediaSpec = SOUND, *, exact: bool = False, samples: int = 1) -> Evaluation:
    encoder: Encoder = Two(media)
    if steps:
        encoder = Purified(encoder, [Step.of(step) for step in steps], media, exact=exact)
    model = AVModel({media.kind: encoder}, None, 2)
    with torch.no_grad():
        for head in model.head.modules():
            if isinstance(head, nn.Linear):
                head.weight.copy_(torch.eye(2))
                head.bias.zero_()
    return evaluate(
        model,
        data(media),
        attacks={"pgd": {"use": "pgd", "with": {"steps": 5}}},
        threats={"one": {media.kind: {"norm": "linf", "eps": 0.15}}},
        media={media.kind: media},
        samples=samples,
        audit={"clips": 8},
    )


def accuracies(found: Evaluation) -> tuple[float, float]:
    return found.summary["clean_accuracy"]["value"], found.summary["robust_accuracy"]["pgd"]["one"]["value"]


def checks_of(found: Evaluation) -> set[str]:
    return {caveat["check"] for caveat in found.summary["caveats"]}


@pytest.mark.parametrize(
    ("steps", "media"),
    [(["mu-law:6"], SOUND), (["pcm:8", "aac:32k"], SOUND), (["jpeg:4"], PICTURES)],
)
def test_without_bpda_a_purification_looks_robust_and_is_marked_with_it_the_attack_gets_through(
    steps: list[str], media: MediaSpec
) -> None:
    masked, through = attacked(steps, media, exact=True), attacked(steps, media)
    clean, robust = accuracies(masked)
    assert clean > 0.9
    assert robust > 0.9  # of a model whose inner encoder falls to the same attack
    assert "zero-gradient" in checks_of(masked)
    assert accuracies(through)[0] == clean
    assert accuracies(through)[1] < 0.1
    assert "zero-gradient" not in checks_of(through)


def test_the_inner_model_falls_to_the_same_attack() -> None:
    assert accuracies(attacked([]))[0] > 0.9
    assert accuracies(attacked([]))[1] < 0.1


def test_a_room_is_refused_without_eot_and_falls_with_it() -> None:
    torch.manual_seed(0)
    with pytest.raises(ModelError, match="randomness of its own"):
        attacked(["room:0.02"])
    clean, robust = accuracies(attacked(["room:0.02", "mu-law:8"], samples=8))
    assert clean > 0.8
    assert robust < 0.2


def test_weights_and_layouts_are_those_of_the_inner_encoder() -> None:
    inner = Two(SOUND)
    inner.frontend = nn.PReLU()
    inner.layouts = (CheckpointLayout(name="theirs", marks=("w",), convert=lambda s: {"templates.weight": s["w"]}),)
    found = Purified(inner, [Step.of("mu-law:8")], SOUND)
    assert set(found.state_dict()) == {"inner.frontend.weight", "inner.templates.weight"}  # each once
    weight = torch.ones(2, SAMPLES)
    assert set(found.layouts[0].convert({"w": weight})) == {"inner.templates.weight"}
    assert not list(found.frontend.parameters())


def test_other_media_are_refused() -> None:
    with pytest.raises(DataError, match="step jpeg purifies media of the kind 'video'"):
        Purified(Two(SOUND), [Step.of("jpeg:9")], SOUND)
    (component,) = avrobust_encoders()
    wide = MediaSpec(kind="audio", shape=(1, 8000), rate=8000, bounds=(-2, 2))
    with pytest.raises(DataError, match=r"within \(-2, 2\)"):
        component.make(component.config.model_validate({"encoder": "avrobust:cnn", "steps": ["pcm:8"]}), wide)


def test_a_whole_network_is_purified_before_raw() -> None:
    class Power(nn.Module):
        def forward(self, clips: dict[str, Tensor]) -> Tensor:
            power = clips["audio"].square().flatten(1).mean(dim=1)
            return torch.stack((power, -power), dim=1)

    raw = Purified(Raw(SOUND), [Step.of("pcm:3")], SOUND)
    fusion = WholeModel(Power(), {"audio": raw.dims}, classes=2)
    x = torch.full((1, *SOUND.shape), 0.4)  # the nearest of seven levels is 1/3
    logits = AVModel({"audio": raw}, fusion, 2)({"audio": x})
    assert torch.allclose(logits, torch.tensor([[1 / 9, -1 / 9]]))
