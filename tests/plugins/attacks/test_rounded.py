"""`rounded`: what it returns succeeds once saved, on the grid of the files and inside every norm's ball."""

import pytest
import torch
from avrobust_attacks.gradient.configs import FgsmConfig, PgdConfig
from avrobust_attacks.gradient.pgd import fgsm as _fgsm
from avrobust_attacks.gradient.pgd import pgd as _pgd
from avrobust_attacks.rounded.configs import RoundedConfig
from avrobust_attacks.rounded.rounded import Rounded
from avrobust_attacks.universal.configs import UniversalConfig
from avrobust_attacks.universal.universal import Universal

from avrobust_core import Attack, AttackResult, AvrobustError, Batch, MediaSpec, ThreatModel, Victim, grid_of, verify

VIDEO = MediaSpec(kind="video", shape=(3, 2, 4, 4), rate=2, bounds=(0, 1), time_axis=1)
AUDIO = MediaSpec(kind="audio", shape=(1, 64), rate=64, bounds=(-1, 1), time_axis=1)
MEDIA = {"audio": AUDIO, "video": VIDEO}


class Linear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = {
            name: torch.randn(torch.Size(spec.shape).numel(), 3, generator=generator) for name, spec in MEDIA.items()
        }

    def forward(self, inputs):
        return sum(inputs[name].flatten(1) @ weight for name, weight in self.weights.items())


def clips(n=40, on_grid=False):
    generator = torch.Generator().manual_seed(1)
    inputs = {
        "audio": torch.rand(n, *AUDIO.shape, generator=generator) - 0.5,
        "video": torch.rand(n, *VIDEO.shape, generator=generator),
    }
    inputs["video"][:2] = 0.0
    inputs["audio"][2:4] = 1.0
    if on_grid:
        inputs = {name: grid_of(MEDIA[name]).nearest(x) for name, x in inputs.items()}
    targets = Linear()(inputs).argmax(dim=1)
    return Batch(inputs, targets, tuple(f"c{i}" for i in range(n)))


def attacked(attack, batch, threat, model=None):
    victim = Victim(model or Linear(), media=MEDIA, task="single-label")
    with victim.frozen():
        bound = victim.bind(batch, ThreatModel.model_validate(threat))
        result = attack(bound)
        verdict = verify("rounded", batch, batch.copied("cpu").inputs, bound, result)
        saved = {name: grid_of(MEDIA[name]).nearest(x) for name, x in result.inputs.items()}
        return result, verdict, bound, saved, bound.fooled(bound.confirm(saved))


def test_values_of_files_are_what_readers_make_of_them():
    pictures = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(grid_of(VIDEO).values(pictures.long()), pictures.float() / 255)
    samples = torch.tensor([-32768, -1, 0, 1, 32767])
    assert torch.equal(grid_of(AUDIO).values(samples), samples.float() / 32768)
    assert grid_of(AUDIO).index(torch.tensor([-1.0, 0.4 / 32768, 1.0])).tolist() == [-32768, 0, 32767]
    elsewhere = grid_of(MediaSpec(kind="video", shape=(3, 1, 1, 1), bounds=(-1, 3)))
    assert elsewhere.nearest(torch.tensor([-1.0, 3.0, -1 + 4 / 255])).tolist() == pytest.approx([-1, 3, -1 + 4 / 255])
    assert grid_of(MediaSpec(kind="any", shape=(3,))) is None


def test_towards_never_goes_further_from_the_clean_value_than_it_was():
    grid = grid_of(VIDEO)
    clean = torch.tensor([100 / 255, 100 / 255, 100.4 / 255, 100.4 / 255, 100.4 / 255, 100.6 / 255, 0.0])
    x = torch.tensor([103.7 / 255, 96.2 / 255, 103.9 / 255, 100.8 / 255, 99.1 / 255, 100.6 / 255, 0.9 / 255])
    # Where no value of the grid lies between the two, the one nearest to the clean one.
    assert grid.index(grid.towards(x, clean)).tolist() == [103, 97, 103, 100, 100, 101, 0]


@pytest.mark.parametrize("on_grid", [True, False])
@pytest.mark.parametrize(("norm", "audio", "video"), [("linf", 0.002, "2.6/255"), ("l2", 0.02, 0.08)])
def test_what_it_breaks_stays_broken_once_saved_and_inside_its_budget(norm, audio, video, on_grid):
    threat = {"audio": {"norm": norm, "eps": audio}, "video": {"norm": norm, "eps": video}}
    batch = clips(on_grid=on_grid)
    plain = attacked(_pgd(PgdConfig(steps=10)), batch, threat)
    result, verdict, bound, saved, fooled = attacked(Rounded(_pgd(PgdConfig(steps=10))), batch, threat)
    assert 0 < result.success.sum() < len(batch), "clips of both kinds"
    assert torch.equal(fooled & result.success, result.success)
    sizes = [ball.measure(plain[3][name]) / ball.radius for name, ball in plain[2].balls.items()]
    beyond = torch.stack(sizes).amax(dim=0) > 1.0001
    assert (plain[0].success & (~plain[4] | beyond)).any(), "rounded afterwards, some fail, or go too far"
    for name, x in saved.items():
        off = (x - result.inputs[name])[result.success].abs().max()
        assert off <= 1e-6, "it is what a file keeps, but for float32"
        assert bool((bound.balls[name].measure(x)[result.success] <= bound.balls[name].radius[0] * (1 + 1e-4)).all())
    assert torch.equal(verdict.success, result.success)


class Edge(Attack):
    """Moves every sample up by all of the radius, whatever the model says."""

    norms = frozenset({"linf"})

    def __call__(self, victim):
        x = victim.region.project({name: each + 1 for name, each in victim.clean.items()})
        self.seen = victim(x)
        return AttackResult(x, victim.fooled(self.seen))


def test_the_search_sees_the_model_through_the_file_and_gradients_pass_the_rounding_by():
    batch, model, edge = clips(4), Linear(), Edge()
    victim = Victim(model, media=MEDIA, task="single-label")
    with victim.frozen():
        bound = victim.bind(batch, ThreatModel.model_validate({"video": {"eps": "1.5/255"}}))
        Rounded(edge)(bound)
        grid, clean = grid_of(VIDEO), batch.inputs["video"]
        kept = grid.towards(bound.region.project({"video": clean + 1})["video"], clean)
        assert torch.equal(edge.seen, model({**batch.inputs, "video": kept}))
        assert not torch.equal(kept, bound.region.project({"video": clean + 1})["video"])
        x = clean.clone().requires_grad_()
        (slope,) = torch.autograd.grad(
            bound.seen_after(lambda region, x: {"video": grid.nearest(x["video"])})({"video": x})[:, 0].sum(), x
        )
    assert torch.allclose(slope.flatten(1), model.weights["video"][:, 0].expand(4, -1))


class SecondFrame(torch.nn.Module):
    """Class 1 where the second frame's first colour is above 100.2 of 255."""

    def forward(self, inputs):
        odds = 255 * inputs["video"][:, 0, 1, 0, 0] - 100.2
        return torch.stack([torch.zeros_like(odds), odds], dim=1)


def test_a_clip_that_saving_alone_sets_right_again_is_no_success():
    video = torch.full((1, *VIDEO.shape), 100.4 / 255)
    batch = Batch({"video": video}, torch.zeros(1, dtype=torch.int64), ("c",))
    threat = {"video": {"eps": 0.1, "frames": [[0, 1]]}}  # the second frame must stay off the grid
    result, verdict, _, _, fooled = attacked(Rounded(Edge()), batch, threat, SecondFrame())
    assert (bool(verdict.success), bool(fooled), bool(result.success)) == (True, False, False)


def test_selected_clips_are_rounded_towards_their_own_clean_values():
    batch = clips(6)
    threat = {"audio": {"eps": 0.002}, "video": {"eps": "3/255"}}
    whole = attacked(Rounded(_fgsm(FgsmConfig())), batch, threat)[0]
    part = attacked(Rounded(_fgsm(FgsmConfig())), batch.select(torch.tensor([4, 1])), threat)[0]
    assert all(torch.equal(part.inputs[name], x[[4, 1]]) for name, x in whole.inputs.items())


def test_attacks_and_threats_that_no_file_can_hold_are_refused():
    with pytest.raises(AvrobustError, match="see a whole set of clips first"):
        Rounded(Universal(UniversalConfig()))
    with pytest.raises(AvrobustError, match="no longer the same at all times"):
        attacked(Rounded(_fgsm(FgsmConfig())), clips(2), {"video": {"eps": 0.1, "time_invariant": True}})


def test_a_search_is_named_as_in_a_spec():
    assert RoundedConfig.model_validate({}).attack.use == "avrobust:pgd"
    assert RoundedConfig.model_validate({"attack": {"use": "fgsm"}}).attack.build().norms
