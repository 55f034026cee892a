"""`depth-cnn`: a small convolutional network over depth maps."""

from torch import Tensor, nn

from avrobust_core import DataError, Encoded, EncodedDims, Encoder, MediaSpec
from avrobust_depth.configs import DepthCnnConfig


class DepthCnn(Encoder):
    """3x3 convolutions with stride 2; one token per place of the last map, their mean as the embedding.

    Args:
        config: width of each convolution.
        media: of the modality that it reads: depth of shape (1, H, W).

    Raises:
        DataError: if the modality is not depth.
    """

    def __init__(self, config: DepthCnnConfig, media: MediaSpec) -> None:
        super().__init__()
        if media.kind != "depth" or len(media.shape) != 3 or media.shape[0] != 1:
            raise DataError(
                f"depth-cnn reads media of the kind 'depth' and shape (1, H, W), not {media.kind!r} of shape "
                f"{media.shape}; name another encoder, or another modality of the data set"
            )
        channels = config.channels
        self.dims = EncodedDims(token=channels[-1], embed=channels[-1])
        self.frontend = nn.Identity()
        layers: list[nn.Module] = []
        for inputs, outputs in zip((1, *channels), channels, strict=False):
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers)

    def encode(self, features: Tensor) -> Encoded:
        """From depth maps (B, 1, H, W) to tokens (B, H' * W', D) and pooled (B, D)."""
        tokens = self.layers(features).flatten(2).transpose(1, 2)
        return Encoded(tokens=tokens, pooled=tokens.mean(1))
