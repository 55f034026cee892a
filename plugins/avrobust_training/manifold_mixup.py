"""Manifold mix-up: encodings are mixed, between encoders and fusion."""

from typing import ClassVar

from avrobust_training.configs import ManifoldMixupConfig
from avrobust_training.mixup import Mixup


class ManifoldMixup(Mixup):
    """Manifold mix-up (Verma et al. 2019, arXiv 1806.05236), at a layer that is drawn for each batch.

    At `encoded` the tokens and the pooled embedding of every modality are mixed, at `input` the raw clips, in both
    cases as mix-up does it; see `PairMixing`. The layer is a draw of the batch's clips for this epoch, whatever their
    order. The paper draws among the layers inside one network; here the place between encoders and fusion is the one
    that every model has.

    Args:
        config: of `manifold-mixup`.
    """

    purpose: ClassVar[str] = "manifold-mixup"

    def __init__(self, config: ManifoldMixupConfig) -> None:
        super().__init__(config)
        self.layers = config.layers
