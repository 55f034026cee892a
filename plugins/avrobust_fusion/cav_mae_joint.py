"""CAV-MAE's fusion: joint layers over the tokens of both modalities, with norms of their own for each alone.

Source: Gong et al., "Contrastive Audio-Visual Masked Autoencoder", ICLR 2023 (arXiv 2210.07839), sections 3.3 and 4,
and its checkpoints, whose names the parameters have.
"""

from collections.abc import Mapping
from typing import Final, cast

import torch
from torch import Tensor, nn

from avrobust_core import AvrobustError, Encoded, EncodedDims, Fusion, Mlp, SelfAttention, linear
from avrobust_fusion.cav_mae_layouts import Side, joint_layout
from avrobust_fusion.configs import CavMaeFusionConfig

PATHS: Final = ("", "_a", "_v")
"""Endings of the norms' names: for both modalities, for audio alone, for video alone."""


class JointBlock(nn.Module):
    """A transformer layer with norms for both modalities and for each alone; all else is shared.

    Args:
        width: of the tokens; a multiple of heads.
        heads: of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        for path in PATHS:
            self.add_module(f"norm1{path}", nn.LayerNorm(width))
            self.add_module(f"norm2{path}", nn.LayerNorm(width))
        self.attn = SelfAttention(width, heads)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor, path: str) -> Tensor:
        """From tokens (B, T, D) to tokens (B, T, D), with the norms of one of `PATHS`."""
        x = x + cast(Tensor, self.attn(self.get_submodule(f"norm1{path}")(x)))
        return x + cast(Tensor, self.mlp(self.get_submodule(f"norm2{path}")(x)))


class CavMae(Fusion):
    """Joint layers over all tokens, and their mean.

    If a clip comes without one of the modalities, the other's tokens go through the joint layers twice, with the norms
    for both and with their own, and the two means are averaged: what the published model does with a modality that is
    missing. The norms for each alone are not trained here, as no model of both modalities uses them in training.

    Args:
        config: the modalities' names and the sizes.
        inputs: widths by modality.

    Raises:
        AvrobustError: if the modalities are others, or their tokens or heads do not fit the width.
    """

    def __init__(self, config: CavMaeFusionConfig, inputs: Mapping[str, EncodedDims]) -> None:
        super().__init__()
        self.sides: dict[Side, str] = {"a": config.audio, "v": config.video}
        if set(inputs) != set(self.sides.values()):
            raise AvrobustError(
                f"cav-mae joins the modalities {config.audio!r} and {config.video!r}, and the model's are: "
                f"{', '.join(map(repr, sorted(inputs))) or 'none'}; name them in `audio` and `video`; a model with one "
                "encoder needs no fusion"
            )
        widths = {name: dims.token for name, dims in inputs.items()}
        if config.width is None and len(set(widths.values())) > 1:
            raise AvrobustError(
                f"cav-mae joins tokens of one width, and these are {widths[config.audio]} and {widths[config.video]} "
                "wide; give both encoders one width, or set `width`, to which tokens are then mapped"
            )
        self.dim = config.width or widths[config.audio]
        if self.dim % config.heads:
            raise AvrobustError(
                f"cav-mae's width {self.dim} is not a multiple of {config.heads} heads; set `heads` to a divisor of it"
            )
        self.layouts = (joint_layout(config.audio, config.video),)
        self.maps = nn.ModuleDict(
            {side: linear(widths[name], self.dim) for side, name in self.sides.items() if widths[name] != self.dim}
        )
        self.blocks_u = nn.ModuleList(JointBlock(self.dim, config.heads) for _ in range(config.depth))
        for path in PATHS:
            self.add_module(f"norm{path}", nn.LayerNorm(self.dim))
        # Parallel training refuses parameters that want a gradient and get none.
        for name, module in self.named_modules():
            if isinstance(module, nn.LayerNorm) and name.endswith(PATHS[1:]):
                module.requires_grad_(False)

    def forward(self, encoded: Mapping[str, Encoded]) -> Tensor:
        """The mean of the joint tokens: (B, F).

        Raises:
            KeyError: if both modalities are missing.
        """
        tokens: dict[Side, Tensor] = {
            side: self._mapped(side, encoded[name].tokens) for side, name in self.sides.items() if name in encoded
        }
        if not tokens:
            raise KeyError(f"the fusion joins {' and '.join(self.sides.values())}; both are missing")
        if len(tokens) == len(self.sides):
            return self._joined(torch.cat([tokens["a"], tokens["v"]], dim=1), "")
        ((side, alone),) = tokens.items()
        return (self._joined(alone, "") + self._joined(alone, f"_{side}")) / 2

    def make_head(self, classes: int) -> nn.Sequential:
        """The published classifier: a norm and a linear map of the fused embedding."""
        return nn.Sequential(nn.LayerNorm(self.dim), linear(self.dim, classes))

    def _mapped(self, side: Side, tokens: Tensor) -> Tensor:
        return cast(Tensor, self.maps[side](tokens)) if side in self.maps else tokens

    def _joined(self, tokens: Tensor, path: str) -> Tensor:
        for block in self.blocks_u:
            tokens = block(tokens, path)
        return cast(Tensor, self.get_submodule(f"norm{path}")(tokens)).mean(dim=1)
