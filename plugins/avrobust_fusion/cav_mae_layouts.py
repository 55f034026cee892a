"""The layout of CAV-MAE's checkpoints, and how it becomes that of its encoders alone and of the whole model."""

from functools import partial
from typing import Final, Literal

from avrobust_core import CheckpointLayout, audioset_classes, renamed

Side = Literal["a", "v"]
"""The letter of a modality in the checkpoints' keys: audio, video."""

UNUSED: Final = r"blocks_[av]\.\d+\.norm[12]_[av]\.|decoder_|mask_token$"
"""Parameters that every layer has but only joint ones use, and those of pre-training."""

BRANCH: Final = r"^(patch_embed|modality|pos_embed|blocks)_{}(?=\.|$)"
"""A modality's own parameters, to be completed with its letter."""

PATH: Final = r"^(blocks_u\.\d+\.norm[12]|norm){}(?=\.(?:weight|bias)$)"
"""A norm of the joint layers, or the one after them, to be completed with nothing, or with one modality's ending."""


def branch_layout(side: Side) -> CheckpointLayout:
    """The layout as one of its encoders reads it: with the joint layers and the classifier as the model's head."""
    other = "v" if side == "a" else "a"
    without = "|".join((UNUSED, BRANCH.format(other), PATH.format(f"(_{other})?")))
    rules = (
        (BRANCH.format(side), r"\1"),
        (PATH.format(f"_{side}"), r"head.\1"),
        (r"^(?=blocks_u\.|mlp_head\.)", "head."),
    )
    return CheckpointLayout(
        name="CAV-MAE",
        marks=(f"patch_embed_{side}.proj.weight", f"modality_{side}", f"blocks_{side}.0.attn.qkv.weight"),
        convert=partial(renamed, rules, without=without),
        classes=audioset_classes,
    )


def joint_layout(audio: str, video: str) -> CheckpointLayout:
    """The layout as a whole model reads it, whose modalities have these names."""
    rules = (
        *((BRANCH.format(side), rf"encoders.{name}.\1") for side, name in (("a", audio), ("v", video))),
        (r"^(?=blocks_u\.|norm(_[av])?\.(weight|bias)$)", "fusion."),
        (r"^mlp_head\.", "head."),
    )
    return CheckpointLayout(
        name="CAV-MAE",
        marks=("patch_embed_a.proj.weight", "patch_embed_v.proj.weight", "blocks_u.0.norm1.weight"),
        convert=partial(renamed, rules, without=UNUSED),
        classes=audioset_classes,
    )
