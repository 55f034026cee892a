"""Perturbations that are kept between epochs: few bits, in memory or in files, the same after a kill."""

import pytest
import torch
from avrobust_adversarial import memory as memory_module
from avrobust_adversarial.codes import Code
from avrobust_adversarial.memory import BEHIND, Memory
from hypothesis import given
from hypothesis import strategies as st

from avrobust_core import AvrobustError
from avrobust_core.training.learner import Learner

IDS = [f"clip-{i}" for i in range(6)]


def deltas(seed, shape=(2, 5)):
    return torch.randn(len(IDS), *shape, generator=torch.Generator().manual_seed(seed)) * 0.01


@pytest.fixture(params=["memory", "files"])
def memory(request, tmp_path, step_of, network):
    def build(bits=16, folder="scratch"):
        made = Memory(bits)
        made.begin_epoch(
            IDS, step_of(network(), scratch=tmp_path / folder if request.param == "files" else None, clips=IDS)
        )
        return made

    return build


@given(st.integers(1, 9), st.integers(0, 2**31), st.sampled_from([16, 8, 2, 1]), st.floats(1e-6, 1e3))
def test_a_code_is_within_its_own_error(values, seed, bits, size):
    delta = torch.randn(3, values, generator=torch.Generator().manual_seed(seed)) * size
    code = Code(bits, (values,))
    rows, scale = code.pack(delta)
    assert rows.shape == (3, code.size)
    assert code.size == -(-values * bits // 8)
    found = code.unpack(rows, scale)
    largest = delta.abs().amax(dim=1, keepdim=True)
    if code.shrinks:
        assert ((found - delta).abs() <= largest / (2 ** (bits - 1) - 1) * (1 + 1e-5)).all()
        assert (found.abs() <= delta.abs() * (1 + 1e-6)).all(), "no value grows, so that no norm does"
        assert (found * delta >= 0).all()
    elif bits == 2:
        assert ((found - delta).abs() <= largest / 2 * (1 + 1e-5)).all()
    else:
        torch.testing.assert_close(found, torch.where(delta >= 0, 1, -1) * delta.abs().mean(dim=1, keepdim=True))
    torch.testing.assert_close(code.unpack(*code.pack(found)), found)


@pytest.mark.parametrize("bits", [16, 8, 2])
def test_corners_of_a_box_are_kept_as_they_are(bits):
    for radius in (0.25, 10 / 255, 0.01, 1e-5):
        delta = torch.randint(-1, 2, (4, 3, 7), generator=torch.Generator().manual_seed(0)) * radius
        code = Code(bits, (3, 7))
        torch.testing.assert_close(code.unpack(*code.pack(delta)), delta, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", [16, 8, 2, 1])
def test_no_perturbation_stays_none(bits):
    code = Code(bits, (4,))
    assert torch.equal(code.unpack(*code.pack(torch.zeros(2, 4))), torch.zeros(2, 4))


def test_an_epoch_reads_what_earlier_ones_wrote_and_not_its_own(memory):
    one, clean = memory(), deltas(0)
    assert one.read("audio", IDS, clean, 0)[1] == []
    one.write("audio", IDS[:4], deltas(1)[:4], 0)
    assert one.read("audio", IDS, clean, 0)[1] == []
    found, places = one.read("audio", ["clip-5", "clip-2", "unknown"], clean[:3], 1)
    assert places == [1]
    torch.testing.assert_close(found, deltas(1)[2:3], atol=1e-5, rtol=0)
    one.write("audio", IDS, deltas(2), 1)
    torch.testing.assert_close(one.read("audio", IDS, clean, 1)[0], deltas(1)[:4], atol=1e-5, rtol=0)
    torch.testing.assert_close(one.read("audio", IDS, clean, 2)[0], deltas(2), atol=1e-5, rtol=0)


def test_an_epoch_that_is_begun_again_reads_the_same(memory):
    one, clean = memory(), deltas(0)
    for epoch in range(3):
        one.write("audio", IDS, deltas(epoch), epoch)
    before, _ = one.read("audio", IDS, clean, 3)
    one.write("audio", IDS[:3], deltas(9)[:3], 3)  # killed amid the epoch, it begins anew
    again, places = one.read("audio", IDS, clean, 3)
    assert torch.equal(before, again)
    assert places == list(range(6))
    one.write("audio", IDS, deltas(8), 3)
    torch.testing.assert_close(one.read("audio", IDS, clean, 4)[0], deltas(8), atol=1e-5, rtol=0)


def test_another_memory_goes_on_from_the_state(memory):
    one, clean = memory(8), deltas(0)
    one.write("audio", IDS, deltas(1), 0)
    one.write("video", IDS[:2], deltas(2, (3,))[:2], 0)
    again = memory(8)
    again.load_state_dict(one.state_dict())
    for name, like in (("audio", clean), ("video", deltas(0, (3,)))):
        mine, theirs = one.read(name, IDS, like, 1), again.read(name, IDS, like, 1)
        assert torch.equal(mine[0], theirs[0])
        assert mine[1] == theirs[1]


def test_files_do_not_grow_a_checkpoint_and_are_missed_when_gone(tmp_path, step_of, network):
    step = step_of(network(), scratch=tmp_path / "scratch", clips=IDS)
    one = Memory(8)
    one.begin_epoch(IDS, step)
    one.write("audio", IDS, deltas(1), 0)
    assert one.state_dict() == {"in_files": True}
    assert (tmp_path / "scratch" / "perturbations-audio").stat().st_size == 6 * 2 * (8 + 10)
    again = Memory(8)
    again.load_state_dict(one.state_dict())
    again.begin_epoch(IDS, step_of(network(), scratch=tmp_path / "elsewhere", clips=IDS))
    with pytest.raises(AvrobustError, match="delete the cell's checkpoint"):
        again.read("audio", IDS, deltas(0), 1)


def test_two_processes_write_into_one_file(tmp_path, step_of, network):
    step = step_of(network(), scratch=tmp_path, clips=list(reversed(IDS)))
    both = [Memory(16), Memory(16)]
    for one in both:
        one.begin_epoch(IDS, step)
    both[0].write("audio", IDS[::2], deltas(1)[::2], 0)
    both[1].write("audio", IDS[1::2], deltas(1)[1::2], 0)
    for one in both:
        one.end_epoch(lambda mine: [mine])
    for one in both:
        found, places = one.read("audio", IDS, deltas(0), 1)
        assert places == list(range(6))
        torch.testing.assert_close(found, deltas(1), atol=1e-5, rtol=0)


def test_what_a_step_leaves_is_fetched_behind_it_and_in_order(memory, monkeypatch):
    """With balanced sampling a clip may come twice in an epoch: the last perturbation is kept, as late as it comes."""
    fetched: list[float] = []

    def slow(sent):
        def arrived():
            if sent.ndim == 1:  # the scales
                fetched.append(float(sent[0]))
            return sent

        return arrived

    monkeypatch.setattr(memory_module, "on_the_way", slow)
    one, clean = memory(), deltas(0)[:1]
    written = [torch.full_like(clean, 1.0 + i) for i in range(BEHIND + 2)]
    for i, delta in enumerate(written):
        one.write("audio", IDS[:1], delta, 0)
        assert one.read("audio", IDS[:1], clean, 0)[1] == []
        assert len(fetched) == max(0, i + 1 - BEHIND), "the steps before are not waited for"
    one.end_epoch(lambda mine: [mine])
    assert fetched == [1.0 + i for i in range(BEHIND + 2)]
    torch.testing.assert_close(one.read("audio", IDS[:1], clean, 1)[0], written[-1])


def test_epochs_that_draw_their_clips_keep_one_place_for_each(make, tmp_path, step_of, network, clips):
    """As with balanced sampling: an epoch has some of the clips, another has others, and some come twice."""
    batch, model = clips(), network()
    learner = Learner(model, [make("free-at", threat={"audio": {"eps": 0.1}}, memory=True)])
    known = {"scratch": tmp_path, "clips": batch.ids}
    left: dict[str, torch.Tensor] = {}
    for epoch, drawn in enumerate(([5, 4], [0, 1, 1], [1, 5, 0])):
        step = step_of(model, epoch=epoch, **known)
        order = learner.order(drawn, [batch.ids[i] for i in drawn], step)
        part = batch.select(torch.tensor(order))
        learned = learner.learn(part, step)
        if epoch == 2:  # each begins where it ended itself
            begun = learned.forward.batch.inputs["audio"].detach() - part.inputs["audio"]
            for clip_id, found in zip(part.ids, begun, strict=True):
                torch.testing.assert_close(found, left[clip_id], atol=2e-3, rtol=0)
        learned.losses.mean().backward()
        learned.after_backward()
        memory = learner.augmentations[0].memory
        delta, places = memory.read("audio", part.ids, part.inputs["audio"], epoch + 1)
        assert len(places) == len(part)
        left |= dict(zip(part.ids, delta, strict=True))
        learner.end_epoch(step, lambda mine: [mine])
    resumed = make("free-at", threat={"audio": {"eps": 0.1}}, memory=True).memory
    resumed.load_state_dict(memory.state_dict())
    resumed.begin_epoch((), step_of(model, epoch=3, **known))
    assert torch.equal(resumed.read("audio", part.ids, part.inputs["audio"], 3)[0], delta)
