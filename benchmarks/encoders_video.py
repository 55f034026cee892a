"""Our published video networks beside PyTorchVideo's own.

Both read the same raw clips in [0, 1]; normalising them and choosing the slow pathway's frames is part of what is
measured.
"""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from avrobust_core import MediaSpec
from benchmarks.encoder_sides import Comparison, Ours

CLASSES: Final = 400

CASES: Final[Mapping[str, tuple[str, str, tuple[int, ...]]]] = MappingProxyType(
    {"slowfast_r50": ("slowfast", "r50", (1, 3, 32, 224, 224)), "x3d_s": ("x3d", "s", (2, 3, 13, 160, 160))}
)
"""By function of pytorchvideo.models.hub: our encoder, its size, and the clips' shape with the batch."""


class PlainVideo(nn.Module):
    """PyTorchVideo's network with random weights and statistics, from raw clips.

    Args:
        name: of `CASES`.
    """

    def __init__(self, name: str) -> None:
        from pytorchvideo.models import hub

        super().__init__()
        torch.manual_seed(0)
        self.network = getattr(hub, name)()
        self.two_pathways = CASES[name][0] == "slowfast"
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm3d):
                assert module.running_mean is not None
                assert module.running_var is not None
                for tensor, low, high in (
                    (module.weight, 0.5, 1.2),
                    (module.bias, -0.3, 0.3),
                    (module.running_mean, -0.3, 0.3),
                    (module.running_var, 0.5, 2.0),
                ):
                    nn.init.uniform_(tensor, low, high)
        if not self.two_pathways:
            head: Any = self.network.get_submodule("blocks.5")
            head.activation = None  # logits, as attacks need them

    def forward(self, x: Tensor) -> Tensor:
        """From clips (B, 3, T, H, W) to logits (B, classes)."""
        pixels = (x - 0.45) / 0.225
        if not self.two_pathways:
            return cast(Tensor, self.network(pixels))
        slow = torch.linspace(0, x.shape[2] - 1, x.shape[2] // 4).long()
        return cast(Tensor, self.network([pixels.index_select(2, slow), pixels]))


def make_side(name: str, side: str, clips: Tensor) -> nn.Module:
    """One side, for these clips."""
    if side == "plain":
        return PlainVideo(name)
    encoder, size, _ = CASES[name]
    media = MediaSpec(kind="video", shape=tuple(clips.shape[1:]), rate=8, bounds=(0, 1), time_axis=1)
    return Ours(encoder, {"size": size}, media, CLASSES)


def make_pair(name: str, clips: Tensor) -> tuple[nn.Module, nn.Module]:
    """Both in evaluation mode, frozen, with the same weights."""
    plain, ours = cast(PlainVideo, make_side(name, "plain", clips)), cast(Ours, make_side(name, "ours", clips))
    ours.load(plain.network.state_dict())
    return ours.eval().requires_grad_(False), plain.eval().requires_grad_(False)


def make_clips(name: str) -> Tensor:
    """Random clips in [0, 1]."""
    return torch.rand(CASES[name][2], generator=torch.Generator().manual_seed(1))


def comparison(name: str) -> Comparison:
    """Of one network, as an attack runs it."""
    return Comparison(
        clips=partial(make_clips, name),
        pair=partial(make_pair, name),
        side=partial(make_side, name),
        library="pytorchvideo.models.hub",
        passes=("forward", "attack"),
    )
