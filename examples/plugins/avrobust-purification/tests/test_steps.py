"""The steps of a purification: what each does to clips, forwards and backwards."""

import pytest
import torch
from avrobust_purification.configs import PurifiedConfig, Step
from avrobust_purification.purification import Purification
from avrobust_purification.steps import make_step
from pydantic import ValidationError
from torch import Tensor

from avrobust_core import DataError, MediaSpec

SOUND = ("mu-law:6", "pcm:6", "mp3:16k", "aac:16k", "opus:16k")
PICTURES = ("jpeg:20", "h264:35")


def media_of(kind: str, rate: float | None = 8000) -> MediaSpec:
    if kind == "audio":
        return MediaSpec(kind="audio", shape=(1, 3000), rate=rate, bounds=(-1, 1), time_axis=1)
    return MediaSpec(kind="video", shape=(3, 4, 19, 22), rate=8, bounds=(0, 1), time_axis=1)


def clips(kind: str, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if kind == "audio":
        pitch = 300 + 200 * torch.arange(count)
        return 0.3 * torch.sin(pitch[:, None, None] * torch.arange(3000) * 6.2832 / 8000)
    coarse = torch.rand(count, 3, 2, 4, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(4, 19, 22), mode="trilinear")


@pytest.mark.parametrize("step", [*SOUND, *PICTURES])
def test_a_clip_comes_back_much_as_it_was_with_something_lost_and_by_itself(step: str) -> None:
    kind = Step.of(step).kind
    made, x = make_step(Step.of(step), media_of(kind)), clips(kind)
    low, high = media_of(kind).bounds or ()
    y = made(x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert low <= float(y.min()) <= float(y.max()) <= high
    lost = float((y - x).square().mean().sqrt())
    assert 1e-3 < lost < 0.4 * float(x.std()), lost
    again = (made(x) - y).abs()
    # x264 now and then writes other bytes for the same pictures, with one thread, too; about one clip in a hundred.
    assert float(again.mean()) < 0.02 if step.startswith("h264") else float(again.max()) == 0
    assert torch.equal(made(x[1:]), y[1:])


def test_levels_are_as_many_as_the_bits_allow() -> None:
    x = torch.linspace(-1, 1, 5001).view(1, 1, -1)
    for step, spread in (("pcm:4", False), ("mu-law:4", True)):
        levels = make_step(Step.of(step), media_of("audio"))(x).unique()
        assert len(levels) == 15
        assert bool(levels.diff()[-1] > 5 * levels.diff()[7]) == spread  # mu-law: finer where it is quiet
    # ITU-T G.711's curve: 255 x = 256^|code| - 1; code 4 of 7.
    assert float(levels[11]) == pytest.approx((256 ** (4 / 7) - 1) / 255, rel=1e-5)


def test_a_codec_gets_the_rate_that_it_takes() -> None:
    """Opus takes 48 kHz and a few below, not 22.05."""
    media = MediaSpec(kind="audio", shape=(1, 11_025), rate=22_050, bounds=(-1, 1))
    x = 0.3 * torch.sin(440 * torch.arange(11_025) * 6.2832 / 22_050).view(1, 1, -1)
    y = make_step(Step.of("opus:32k"), media)(x)
    middle = slice(2000, 9000)
    assert float(torch.corrcoef(torch.stack((x[0, 0, middle], y[0, 0, middle])))[0, 1]) > 0.99


def test_a_room_is_another_each_time_and_keeps_the_loudness_of_noise() -> None:
    room = make_step(Step.of("room:0.2"), media_of("audio"))
    x = 0.1 * torch.randn(16, 1, 3000, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    first, second = room(x), room(x)
    assert not torch.allclose(first, second, atol=1e-2)
    assert not torch.allclose(room(x[:1].expand(2, -1, -1))[0], room(x[:1].expand(2, -1, -1))[1], atol=1e-2)
    assert float(first.std() / x.std()) == pytest.approx(1, abs=0.1)
    click = torch.zeros(1, 1, 3000)
    click[..., 100] = 0.5
    heard = room(click)[0, 0]
    assert bool(heard[:100].abs().max() < 1e-5)  # nothing is heard before it sounds
    energy = [float(heard[a:b].square().sum()) for a, b in ((101, 700), (700, 1300), (1300, 1900))]
    assert energy == sorted(energy, reverse=True)
    assert 0.3 < float((heard[101:700] > 0).float().mean()) < 0.7  # reflections of either sign


@pytest.mark.parametrize(("exact", "passed"), [(False, 1.0), (True, 0.0)])
def test_the_derivative_of_what_rounds_is_the_identitys_or_nothing(exact: bool, passed: float) -> None:
    steps = [make_step(Step.of(step), media_of("audio")) for step in ("pcm:6", "aac:16k")]
    x, purification = clips("audio").requires_grad_(), Purification(steps, exact=exact)
    y = purification(x)
    weights = torch.linspace(-1, 1, x.numel()).view_as(x)
    (gradient,) = torch.autograd.grad((y * weights).sum(), x)
    assert torch.allclose(gradient, passed * weights)
    with torch.no_grad():
        assert torch.equal(y, steps[1](steps[0](x)))  # forwards it is the real thing, to the bit


@pytest.mark.parametrize("exact", [False, True])
def test_the_derivative_of_a_room_is_its_own(exact: bool) -> None:
    room = Purification([make_step(Step.of("room:0.1"), media_of("audio"))], exact=exact).double()
    x = clips("audio")[:1, :, :60].double()

    def of(x: Tensor) -> Tensor:
        torch.manual_seed(3)
        return room(x)

    assert torch.autograd.gradcheck(of, (x.requires_grad_(),), atol=1e-6)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (["mulaw:8"], "is no step"),
        (["mu-law"], "is no step"),
        (["mu-law:1"], "from 2 to 16"),
        (["mu-law:8.5"], "whole number"),
        (["jpeg:50"], "from 2 to 31"),
        (["opus:16k", "jpeg:20"], "do not go together"),
    ],
)
def test_a_step_that_is_none_is_refused(steps: list[str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        PurifiedConfig.model_validate({"encoder": "cnn", "steps": steps})


def test_media_that_a_step_cannot_have_are_refused() -> None:
    with pytest.raises(DataError, match="must state `rate`"):
        make_step(Step.of("room:0.2"), media_of("audio", rate=None))
    with pytest.raises(DataError, match=r"pictures \(3, T, H, W\)"):
        make_step(Step.of("jpeg:9"), MediaSpec(kind="video", shape=(1, 4, 8, 8), bounds=(0, 1)))
