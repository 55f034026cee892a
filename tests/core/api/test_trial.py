"""A model that does not answer alike twice is refused before anything is attacked; sound ones pass unchanged."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from avrobust_core import Batch, ModelError, Victim
from avrobust_core.models.answers import TF32_TOLERANCE
from avrobust_core.models.trial import refuse_unsteady


def noisy(sigma):
    return lambda z, x: z + sigma * torch.randn_like(z)


@pytest.mark.parametrize(
    "after",
    [
        noisy(0.1),
        noisy(0.01),
        lambda z, x: nn.functional.dropout(z, 0.2, training=True),
        lambda z, x: z + 0.1 * float(np.random.randn()),
        lambda z, x: z * random.uniform(0.9, 1.1),
        lambda z, x: z + 5 * torch.roll(x["audio"], int(torch.randint(1, 9, ())), dims=-1)[:, 0, :3],
    ],
)
def test_randomness_of_its_own_is_noticed_before_the_attack_and_names_the_way_out(net, attack, after):
    with pytest.raises(ModelError, match=r"Net has randomness of its own: two passes over clip \d+ differ") as caught:
        attack(net(after), attacks=["noise"])
    assert "`samples=` of evaluate, `evaluation.samples` in a spec" in str(caught.value)


def test_randomness_that_the_first_batch_does_not_show_is_not_blamed_on_the_attack(net, attack):
    def after(z, x):  # noise where it is loud; the clips of the first batch are not
        return z + (x["audio"].abs().amax(dim=(1, 2)) > 0.5)[:, None] * torch.randn_like(z) * 3

    generator = torch.Generator().manual_seed(0)
    loader = []
    for loud in (0.1, 1.0):
        inputs = {"audio": torch.rand(20, 1, 12, generator=generator) * loud, "video": torch.zeros(20, 3, 2, 2, 2)}
        with torch.no_grad():
            loader.append((inputs, net()(inputs).argmax(dim=1)))
    with pytest.raises(ModelError, match="Net has randomness of its own"):
        attack(net(after), loader)


def test_with_samples_it_is_attacked_in_expectation(net, attack):
    found = attack(net(noisy(0.1)), samples=4)
    assert found.summary["robust_accuracy"]["fgsm"]["audio"]["value"] < 0.75


class Normalised(nn.Module):
    """Batch normalisation that a call of `eval` does not reach."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.norm = inner, nn.BatchNorm1d(3)

    def forward(self, inputs):
        self.norm.train()
        return self.norm(self.inner(inputs))


def test_an_answer_that_depends_on_batch_mates_is_noticed(net, attack):
    with pytest.raises(ModelError, match=r"Normalised answers otherwise for clip .* when fewer clips are in the batch"):
        attack(Normalised(net()))


class Counting(nn.Module):
    """A sound model with a buffer that counts its passes."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs):
        self.passes += 1
        torch.rand(3), np.random.rand(), random.random()
        return self.inner(inputs)


def test_the_trial_leaves_buffers_and_random_states_as_they_were(net, clips):
    model = Counting(net())
    batch = Batch(clips[0], clips[1], tuple(map(str, range(len(clips[1])))))
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    refuse_unsteady(model, model, batch, 1e-4)
    assert model.passes == 0
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]


@pytest.mark.parametrize("share", [1e-6, TF32_TOLERANCE])
def test_what_rounding_moves_is_no_randomness(net, clips, share):
    """A kernel for another batch size rounds otherwise, and some kernels add up in another order each time."""
    calls = iter((0.0, *[0.9] * 7, -0.9))
    model = net()
    batch = Batch(clips[0], clips[1], tuple(map(str, range(len(clips[1])))))

    def forward(inputs):
        logits = model(inputs).detach()
        return logits + share * next(calls) * logits.abs().amax(dim=1, keepdim=True)

    refuse_unsteady(model, forward, batch, share)
    calls = iter((*[0.0] * 7, 1.5, 0.0))
    with pytest.raises(ModelError, match="randomness"):
        refuse_unsteady(model, forward, batch, share)


@pytest.mark.parametrize("clip_count", [1, 2, 40])
def test_only_the_first_batch_is_tried_and_a_few_clips_of_it(net, clips, clip_count):
    seen = []
    model = net(lambda z, x: (seen.append(len(z)), z)[1])
    batch = Batch(
        {n: x[:clip_count] for n, x in clips[0].items()}, clips[1][:clip_count], tuple("abcd" * 10)[:clip_count]
    )
    victim = Victim(model, media={}, task="single-label")
    with victim.frozen():
        victim.clean_logits(batch)
        victim.clean_logits(batch)
    few = min(clip_count, 4)
    assert seen == [clip_count, *[few] * 8, (few + 1) // 2, clip_count]
