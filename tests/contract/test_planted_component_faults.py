"""Faults planted into sound data sets, encoders, fusions, metrics and trackers: the check meant for each catches it."""

import random
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from avrobust_core import (
    Clip,
    ClipError,
    Component,
    Config,
    DataError,
    Dataset,
    Encoded,
    EncodedDims,
    Encoder,
    Fusion,
    LatentRequest,
    Measurement,
    MediaSpec,
    Metric,
    Tracker,
    bootstrap,
    clip_generator,
    share,
)
from avrobust_core.registry.discovery import RegistryEntry
from avrobust_core.testing import check_component

# Data sets ------------------------------------------------------------------------------------------------------------


class Clips(Dataset):
    task, classes, splits = "single-label", ("a", "b"), ("train", "test")
    count = 9

    def __init__(self):
        self.media = {
            "audio": MediaSpec(kind="audio", shape=(1, 8), bounds=(-1.0, 1.0)),
            "video": MediaSpec(kind="video", shape=(2, 3), bounds=(0.0, 1.0), optional=True),
        }

    def ids(self, split):
        return [f"{split}-{i}" for i in range(self.count)]

    def read(self, split, index):
        clip_id = self.ids(split)[index]
        inputs = {"audio": self.drawn(clip_id, (1, 8)), "video": self.drawn(clip_id, (2, 3))}
        if index % 3 == 0:
            inputs["video"] = torch.full((2, 3), torch.nan)
        return Clip(clip_id, inputs, torch.tensor(index % 2))

    def drawn(self, clip_id, shape):
        return torch.rand(shape, generator=clip_generator(0, clip_id, f"{shape}"))

    def fingerprint(self):
        return "clips"


class SomeUnreadable(Clips):
    def read(self, split, index):
        if index == 4:
            raise ClipError(self.ids(split)[index], "it is empty")
        return super().read(split, index)


class RaisesOSError(Clips):
    wrong = OSError

    def read(self, split, index):
        if index == 4:
            raise self.wrong("no such file")
        return super().read(split, index)


class RaisesRuntimeError(RaisesOSError):
    wrong = RuntimeError


class EndsInIndexError(Clips):
    def ids(self, split):
        return [*super().ids(split), "one-more" + split]

    def read(self, split, index):
        return replace(super().read(split, [*range(self.count)][index]), id=self.ids(split)[index])


class OtherAtTheFourthReading(Clips):
    def __init__(self):
        super().__init__()
        self.readings = {}

    def read(self, split, index):
        clip = super().read(split, index)
        times = self.readings[clip.id] = self.readings.get(clip.id, 0) + 1
        return clip if times < 4 else replace(clip, inputs={n: x * 0.5 for n, x in clip.inputs.items()})


class DriftsWithReadings(Clips):
    def __init__(self):
        super().__init__()
        self.readings = 0

    def read(self, split, index):
        self.readings += 1
        clip = super().read(split, index)
        return replace(clip, inputs={**clip.inputs, "audio": clip.inputs["audio"] / self.readings})


class OtherTargetNextTime(Clips):
    def __init__(self):
        super().__init__()
        self.readings = 0

    def read(self, split, index):
        self.readings += 1
        return replace(super().read(split, index), target=torch.tensor(self.readings % 2))


class SameClipsInBothSplits(Clips):
    def drawn(self, clip_id, shape):
        return super().drawn(clip_id.partition("-")[2], shape)


class OneClipInBothSplits(Clips):
    def drawn(self, clip_id, shape):
        return super().drawn("7" if clip_id in ("train-7", "test-5") else clip_id, shape)


class LaterClipsInBothSplits(Clips):
    count = 60

    def drawn(self, clip_id, shape):
        _, _, number = clip_id.partition("-")
        return super().drawn(number if int(number) >= 30 else clip_id, shape)


class ReseedsWhenRead(Clips):
    def read(self, split, index):
        random.seed(index)
        return super().read(split, index)


class DrawsGlobally(Clips):
    def drawn(self, clip_id, shape):
        np.random.seed(sum(map(ord, clip_id)))
        return torch.from_numpy(np.random.rand(*shape).astype(np.float32))


# Encoders -------------------------------------------------------------------------------------------------------------


class Frames(nn.Module):
    """From a waveform (B, 1, T) to log-energies of frames and a cosine of them, (B, 2, T / 40)."""

    floor = 1e-4

    def forward(self, x):
        energy = x.unflatten(-1, (-1, 40)).square().mean(-1)
        return torch.cat([(energy + self.floor).log(), x.unflatten(-1, (-1, 40)).mean(-1)], dim=1)


class Sound(Encoder):
    time_axis = 1
    Front = Frames

    def __init__(self, media):
        super().__init__()
        if media.kind != "audio":
            raise DataError("not audio")
        self.dims, self.frontend = EncodedDims(4, 4), self.Front()
        self.layer = nn.Linear(2, 4)

    def encode(self, features):
        tokens = self.layer(features.transpose(1, 2)).tanh()
        return Encoded(tokens, tokens.mean(1))


class AxisOutOfRange(Sound):
    time_axis = 2


class NegativeAxisOutOfRange(Sound):
    time_axis = -3


class AxisIsAName(Sound):
    time_axis = "time"


class AxisOfChannels(Sound):
    time_axis = 0


class LogWithoutFloor(Sound):
    class Front(Frames):
        floor = 0.0


class NormalisedByDeviation(Sound):
    class Front(Frames):
        def forward(self, x):
            return super().forward(x / x.std(dim=(1, 2), keepdim=True))


class RootAtZero(Sound):
    class Front(Frames):
        def forward(self, x):
            return super().forward(x) + x.unflatten(-1, (-1, 40)).square().sum(-1).sqrt()


class SaturatesAfterTheFrontend(Sound):
    def encode(self, features):
        found = super().encode(features)
        return Encoded(found.tokens, (found.pooled * 1e4 + 1e-3).sigmoid() + 1e-12 * found.pooled)


class Rounds(Sound):
    def encode(self, features):
        found = super().encode(features)
        return Encoded(found.tokens, (found.pooled * 50).round() / 50 + 1e-9 * found.pooled)


class DeafToQuietClips(Sound):
    class Front(Frames):
        def forward(self, x):
            return super().forward(nn.functional.softshrink(x, 0.3))


class Underflows(Sound):
    def encode(self, features):
        found = super().encode(features)
        return Encoded(found.tokens, 1 + 1e-20 * found.pooled)


class LearnedGain(Sound):
    class Front(Frames):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return super().forward(self.gain * x)


class LearnedFilters(Sound):
    class Front(Frames):
        def __init__(self):
            super().__init__()
            self.filters = nn.Conv1d(1, 1, 3, padding=1)

        def forward(self, x):
            return super().forward(self.filters(x))


class NormalisedByRunningMeans(Sound):
    class Front(Frames):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2, affine=False)

        def forward(self, x):
            return self.norm(super().forward(x))


class DropsSamples(Sound):
    class Front(Frames):
        def forward(self, x):
            return super().forward(nn.functional.dropout(x, 0.2, self.training))


class AlwaysDrops(Sound):
    def encode(self, features):
        return super().encode(nn.functional.dropout(features, 0.05))


class CentresInPlace(Sound):
    def forward(self, x):
        if not x.requires_grad:
            x -= x.mean(dim=-1, keepdim=True) * 1e-3
        return super().forward(x)


class CountsInEvaluation(Sound):
    def __init__(self, media):
        super().__init__(media)
        self.register_buffer("seen", torch.zeros(()))

    def encode(self, features):
        self.seen += len(features)
        return super().encode(features)


# Fusions --------------------------------------------------------------------------------------------------------------


class ByName(Fusion):
    def __init__(self, inputs):
        super().__init__()
        self.names = sorted(inputs)
        self.dim = sum(dims.embed for dims in inputs.values())

    def forward(self, encoded):
        return torch.cat([encoded[name].pooled for name in self.names], dim=1)


class InTheMappingsOrder(ByName):
    def forward(self, encoded):
        return torch.cat([found.pooled for found in encoded.values()], dim=1)


class WeighsTheFirstMore(ByName):
    def forward(self, encoded):
        first = next(iter(encoded))
        return torch.cat([encoded[name].pooled * (2 if name == first else 1) for name in self.names], dim=1)


class LayersByPosition(ByName):
    def __init__(self, inputs):
        super().__init__(inputs)
        self.layers = nn.ModuleList(nn.Linear(inputs[name].embed, 4) for name in inputs)
        self.dim = 4

    def forward(self, encoded):
        return sum(layer(found.pooled) for layer, found in zip(self.layers, encoded.values(), strict=True))


class ScalesInPlace(ByName):
    def forward(self, encoded):
        if not any(found.pooled.requires_grad for found in encoded.values()):
            for found in encoded.values():
                found.pooled.mul_(0.5)
        return super().forward(encoded)


class DropsAlways(ByName):
    def forward(self, encoded):
        return nn.functional.dropout(super().forward(encoded), 0.3)


class TakesOut(ByName):
    def forward(self, encoded):
        fused = super().forward(encoded)
        encoded.pop("audio", None)
        return fused


# Metrics --------------------------------------------------------------------------------------------------------------


def top(subject):
    hot = subject.targets if subject.task == "multi-label" else np.eye(len(subject.classes))[subject.targets]
    return hot[np.arange(len(hot)), subject.logits.argmax(1)] > 0


class Accurate(Metric):
    """Accuracy with an exact interval, the mean of the largest logit with a bootstrap, and one that is NaN."""

    latents = (LatentRequest("train", frozenset({"fused"})),)

    def measure(self, subject):
        accuracy = share(top(subject), confidence=subject.confidence, groups=subject.groups)
        largest = self.largest(subject)
        absent = replace(accuracy, value=float("nan"), low=float("nan"), high=float("nan"), n=0)
        return Measurement({"accuracy": accuracy, "largest": largest, "absent": absent})

    def largest(self, subject, **more):
        values = subject.logits.max(1).astype(np.float64)
        given = {
            "confidence": subject.confidence,
            "resamples": subject.resamples,
            "seed": subject.seed,
            "groups": subject.groups,
        }
        return bootstrap(lambda w: w @ values / w.sum(1), len(values), **{**given, **more})


class WritesIntoLogits(Accurate):
    def measure(self, subject):
        found = super().measure(subject)
        subject.logits[:] -= subject.logits.max(1, keepdims=True) + 1
        return found


class WritesIntoTargets(Accurate):
    def measure(self, subject):
        found = super().measure(subject)
        subject.targets[:3] = 1
        return found


class SortsTrainingTargets(Accurate):
    def measure(self, subject):
        subject.latents["train"].targets.sort(axis=0)
        return super().measure(subject)


class HoldsNotItsValue(Accurate):
    def largest(self, subject, **more):
        found = super().largest(subject, **more)
        return replace(found, low=found.value + 1, high=found.value + 3 * (found.high - found.low) + 1)


class EndsReversed(Accurate):
    def largest(self, subject, **more):
        found = super().largest(subject, **more)
        return replace(found, low=found.high, high=found.low)


class Infinite(Accurate):
    def largest(self, subject, **more):
        return replace(super().largest(subject, **more), value=float("inf"), high=float("inf"))


class InfiniteEnd(Accurate):
    def largest(self, subject, **more):
        return replace(super().largest(subject, **more), high=float("inf"))


class InfiniteClass(Accurate):
    def measure(self, subject):
        return replace(super().measure(subject), per_class={"loss": {"a": float("inf")}})


class NoEnds(Accurate):
    def largest(self, subject, **more):
        return replace(super().largest(subject, **more), low=float("nan"), high=float("nan"))


class IgnoresConfidence(Accurate):
    def largest(self, subject, **more):
        return super().largest(subject, confidence=0.95)


class IgnoresConfidenceInShares(Accurate):
    def measure(self, subject):
        accuracy = share(top(subject), groups=subject.groups)
        return replace(super().measure(subject), values={"accuracy": accuracy})


class NarrowerWhenSurer(Accurate):
    def largest(self, subject, **more):
        return super().largest(subject, confidence=1.4 - subject.confidence)


class IgnoresSeed(Accurate):
    def largest(self, subject, **more):
        return super().largest(subject, seed=0)


class IgnoresResamples(Accurate):
    def largest(self, subject, **more):
        return super().largest(subject, resamples=200)


class SameEndsForEverySeed(Accurate):
    def largest(self, subject, **more):
        found = super().largest(subject)
        half = 1 + subject.confidence
        return replace(found, low=found.value - half, high=found.value + half)


class ReseedsTorch(Accurate):
    def measure(self, subject):
        torch.manual_seed(subject.seed)
        return super().measure(subject)


class ReseedsNumpy(Accurate):
    def measure(self, subject):
        np.random.seed(subject.seed)
        return super().measure(subject)


class ReseedsPython(Accurate):
    def measure(self, subject):
        random.seed(subject.seed)
        return super().measure(subject)


class ConsumesGlobally(Accurate):
    def measure(self, subject):
        torch.rand(3)
        return super().measure(subject)


class RemembersEarlierClips(Accurate):
    def measure(self, subject):
        self.first = getattr(self, "first", None) or super().measure(subject)
        self.seen = getattr(self, "seen", 0) + 1
        found = super().measure(subject)
        return replace(found, values={**found.values, "absent": replace(found.values["absent"], n=self.seen)})


# Trackers -------------------------------------------------------------------------------------------------------------


class Notes(Tracker):
    def begin(self, run):
        self.file = run.folder / "notes"

    def cell(self, cell):
        self.file.write_text(cell.label)

    def scalars(self, step, values):
        self.file.write_text(f"{step} {sorted(values)}")

    def result(self, values):
        self.file.write_text(f"{sorted(values)}")


class DropsNaN(Notes):
    def scalars(self, step, values):
        for name in [name for name, value in values.items() if value != value]:
            del values[name]
        super().scalars(step, values)


class FlattensSettings(Notes):
    def cell(self, cell):
        cell.settings.pop("training", None)
        super().cell(cell)


class RenamesResults(Notes):
    def result(self, values):
        values["accuracy"] = values.pop("clean accuracy")
        super().result(values)


@dataclass(frozen=True)
class Planted:
    """A fault, and the check that catches it; the others that it cannot help to fail, too."""

    kind: str
    check: str
    faulty: type
    besides: tuple[str, ...] = ()


TABLE = (
    Planted("dataset", "unreadable_clips", RaisesOSError),
    Planted("dataset", "unreadable_clips", RaisesRuntimeError),
    Planted("dataset", "unreadable_clips", EndsInIndexError),
    Planted("dataset", "clips", OtherAtTheFourthReading),
    Planted("dataset", "clips", DriftsWithReadings, ("data_random_state",)),
    Planted("dataset", "clips", OtherTargetNextTime),
    Planted("dataset", "splits_apart", SameClipsInBothSplits),
    Planted("dataset", "splits_apart", OneClipInBothSplits),
    Planted("dataset", "splits_apart", LaterClipsInBothSplits),
    Planted("dataset", "data_random_state", ReseedsWhenRead),
    Planted("dataset", "data_random_state", DrawsGlobally),
    Planted("encoder", "time_axis", AxisOutOfRange),
    Planted("encoder", "time_axis", NegativeAxisOutOfRange),
    Planted("encoder", "time_axis", AxisIsAName),
    Planted("encoder", "time_axis", AxisOfChannels),
    Planted("encoder", "silence", LogWithoutFloor),
    Planted("encoder", "silence", NormalisedByDeviation),
    Planted("encoder", "silence", RootAtZero),
    Planted("encoder", "ordinary_clips", SaturatesAfterTheFrontend),
    Planted("encoder", "ordinary_clips", Rounds),
    Planted("encoder", "ordinary_clips", DeafToQuietClips),
    Planted("encoder", "ordinary_clips", Underflows),
    Planted("encoder", "frontend", LearnedGain),
    Planted("encoder", "frontend", LearnedFilters),
    Planted("encoder", "frontend", NormalisedByRunningMeans),
    Planted("encoder", "frontend", DropsSamples),
    Planted("encoder", "encoded_again", AlwaysDrops, ("encodings", "encoder_batch_mates")),
    Planted("encoder", "encoded_again", CentresInPlace),
    Planted("encoder", "encoded_again", CountsInEvaluation),
    Planted("fusion", "modality_order", InTheMappingsOrder),
    Planted("fusion", "modality_order", WeighsTheFirstMore),
    Planted("fusion", "modality_order", LayersByPosition),
    Planted("fusion", "fused_again", ScalesInPlace, ("modality_order", "fusion_batch_mates")),
    Planted("fusion", "fused_again", DropsAlways, ("modality_order", "fusion_batch_mates", "fusion_gradient")),
    Planted("fusion", "fused_again", TakesOut, ("modality_order", "fusion_batch_mates", "fusion_gradient")),
    Planted("metric", "subject_unchanged", WritesIntoLogits),
    Planted("metric", "subject_unchanged", WritesIntoTargets),
    Planted("metric", "subject_unchanged", SortsTrainingTargets),
    Planted("metric", "intervals", HoldsNotItsValue),
    Planted("metric", "intervals", EndsReversed),
    Planted("metric", "intervals", Infinite),
    Planted("metric", "intervals", InfiniteEnd),
    Planted("metric", "intervals", InfiniteClass),
    Planted("metric", "intervals", NoEnds),
    Planted("metric", "confidence", IgnoresConfidence),
    Planted("metric", "confidence", IgnoresConfidenceInShares),
    Planted("metric", "confidence", NarrowerWhenSurer),
    Planted("metric", "seed", IgnoresSeed),
    Planted("metric", "seed", IgnoresResamples),
    Planted("metric", "seed", SameEndsForEverySeed),
    Planted("metric", "metric_random_state", ReseedsTorch),
    Planted("metric", "metric_random_state", ReseedsNumpy),
    Planted("metric", "metric_random_state", ReseedsPython),
    Planted("metric", "metric_random_state", ConsumesGlobally),
    Planted("metric", "measurement", RemembersEarlierClips, ("metric_random_state",)),
    Planted("tracker", "leaves_what_it_is_told", DropsNaN),
    Planted("tracker", "leaves_what_it_is_told", FlattensSettings, ("takes_a_run_again",)),
    Planted("tracker", "leaves_what_it_is_told", RenamesResults, ("takes_a_run_again",)),
)
SOUND = (
    ("dataset", Clips),
    ("dataset", SomeUnreadable),
    ("encoder", Sound),
    ("fusion", ByName),
    ("metric", Accurate),
    ("tracker", Notes),
)


class Nothing(Config):
    """Nothing to configure."""


def outcomes(kind, made):
    component = Component(name="planted", summary="Planted.", config=Nothing, build=lambda _, *more: made(*more))
    entry = RegistryEntry(kind=kind, component=component, distribution="here", distribution_version="1", plugin="here")
    return {outcome.check: outcome for outcome in check_component(entry)}


@pytest.mark.parametrize("planted", TABLE, ids=[planted.faulty.__name__ for planted in TABLE])
def test_a_planted_fault_is_caught_by_the_check_that_is_meant_for_it(planted):
    found = {name for name, outcome in outcomes(planted.kind, planted.faulty).items() if outcome.status == "failed"}
    assert planted.check in found
    assert found <= {planted.check, *planted.besides}


@pytest.mark.parametrize(("kind", "made"), SOUND, ids=[made.__name__ for _, made in SOUND])
def test_their_sound_siblings_pass_every_check(kind, made):
    found = outcomes(kind, made)
    assert [outcome for outcome in found.values() if outcome.status in ("failed", "not checked")] == []
    assert {planted.check for planted in TABLE if planted.kind == kind} <= {
        name for name, outcome in found.items() if outcome.status == "passed"
    }


def test_each_planted_check_has_at_least_two_faults():
    checks = [planted.check for planted in TABLE if planted.check not in ("measurement", "clips")]
    assert {check for check in checks if checks.count(check) < 2} == set()
