"""`depth-net`: a network of one's own over all three modalities, as one would have it before knowing of avrobust."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from avrobust_core import EncodedDims, WholeModel
from avrobust_depth.configs import DepthNetConfig


class DepthNet(nn.Module):
    """From {"audio": (B, 1, T), "video": (B, 3, F, H, W), "depth": (B, 1, H, W)} to logits (B, K).

    Args:
        width: of what is known of each modality.
        classes: K.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.hear = nn.Sequential(nn.Conv1d(1, width, 64, stride=16), nn.ReLU())
        self.watch = nn.Sequential(nn.Conv3d(3, width, 3, stride=2), nn.ReLU())
        self.feel = nn.Sequential(nn.Conv2d(1, width, 3, stride=2), nn.ReLU())
        self.classifier = nn.Linear(3 * width, classes)

    def forward(self, clips: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, K)."""
        known = (self.hear(clips["audio"]), self.watch(clips["video"]), self.feel(clips["depth"]))
        return cast(Tensor, self.classifier(torch.cat([part.flatten(2).mean(dim=2) for part in known], dim=1)))


def depth_net(config: DepthNetConfig, inputs: Mapping[str, EncodedDims]) -> WholeModel:
    """Make the network a model of a spec; what goes into its classifier is the embedding that metrics measure.

    Raises:
        ComponentError: if the encoders are not `raw`.
    """
    return WholeModel(DepthNet(config.width, config.classes), inputs, classes=config.classes, head="classifier")
