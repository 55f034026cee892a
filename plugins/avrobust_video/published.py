"""The layouts in which weights of video networks were published, and how they become this plugin's own."""

import re
from typing import Final

from avrobust_core import CheckpointLayout, State

PATHWAY: Final = re.compile(r"s(?P<stage>[2-5])\.pathway(?P<pathway>[01])_res(?P<block>\d+)\.(?P<rest>.+)")
"""A residual block's key in PySlowFast, which counts the stem as stage 1."""

LATERAL: Final = re.compile(r"s(?P<stage>[1-4])_fuse\.(?P<rest>.+)")
"""A lateral connection's key in PySlowFast."""

STEM: Final = re.compile(r"s1\.pathway(?P<pathway>[01])_stem\.(?P<rest>.+)")
"""A stem's key in PySlowFast."""

INSIDE: Final = (
    (re.compile(r"^bn\."), "norm."),
    (re.compile(r"^conv_f2s\."), "conv_fast_to_slow."),
    (re.compile(r"^branch1_bn\."), "branch1_norm."),
    (re.compile(r"^branch1\."), "branch1_conv."),
    (re.compile(r"^branch2\.([abc])_bn\."), r"branch2.norm_\1."),
    (re.compile(r"^branch2\.([abc])\."), r"branch2.conv_\1."),
)
"""Names of the parts of a block, a stem and a lateral connection: PySlowFast's, then PyTorchVideo's."""


def pytorchvideo(head: int, mark: str) -> CheckpointLayout:
    """PyTorchVideo's layout, whose names are this plugin's own but for the classifier.

    Args:
        head: the number of the block that classifies.
        mark: the key that tells the network from others of that library.
    """

    def convert(state: State) -> State:
        return {key.replace(f"blocks.{head}.proj.", "head."): value for key, value in state.items()}

    return CheckpointLayout(name="PyTorchVideo", marks=(f"blocks.{head}.proj.weight", mark), convert=convert)


def from_pyslowfast(key: str) -> str:
    """A key of a SlowFast network in PySlowFast, as it is in PyTorchVideo; one that is not known stays as it is."""
    if key.startswith("head.projection."):
        return key.replace("head.projection.", "head.")
    for pattern, prefix in (
        (PATHWAY, "blocks.{0}.multipathway_blocks.{pathway}.res_blocks.{block}."),
        (LATERAL, "blocks.{0}.multipathway_fusion."),
        (STEM, "blocks.0.multipathway_blocks.{pathway}."),
    ):
        match = pattern.fullmatch(key)
        if match is not None:
            parts = match.groupdict()
            rest = parts["rest"]
            for theirs, ours in INSIDE:
                rest = theirs.sub(ours, rest)
            return prefix.format(int(parts.get("stage", 1)) - 1, **parts) + rest
    return key


PYSLOWFAST: Final = CheckpointLayout(
    name="PySlowFast",
    marks=("s1.pathway0_stem.conv.weight", "s1.pathway1_stem.conv.weight", "head.projection.weight"),
    convert=lambda state: {from_pyslowfast(key): value for key, value in state.items()},
)
"""PySlowFast's SlowFast networks."""
