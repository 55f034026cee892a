"""The layouts in which weights of video networks were published, and how they become this plugin's own."""

from functools import partial
from typing import Final

from avrobust_core import CheckpointLayout, Reached, kinetics_classes, renamed

STEP: Final = r"^(blocks\.\d\.multipathway_(?:blocks\.[01](?:\.res_blocks\.\d+)?|fusion)\.)"
"""The beginning, in PyTorchVideo, of the keys of a block, a stem or a lateral connection."""

FROM_PYSLOWFAST: Final = (
    (r"^head\.projection\.", "head."),
    (r"^s1\.pathway([01])_stem\.", r"blocks.0.multipathway_blocks.\1."),
    *((rf"^s{i + 1}_fuse\.", f"blocks.{i}.multipathway_fusion.") for i in range(4)),
    *(
        (rf"^s{i + 1}\.pathway([01])_res(\d+)\.", rf"blocks.{i}.multipathway_blocks.\1.res_blocks.\2.")
        for i in range(1, 5)
    ),
    (rf"{STEP}bn\.", r"\1norm."),
    (rf"{STEP}conv_f2s\.", r"\1conv_fast_to_slow."),
    (rf"{STEP}branch1_bn\.", r"\1branch1_norm."),
    (rf"{STEP}branch1\.", r"\1branch1_conv."),
    (rf"{STEP}branch2\.([abc])_bn\.", r"\1branch2.norm_\2."),
    (rf"{STEP}branch2\.([abc])\.", r"\1branch2.conv_\2."),
)
"""From PySlowFast's names, which count the stem as stage 1, to PyTorchVideo's: of the steps, then of their parts."""


def pytorchvideo(head: int, mark: str, reached: Reached | None = None) -> CheckpointLayout:
    """PyTorchVideo's layout, whose names are this plugin's own but for the classifier.

    Args:
        head: the number of the block that classifies.
        mark: the key that tells the network from others of that library.
        reached: what the published network reached.
    """
    return CheckpointLayout(
        name="PyTorchVideo",
        marks=(f"blocks.{head}.proj.weight", mark),
        convert=partial(renamed, [(rf"blocks\.{head}\.proj\.", "head.")]),
        classes=kinetics_classes,
        reached=reached,
    )


SLOWFAST_R50: Final = Reached("accuracy", 0.764, "Kinetics-400's validation clips, by 30 views of each")
"""Source: PyTorchVideo's table of models, slowfast_r50 of 8 slow and 32 fast frames."""

PYSLOWFAST: Final = CheckpointLayout(
    name="PySlowFast",
    marks=("s1.pathway0_stem.conv.weight", "s1.pathway1_stem.conv.weight", "head.projection.weight"),
    convert=partial(renamed, FROM_PYSLOWFAST),
    classes=kinetics_classes,
)
"""PySlowFast's SlowFast networks."""
