"""A model and clips small enough that an attack of many passes takes seconds."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avrobust_core import Batch, Dataset, Registry

Inputs = Mapping[str, Tensor]
"""By modality, each (B, ...)."""


class Small(nn.Module):
    """Three convolutions over sound, two over pictures, and one layer over what both have found."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.audio = nn.ModuleList([nn.Conv1d(1, 16, 9, 4, 4), nn.Conv1d(16, 16, 9, 4, 4), nn.Conv1d(16, 32, 9, 4, 4)])
        self.video = nn.ModuleList([nn.Conv3d(3, 16, 3, (1, 2, 2), 1), nn.Conv3d(16, 32, 3, (1, 2, 2), 1)])
        self.head = nn.Linear(32 + 128, classes)

    def features(self, inputs: Inputs) -> Tensor:
        """(B, 160)."""
        heard, seen = inputs["audio"] * 5, inputs["video"] - 0.35
        for layer in self.audio:
            heard = F.relu(layer(heard))
        for layer in self.video:
            seen = F.relu(layer(seen))
        return torch.cat([heard.amax(2), seen.mean((3, 4)).flatten(1)], dim=1)

    def forward(self, inputs: Inputs) -> Tensor:
        logits: Tensor = self.head(self.features(inputs))
        return logits


def small_data(registry: Registry, clips: int, labels: int = 1) -> Dataset:
    """toy-av of six classes: half a second of sound and four pictures of 16 x 16; so many clips in `test`."""
    fields = {"classes": 6, "labels_per_clip": labels, "train": 900, "val": 0, "test": clips}
    offer, config = registry.configure(
        "dataset", "toy-av", {**fields, "sample_rate": 2048, "seconds": 0.5, "frames": 4, "size": 16}
    )
    found: Dataset = offer.component.build(config)
    return found


def trained(data: Dataset) -> Small:
    """The model after a few epochs, in evaluation mode."""
    clips = Batch.stack([data.read("train", position) for position in range(len(data.ids("train")))])
    torch.manual_seed(0)
    model = Small(len(data.classes))
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    loss = F.cross_entropy if data.task == "single-label" else F.binary_cross_entropy_with_logits
    for _ in range(15):
        for positions in torch.randperm(len(clips)).view(-1, 50):
            batch = clips.select(positions)
            optimizer.zero_grad()
            loss(model(batch.inputs), batch.targets).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval()
