"""The layout of CAV-MAE's checkpoints, and how it becomes that of its encoders alone and of the whole model."""

import re
from functools import partial
from typing import Final, Literal

from torch import Tensor

from avrobust_core import CheckpointLayout, State

Side = Literal["a", "v"]
"""The letter of a modality in the checkpoints' keys: audio, video."""

UNUSED: Final = re.compile(r"blocks_[av]\.\d+\.norm[12]_[av]\..*|decoder_.*|mask_token")
"""Parameters that every layer has but only joint ones use, and those of pre-training."""

OF_A_BRANCH: Final = re.compile(r"(patch_embed|modality|pos_embed|blocks)_([av])(\..*)?")
"""A modality's own parameters."""

OF_A_PATH: Final = re.compile(r"(blocks_u\.\d+\.norm[12]|norm)(?:_([av]))?\.(weight|bias)")
"""A norm of the joint layers, or the one after them: for both modalities, or for one alone."""


def branch_layout(side: Side) -> CheckpointLayout:
    """The layout as one of its encoders reads it: with the joint layers and the classifier as the model's head."""
    return CheckpointLayout(
        name="CAV-MAE",
        marks=(f"patch_embed_{side}.proj.weight", f"modality_{side}", f"blocks_{side}.0.attn.qkv.weight"),
        convert=partial(_to_branch, side),
    )


def joint_layout(audio: str, video: str) -> CheckpointLayout:
    """The layout as a whole model reads it, whose modalities have these names."""
    return CheckpointLayout(
        name="CAV-MAE",
        marks=("patch_embed_a.proj.weight", "patch_embed_v.proj.weight", "blocks_u.0.norm1.weight"),
        convert=partial(_to_model, {"a": audio, "v": video}),
    )


def _to_branch(side: Side, state: State) -> State:
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        branch, path = OF_A_BRANCH.fullmatch(key), OF_A_PATH.fullmatch(key)
        if UNUSED.fullmatch(key) or (branch and branch[2] != side) or (path and path[2] != side):
            continue
        if branch:
            found[branch[1] + (branch[3] or "")] = value
        elif path:
            found[f"head.{path[1]}.{path[3]}"] = value
        else:
            found[f"head.{key}" if key.startswith(("blocks_u.", "mlp_head.")) else key] = value
    return found


def _to_model(names: dict[str, str], state: State) -> State:
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if UNUSED.fullmatch(key):
            continue
        branch = OF_A_BRANCH.fullmatch(key)
        if branch:
            found[f"encoders.{names[branch[2]]}.{branch[1]}{branch[3] or ''}"] = value
        elif key.startswith("blocks_u.") or OF_A_PATH.fullmatch(key):
            found[f"fusion.{key}"] = value
        elif key.startswith("mlp_head."):
            found[f"head.{key.removeprefix('mlp_head.')}"] = value
        else:
            found[key] = value
    return found
