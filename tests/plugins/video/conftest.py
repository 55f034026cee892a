"""What the tests of video encoders share: building by name, statistics as after training, comparison with originals."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from avrobust_video.plugin import avrobust_encoders
from torch import Tensor, nn

from avrobust_core import AVModel, Component, Encoder, MediaSpec
from avrobust_core.models.weights import load_checkpoint, load_fitting_head, read_checkpoint

COMPONENTS: dict[str, Component] = {component.name: component for component in avrobust_encoders()}


@dataclass(frozen=True)
class Published:
    """An encoder with the head of its checkpoint, and the layout in which that was found."""

    model: AVModel
    layout: str

    def logits(self, clips: Tensor) -> Tensor:
        return self.model({"video": clips})


@pytest.fixture(scope="session")
def make() -> Callable[..., Encoder]:
    def made(name: str, *shape: int, kind: str = "video", **fields: object) -> Encoder:
        torch.manual_seed(0)
        media = MediaSpec(kind=kind, shape=shape, rate=8, bounds=(0, 1))
        return COMPONENTS[name].make(COMPONENTS[name].config(**fields), media)

    return made


@pytest.fixture(scope="session")
def shaken() -> Callable[[nn.Module], nn.Module]:
    """Random statistics and scales of normalisation, so that no part of one may be forgotten; in evaluation mode."""

    def shake(module: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(5)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm3d | nn.BatchNorm2d):
                for tensor, low, high in (
                    (part.weight, 0.5, 1.2),
                    (part.bias, -0.3, 0.3),
                    (part.running_mean, -0.3, 0.3),
                    (part.running_var, 0.5, 2.0),
                ):
                    nn.init.uniform_(tensor, low, high, generator=generator)
        return module.eval()

    return shake


@pytest.fixture(scope="session")
def load() -> Callable[..., Published]:
    """The encoder as a model, with encoder and head loaded from a file as a study does."""

    def loaded(encoder: Encoder, path: Path, classes: int) -> Published:
        model = AVModel({"video": encoder}, None, classes)
        layout, head = load_checkpoint(encoder, read_checkpoint(path), encoder.layouts, path.name)
        assert load_fitting_head(model.head, head)
        return Published(model.eval(), layout)

    return loaded


@pytest.fixture(scope="session")
def agree() -> Callable[..., None]:
    """Asserts logits to 1e-4 in float32, and the gradient of a weighted sum of them to 1e-3 of the largest in float64.

    In float32 some of the millions of ReLUs and maxima are so close to their kink that rounding decides, and the pixels
    before them get another gradient. In float64 that is rare, and any difference is one of the networks.
    """

    def check(
        ours: Published,
        network: nn.Module,
        logits: Callable[[Tensor], Tensor],
        clips: Tensor,
        gradients: bool = True,
    ) -> None:
        with torch.no_grad():
            close(ours.logits(clips), logits(clips), 1e-4)
        if gradients:
            close(*slopes(ours, network, logits, clips), 1e-3)

    def slopes(
        ours: Published, network: nn.Module, logits: Callable[[Tensor], Tensor], clips: Tensor
    ) -> tuple[Tensor, Tensor]:
        found = []
        for module, function in ((ours.model, ours.logits), (network, logits)):
            module.double()
            x = clips.double().requires_grad_()
            values = function(x)
            weights = torch.linspace(-1, 1, values.shape[1], dtype=torch.float64)
            found.append(torch.autograd.grad((values * weights).sum(), x)[0])
            module.float()
        return found[0], found[1]

    def close(a: Tensor, b: Tensor, tolerance: float) -> None:
        assert a.shape == b.shape
        assert float((a - b).abs().max()) <= tolerance * float(b.abs().max()) > 0

    return check


@pytest.fixture(scope="session")
def clips() -> Callable[..., Tensor]:
    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=torch.Generator().manual_seed(1))

    return draw
