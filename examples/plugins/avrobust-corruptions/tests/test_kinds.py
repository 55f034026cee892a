"""Every kind at every severity: what it needs, what it leaves alone, and what decides it."""

from typing import get_args

import pytest
import torch
from avrobust_corruptions.attack import Corruption
from avrobust_corruptions.configs import CorruptionConfig, KindName
from avrobust_corruptions.kinds import KINDS
from avrobust_corruptions.plugin import avrobust_attacks
from torch import Tensor, nn

from avrobust_core import AvrobustError, Batch, Budget, MediaSpec, ThreatModel, Victim
from avrobust_core.testing import AttackSubject, parametrize_with_checks

KIND_NAMES = get_args(KindName)
(COMPONENT,) = avrobust_attacks()


@parametrize_with_checks([AttackSubject.of_component(COMPONENT)])
def test_conforms(subject, check) -> None:
    check(subject)


class Loudness(nn.Module):
    """Two classes: by the mean power of sound, or of pictures."""

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        powers = [x.square().flatten(1).mean(dim=1) for x in inputs.values()]
        return torch.stack([powers[0], powers[-1] + 1], dim=1)


def media_of(samples: int = 2400, rate: float = 8000, shape: tuple[int, ...] = (3, 6, 20, 28)) -> dict[str, MediaSpec]:
    return {
        "audio": MediaSpec(kind="audio", shape=(1, samples), rate=rate, bounds=(-1, 1), time_axis=1),
        "video": MediaSpec(kind="video", shape=shape, rate=20, bounds=(0, 1), time_axis=1),
    }


def clips(media: dict[str, MediaSpec], count: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(0)
    sound = 0.2 * torch.sin(torch.arange(media["audio"].shape[1]) * 0.3).expand(count, *media["audio"].shape)
    pictures = 0.2 + 0.6 * torch.rand(count, *media["video"].shape, generator=generator)
    ids = tuple(f"clip-{i}" for i in range(count))
    return Batch({"audio": sound.clone(), "video": pictures}, torch.ones(count, dtype=torch.long), ids)


def bound(batch: Batch, media: dict[str, MediaSpec], seed: int = 0, modalities: tuple[str, ...] = ("audio", "video")):
    victim = Victim(Loudness(), media=media, task="single-label", seed=seed)
    return victim.bind(batch, ThreatModel.of({name: Budget(norm="linf", eps=1e-3) for name in modalities}))


def corrupted(kind: str, severity: int = 3, **more: object) -> dict[str, Tensor]:
    media = media_of()
    given = {"batch": clips(media), "media": media, **more}
    return Corruption(CorruptionConfig(kind=kind, severity=severity)).corrupt(bound(**given))


def test_there_are_fifteen() -> None:
    assert set(KINDS) == set(KIND_NAMES)
    assert len(KINDS) == 15


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_both_modalities_change_the_more_the_severer_and_stay_in_bounds(kind: str) -> None:
    clean = clips(media_of()).inputs
    sizes: dict[str, list[float]] = {"audio": [], "video": []}
    for severity in range(1, 6):
        for name, x in corrupted(kind, severity).items():
            low, high = media_of()[name].bounds or ()
            assert x.shape == clean[name].shape
            assert x.dtype == torch.float32
            assert bool(x.isfinite().all())
            assert low <= float(x.min()) <= float(x.max()) <= high
            sizes[name].append(float((x - clean[name]).square().mean().sqrt()))
    for name, found in sizes.items():
        assert found[0] > 1e-4, f"{name} is left as it is at severity 1"
        assert found == sorted(found), f"{name} is not hit harder as the severity rises: {found}"


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_a_clip_is_corrupted_by_seed_and_id_alone(kind: str) -> None:
    media = media_of()
    batch = clips(media)
    whole = corrupted(kind)
    torch.manual_seed(5)  # the global state plays no part
    order = torch.tensor([2, 0])
    part = corrupted(kind, batch=batch.select(order))
    alone = corrupted(kind, modalities=("video",))
    other = corrupted(kind, seed=1)
    for name, x in whole.items():
        assert torch.allclose(part[name], x[order], atol=1e-5)
    assert torch.allclose(alone["video"], whole["video"], atol=1e-5)
    if kind != "compression":  # which is the same for all, as a codec is
        for name, x in whole.items():
            assert not torch.allclose(other[name], x, atol=1e-3)
        noise = [x[:2] - clips(media).inputs[name][:2] for name, x in whole.items()]
        assert not any(torch.allclose(each[0], each[1], atol=1e-3) for each in noise)


@pytest.mark.parametrize("kind", KIND_NAMES)
@pytest.mark.parametrize(
    ("samples", "rate", "shape"),
    [(700, 4000, (3, 1, 9, 13)), (4410, 44_100, (3, 3, 40, 17)), (40, 16_000, (1, 2, 8, 8))],
)
def test_any_rate_and_frame_size_will_do(kind: str, samples: int, rate: float, shape: tuple[int, ...]) -> None:
    media = media_of(samples, rate, shape)
    batch = clips(media, 2)
    for name, x in corrupted(kind, 4, batch=batch, media=media).items():
        assert x.shape == batch.inputs[name].shape
        assert bool(x.isfinite().all())
        assert not torch.equal(x, batch.inputs[name])


@pytest.mark.parametrize("kind", ["wind", "concert", "interference"])
def test_what_is_heard_and_what_is_seen_are_of_one_course(kind: str) -> None:
    media = media_of(samples=4800, shape=(3, 24, 12, 12))
    batch = clips(media, 1)
    batch = Batch(
        {"audio": torch.zeros_like(batch.inputs["audio"]), "video": batch.inputs["video"]}, *batch_rest(batch)
    )
    found = []
    for seed in range(12):
        x = corrupted(kind, 5, batch=batch, media=media, seed=seed)
        heard = x["audio"].abs().view(24, -1).mean(dim=1)
        seen = (x["video"] - batch.inputs["video"]).abs().mean(dim=(0, 1, 3, 4))
        if kind == "concert":  # lights make brighter what the hall has darkened
            seen = (x["video"] - 0.28 * batch.inputs["video"]).abs().mean(dim=(0, 1, 3, 4))
        found.append(float(torch.corrcoef(torch.stack((heard, seen)))[0, 1]))
    assert sum(found) / len(found) > 0.3, found


def batch_rest(batch: Batch) -> tuple[Tensor, tuple[str, ...]]:
    return batch.targets, batch.ids


def test_padding_stays_as_it_is() -> None:
    media = media_of()
    whole = clips(media, 2)
    batch = Batch(whole.inputs, whole.targets, whole.ids, padded=({"audio": 0.5, "video": 0.5}, {}))
    x = corrupted("gaussian", 5, batch=batch, media=media)
    assert torch.equal(x["audio"][0, :, 1200:], whole.inputs["audio"][0, :, 1200:])
    assert torch.equal(x["video"][0, :, 3:], whole.inputs["video"][0, :, 3:])
    assert not torch.equal(x["video"][1, :, 3:], whole.inputs["video"][1, :, 3:])


def test_predictions_are_those_of_corrupted_clips_lucky_ones_too() -> None:
    media = media_of()
    batch = clips(media, 2)
    wrong = Batch(batch.inputs, torch.zeros(2, dtype=torch.long), batch.ids)  # nothing makes them right
    result = Corruption(CorruptionConfig(kind="rain"))(bound(wrong, media))
    assert result.success.all()
    kept = Corruption(CorruptionConfig(kind="rain"))(bound(batch, media))
    assert not kept.success.any()
    assert torch.equal(kept.inputs["video"], batch.inputs["video"])  # right with it and without: the clean clip stands

    class Louder(Loudness):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            loud = (inputs["audio"].square().flatten(1).mean(dim=1) - 0.0205) * 1e3  # 0.02 without noise
            return torch.stack([-loud, loud], dim=1)

    victim = Victim(Louder(), media=media, task="single-label")
    given = victim.bind(batch, ThreatModel.of({"audio": Budget(norm="linf", eps=1.0)}))
    lucky = Corruption(CorruptionConfig(kind="gaussian", severity=5))(given)
    assert not lucky.success.any()
    assert not torch.equal(lucky.inputs["audio"], batch.inputs["audio"])


def test_what_cannot_be_corrupted_is_refused() -> None:
    media = media_of()
    batch = clips(media)
    attack = Corruption(CorruptionConfig(kind="rain"))
    depth = {**media, "video": MediaSpec(kind="depth", shape=media["video"].shape, bounds=(0, 1))}
    with pytest.raises(AvrobustError, match="of video the kind is 'depth'"):
        attack(bound(batch, depth))
    unbounded = {**media, "audio": MediaSpec(kind="audio", shape=media["audio"].shape, rate=8000)}
    with pytest.raises(AvrobustError, match="audio has no bounds"):
        attack(bound(batch, unbounded))
