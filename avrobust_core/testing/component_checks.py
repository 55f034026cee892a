"""Checks of what plugins offer besides attacks, and of the plugins themselves."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from avrobust_core.batches import Batch, Clip, Encoded
from avrobust_core.components import Config
from avrobust_core.config_errors import nested_models
from avrobust_core.contracts import (
    Attack,
    Augmentation,
    Dataset,
    EncodedDims,
    Encoder,
    Fusion,
    Metric,
    Subject,
    TrainingStep,
)
from avrobust_core.discovery import Offer, PluginRecord
from avrobust_core.errors import AvrobustError, ClipError
from avrobust_core.media import MediaSpec
from avrobust_core.plugin_loading import one_line
from avrobust_core.testing.attack_checks import ATTACK_CHECKS
from avrobust_core.testing.oracles import LinearOracle
from avrobust_core.testing.running import Check, CheckFailed, NotApplicable, Outcome, check, run_check
from avrobust_core.testing.subjects import AttackSubject

_BASES: Mapping[str, type[Any]] = {
    "dataset": Dataset,
    "encoder": Encoder,
    "fusion": Fusion,
    "attack": Attack,
    "metric": Metric,
    "augmentation": Augmentation,
}

MEDIA: tuple[MediaSpec, ...] = (
    MediaSpec(kind="audio", shape=(1, 16_000), rate=16_000, bounds=(-1.0, 1.0), time_axis=1),
    MediaSpec(kind="video", shape=(3, 8, 32, 32), rate=8, bounds=(0.0, 1.0), time_axis=1),
    MediaSpec(kind="video", shape=(3, 16, 64, 64), rate=16, bounds=(0.0, 1.0), time_axis=1),
    MediaSpec(kind="video", shape=(3, 32, 224, 224), rate=16, bounds=(0.0, 1.0), time_axis=1),
)
"""What encoders are tried with, after the media of the data sets that their own plugin's distribution offers."""

DIMS: Mapping[str, EncodedDims] = {"audio": EncodedDims(token=6, embed=5), "video": EncodedDims(token=4, embed=7)}
"""What fusions are built for."""

CLIPS = 3


@dataclass(frozen=True, slots=True)
class OfferSubject:
    """A component that is checked.

    Attributes:
        offer: what is offered, by whom.
        media: what encoders are tried with, in this order; the first that one accepts is used.
    """

    offer: Offer
    media: tuple[MediaSpec, ...] = field(default=MEDIA)

    def config(self) -> Config:
        """The configuration of the component's example."""
        component = self.offer.component
        config: Config = component.config.model_validate(dict(component.example))
        return config

    def build(self) -> Any:
        """The component, made from its example."""
        return self.build_with_media()[0]

    def build_with_media(self) -> tuple[Any, MediaSpec | None]:
        """The component, and, if it is an encoder, the media that it was built for.

        Raises:
            CheckFailed: if building raised, or gave something else than its kind should be.
            NotApplicable: if it refuses: its example needs files, or media, that are not here.
        """
        component, kind = self.offer.component, self.offer.kind
        choices: tuple[tuple[Any, ...], ...] = {
            "encoder": tuple((media,) for media in self.media),
            "fusion": ((dict(DIMS),),),
        }.get(kind, ((),))
        refusals: list[str] = []
        for arguments in choices:
            try:
                made = component.build(self.config(), *arguments)
            except (AvrobustError, OSError) as error:
                refusals.append(str(error))
                continue
            except Exception as error:
                raise CheckFailed(
                    f"building its example raised {one_line(error)}: refuse what cannot be built with an AvrobustError "
                    "that says why"
                ) from error
            if not isinstance(made, _BASES[kind]):
                raise CheckFailed(f"build returned a {type(made).__name__}, not an avrobust_core.{_BASES[kind].__name__}")
            return made, arguments[0] if kind == "encoder" else None
        raise NotApplicable(f"it cannot be built from its example here: {'; '.join(dict.fromkeys(refusals))}")


@check()
def check_imports_without_torch(plugin: PluginRecord) -> None:
    """Importing the plugin's module does not import torch."""
    code = "import importlib, sys; importlib.import_module(sys.argv[1].partition(':')[0]); print('torch' in sys.modules)"
    path = "import sys; sys.path[:0] = " + repr([entry for entry in sys.path if entry]) + "; "
    command = [sys.executable, "-c", path + code, plugin.module]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if found.returncode:
        raise CheckFailed(f"importing {plugin.module} in a process of its own failed: {found.stderr.strip()[-300:]}")
    if found.stdout.strip().endswith("True"):
        raise CheckFailed(
            f"importing {plugin.module} imports torch, and every `avrobust` command waits for it: import what is heavy "
            "inside the components' build functions"
        )


@check()
def check_described_fields(subject: OfferSubject) -> None:
    """Every field of the configuration is described."""
    bare = list(_undescribed(subject.offer.component.config, ()))
    if bare:
        raise CheckFailed(f"no description of {', '.join(bare)}: put a docstring below each field, `avrobust show` prints it")


@check()
def check_example(subject: OfferSubject) -> None:
    """The example is a valid configuration, and what of it decides results is JSON data."""
    try:
        config = subject.config()
    except Exception as error:
        raise CheckFailed(f"its example {dict(subject.offer.component.example)} is not valid: {one_line(error)}") from error
    try:
        json.dumps(config.identity())
    except (TypeError, ValueError) as error:
        raise CheckFailed(f"identity() is not JSON data, so that no result can be kept under it: {error}") from error


@check()
def check_build(subject: OfferSubject) -> None:
    """Building the example gives what the component's kind should be."""
    subject.build()


@check()
def check_encodings(subject: OfferSubject) -> None:
    """Tokens (B, T, D) and pooled (B, E), as the encoder's dims say: float32, finite; forward is frontend, then encode."""
    encoder, x = _encoder(subject)
    with torch.no_grad():
        encoded = cast(Encoded, encoder(x))
        again = encoder.encode(encoder.frontend(x))
    for name, tensor, width, rank in (
        ("tokens", encoded.tokens, encoder.dims.token, 3),
        ("pooled", encoded.pooled, encoder.dims.embed, 2),
    ):
        if tensor.dim() != rank or len(tensor) != len(x) or tensor.shape[-1] != width:
            raise CheckFailed(f"{name} is {tuple(tensor.shape)}, but dims says {encoder.dims}, of a batch of {len(x)}")
        if tensor.dtype != torch.float32 or not bool(tensor.isfinite().all()):
            raise CheckFailed(f"{name} is {tensor.dtype}, or not finite, on clips drawn from the whole of their bounds")
    if not torch.allclose(again.pooled, encoded.pooled, rtol=1e-4, atol=1e-5):
        raise CheckFailed(
            "encode(frontend(x)) is not forward(x): attacks on features attack between the two; override neither alone"
        )


@check()
def check_encoder_gradient(subject: OfferSubject) -> None:
    """A gradient reaches every clip of the raw input."""
    encoder, x = _encoder(subject)
    x.requires_grad_()
    encoded = cast(Encoded, encoder(x))
    weight = torch.linspace(-1, 1, encoder.dims.embed)
    _reaches(x, (encoded.pooled * weight).sum(), "the raw input")


@check()
def check_encoder_batch_mates(subject: OfferSubject) -> None:
    """In evaluation mode a clip's encoding does not depend on its batch mates."""
    encoder, x = _encoder(subject)
    with torch.no_grad():
        whole = cast(Encoded, encoder(x)).pooled
        single = torch.cat([cast(Encoded, encoder(x[i : i + 1])).pooled for i in range(len(x))])
    _same(whole, single, "an encoding")


@check()
def check_fused(subject: OfferSubject) -> None:
    """The fused embedding is (B, F) or (B, L, F) as the fusion's dim says, finite, and its head gives logits (B, K)."""
    fusion, encoded = _fusion(subject)
    with torch.no_grad():
        fused = fusion(encoded)
        logits = fusion.make_head(4).eval()(fused)
    if fused.dim() not in (2, 3) or len(fused) != CLIPS or fused.shape[-1] != fusion.dim:
        raise CheckFailed(f"the fused embedding is {tuple(fused.shape)}, but dim = {fusion.dim}, of a batch of {CLIPS}")
    if tuple(logits.shape) != (CLIPS, 4) or not bool(logits.isfinite().all()):
        raise CheckFailed(f"the head gives {tuple(logits.shape)}, or not finite, where logits ({CLIPS}, 4) are wanted")


@check()
def check_fusion_gradient(subject: OfferSubject) -> None:
    """A gradient reaches every modality of every clip."""
    fusion, encoded = _fusion(subject)
    leaves = {name: (e.tokens.requires_grad_(), e.pooled.requires_grad_()) for name, e in encoded.items()}
    logits = fusion.make_head(4)(fusion(encoded))
    total = (logits * torch.tensor([1.0, -2.0, 3.0, 0.5])).sum()
    for name, pair in leaves.items():
        grads = torch.autograd.grad(total, pair, allow_unused=True, materialize_grads=True, retain_graph=True)
        if not bool(sum(g.flatten(1).abs().sum(dim=1) for g in grads).gt(0).all()):  # type: ignore[union-attr]
            raise CheckFailed(f"no gradient reaches {name}: an attack on it would measure nothing")


@check()
def check_fusion_batch_mates(subject: OfferSubject) -> None:
    """In evaluation mode a clip's fused embedding does not depend on its batch mates."""
    fusion, encoded = _fusion(subject)
    with torch.no_grad():
        whole = fusion(encoded)
        parts = [{n: e.select(torch.tensor([i])) for n, e in encoded.items()} for i in range(CLIPS)]
        _same(whole, torch.cat([fusion(part) for part in parts]), "a fused embedding")


@check()
def check_ids(subject: OfferSubject) -> None:
    """There are splits "train" and "test", and every clip's id is unique over all splits."""
    dataset = cast(Dataset, subject.build())
    missing = {"train", "test"} - set(dataset.splits)
    if missing:
        raise CheckFailed(f"there is no split {', '.join(sorted(missing))}; a study trains on one and attacks the other")
    seen: dict[str, str] = {}
    for split in dataset.splits:
        for clip_id in dataset.ids(split):
            if clip_id in seen:
                raise CheckFailed(f"the id {clip_id!r} is in {seen[clip_id]!r} and in {split!r}: results are kept by id")
            seen[clip_id] = split


@check()
def check_clips(subject: OfferSubject) -> None:
    """A clip read twice, and by a copy as worker processes get it, is the same, and is what its MediaSpec says."""
    dataset = cast(Dataset, subject.build())
    copy = cast(Dataset, pickle.loads(pickle.dumps(dataset)))  # noqa: S301 - our own bytes
    other = cast(Dataset, subject.build())
    if not dataset.fingerprint() == copy.fingerprint() == other.fingerprint():
        raise CheckFailed("fingerprint() differs between two data sets of one configuration: no result could be reused")
    for split in dataset.splits:
        ids = dataset.ids(split)
        for index in {0, len(ids) - 1} if ids else ():
            try:
                clip = dataset.read(split, index)
            except ClipError:
                continue
            again = copy.read(split, index)
            if clip.id != ids[index]:
                raise CheckFailed(f"read({split!r}, {index}) has the id {clip.id!r}, but ids() says {ids[index]!r}")
            if any(not torch.equal(x, again.inputs[name]) for name, x in clip.inputs.items()):
                raise CheckFailed(f"clip {clip.id!r} read twice is not the same: draw from clip_generator(seed, id, ...)")
            _as_stated(dataset, clip)


@check()
def check_measurement(subject: OfferSubject) -> None:
    """It measures predictions of each of its tasks, the same twice."""
    metric = cast(Metric, subject.build())
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(24, 4, generator=generator)
    targets = torch.randint(4, (24,), generator=generator)
    for task in sorted(metric.tasks):
        wanted = targets if task == "single-label" else nn.functional.one_hot(targets, 4).float()
        given = Subject(
            ids=tuple(f"clip-{i}" for i in range(24)),
            logits=logits.numpy(),
            targets=wanted.numpy(),
            classes=("a", "b", "c", "d"),
            task=task,
            resamples=50,
        )
        first, second = metric.measure(given), metric.measure(given)
        if not first.values or first.values != second.values:
            raise CheckFailed(f"measuring the same {task} predictions twice gave {first.values} and {second.values}")


@check()
def check_batch_unchanged(subject: OfferSubject) -> None:
    """The batch that it is given is not changed, and what it returns is a batch of clips of the same shapes."""
    augmentation = cast(Augmentation, subject.build())
    generator = torch.Generator().manual_seed(0)
    oracle = LinearOracle.random(classes=4)
    inputs = {name: torch.rand(6, *shape, generator=generator) for name, shape in _SHAPES.items()}
    batch = Batch(inputs, torch.randint(4, (6,), generator=generator), tuple(f"clip-{i}" for i in range(6)))
    kept = {name: x.clone() for name, x in inputs.items()}, batch.targets.clone()
    step = TrainingStep(epoch=1, seed=0, model=oracle.train(), classes=4, task="single-label")
    try:
        found = augmentation(batch, step)
    except AvrobustError as error:
        raise NotApplicable(f"it refuses a plain batch: {error}") from error
    if not torch.equal(batch.targets, kept[1]) or any(not torch.equal(x, kept[0][n]) for n, x in batch.inputs.items()):
        raise CheckFailed("it changed the batch that it was given, in place: return a new one")
    if any(found.inputs[name].shape[1:] != x.shape[1:] for name, x in inputs.items()):
        raise CheckFailed("it returned clips of other shapes than it was given")


_SHAPES = {"audio": (1, 12), "video": (2, 2, 2, 2)}

_OF_ALL: tuple[Check[OfferSubject], ...] = (check_described_fields, check_example, check_build)

COMPONENT_CHECKS: Mapping[str, tuple[Check[OfferSubject], ...]] = {
    "dataset": (*_OF_ALL, check_ids, check_clips),
    "encoder": (*_OF_ALL, check_encodings, check_encoder_gradient, check_encoder_batch_mates),
    "fusion": (*_OF_ALL, check_fused, check_fusion_gradient, check_fusion_batch_mates),
    "attack": _OF_ALL,
    "metric": (*_OF_ALL, check_measurement),
    "augmentation": (*_OF_ALL, check_batch_unchanged),
}
"""The checks of each kind of component; attacks have `ATTACK_CHECKS` besides."""

PLUGIN_CHECKS: tuple[Check[PluginRecord], ...] = (check_imports_without_torch,)
"""The checks of a plugin as a whole."""


def check_offer(offer: Offer, media: tuple[MediaSpec, ...] = ()) -> Iterator[Outcome]:
    """Run every check of a component, as its example configures it, and yield what comes of each.

    Args:
        offer: the component.
        media: what an encoder is tried with before `MEDIA`.
    """
    outcomes = []
    for found in COMPONENT_CHECKS[offer.kind]:
        outcomes.append(run_check(OfferSubject(offer, (*media, *MEDIA)), found))
        yield outcomes[-1]
    if offer.kind == "attack" and all(outcome.status == "passed" for outcome in outcomes[1:]):
        subject = AttackSubject.of_component(offer.component, name=offer.full_name)
        for attack_check in ATTACK_CHECKS:
            yield run_check(subject, attack_check)


def media_of(offers: tuple[Offer, ...]) -> tuple[MediaSpec, ...]:
    """What the data sets among these components say of their media; those that cannot be built here are left out."""
    found: list[MediaSpec] = []
    for offer in offers:
        if offer.kind == "dataset":
            try:
                found.extend(cast(Dataset, OfferSubject(offer).build()).media.values())
            except Exception:  # noqa: BLE001, S112 - its own checks say what is wrong with it
                continue
    return tuple(found)


def _undescribed(model: type[BaseModel], above: tuple[type[BaseModel], ...]) -> Iterator[str]:
    for name, info in model.model_fields.items():
        if not (info.description or "").strip():
            yield f"{model.__name__}.{name}"
        for nested in nested_models(info.annotation):
            if nested not in (*above, model):
                yield from _undescribed(nested, (*above, model))


def _encoder(subject: OfferSubject) -> tuple[Encoder, Tensor]:
    """The encoder in evaluation mode, and clips drawn from the whole of their bounds."""
    encoder, media = subject.build_with_media()
    assert media is not None
    low, high = media.bounds or (-1.0, 1.0)
    generator = torch.Generator().manual_seed(0)
    return encoder.eval(), low + (high - low) * torch.rand(CLIPS, *media.shape, generator=generator)


def _fusion(subject: OfferSubject) -> tuple[Fusion, dict[str, Encoded]]:
    generator = torch.Generator().manual_seed(0)
    encoded = {
        name: Encoded(
            tokens=torch.randn(CLIPS, 3 + i, dims.token, generator=generator),
            pooled=torch.randn(CLIPS, dims.embed, generator=generator),
        )
        for i, (name, dims) in enumerate(DIMS.items())
    }
    return cast(Fusion, subject.build()).eval(), encoded


def _reaches(x: Tensor, total: Tensor, what: str) -> None:
    if not total.requires_grad:
        raise CheckFailed(f"no gradient reaches {what}: an attack on it would measure nothing")
    (gradient,) = torch.autograd.grad(total, [x], allow_unused=True, materialize_grads=True)
    sizes = gradient.flatten(1).abs().sum(dim=1)
    if not bool((sizes > 0).all()) or not bool(sizes.isfinite().all()):
        raise CheckFailed(f"the gradient that reaches {what} is 0, or not finite, for some clip")


def _same(whole: Tensor, single: Tensor, what: str) -> None:
    if not torch.allclose(whole, single, rtol=1e-3, atol=1e-4 * float(whole.abs().max())):
        raise CheckFailed(
            f"{what} of a clip by itself is not what it is in a batch (off by up to {float((whole - single).abs().max()):.2g})"
            ": in evaluation mode nothing may be normalised or taken over the batch"
        )


def _as_stated(dataset: Dataset, clip: Clip) -> None:
    for name, spec in dataset.media.items():
        x = clip.inputs.get(name)
        if x is None or tuple(x.shape) != spec.shape or x.dtype != torch.float32:
            found = "missing" if x is None else f"{x.dtype} {tuple(x.shape)}"
            raise CheckFailed(f"{name} of clip {clip.id!r} is {found}; its MediaSpec says float32 {spec.shape}")
        low, high = spec.bounds or (-torch.inf, torch.inf)
        if not bool(((x >= low) & (x <= high)).all()):
            raise CheckFailed(f"{name} of clip {clip.id!r} is outside the bounds [{low}, {high}] of its MediaSpec, or NaN")
    target, classes = clip.target, len(dataset.classes)
    single = dataset.task == "single-label"
    shape, kind = ((), torch.int64) if single else ((classes,), torch.float32)
    if tuple(target.shape) != shape or target.dtype != kind or (single and not 0 <= int(target) < classes):
        raise CheckFailed(f"the target of clip {clip.id!r} is {target!r}, which a {dataset.task} clip cannot have")
