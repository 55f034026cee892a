"""The layouts in which AST's weights were published, and how they become this plugin's own."""

import re
from functools import partial
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from avrobust_core import CheckpointLayout, Reached, State, audioset_classes, renamed

REACHED: Final = Reached("map", 0.459, "AudioSet's evaluation segments")
"""Of one network on 12 x 101 patches. Source: Gong, Chung, Glass, "AST: Audio Spectrogram Transformer", 2021."""

BLOCK: Final = r"^(v\.blocks\.\d+\.)"

FROM_TRANSFORMERS: Final = (
    (r"^audio_spectrogram_transformer\.embeddings\.cls_token", "v.cls_token"),
    (r"^audio_spectrogram_transformer\.embeddings\.distillation_token", "v.dist_token"),
    (r"^audio_spectrogram_transformer\.embeddings\.position_embeddings", "v.pos_embed"),
    (r"^audio_spectrogram_transformer\.embeddings\.patch_embeddings\.projection\.", "v.patch_embed.proj."),
    (r"^audio_spectrogram_transformer\.layernorm\.", "v.norm."),
    (r"^audio_spectrogram_transformer\.(?:encoder\.layer|layers)\.(\d+)\.", r"v.blocks.\1."),
    (r"^classifier\.layernorm\.", "head.0."),
    (r"^classifier\.dense\.", "head.1."),
    (rf"{BLOCK}layernorm_before\.", r"\1norm1."),
    (rf"{BLOCK}layernorm_after\.", r"\1norm2."),
    (rf"{BLOCK}(?:attention\.output\.dense|attention\.o_proj)\.", r"\1attn.proj."),
    (rf"{BLOCK}(?:intermediate\.dense|mlp\.fc1)\.", r"\1mlp.fc1."),
    (rf"{BLOCK}(?:output\.dense|mlp\.fc2)\.", r"\1mlp.fc2."),
    (rf"{BLOCK}attention\.attention\.(query|key|value)\.", r"\1attn.\2."),
    (rf"{BLOCK}attention\.q_proj\.", r"\1attn.query."),
    (rf"{BLOCK}attention\.k_proj\.", r"\1attn.key."),
    (rf"{BLOCK}attention\.v_proj\.", r"\1attn.value."),
)
"""From the names of transformers' ASTForAudioClassification, in its files and in version 5's modules, to ours."""


def ast_layouts(rows: int, columns: int) -> tuple[CheckpointLayout, ...]:
    """AST's own layout, and those of transformers.

    Args:
        rows: patches above one another in the network that is loaded into.
        columns: patches through time in it.
    """
    start = "audio_spectrogram_transformer."
    reached = REACHED if (rows, columns) == (12, 101) else None
    own = CheckpointLayout(
        name="AST",
        marks=("v.cls_token", "v.dist_token", "v.pos_embed", "mlp_head.1.weight"),
        convert=partial(_from_ast, rows, columns),
        classes=audioset_classes,
        reached=reached,
    )
    of_transformers = (
        CheckpointLayout(
            name=name,
            marks=(f"{start}embeddings.distillation_token", f"{start}{query}.weight"),
            convert=partial(_from_transformers, rows, columns),
            classes=audioset_classes,
            reached=reached,
        )
        for name, query in (
            ("transformers", "encoder.layer.0.attention.attention.query"),
            ("transformers 5", "layers.0.attention.q_proj"),
        )
    )
    return own, *of_transformers


def fit_positions(positions: Tensor, rows: int, columns: int) -> Tensor:
    """Positions for another number of patches through time.

    Source: the original's own use of its AudioSet checkpoint: cut from the middle, or interpolated linearly.

    Args:
        positions: (1, 2 + rows * N, D), from low to high bands and in each through time.
        rows: patches above one another.
        columns: patches through time that are wanted.

    Returns:
        (1, 2 + rows * columns, D); as they were where they are not of so many rows.
    """
    patches = positions.shape[1] - 2
    there = patches // rows
    if positions.ndim != 3 or there < 1 or patches % rows or there == columns:
        return positions
    width = positions.shape[2]
    special, grid = positions[:, :2], positions[0, 2:].reshape(rows, there, width)
    if columns < there:
        first = there // 2 - columns // 2
        fitted = grid[:, first : first + columns]
    else:
        fitted = F.interpolate(grid.transpose(1, 2), size=columns, mode="linear").transpose(1, 2)
    return torch.cat((special, fitted.reshape(1, rows * columns, width)), dim=1)


def _from_ast(rows: int, columns: int, state: State) -> State:
    """Without DeiT's own classifiers for ImageNet, which AST's checkpoints still hold."""
    found = renamed([(r"^mlp_head\.", "head.")], state, without=r"v\.head(_dist)?\.")
    return found | {"v.pos_embed": fit_positions(found["v.pos_embed"], rows, columns)}


def _from_transformers(rows: int, columns: int, state: State) -> State:
    found = renamed(FROM_TRANSFORMERS, state)
    for query in [key for key in found if re.fullmatch(rf"{BLOCK}attn\.query\.(weight|bias)", key)]:
        parts = [query.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(part in found for part in parts):
            found[query.replace(".query.", ".qkv.")] = torch.cat([found.pop(part) for part in parts])
    if "v.pos_embed" in found:
        found["v.pos_embed"] = fit_positions(found["v.pos_embed"], rows, columns)
    return found
