"""The layouts in which AST's weights were published, and how they become this plugin's own."""

import re
from functools import partial
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from avrobust_core import CheckpointLayout, State

UNUSED: Final = ("v.head.", "v.head_dist.")
"""DeiT's own classifiers for ImageNet, which AST's checkpoints still hold."""

HUGGING_FACE: Final = (
    (r"audio_spectrogram_transformer\.embeddings\.cls_token", "v.cls_token"),
    (r"audio_spectrogram_transformer\.embeddings\.distillation_token", "v.dist_token"),
    (r"audio_spectrogram_transformer\.embeddings\.position_embeddings", "v.pos_embed"),
    (r"audio_spectrogram_transformer\.embeddings\.patch_embeddings\.projection\.", "v.patch_embed.proj."),
    (r"audio_spectrogram_transformer\.layernorm\.", "v.norm."),
    (r"audio_spectrogram_transformer\.(?:encoder\.layer|layers)\.(\d+)\.", r"v.blocks.\1."),
    (r"classifier\.layernorm\.", "head.0."),
    (r"classifier\.dense\.", "head.1."),
)
"""How the keys of transformers' ASTForAudioClassification begin, and ours."""

HUGGING_FACE_BLOCK: Final = (
    (r"layernorm_before\.", "norm1."),
    (r"layernorm_after\.", "norm2."),
    (r"attention\.output\.dense\.|attention\.o_proj\.", "attn.proj."),
    (r"intermediate\.dense\.|mlp\.fc1\.", "mlp.fc1."),
    (r"output\.dense\.|mlp\.fc2\.", "mlp.fc2."),
    (r"attention\.attention\.(query|key|value)\.", r"attn.\1."),
    (r"attention\.q_proj\.", "attn.query."),
    (r"attention\.k_proj\.", "attn.key."),
    (r"attention\.v_proj\.", "attn.value."),
)
"""The parts of a layer there, in its files and in the modules of its version 5, and ours."""

BLOCK: Final = re.compile(r"(v\.blocks\.\d+\.)(.+)")
QUERY: Final = re.compile(r"(v\.blocks\.\d+\.attn\.)query\.(weight|bias)")


def ast_layouts(rows: int, columns: int) -> tuple[CheckpointLayout, ...]:
    """AST's own layout, and those of transformers.

    Args:
        rows: patches above one another in the network that is loaded into.
        columns: patches through time in it.
    """
    start = "audio_spectrogram_transformer."
    return (
        CheckpointLayout(
            name="AST",
            marks=("v.cls_token", "v.dist_token", "v.pos_embed", "mlp_head.1.weight"),
            convert=partial(_from_ast, rows, columns),
        ),
        CheckpointLayout(
            name="transformers",
            marks=(
                f"{start}embeddings.distillation_token",
                f"{start}encoder.layer.0.attention.attention.query.weight",
            ),
            convert=partial(_from_transformers, rows, columns),
        ),
        CheckpointLayout(
            name="transformers 5",
            marks=(f"{start}embeddings.distillation_token", f"{start}layers.0.attention.q_proj.weight"),
            convert=partial(_from_transformers, rows, columns),
        ),
    )


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
    found = {
        f"head.{key.removeprefix('mlp_head.')}" if key.startswith("mlp_head.") else key: value
        for key, value in state.items()
        if not key.startswith(UNUSED)
    }
    return found | {"v.pos_embed": fit_positions(found["v.pos_embed"], rows, columns)}


def _from_transformers(rows: int, columns: int, state: State) -> State:
    found = {_renamed(key): value for key, value in state.items()}
    for key in list(found):
        match = QUERY.fullmatch(key)
        parts = [f"{match[1]}{part}.{match[2]}" for part in ("query", "key", "value")] if match else []
        if match and all(part in found for part in parts):
            found[f"{match[1]}qkv.{match[2]}"] = torch.cat([found.pop(part) for part in parts])
    if "v.pos_embed" in found:
        found["v.pos_embed"] = fit_positions(found["v.pos_embed"], rows, columns)
    return found


def _renamed(key: str) -> str:
    for pattern, ours in HUGGING_FACE:
        match = re.match(pattern, key)
        if match:
            key = match.expand(ours) + key[match.end() :]
            break
    inside = BLOCK.fullmatch(key)
    if inside:
        for pattern, ours in HUGGING_FACE_BLOCK:
            match = re.match(pattern, inside[2])
            if match:
                return inside[1] + match.expand(ours) + inside[2][match.end() :]
    return key
