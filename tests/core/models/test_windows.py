"""Windows of a clip: cut inside the model, whose answer is the mean over them."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from avrobust_core import AVModel, Batch, Encoded, EncodedDims, Encoder, Fusion, MediaSpec, ThreatModel
from avrobust_core.attacks.victim import Victim
from avrobust_core.errors import DataError
from avrobust_core.models.windows import Windows, make_windows
from avrobust_core.training.costs import Cost, counting

MEDIA = {
    "audio": MediaSpec(kind="audio", shape=(1, 40), rate=20.0, time_axis=1),
    "video": MediaSpec(kind="video", shape=(3, 8, 2, 2), rate=4.0, time_axis=1),
}
CLIPS, CLASSES = 3, 4


class Reading(Encoder):
    """The frontend doubles; tokens are rows of time, and the embedding bends, so that windows do not just add up."""

    def __init__(self, media: MediaSpec) -> None:
        super().__init__()
        width = media.shape[0] * int(torch.tensor(media.shape[2:]).prod()) if len(media.shape) > 2 else media.shape[0]
        self.dims = EncodedDims(token=width, embed=5)
        self.frontend = Doubling()
        self.map = nn.Linear(media.shape[1] * width, 5)
        self.time_axis = 1

    def encode(self, features: Tensor) -> Encoded:
        """From (B, C, T, ...) to (B, T, D) and (B, 5)."""
        tokens = features.movedim(2, 1).flatten(2)
        return Encoded(tokens, torch.tanh(self.map(tokens.flatten(1))))


class Doubling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Product(Fusion):
    dim = 5

    def forward(self, encoded: Mapping[str, Encoded]) -> Tensor:
        """(B, 5): no sum over modalities, so that windows must be in step."""
        return encoded["audio"].pooled * encoded["video"].pooled


class Rows(Fusion):
    """A fusion whose head pools the tokens of both modalities."""

    dim = 1

    def forward(self, encoded: Mapping[str, Encoded]) -> Tensor:
        """(B, L, 1)."""
        return torch.cat([encoded["audio"].tokens, encoded["video"].tokens.mean(dim=2, keepdim=True)], dim=1)

    def make_head(self, classes: int) -> nn.Module:
        """From the largest square, so that the rows of all windows together would give another answer."""
        return nn.Sequential(Loudest(), nn.Linear(1, classes))


class Loudest(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return rows.square().amax(dim=1)


def make_model(windows: Windows, fusion: type[Fusion] = Product) -> AVModel:
    torch.manual_seed(0)
    encoders = {name: Reading(windows.media(name, spec)) for name, spec in MEDIA.items()}
    return AVModel(encoders, fusion(), CLASSES, windows).eval()


def make_inputs(seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(CLIPS, *spec.shape, generator=generator) for name, spec in MEDIA.items()}


def one_by_one(model: AVModel, inputs: Mapping[str, Tensor], spans: list[tuple[slice, slice]]) -> Tensor:
    """The mean of the logits that the same network gives for each part by itself."""
    single = AVModel(dict(model.encoders.items()), model.fusion, CLASSES)  # type: ignore[arg-type]
    single.head = model.head
    return torch.stack(
        [single({"audio": inputs["audio"][:, :, a], "video": inputs["video"][:, :, v]}) for a, v in spans]
    ).mean(dim=0)


ONE_BEHIND_ANOTHER = [(slice(10 * i, 10 * i + 10), slice(2 * i, 2 * i + 2)) for i in range(4)]
OVERLAPPING = [(slice(10 * i, 10 * i + 20), slice(2 * i, 2 * i + 4)) for i in range(3)]


@pytest.mark.parametrize("fusion", [Product, Rows])
@pytest.mark.parametrize(
    ("windows", "spans"),
    [(make_windows(MEDIA, 4), ONE_BEHIND_ANOTHER), (make_windows(MEDIA, 3, 1.0), OVERLAPPING)],
    ids=["one behind another", "overlapping"],
)
def test_the_answer_is_the_mean_of_the_answers_for_each_window(
    windows: Windows, spans: list[tuple[slice, slice]], fusion: type[Fusion]
) -> None:
    model, inputs = make_model(windows, fusion), make_inputs()
    wanted = one_by_one(model, inputs, spans)
    assert torch.allclose(model(inputs), wanted, atol=1e-6)
    assert torch.allclose(model.score(model.embed(inputs)), wanted, atol=1e-6)
    features = {name: model.features(name, x) for name, x in inputs.items()}
    assert torch.allclose(model.classify(model.encode(features, features)), wanted, atol=1e-6)
    assert wanted.std(dim=0).max() > 1e-3


def test_windows_begin_at_whole_steps_of_the_coarsest_modality_and_reach_from_end_to_end() -> None:
    media = {
        "audio": MediaSpec(kind="audio", shape=(1, 1000), rate=100.0, time_axis=1),
        "video": MediaSpec(kind="video", shape=(3, 20, 2, 2), rate=2.0, time_axis=1),
    }
    windows = make_windows(media, 4, 3.0)  # 7 s of room, in steps of half a second: 0, 4.67, 9.33 and 14 of them
    assert windows.spans["video"].starts == (0, 5, 9, 14)
    assert windows.spans["audio"].starts == (0, 250, 450, 700)
    assert (windows.spans["video"].length, windows.spans["audio"].length) == (6, 300)
    apart = make_windows(media, 2, 1.0)
    assert apart.spans["video"].starts == (0, 18)


def test_an_attack_sees_the_mean_and_a_sample_in_two_windows_is_one() -> None:
    model, inputs = make_model(make_windows(MEDIA, 3, 1.0)), make_inputs()
    victim = Victim(model, media=MEDIA, task="single-label")
    batch = Batch(inputs, torch.tensor([0, 1, 2]), ("a", "b", "c"))
    bound = victim.bind(batch, ThreatModel.model_validate({"audio": {"norm": "linf", "eps": 0.1}}))
    with victim.frozen():
        moved = (inputs["audio"] + 0.05).requires_grad_()
        logits = bound({"audio": moved})
        wanted = one_by_one(model, {**inputs, "audio": moved}, OVERLAPPING)
        assert torch.allclose(logits, wanted, atol=1e-6)
        (seen,) = torch.autograd.grad(logits[:, 0].sum(), moved, retain_graph=True)
        (summed,) = torch.autograd.grad(wanted[:, 0].sum(), moved)
        assert torch.allclose(seen, summed, atol=1e-6)
        few = bound.select(torch.tensor([2, 0]))({"audio": moved[[2, 0]]})
    assert torch.allclose(few, wanted[[2, 0]], atol=1e-6)
    assert bound.queries.tolist() == [2, 1, 2]


def test_features_of_all_windows_are_attacked_together_but_not_by_time() -> None:
    model, inputs = make_model(make_windows(MEDIA, 4)), make_inputs()
    victim = Victim(model, media=MEDIA, task="single-label")
    batch = Batch(inputs, torch.tensor([0, 1, 2]), ("a", "b", "c"))
    budget = {"norm": "l2", "eps": 0.5, "space": "features"}
    bound = victim.bind(batch, ThreatModel.model_validate({"audio": budget}))
    assert bound.clean["audio"].shape == (CLIPS, 4, 10)
    assert torch.allclose(bound(bound.clean), model(inputs), atol=1e-6)
    timed = ThreatModel.model_validate({"audio": {"norm": "l0", "eps": 2, "per": "frame", "space": "features"}})
    with pytest.raises(DataError, match="4 windows, each with a time of its own"):
        victim.bind(batch, timed)


def test_what_happens_between_encoders_and_fusion_is_done_to_clips() -> None:
    model, inputs = make_model(make_windows(MEDIA, 4)), make_inputs()
    swap = torch.tensor([1, 2, 0])

    def swapped(encoded: Mapping[str, Encoded]) -> Mapping[str, Encoded]:
        return {name: each.select(swap) for name, each in encoded.items()}

    others = {name: x[swap] for name, x in inputs.items()}
    assert torch.allclose(model(inputs, between=swapped), model(others), atol=1e-6)


def test_a_clip_through_all_windows_is_one_pass() -> None:
    model, inputs, cost = make_model(make_windows(MEDIA, 4)), make_inputs(), Cost()
    with counting(model, cost):
        model(inputs).sum().backward()
    assert (cost.forwards, cost.backwards) == (CLIPS, CLIPS)


@pytest.mark.parametrize(
    ("changed", "count", "seconds", "message"),
    [
        ({"time_axis": None}, 2, None, "video of shape .* has no axis of time"),
        ({}, 3, None, "the 40 steps of audio cannot be cut into 3 .* clips of 39 or 42 steps"),
        ({"rate": None}, 2, 1.0, "no rate of video: leave out the `seconds`"),
        ({}, 2, 0.6, "0.6 s is 2.4 steps of video, .* ask for 0.5 s or 0.75 s"),
        ({}, 2, 0.01, "0.01 s is 0.2 steps of audio, .* ask for 0.05 s"),
        ({}, 2, 2.5, "2.5 s is longer than a clip: audio has 2 s"),
        ({}, 6, 1.0, "6 windows of 4 of the 8 steps of video can only begin at 5 places"),
    ],
)
def test_windows_that_cannot_be_are_refused(
    changed: dict[str, None], count: int, seconds: float | None, message: str
) -> None:
    fields = {"kind": "video", "shape": (3, 8, 2, 2), "rate": 4.0, "time_axis": 1} | changed
    with pytest.raises(DataError, match=message):
        make_windows({"audio": MEDIA["audio"], "video": MediaSpec(**fields)}, count, seconds)  # type: ignore[arg-type]
