"""What the tests of vision transformers share: building by name, reading files, comparison with originals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from avrobust_audio import plugin as audio
from avrobust_fusion import plugin as fusion
from safetensors.torch import save_file
from torch import Tensor, nn

from avrobust_core import AVModel, Component, EncodedDims, Encoder, MediaSpec
from avrobust_core.models.weights import load_checkpoint, load_fitting_head, read_checkpoint

COMPONENTS: dict[str, Component] = {
    c.name: c for c in (*audio.avrobust_encoders(), *fusion.avrobust_encoders(), *fusion.avrobust_fusions())
}

MEDIA = {
    "audio": MediaSpec(kind="audio", shape=(1, 16_000), rate=16_000, bounds=(-1, 1), time_axis=1),
    "video": MediaSpec(kind="video", shape=(3, 5, 48, 32), rate=5, bounds=(0, 1), time_axis=1),
}


@pytest.fixture(scope="session")
def make() -> Callable[..., Any]:
    """Builds an encoder or the fusion with weights drawn from the seed 0."""

    def made(name: str, media: MediaSpec | dict[str, EncodedDims] | None = None, **fields: object) -> Any:
        torch.manual_seed(0)
        media = media or MEDIA["video" if name.endswith("video") else "audio"]
        return COMPONENTS[name].make(COMPONENTS[name].config(**fields), media).eval()

    return made


@pytest.fixture(scope="session")
def clips() -> Callable[..., Tensor]:
    """Noise (n, 1, samples) whose loudness changes by a factor of 1000, and which begins with silence."""

    def draw(n: int = 2, samples: int = 16_000, channels: int = 1) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        loudness = 10 ** (-3 * torch.rand(n, 1, 10, generator=generator))
        loudness[:, :, 0] = 0
        steps = loudness.repeat_interleave(-(-samples // 10), dim=2)[..., :samples]
        return (0.3 * steps * torch.randn(n, channels, samples, generator=generator)).clamp(-1, 1)

    return draw


@pytest.fixture(scope="session")
def shaken() -> Callable[[nn.Module], Any]:
    """Noise on every parameter, so that no bias, norm or token may be forgotten; in evaluation mode."""

    def shake(module: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        return module.eval()

    return shake


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[..., tuple[AVModel, str]]:
    """An encoder as a model, loaded from a file of these tensors as a study does, and the layout's name."""

    def load(encoder: Encoder, state: dict[str, Tensor], classes: int, modality: str = "audio") -> tuple[AVModel, str]:
        path = tmp_path / "weights.safetensors"
        save_file({key: value.contiguous().clone() for key, value in state.items()}, path)
        model = AVModel({modality: encoder}, None, classes).eval()
        layout, head = load_checkpoint(encoder, read_checkpoint(path), encoder.layouts, path.name)
        assert load_fitting_head(model.head, head)
        return model, layout

    return load


@pytest.fixture(scope="session")
def agree() -> Callable[..., None]:
    """Asserts logits to 1e-4 and gradients of all inputs to 1e-3, relative to the largest, in float32."""

    def check(
        ours: Callable[[dict[str, Tensor]], Tensor],
        theirs: Callable[[dict[str, Tensor]], Tensor],
        inputs: dict[str, Tensor],
    ) -> None:
        found = []
        for function in (ours, theirs):
            leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
            logits = function(leaves)
            weights = torch.linspace(-1, 1, logits.shape[1])
            found.append((logits.detach(), *torch.autograd.grad((logits * weights).sum(), list(leaves.values()))))
        for i, (a, b) in enumerate(zip(*found, strict=True)):
            assert a.shape == b.shape
            assert float((a - b).abs().max()) <= (1e-3 if i else 1e-4) * float(b.abs().max()) > 0

    return check
