"""Convexity at named layers of a model, between classes in a model, and where heads pool tokens by attention."""

import json

import numpy as np
import pytest
import torch
from avrobust_audio.configs import TalTransConfig
from avrobust_audio.tal_trans import TalTrans
from avrobust_fusion.bottlenecks import mid
from avrobust_fusion.configs import MidConfig
from avrobust_geometry import convexity
from avrobust_geometry.configs import ConvexityConfig
from avrobust_geometry.convexity.metric import Convexity
from avrobust_video.configs import FrameTransformerConfig
from avrobust_video.frame_transformer import FrameTransformer
from pydantic import ValidationError
from torch import nn

from avrobust_core import AVModel, Encoded, EncodedDims, Encoder, Fusion, Latents, MediaSpec, Probe, Subject

CLASSES = ("a", "b", "c")
METHODS = ("interpolation", "between")
EARLY = "encoders.audio.first+encoders.video.first"
LATE = "encoders.audio.last+encoders.video.last"


class Steps(Encoder):
    """From (B, 1, 6): a linear layer, a sine, a linear layer, around which nothing goes unless that is asked for."""

    def __init__(self, bypass=False):
        super().__init__()
        self.dims = EncodedDims(token=4, embed=4)
        self.frontend = nn.Identity()
        self.first = nn.Linear(6, 5)
        self.last = nn.Linear(5, 4)
        self.bypass = bypass

    def encode(self, features):
        x = torch.sin(3 * self.first(features[:, 0]))
        found = self.last(x)
        found = found + x[:, :4] if self.bypass else found
        return Encoded(found[:, None], found)


class Added(Fusion):
    """The sum, linear, with a linear head; or a hidden layer with a sine in the head."""

    def __init__(self, hidden):
        super().__init__()
        self.dim = 4
        self.hidden = hidden

    def forward(self, encoded):
        return sum(encoded[name].pooled for name in sorted(encoded))

    def make_head(self, classes):
        if not self.hidden:
            return nn.Linear(4, classes)
        return nn.Sequential(nn.Linear(4, 8), Sine(), nn.Linear(8, classes))


class Sine(nn.Module):
    def forward(self, x):
        return torch.sin(6 * x)


def steps_model(hidden=False, bypass=False, modalities=("audio", "video")):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AVModel({name: Steps(bypass) for name in modalities}, Added(hidden), len(CLASSES)).eval()
        last = model.head[2] if hidden else model.head
        with torch.no_grad():  # so that it takes as many clips for one class as for another
            last.bias -= model(noise(clips=500, modalities=modalities)).mean(dim=0)
    return model


def subject_of(model, inputs, *, batch_size=16, order=None, task="single-label", seed=0, counter=None):
    """The subject that a study would give, clips being judged right but for some."""
    order = list(range(len(next(iter(inputs.values()))))) if order is None else order
    given = {name: x[order] for name, x in inputs.items()}
    with torch.no_grad():
        encoded = model.encode(given)
        fused = model.fusion(encoded)
        logits = model.score(fused)
        everyone = model(inputs)
    noise = torch.randn(len(everyone), logits.shape[1], generator=torch.Generator().manual_seed(5))
    scores = (everyone + 0.2 * everyone.std() * noise)[order]
    targets = scores.argmax(dim=1) if task == "single-label" else (scores > scores.median(dim=0).values).float()
    layers = {"fused": fused.numpy()}
    for name, each in encoded.items():
        layers |= {f"tokens/{name}": each.tokens.numpy(), f"pooled/{name}": each.pooled.numpy()}
    ids = tuple(f"clip-{i}" for i in order)
    if counter is not None:
        model.register_forward_pre_hook(lambda _, args: counter.append(len(next(iter(args[0].values())))))
    return Subject(
        ids=ids,
        logits=logits.numpy(),
        targets=targets.numpy(),
        classes=tuple(f"{i}" for i in range(logits.shape[1])),
        task=task,
        resamples=50,
        seed=seed,
        latents={"test": Latents(ids, targets.numpy(), logits.numpy(), layers)},
        probe=Probe(model, lambda _, rows: {name: x[list(rows)] for name, x in given.items()}, batch_size=batch_size),
    )


def noise(shape=(1, 6), clips=45, modalities=("audio", "video")):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(clips, *shape, generator=generator) for name in modalities}


def measure(subject, **config):
    return Convexity(ConvexityConfig(calibration=None, **config)).measure(subject)


@pytest.mark.parametrize(
    "level",
    ["encoders.audio.frontend+encoders.video.frontend", "encoders.audio.frontend", "encoders.video.frontend"],
)
def test_a_layer_that_is_the_identity_is_the_input(level):
    subject = subject_of(steps_model(), noise())
    found = measure(subject, levels=["input", level], methods=METHODS, pairs=40)
    names = [name for name in found.values if "/input" in name]
    assert {"conditional/input/audio", "failure-rate/input", "kept-length/input/video", "swapped/input/audio"} <= set(
        names
    )
    for name in names:
        assert found.values[name.replace("input", level)] == found.values[name], name
    assert 0 < found.values["conditional/input"].value < 1


def test_after_the_last_step_that_is_not_linear_every_segment_holds():
    found = measure(subject_of(steps_model(), noise()), levels=[EARLY, LATE, "tokens"], methods=METHODS, pairs=60)
    for level in (LATE, "tokens"):
        for part in ("", "/audio", "/video"):
            assert found.values[f"conditional/{level}{part}"].value == 1
            assert found.values[f"failure-rate/{level}{part}"].value == 0
    assert found.values[f"conditional/{EARLY}"].value < 1
    assert found.values[f"kept/{LATE}"].value == pytest.approx(found.values["kept/tokens"].value)
    bent = measure(subject_of(steps_model(hidden=True), noise()), levels=[LATE, "tokens", "fused"], pairs=60)
    assert bent.values["conditional/tokens"].value < 1
    assert bent.values[f"conditional/{LATE}"].value == pytest.approx(bent.values["conditional/fused"].value)


def test_points_at_a_layer_are_those_of_a_plain_function_of_its_output():
    model, inputs = steps_model(hidden=True, modalities=("audio",)), noise(modalities=("audio",))
    subject = subject_of(model, inputs)
    found = measure(subject, levels=["encoders.audio.first", "head.0"], methods=METHODS, pairs=50)
    encoder = model.encoders["audio"]
    with torch.no_grad():
        first = encoder.first(inputs["audio"][:, 0])
        hidden = model.head[0](torch.from_numpy(subject.latents["test"].layers["fused"]))
    for level, values, rest in (
        ("encoders.audio.first", first, lambda x: model.head(encoder.last(torch.sin(3 * x)))),
        ("head.0", hidden, lambda x: model.head[2](model.head[1](x))),
    ):
        alone = convexity(values, subject.targets, rest, ids=subject.ids, methods=METHODS, pairs=50, resamples=50)
        for name, value in alone.values.items():
            if name != "recall":
                assert found.values[f"{name}/{level}"].value == pytest.approx(value.value, abs=1e-5), name
        assert 0.2 < found.values[f"conditional/{level}"].value < 1


def test_what_goes_around_a_layer_leaves_it_out_and_says_so():
    found = measure(subject_of(steps_model(bypass=True), noise()), levels=[LATE, EARLY], pairs=20)
    assert f"conditional/{EARLY}" in found.values
    assert not any(LATE in name for name in found.values)
    assert "reads more of a clip than its output" in found.details["left_out"][LATE]
    (note,) = found.details["notes"]
    assert note.startswith(f"{LATE} is left out: what comes after it reads more")


def test_a_layer_that_is_not_there_is_left_out_with_near_names():
    found = measure(subject_of(steps_model(), noise()), levels=["input", "encoders.audio.frist"], pairs=20)
    assert "did you mean 'encoders.audio.first'" in found.details["left_out"]["encoders.audio.frist"]
    assert len(found.details["notes"]) == 1
    alone = subject_of(steps_model(modalities=("audio",)), noise(modalities=("audio",)))
    found = measure(alone, levels=[EARLY, "encoders.video.first"], pairs=20)
    assert f"conditional/{EARLY}" in found.values
    assert found.details["left_out"] == {"encoders.video.first": "the model does not read its modality"}
    assert "notes" not in found.details
    json.dumps(found.details, allow_nan=False)


@pytest.mark.parametrize(
    ("level", "message"),
    [
        ("tokns", "there is no level 'tokns'; there are input, tokens, fused, graph, and layers"),
        ("encoders.audio.first+", "there is no level"),
        ("encoders.audio.first+encoders.audio.last", "one layer of each encoder"),
        ("encoders.audio.first+head.0", "one layer of each encoder, or a single layer of anything else"),
    ],
)
def test_levels_that_cannot_be_are_refused(level, message):
    with pytest.raises(ValidationError, match=message):
        ConvexityConfig(levels=[level])


def test_it_asks_for_its_layers():
    metric = Convexity(ConvexityConfig(levels=["input", EARLY, "head.0"], calibration=None))
    assert list(metric.layers) == ["encoders.audio.first", "encoders.video.first", "head.0"]
    assert metric.probes
    assert list(metric.latents) == []


def test_neither_the_batch_size_nor_the_order_of_clips_matters():
    config = {"levels": ["input", EARLY, "tokens"], "methods": METHODS, "pairs": 30}
    plain = measure(subject_of(steps_model(hidden=True), noise()), **config)
    order = np.random.default_rng(0).permutation(45).tolist()
    moved = measure(subject_of(steps_model(hidden=True), noise(), batch_size=4, order=order), **config)
    assert plain.values.keys() == moved.values.keys()
    for name, estimate in plain.values.items():
        assert moved.values[name].value == pytest.approx(estimate.value, abs=1e-4), name
        if name != "recall":
            assert moved.values[name].low == pytest.approx(estimate.low, abs=1e-4), name
    for name, values in plain.per_clip.items():
        assert np.allclose(values[order], moved.per_clip[name], atol=1e-4, equal_nan=True), name


def test_clips_that_are_put_through_are_counted_with_those_that_layers_are_read_from():
    counter = []
    subject = subject_of(steps_model(), noise(), counter=counter)
    found = measure(subject, levels=[EARLY], methods=["between"], pairs=30)
    # Before it, one batch of clips is put through three times, to see that nothing goes around the layers.
    assert found.details[f"between/{EARLY}"]["clips_put_through"] == sum(counter) - 3 * 16
    assert found.details[f"between/{EARLY}"]["clips_put_through"] > 30 * found.details[f"between/{EARLY}"]["segments"]


def test_a_modality_that_says_nothing_keeps_the_class_to_the_end():
    class Deaf(Steps):
        def encode(self, features):
            return super().encode(0 * features)

    model = steps_model(hidden=True)
    deaf = AVModel({"audio": Deaf(), "video": model.encoders["video"]}, model.fusion, len(CLASSES)).eval()
    found = measure(subject_of(deaf, noise()), levels=["input"], methods=["between"], pairs=40)
    assert found.values["kept/input/audio"].value == 1
    assert found.values["third-class/input/audio"].value == 0
    for name in ("kept", "third-class"):
        assert found.values[f"{name}/input/video"] == found.values[f"{name}/input"]
    assert found.values["kept/input"].value < 0.6


def test_between_is_left_out_of_clips_with_several_labels():
    subject = subject_of(steps_model(), noise(), task="multi-label")
    found = measure(subject, levels=["input"], methods=METHODS, pairs=20)
    assert "several labels" in found.details["left_out"]["between"]
    assert found.details["notes"]
    assert "conditional/input" in found.values
    assert not any(name.startswith("kept") for name in found.values)


def attention_pooled():
    """Models whose head pools the tokens of time by attention: those of the reference, each alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        audio = TalTrans(
            TalTransConfig(n_mels=32, embed=64, heads=2), MediaSpec(kind="audio", shape=(1, 8000), rate=16000)
        )
        video = FrameTransformer(FrameTransformerConfig(width=16, heads=2), MediaSpec(kind="video", shape=(6, 12)))
        return [
            ("audio", AVModel({"audio": audio}, None, 4).eval(), noise((1, 8000), 24, ("audio",))),
            ("video", AVModel({"video": video}, None, 4).eval(), noise((6, 12), 24, ("video",))),
        ]


@pytest.mark.parametrize("which", [0, 1])
def test_the_references_bottleneck_is_fused_where_the_head_pools_tokens_by_attention(which):
    modality, model, inputs = attention_pooled()[which]
    subject = subject_of(model, inputs, task="multi-label")
    tokens = subject.latents["test"].layers["fused"]
    assert tokens.ndim == 3
    assert np.array_equal(tokens, subject.latents["test"].layers[f"tokens/{modality}"])
    found = measure(subject, levels=["fused", "tokens"], methods=["reference"])
    rows = torch.from_numpy(tokens)
    alone = convexity(rows, subject.targets > 0.5, model.head, ids=subject.ids, methods=["reference"], resamples=50)
    assert found.values["reference/fused"] == alone.values["reference"]
    assert found.values["reference/tokens"].value == pytest.approx(alone.values["reference"].value)


def test_the_last_layers_of_bundled_encoders_before_a_fusion_by_attention_are_their_tokens():
    models, media = attention_pooled(), {}
    encoders = {modality: model.encoders[modality] for modality, model, _ in models}
    for _, _, inputs in models:
        media |= inputs
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fusion = mid(MidConfig(width=16, heads=2, layers=2), {name: each.dims for name, each in encoders.items()})
        model = AVModel(encoders, fusion, 3).eval()
        with torch.no_grad():
            model.head.weight *= 20
            model.head.bias -= model(media).mean(dim=0)
    level, tied = "encoders.audio.norm+encoders.video.norm", "encoders.audio.layer"
    found = measure(
        subject_of(model, media), levels=["tokens", level, tied], methods=["interpolation", "reference"], pairs=20
    )
    # Pooled embeddings are the means of the tokens, which the norms give: linear in them.
    for name in ("conditional", "margin", "reference"):
        assert found.values[f"{name}/{level}"].value == pytest.approx(found.values[f"{name}/tokens"].value, abs=1e-4)
    assert found.values[f"conditional/{tied}"].n > 0
    assert "left_out" not in found.details
