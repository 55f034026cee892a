"""`tal-trans`: the reference's sizes, one layer applied again and again, and a head that pools by attention."""

import pytest
import torch
from avrobust_audio.configs import TalTransConfig
from avrobust_audio.plugin import avrobust_encoders
from avrobust_audio.tal_trans import TalTrans
from torch import Tensor, nn

from avrobust_core import AttentionPooling, AVModel, DataError, MediaSpec, sinusoids

SMALL = {"embed": 64, "heads": 2, "n_mels": 32}


def build(samples: int = 8_000, rate: int = 8_000, seed: int = 0, **fields: object) -> TalTrans:
    component = next(c for c in avrobust_encoders() if c.name == "tal-trans")
    torch.manual_seed(seed)
    media = MediaSpec(kind="audio", shape=(1, samples), rate=rate, bounds=(-1, 1), time_axis=1)
    encoder = component.make(component.config(**fields), media)
    assert isinstance(encoder, TalTrans)
    return encoder.eval()


def clips(n: int = 3, samples: int = 8_000) -> Tensor:
    return 0.1 * torch.randn(n, 1, samples, generator=torch.Generator().manual_seed(1))


def test_has_the_sizes_of_the_reference() -> None:
    encoder = build(160_000, 16_000)
    features = encoder.frontend(torch.zeros(1, 1, 159_999))
    assert features.shape == (1, 1, 400, 64)
    convs = [m for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 10
    assert [conv.out_channels for conv in convs] == [32, 32, 64, 64, 128, 128, 256, 256, 512, 512]
    assert all(conv.kernel_size == (3, 3) for conv in convs)
    with torch.no_grad():
        out = encoder.encode(features)
    assert out.tokens.shape == (1, 100, 1024)
    assert out.pooled.shape == (1, 1024)
    torch.testing.assert_close(out.pooled, out.tokens.mean(dim=1))


def test_one_layer_is_applied_again_and_again() -> None:
    once, thrice = build(**SMALL), build(**SMALL, repeats=3)
    assert sum(p.numel() for p in once.parameters()) == sum(p.numel() for p in thrice.parameters())
    calls: list[Tensor] = []
    thrice.layer.register_forward_hook(lambda _, __, out: calls.append(out))
    with torch.no_grad():
        tokens = thrice(clips()).tokens
    assert len(calls) == 3
    torch.testing.assert_close(calls[2], thrice.layer(thrice.layer(calls[0])))
    torch.testing.assert_close(tokens, thrice.norm(calls[2]))


def test_the_first_two_pools_halve_time_and_all_halve_the_bands() -> None:
    encoder = build(**SMALL)
    came: list[Tensor] = []
    left: list[Tensor] = []
    for block in encoder.conv_blocks:
        block.register_forward_pre_hook(lambda _, args: came.append(args[0]))
        block.register_forward_hook(lambda _, __, out: left.append(out))
    with torch.no_grad():
        encoder(clips())
    assert [tuple(x.shape[2:]) for x in came] == [(41, 32), (20, 16), (10, 8), (10, 4), (10, 2)]
    for before, after in zip(left, came[1:], strict=False):  # the largest of each group
        steps, bands = after.shape[2:]
        whole = before[:, :, : before.shape[2] // steps * steps]
        groups = whole.reshape(*whole.shape[:2], steps, -1, bands, 2)
        assert torch.equal(after, groups.amax(dim=(3, 5)))


def test_a_model_with_it_alone_pools_its_tokens_by_attention() -> None:
    model = AVModel({"audio": build(**SMALL)}, None, 5).eval()
    assert isinstance(model.head, AttentionPooling)
    with torch.no_grad():
        tokens = model.encoders["audio"](clips()).tokens
        prob, att = torch.sigmoid(model.head.prob(tokens)), torch.softmax(model.head.att(tokens), dim=1)
        probability = torch.sigmoid(model({"audio": clips()}))
    torch.testing.assert_close(probability, (prob * att).sum(dim=1))


def test_the_order_in_time_matters() -> None:
    encoder = build(**SMALL)
    seen: list[Tensor] = []
    encoder.layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        encoder.encode(torch.full((1, 1, 160, 32), -50.0))
    steps = seen[0][0, 10:-10]  # far from the ends they are alike, but for their positions
    positions = sinusoids(torch.arange(40), 64)[10:-10]
    torch.testing.assert_close(steps - positions, (steps - positions)[:1].expand_as(steps), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(steps[0], steps[1], atol=1e-2)


def test_a_clip_does_not_depend_on_its_batch_mates_and_dropout_acts_in_training_only() -> None:
    encoder = build(**SMALL, dropout=0.5)
    with torch.no_grad():
        together = encoder(clips()).tokens
        alone = torch.cat([encoder(clip[None]).tokens for clip in clips()])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
        encoder.train()
        assert not torch.equal(encoder(clips()).tokens, encoder(clips()).tokens)


def test_gradient_agrees_with_finite_differences_from_the_waveform() -> None:
    model = AVModel({"audio": build(**SMALL)}, None, 3).double().eval()
    x = clips(1).double()
    direction = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def f(x: Tensor) -> Tensor:
        return model({"audio": x})[0, 0]

    x.requires_grad_()
    (gradient,) = torch.autograd.grad(f(x), x)
    with torch.no_grad():
        measured = (f(x + 1e-7 * direction) - f(x - 1e-7 * direction)) / 2e-7
    torch.testing.assert_close((gradient * direction).sum(), measured, rtol=1e-3, atol=0)


def test_refuses_clips_that_are_too_short() -> None:
    with pytest.raises(DataError, match=r"3 frames are too few.* at least 4"):
        build(599)
    assert build(600)(clips(1, 600)).tokens.shape[1] == 1
    with pytest.raises(DataError, match="too short for this window"):
        build(200)


@pytest.mark.parametrize(
    ("fields", "says"),
    [({"n_mels": 40}, "multiple of 32"), ({"embed": 100}, "multiple"), ({"heads": 3}, "and of heads, 3")],
)
def test_refuses_widths_that_do_not_divide(fields: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        TalTransConfig(**fields)
