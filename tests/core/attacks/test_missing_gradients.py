"""A modality that no gradient reaches is named beside the number, whatever the attack says of itself."""

import pytest
import torch
from torch import nn

import avrobust_core

BOUNDS = {"audio": (-1, 1), "video": (0, 1)}
BOTH = {"both": {"audio": {"norm": "linf", "eps": 0.3}, "video": {"norm": "linf", "eps": 0.01}}}
ATTACKS = {
    "pgd": {"use": "pgd", "with": {"steps": 4}},
    "apgd": {"use": "apgd", "with": {"steps": 4}},
    "fmn": {"use": "fmn", "with": {"steps": 4}},
    "cw": {"use": "cw", "with": {"steps": 4, "searches": 1}},
    "square": {"use": "square", "with": {"queries": 4}},
}


class Sum(nn.Module):
    """Linear in both modalities; what becomes of the audio on its way is `hear`."""

    def __init__(self, hear=lambda audio: audio):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3))
        self.hear = hear

    def forward(self, inputs):
        heard = self.hear(inputs["audio"]).mean(dim=(1, 2)).unsqueeze(1) * torch.tensor([0.01, 0, -0.01])
        return inputs["video"].mean(dim=(2, 3, 4)) @ self.weight + heard


def detached(audio):
    return torch.from_numpy(audio.detach().numpy().copy())


def rounded(audio):
    return (audio * 32768).round() / 32768


def clips(count=12):
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(count) % 3
    video = torch.rand(count, 3, 2, 4, 4, generator=generator) * 0.1
    video[torch.arange(count), targets] += 0.5
    audio = torch.rand(count, 1, 8, generator=generator) - 0.5
    return [({"audio": audio[i : i + 5], "video": video[i : i + 5]}, targets[i : i + 5]) for i in range(0, count, 5)]


def attacked(model, *names, threats=None):
    asked = {name: ATTACKS[name] for name in names}
    return avrobust_core.evaluate(model, clips(), attacks=asked, threats=threats or BOTH, bounds=BOUNDS)


@pytest.mark.parametrize("hear", [detached, rounded, torch.zeros_like])
@pytest.mark.parametrize("attack", ["pgd", "apgd", "fmn", "cw"])
def test_a_modality_that_no_gradient_reaches_is_named_with_the_share_of_clips(hear, attack):
    found = attacked(Sum(hear), attack)
    assert found.summary["robust_accuracy"][attack]["both"]["no_gradient"] == {"audio": 1.0, "video": 0.0}
    (caveat,) = [each for each in found.summary["caveats"] if each["check"] == "zero-gradient"]  # the audit has its own
    assert (caveat["attack"], caveat["threat"]) == (attack, "both")
    said = "reached audio for 12 of the 12 clips counted as robust (100 %; 0, 1, 2, 3, 4 and 7 more)"
    assert said in caveat["message"]
    lines = str(found).splitlines()
    assert lines[0].endswith("clips"), "the clean accuracy stands"
    assert lines[1].endswith("% ?")
    assert any(line.startswith(f"? {attack} on both: zero-gradient: no gradient reached audio") for line in lines[2:])


@pytest.mark.parametrize("attack", ATTACKS)
def test_where_gradients_arrive_or_none_is_asked_for_nothing_is_said(attack):
    found = attacked(Sum(), attack)
    assert found.summary["robust_accuracy"][attack]["both"]["no_gradient"] == {"audio": 0.0, "video": 0.0}
    assert not found.summary["caveats"]
    assert "?" not in str(found)


def test_a_clip_counts_only_if_none_of_its_passes_got_a_gradient():
    class FirstPassOnly(nn.Module):
        """The audio has a gradient in the first pass that asks for one, and never again."""

        def __init__(self):
            super().__init__()
            self.passes = 0
            self.whole, self.deaf = Sum(), Sum(detached)

        def forward(self, inputs):
            self.passes += inputs["audio"].requires_grad
            return (self.whole if self.passes == 1 else self.deaf)(inputs)

    first = clips()[:1]
    asked = {"pgd": ATTACKS["pgd"] | {"curve": [0.5]}}
    found = avrobust_core.evaluate(FirstPassOnly(), first, attacks=asked, threats=BOTH, bounds=BOUNDS)
    assert found.summary["robust_accuracy"]["pgd"]["both"]["no_gradient"] == {"audio": 0.0, "video": 0.0}


def test_a_few_clips_without_a_gradient_are_reported_and_leave_the_number_unmarked():
    def hear(audio):
        return torch.where(audio[:, :, :1] > 0.4, audio.detach(), audio)

    audio = torch.zeros(150, 1, 8)
    audio[0] = 0.5
    video = clips()[0][0]["video"][:1].expand(150, -1, -1, -1, -1)
    found = avrobust_core.evaluate(
        Sum(hear),
        [({"audio": audio, "video": video}, torch.zeros(150, dtype=torch.int64))],
        attacks={"pgd": ATTACKS["pgd"]},
        threats={"audio": {"audio": {"norm": "linf", "eps": 0.001}}},
        bounds=BOUNDS,
    )
    assert found.summary["robust_accuracy"]["pgd"]["audio"]["no_gradient"] == {"audio": 0.006667}
    assert not found.summary["caveats"]
