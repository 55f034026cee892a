"""`imperceptible` and `perceptual-size`: limits hold, bind and cost success; sizes are those of what was done."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from avrobust_perceptual.attack import Imperceptible, imperceptible
from avrobust_perceptual.configs import ImperceptibleConfig, Limits, PerceptualSizeConfig
from avrobust_perceptual.masking import Masking
from avrobust_perceptual.metric import PerceptualSize
from avrobust_perceptual.pictures import flicker, ssim
from pydantic import ValidationError
from torch import nn

from avrobust_core import (
    Attack,
    AttackRun,
    AvrobustError,
    AvrobustWarning,
    Batch,
    Budget,
    Measurement,
    MediaSpec,
    Probe,
    Subject,
    ThreatModel,
    Victim,
    attack_batch,
)

RATE, CLIPS = 8000, 6
MEDIA = {
    "audio": MediaSpec(kind="audio", shape=(1, 4000), rate=RATE, bounds=(-1, 1), time_axis=1),
    "video": MediaSpec(kind="video", shape=(3, 4, 16, 16), bounds=(0, 1), time_axis=1),
}


class Linear(nn.Module):
    """Logits (B, 2) that any clip can be pushed over by enough of a perturbation of either modality."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.hear = nn.Parameter(torch.randn(4000, generator=generator) / 4000)
        self.watch = nn.Parameter(torch.randn(3 * 4 * 16 * 16, generator=generator) / 3072)

    def forward(self, clips: dict[str, torch.Tensor]) -> torch.Tensor:
        score = clips["audio"].flatten(1) @ self.hear + (clips["video"].flatten(1) - 0.5) @ self.watch
        return torch.stack((score, -score), dim=1)


def clips() -> Batch:
    generator = torch.Generator().manual_seed(1)
    time = torch.arange(4000) / RATE
    sound = 0.3 * torch.sin(2 * math.pi * torch.linspace(300, 1500, CLIPS)[:, None] * time)[:, None]
    inputs = {
        "audio": sound + 0.002 * torch.randn(sound.shape, generator=generator),
        "video": 0.2 + 0.6 * torch.rand(CLIPS, 3, 4, 16, 16, generator=generator),
    }
    with torch.no_grad():
        targets = Linear()(inputs).argmax(dim=1)
    return Batch(inputs, targets, tuple(f"clip-{i}" for i in range(CLIPS)))


def pgd() -> Attack:
    return ImperceptibleConfig.model_validate({"limits": {"audio": {"excess_db": 0}}}).attack.build()


def attacked(attack: Attack, eps: float, *names: str):  # type: ignore[no-untyped-def]
    threat = ThreatModel.of({name: Budget(norm="linf", eps=eps) for name in names})
    victim = Victim(Linear().eval(), media=MEDIA, task="single-label")
    with victim.frozen():
        return attack_batch(victim, clips(), AttackRun("imperceptible", attack, threat))


@pytest.mark.parametrize("limit", [0.0, 20.0])
def test_sound_stays_below_the_threshold_and_the_limit_costs_success(limit: float) -> None:
    plain = attacked(pgd(), 0.02, "audio")
    found = attacked(Imperceptible(pgd(), {"audio": Limits(excess_db=limit)}), 0.02, "audio")
    masking, clean = Masking(RATE), clips().inputs["audio"]
    threshold = masking.threshold(clean)
    loud = masking.peak_excess(plain.inputs["audio"].double() - clean, threshold)
    quiet = masking.peak_excess(found.inputs["audio"].double() - clean, threshold)
    assert plain.success.all()
    assert loud.max() > limit + 10
    assert (quiet <= limit).all()
    assert found.success.sum() < plain.success.sum()


def test_a_limit_that_leaves_room_leaves_success_inside_it() -> None:
    """A louder limit: some clips fall, and what falls is as quiet as it must be, but not quieter than it need be."""
    found = attacked(Imperceptible(pgd(), {"audio": Limits(excess_db=40)}), 0.02, "audio")
    assert found.success.any()
    masking, clean = Masking(RATE), clips().inputs["audio"]
    peak = masking.peak_excess(found.inputs["audio"].double() - clean, masking.threshold(clean))[found.success]
    assert (peak <= 40).all()
    assert peak.max() > 20


@pytest.mark.parametrize("limits", [{"ssim": 0.9}, {"flicker": 1.5}, {"ssim": 0.97, "flicker": 3.0}])
def test_pictures_stay_similar_and_still(limits: dict[str, float]) -> None:
    clean = clips().inputs["video"]
    plain = attacked(pgd(), 0.1, "video").inputs["video"]
    found = attacked(Imperceptible(pgd(), {"video": Limits(**limits)}), 0.1, "video")
    assert ssim(clean, plain).min() < 0.9
    assert flicker(plain - clean).max() > 3
    assert found.success.any()
    assert (ssim(clean, found.inputs["video"]) >= limits.get("ssim", -1)).all()
    assert (flicker(found.inputs["video"] - clean) <= limits.get("flicker", 1e9)).all()


def test_limits_of_one_modality_leave_the_other_to_its_budget() -> None:
    found = attacked(Imperceptible(pgd(), {"audio": Limits(excess_db=-100)}), 0.1, "audio", "video")
    assert found.success.all()  # by the pictures
    assert found.norms["audio"].max() < 1e-4


def test_what_is_found_does_not_depend_on_batch_mates() -> None:
    attack = Imperceptible(pgd(), {"video": Limits(ssim=0.97), "audio": Limits(excess_db=10)})
    victim = Victim(Linear().eval(), media=MEDIA, task="single-label")
    run = AttackRun("x", attack, ThreatModel.of({n: Budget(norm="linf", eps=0.05) for n in MEDIA}))
    whole, alone = clips(), clips().select(torch.tensor([3]))
    with victim.frozen():
        many, one = attack_batch(victim, whole, run), attack_batch(victim, alone, run)
    for name in MEDIA:
        assert torch.allclose(many.inputs[name][3:4], one.inputs[name], atol=1e-6)


def test_what_cannot_be_is_refused() -> None:
    for wrong in ({}, {"excess_db": 0, "ssim": 0.9}, {"ssim": 1.5}):
        with pytest.raises(ValidationError):
            Limits(**wrong)
    inner = SimpleNamespace(preparation=None, bounded=True, minimal=True, norms=frozenset({"linf"}))
    with pytest.raises(AvrobustError, match="smallest perturbation"):
        Imperceptible(inner, {})  # type: ignore[arg-type]
    with pytest.raises(AvrobustError, match="rate: 4000 Hz are stated, but audio of the data set has 8000 Hz"):
        attacked(Imperceptible(pgd(), {"audio": Limits(excess_db=0)}, rate=4000), 0.01, "audio")
    with pytest.raises(AvrobustError, match="SSIM and flicker are of pictures"):
        attacked(Imperceptible(pgd(), {"audio": Limits(ssim=0.9)}), 0.01, "audio")
    with pytest.warns(AvrobustWarning, match="limits of sound bind nothing: the data set has audio, video"):
        attacked(Imperceptible(pgd(), {"sound": Limits(excess_db=0)}), 0.01, "audio")


def test_the_configuration_names_the_attack_that_searches() -> None:
    config = ImperceptibleConfig.model_validate(
        {"attack": {"use": "apgd", "with": {"steps": 7}}, "limits": {"video": {"ssim": 0.9}}}
    )
    assert imperceptible(config).norms == config.attack.build().norms - {"l0"}


def measured(config: dict[str, object], media: dict[str, MediaSpec] = MEDIA) -> Measurement:
    batch, model = clips(), Linear().eval()
    probe = Probe(
        model,
        lambda _, at: {name: x[torch.as_tensor(list(at))] for name, x in batch.inputs.items()},
        batch_size=4,
        media=media,
    )
    with torch.no_grad():
        logits = model(batch.inputs).numpy()
    subject = Subject(batch.ids, logits, batch.targets.numpy(), ("a", "b"), "single-label", resamples=50, probe=probe)
    return PerceptualSize(PerceptualSizeConfig.model_validate(config)).measure(subject)


def budgets(eps: float, *names: str) -> dict[str, object]:
    return {name: {"norm": "linf", "eps": eps} for name in names}


def test_sizes_are_those_of_the_attacks_own_perturbations() -> None:
    found = measured({"threat": budgets(0.05, "audio", "video")})
    again = attacked(pgd(), 0.05, "audio", "video")
    assert again.success.all()
    assert found.values["broken"].value == 1
    change = {name: again.inputs[name].double() - x for name, x in clips().inputs.items()}
    heard = Masking(RATE)
    threshold = heard.threshold(clips().inputs["audio"])
    expected = {
        "ssim/video": ssim(clips().inputs["video"], again.inputs["video"]),
        "flicker/video": flicker(change["video"]),
        "excess/audio": heard.mean_excess(change["audio"], threshold),
        "peak-excess/audio": heard.peak_excess(change["audio"], threshold),
        "audible/audio": heard.audible_share(change["audio"], threshold),
    }
    assert set(found.per_clip) == set(expected)
    for name, values in expected.items():
        assert np.allclose(found.per_clip[name], values.numpy(), rtol=1e-3), name
        assert found.values[name].value == pytest.approx(float(values.mean()), rel=1e-3)
        assert found.values[name].low <= found.values[name].value <= found.values[name].high
    assert found.values["audible-db/audio"].value == pytest.approx(10 * np.log10(found.values["audible/audio"].value))


def test_clips_that_are_not_broken_have_no_size() -> None:
    found = measured({"threat": budgets(1e-7, "audio")})
    assert found.values["broken"].value == 0
    assert np.isnan(found.per_clip["excess/audio"]).all()
    assert found.details["clips_measured"] == 0


def test_an_attack_inside_limits_is_measured_inside_them() -> None:
    inside = {"use": "imperceptible", "with": {"limits": {"video": {"ssim": 0.97}}}}
    found = measured({"threat": budgets(0.1, "video"), "attack": inside})
    plain = measured({"threat": budgets(0.1, "video")})
    assert np.nanmin(found.per_clip["ssim/video"]) >= 0.97 > np.nanmin(plain.per_clip["ssim/video"])


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(AvrobustError, match="sample rate of audio is not known"):
        measured({"threat": budgets(0.05, "audio")}, media={})
    with pytest.raises(AvrobustError, match="the threat is on depth, but the model reads: audio, video"):
        measured({"threat": budgets(0.05, "depth")})
    features = {"audio": {"norm": "linf", "eps": 0.1, "space": "features"}}
    with pytest.raises(AvrobustError, match="attacks features of audio"):
        measured({"threat": features})
    with pytest.raises(AvrobustError, match="must see a whole set of clips"):
        measured({"threat": budgets(0.05, "audio"), "attack": "universal"})
