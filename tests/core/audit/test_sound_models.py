"""Ten sound models, each attacked soundly: no check of the audit raises a false alarm."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import avrobust_core

CLASSES, TRAIN, TEST = 5, 400, 120
BOUNDS = {"audio": (-1.0, 1.0), "video": (0.0, 1.0), "depth": (0.0, 1.0)}
EPS = {"audio": 0.02, "video": 0.02, "depth": 0.02}

Inputs = dict[str, Tensor]


def clips(count: int, seed: int, labels: int) -> tuple[Inputs, Tensor]:
    """Clips of tones, moving colours and slopes; some classes are clearer in one modality than in another."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(count, CLASSES, generator=generator)
    own = torch.zeros(count, CLASSES).scatter(1, scores.topk(labels, dim=1).indices, 1.0)
    time = torch.arange(256) / 256
    tones = torch.stack([torch.sin(2 * torch.pi * (8 + 9 * k) * time) for k in range(CLASSES)])
    colours = torch.rand(CLASSES, 3, 1, 1, 1, generator=torch.Generator().manual_seed(9))
    slopes = torch.stack([torch.linspace(0, 1, 8).roll(k).view(1, 8).expand(8, 8) for k in range(CLASSES)])

    def strengths(low: float, high: float) -> Tensor:
        return own * (low + (high - low) * torch.rand(count, CLASSES, generator=generator))

    audio = torch.einsum("nk,kt->nt", strengths(0.03, 0.3), tones).unsqueeze(1)
    audio = audio.roll(int(torch.randint(0, 64, (), generator=generator)), -1)
    video = torch.einsum("nk,kcthw->ncthw", strengths(0.1, 0.5), colours.expand(-1, -1, 4, 8, 8))
    depth = torch.einsum("nk,khw->nhw", strengths(0.1, 0.4), slopes).unsqueeze(1)
    inputs = {
        "audio": (audio + 0.08 * torch.randn(audio.shape, generator=generator)).clamp(-1, 1),
        "video": (video + 0.3 * torch.rand(video.shape, generator=generator)).clamp(0, 1),
        "depth": (depth + 0.3 * torch.rand(depth.shape, generator=generator)).clamp(0, 1),
    }
    return inputs, own if labels > 1 else own.argmax(dim=1)


class Linear(nn.Module):
    """A linear map of each modality."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.ModuleDict({"audio": nn.Linear(256, CLASSES), "video": nn.Linear(768, CLASSES)})

    def forward(self, inputs: Inputs) -> Tensor:
        return sum(part(inputs[name].flatten(1)) for name, part in self.maps.items())


class Convolutions(nn.Module):
    """Two convolutions for each modality, with maximum or mean over what is left, and one linear head."""

    def __init__(self, width: int = 8, *, norm: bool = False, drop: float = 0.0, depth: bool = False) -> None:
        super().__init__()

        def block(kind: int, channels: int) -> list[nn.Module]:
            convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[kind]
            normalisation = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[kind]
            stride: Any = (4, 2, (1, 2, 2))[kind]
            made: list[nn.Module] = [convolution(channels, width, (9, 3, 3)[kind], stride, (4, 1, 1)[kind])]
            made += [normalisation(width)] if norm else []
            return [*made, nn.ReLU(), *([nn.Dropout(drop)] if drop else [])]

        parts = {"audio": (0, 1), "video": (2, 3)} | ({"depth": (1, 1)} if depth else {})
        self.parts = nn.ModuleDict(
            {
                name: nn.Sequential(*block(kind, channels), *block(kind, width))
                for name, (kind, channels) in parts.items()
            }
        )
        self.head = nn.Linear(2 * width * len(parts), CLASSES)

    def forward(self, inputs: Inputs) -> Tensor:
        found = [part(inputs[name]).flatten(2) for name, part in self.parts.items()]
        return self.head(torch.cat([each for x in found for each in (x.amax(dim=2), x.mean(dim=2))], dim=1))


class Transformer(nn.Module):
    """One layer of attention over pieces of the sound and of the film."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.audio, self.video = nn.Linear(32, width), nn.Linear(192, width)
        self.places = nn.Parameter(0.02 * torch.randn(1, 12, width))
        self.layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.1, batch_first=True)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, inputs: Inputs) -> Tensor:
        audio = self.audio(inputs["audio"].reshape(-1, 8, 32) * 3)
        video = self.video(inputs["video"].permute(0, 2, 1, 3, 4).flatten(2))
        return self.head(self.layer(torch.cat([audio, video], dim=1) + self.places).mean(dim=1))


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    return (
        F.cross_entropy(logits, targets) if targets.dim() == 1 else F.binary_cross_entropy_with_logits(logits, targets)
    )


def fitted(make: Callable[[], nn.Module], labels: int, robust: bool, epochs: int) -> nn.Module:
    """A model trained in a second or two; `robust` against one step from a random start."""
    inputs, targets = clips(TRAIN, seed=1, labels=labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make()
        optimizer = torch.optim.Adam(model.parameters(), 5e-3)
        for _ in range(epochs):
            for index in torch.randperm(TRAIN).split(40):
                x, y = {name: each[index] for name, each in inputs.items()}, targets[index]
                if robust:
                    x = one_step(model, x, y)
                optimizer.zero_grad()
                loss_of(model(x), y).backward()
                optimizer.step()
    return model.eval()


def one_step(model: nn.Module, inputs: Inputs, targets: Tensor) -> Inputs:
    start = {name: (x + EPS[name] * (2 * torch.rand_like(x) - 1)).requires_grad_() for name, x in inputs.items()}
    found = torch.autograd.grad(loss_of(model(start), targets), list(start.values()), allow_unused=True)
    return {
        name: x if g is None else x + (start[name].detach() + EPS[name] * g.sign() - x).clamp(-EPS[name], EPS[name])
        for (name, x), g in zip(inputs.items(), found, strict=True)
    }


MODELS: dict[str, tuple[Callable[[], nn.Module], int, bool, int]] = {
    "linear": (Linear, 1, False, 20),
    "linear, robust": (Linear, 1, True, 20),
    "convolutions": (Convolutions, 1, False, 8),
    "convolutions, robust": (Convolutions, 1, True, 8),
    "batch normalisation": (lambda: Convolutions(norm=True), 1, False, 8),
    "batch normalisation and dropout, robust": (lambda: Convolutions(norm=True, drop=0.2), 1, True, 8),
    "wide": (lambda: Convolutions(width=48), 1, False, 4),
    "three modalities": (lambda: Convolutions(depth=True), 1, False, 8),
    "transformer": (Transformer, 1, False, 15),
    "transformer, robust": (Transformer, 1, True, 15),
    "several labels": (Convolutions, 2, False, 8),
    "several labels, three modalities, robust": (lambda: Convolutions(depth=True, norm=True), 2, True, 8),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_sound_model_that_is_attacked_soundly_passes(name: str) -> None:
    make, labels, robust, epochs = MODELS[name]
    model = fitted(make, labels, robust, epochs)
    inputs, targets = clips(TEST, seed=0, labels=labels)
    read = sorted(getattr(model, "parts", ("audio", "video")))
    inputs = {modality: inputs[modality] for modality in read}
    budgets = {modality: {"norm": "linf", "eps": EPS[modality]} for modality in read}
    # With several labels the loss that lowers the hit at rank one is the margin.
    pgd = {"use": "avrobust:pgd", "with": {"steps": 20, "loss": "ce" if labels == 1 else "margin"}}
    found = avrobust_core.evaluate(
        model,
        [({m: x[i : i + 40] for m, x in inputs.items()}, targets[i : i + 40]) for i in range(0, TEST, 40)],
        attacks={"pgd": pgd},
        threats={"all": budgets} | {modality: {modality: budgets[modality]} for modality in read},
        bounds={modality: BOUNDS[modality] for modality in read},
        task="single-label" if labels == 1 else "multi-label",
        resamples=100,
    )
    audit = found.summary["audit"]
    robust_accuracy = found.summary["robust_accuracy"]["pgd"]["all"]["value"]
    failed = [(c["check"], c["threat"], c["message"]) for c in audit["checks"] if c["status"] == "failed"]
    assert not failed, (found.summary["clean_accuracy"]["value"], robust_accuracy, failed)
    assert not audit["contradictions"]
    assert not found.summary["caveats"]
    assert audit["passes"] <= 0.25 * audit["attack_passes"]
    assert found.summary["clean_accuracy"]["value"] > 0.5, "a model that knows nothing shows nothing"
