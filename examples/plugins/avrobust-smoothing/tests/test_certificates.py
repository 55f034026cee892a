"""Certificates hold: against the closed form of a linear classifier, and against attacks on a curved one."""

import math
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np
import pytest
import torch
from avrobust_smoothing.certificates import lower_bound, radius
from avrobust_smoothing.configs import CertifiedAccuracyConfig
from avrobust_smoothing.metric import CertifiedAccuracy
from avrobust_smoothing.smoothing import Smoothed, gaussian
from scipy.stats import binom, kstest
from torch import Tensor, nn

from avrobust_core import AvrobustError, ClipDraws, Probe, Shares, Subject

SIGMA = {"audio": 0.5, "video": 0.2}
SHAPES = {"audio": (1, 10), "video": (2, 3, 3)}


class Linear(nn.Module):
    """Two classes; the second comes first where w . x > b."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weights = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(B, 2)."""
        score = sum((inputs[name] * w).flatten(1).sum(dim=1) for name, w in self.weights.items())
        assert isinstance(score, Tensor)
        return torch.stack((-score, score), dim=1)

    def exact(self, inputs: Mapping[str, Tensor]) -> float:
        """The radius of the smoothed classifier, in standard deviations: the margin over the noise that it sees."""
        spread = math.sqrt(sum(SIGMA[n] ** 2 * float(w.square().sum()) for n, w in self.weights.items()))
        return abs(float(self(inputs)[0, 1])) / spread


class Curved(nn.Module):
    """A small net of three classes."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.net = nn.Sequential(nn.Linear(28, 32), nn.Tanh(), nn.Linear(32, 3))
            next(self.net.parameters()).data.mul_(4)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(B, 3)."""
        found: Tensor = self.net(torch.cat([inputs[name].flatten(1) for name in sorted(SHAPES)], dim=1))
        return found


def clips(count: int, scale: float = 1.0) -> dict[str, Tensor]:
    """Normal clips."""
    generator = torch.Generator().manual_seed(2)
    return {name: scale * torch.randn(count, *shape, generator=generator) for name, shape in SHAPES.items()}


def one(inputs: Mapping[str, Tensor], row: int) -> dict[str, Tensor]:
    """One of them, (1, ...)."""
    return {name: x[row : row + 1] for name, x in inputs.items()}


def subject(model: nn.Module, inputs: Mapping[str, Tensor], targets: Tensor, **more: object) -> Subject:
    """As the core would give it to a metric."""
    ids = tuple(f"clip-{i}" for i in range(len(targets)))
    fields = {"probe": Probe(model.eval(), lambda split, rows: {n: x[list(rows)] for n, x in inputs.items()})}
    with torch.no_grad():
        logits = model(inputs).numpy()
    classes = tuple("abc"[: logits.shape[1]])
    return Subject(ids, logits, targets.numpy(), classes, "single-label", **{**fields, **more})  # type: ignore[arg-type]


def test_the_lower_bound_is_clopper_and_pearsons() -> None:
    """Fewer hits than seen are as likely as alpha where the probability is the bound; coverage is never below it."""
    hits = np.array([0, 1, 60, 99, 100])
    found = lower_bound(hits, 100, 0.001)
    assert found[0] == 0
    for k, p in zip(hits[1:], found[1:], strict=True):
        assert binom.sf(k - 1, 100, p) == pytest.approx(0.001, rel=1e-6)
    assert found[-1] == pytest.approx(0.001 ** (1 / 100))
    for p in (0.3, 0.51, 0.9):
        k = np.arange(101)
        wrong = lower_bound(k, 100, 0.05) > p
        assert binom.pmf(k, 100, p)[wrong].sum() <= 0.05


def test_no_radius_where_the_bound_is_not_above_a_half() -> None:
    """And the largest of all draws is the paper's."""
    found = radius(np.array([0, 50, 60, 1000]), 1000, 0.001)
    assert np.isnan(found[:3]).all()
    assert found[3] == pytest.approx(NormalDist().inv_cdf(0.001 ** (1 / 1000)))
    assert radius(np.array([100_000]), 100_000, 0.001)[0] == pytest.approx(3.81, abs=0.01)  # of the paper's figures


def test_the_noise_is_normal_and_depends_on_clip_and_number_alone() -> None:
    """Whatever the size of the passes."""
    drawn = gaussian(ClipDraws(range(20)), (5, 1001)).flatten()
    assert kstest(drawn.numpy(), "norm").pvalue > 0.001
    assert drawn.abs().max() > 4
    smoothed = Smoothed(Linear(), SIGMA, seed=3, batch_size=7)
    clip = one(clips(2), 0)
    whole = smoothed.noisy(clip, "a", "certify", range(10))
    for name, x in smoothed.noisy(clip, "a", "certify", range(4, 6)).items():
        assert torch.equal(x, whole[name][4:6])
    for other in (smoothed.noisy(clip, "b", "certify", range(10)), smoothed.noisy(clip, "a", "first", range(10))):
        assert not torch.equal(other["audio"], whole["audio"])
    deviations = {name: float((x - clip[name]).std()) for name, x in smoothed.noisy(clip, "a", "s", range(900)).items()}
    assert deviations == pytest.approx(SIGMA, rel=0.05)


def test_a_linear_classifiers_radius_is_the_closed_form_from_below() -> None:
    """With 20,000 draws within a few per cent; never above."""
    model, inputs = Linear(), clips(8, scale=0.25)
    smoothed = Smoothed(model, SIGMA, seed=0, batch_size=5000)
    compared = 0
    for row in range(8):
        clip = one(inputs, row)
        exact = model.exact(clip)
        own = int(model(clip).argmax())
        hits = int(smoothed.counts(clip, f"clip-{row}", "certify", 20_000)[own])
        found = float(radius(np.array([hits]), 20_000, 0.001)[0])
        if 0.1 < exact < 2.5:
            compared += 1
            assert exact - 0.1 < found <= exact
    assert compared >= 4


def test_beyond_the_closed_form_of_a_linear_classifier_there_is_an_example_and_within_it_none() -> None:
    """The ellipsoid is tight: a step along sigma^2 w, just longer than the radius, changes the smoothed class."""
    model, inputs = Linear(), clips(6, scale=0.25)
    smoothed = Smoothed(model, SIGMA, seed=0, batch_size=5000)
    for row in range(6):
        clip = one(inputs, row)
        own, exact = int(model(clip).argmax()), model.exact(clip)
        uphill = {name: (1 - 2 * own) * SIGMA[name] ** 2 * w for name, w in model.weights.items()}
        size = math.sqrt(sum(float((d / SIGMA[n]).square().sum()) for n, d in uphill.items()))
        for share in (exact - 0.06, exact + 0.06):
            moved = {name: x + share / size * uphill[name] for name, x in clip.items()}
            kept = int(smoothed.counts(moved, f"clip-{row}", "look", 5000).argmax()) == own
            assert kept == (share < exact)


def attacked(model: nn.Module, clip: Mapping[str, Tensor], own: int, reach: float) -> dict[str, Tensor]:
    """Projected gradient descent on the probability of a class under noise, in the ellipsoid of a radius."""
    generator = torch.Generator().manual_seed(9)
    delta = {name: torch.zeros_like(x) for name, x in clip.items()}  # in standard deviations
    for _ in range(30):
        leaves = {name: d.clone().requires_grad_() for name, d in delta.items()}
        noisy = {
            n: clip[n] + SIGMA[n] * (leaves[n] + torch.randn(128, *SHAPES[n], generator=generator)) for n in SHAPES
        }
        likely = model(noisy).softmax(dim=1)[:, own].mean()
        gradients = torch.autograd.grad(likely, list(leaves.values()))
        length = math.sqrt(sum(float(g.square().sum()) for g in gradients))
        delta = {n: d - 0.25 * reach * g / length for (n, d), g in zip(delta.items(), gradients, strict=True)}
        size = math.sqrt(sum(float(d.square().sum()) for d in delta.values()))
        delta = {n: d * min(1.0, reach / size) for n, d in delta.items()}
    return {n: clip[n] + SIGMA[n] * d for n, d in delta.items()}


def test_no_attack_breaks_a_curved_classifier_inside_its_certificate_and_it_does_beyond() -> None:
    """Judged by 4,000 fresh draws; the same attack with four times the radius breaks clips, so that it is one."""
    model, inputs = Curved().eval(), clips(12, scale=0.6)
    smoothed = Smoothed(model, SIGMA, seed=0, batch_size=4000)
    certified = broken = 0
    for row in range(12):
        clip, clip_id = one(inputs, row), f"clip-{row}"
        own = int(smoothed.counts(clip, clip_id, "first", 200).argmax())
        hits = int(smoothed.counts(clip, clip_id, "certify", 4000)[own])
        size = float(radius(np.array([hits]), 4000, 0.001)[0])
        if math.isnan(size):
            continue
        certified += 1
        inside = attacked(model, clip, own, size)
        assert int(smoothed.counts(inside, clip_id, "judge", 4000).argmax()) == own
        beyond = attacked(model, clip, own, 4 * size)
        broken += int(smoothed.counts(beyond, clip_id, "judge", 4000).argmax()) != own
    assert certified >= 8
    assert broken >= certified / 2


def test_the_metric_counts_what_is_right_and_certified() -> None:
    """Wrong labels count at no radius; a threat takes the radius of the smallest ellipsoid around it."""
    model, inputs = Linear().eval(), clips(10, scale=0.25)
    labels = model(inputs).argmax(dim=1)
    labels[0] = 1 - labels[0]
    threat = {"audio": {"norm": "linf", "eps": 0.03}, "video": {"norm": "l2", "eps": 0.02}}
    config = CertifiedAccuracyConfig.model_validate(
        {"sigma": SIGMA, "first": 50, "draws": 500, "radii": [1.0, 0.25], "threat": threat}
    )
    found = CertifiedAccuracy(config).measure(subject(model, inputs, labels))
    radii = found.per_clip["certified-radius"]
    assert radii[0] == 0
    exact = np.array([model.exact(one(inputs, row)) for row in range(10)])
    assert (radii <= exact).all()
    assert found.values["certified/0.25"].value == (radii >= 0.25).mean() > 0
    assert found.values["certified/1"].value == (radii >= 1).mean()
    needed = math.hypot(0.03 * math.sqrt(10) / 0.5, 0.02 / 0.2)
    assert found.values["certified/threat"].value == (radii > needed).mean()
    assert found.values["mean-radius"].value == pytest.approx(radii.mean())
    assert found.values["smoothed-accuracy"].value == (radii > 0).mean()
    assert "notes" not in found.details
    # Of a threat whose ellipsoid is as large as the median radius, half the clips are certified: n samples of linf
    # count sqrt(n) times, and a shared ball is as large as the larger of its two.
    middle = float(np.median(radii[radii > 0]))
    linf = {"audio": {"norm": "linf", "eps": 0.999 * middle * 0.5 / math.sqrt(10)}}
    shared = {
        "kind": "shared",
        "audio": {"norm": "l2", "eps": 0.999 * middle * 0.5},
        "video": {"norm": "l2", "eps": 0.9 * middle * 0.2},
    }
    certified = (radii > 0.999 * middle).mean()
    assert (radii > 1.3 * middle).mean() < certified < (radii > 0.999 * middle / 3).mean()
    for asked in (linf, shared):
        config = CertifiedAccuracyConfig.model_validate({"sigma": SIGMA, "first": 50, "draws": 500, "threat": asked})
        again = CertifiedAccuracy(config).measure(subject(model, inputs, labels))
        assert again.values["certified/threat"].value == certified
    few = CertifiedAccuracy(config.model_copy(update={"draws": 20})).measure(subject(model, inputs, labels))
    assert "20 draws certify no radius above" in few.details["notes"][0]


def test_processes_together_find_what_one_finds_alone() -> None:
    """Each does its share."""
    model, inputs = Linear().eval(), clips(5, scale=0.25)
    labels = model(inputs).argmax(dim=1)
    metric = CertifiedAccuracy(CertifiedAccuracyConfig(sigma=SIGMA, first=20, draws=100))
    alone = metric.measure(subject(model, inputs, labels))
    told: list[object] = []

    def overhear(mine: object) -> list[object]:
        told.append(mine)
        return [mine]

    for rank in range(2):  # each hears of itself alone first, so that what it tells the other is known
        metric.measure(subject(model, inputs, labels, shares=Shares(rank, 2, overhear)))
    parts = [one for one in told if one is not None]

    def exchange(mine: object) -> list[object]:
        return [None, None] if mine is None else parts

    together = metric.measure(subject(model, inputs, labels, shares=Shares(1, 2, exchange)))
    assert together.values == alone.values
    assert np.array_equal(together.per_clip["certified-radius"], alone.per_clip["certified-radius"])


def test_what_cannot_be_certified_is_refused() -> None:
    """By the configuration where it can tell, else by the metric."""
    with pytest.raises(ValueError, match="no noise is put on video"):
        CertifiedAccuracyConfig.model_validate({"sigma": {"audio": 1}, "threat": {"video": {"eps": 0.1}}})
    with pytest.raises(ValueError, match="l0"):
        CertifiedAccuracyConfig.model_validate({"sigma": {"audio": 1}, "threat": {"audio": {"norm": "l0", "eps": 1}}})
    model, inputs = Linear().eval(), clips(2)
    labels = model(inputs).argmax(dim=1)
    other = CertifiedAccuracy(CertifiedAccuracyConfig(sigma={"depth": 0.1}))
    with pytest.raises(AvrobustError, match="`sigma` is of depth, but the model reads: audio, video"):
        other.measure(subject(model, inputs, labels))
    metric = CertifiedAccuracy(CertifiedAccuracyConfig(sigma=SIGMA))
    with pytest.raises(AvrobustError, match="needs the model"):
        metric.measure(subject(model, inputs, labels, probe=None))

    class Breaks(Linear):
        def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
            return super().forward(inputs) / (inputs["audio"] > 10).sum()

    with pytest.raises(AvrobustError, match=r"not finite for clip 'clip-0' under noise"):
        metric.measure(subject(Breaks().eval(), inputs, labels))
