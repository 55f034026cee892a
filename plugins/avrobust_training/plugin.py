"""The plugin `training`: augmentations of the training batch."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from avrobust_core import Component, hookimpl
from avrobust_training.configs import (
    CutMixConfig,
    ManifoldMixupConfig,
    MixupConfig,
    ModalityDropoutConfig,
    NoiseConfig,
    NoisyFeatureMixupConfig,
    SpecAugmentConfig,
)

if TYPE_CHECKING:
    from avrobust_core import Augmentation


def _build_mixup(config: MixupConfig) -> "Augmentation":
    from avrobust_training.mixup import Mixup

    return Mixup(config)


def _build_manifold_mixup(config: ManifoldMixupConfig) -> "Augmentation":
    from avrobust_training.manifold_mixup import ManifoldMixup

    return ManifoldMixup(config)


def _build_noisy_feature_mixup(config: NoisyFeatureMixupConfig) -> "Augmentation":
    from avrobust_training.noisy_feature_mixup import NoisyFeatureMixup

    return NoisyFeatureMixup(config)


def _build_cutmix(config: CutMixConfig) -> "Augmentation":
    from avrobust_training.cutmix import CutMix

    return CutMix(config)


def _build_noise(config: NoiseConfig) -> "Augmentation":
    from avrobust_training.noise import Noise

    return Noise(config)


def _build_modality_dropout(config: ModalityDropoutConfig) -> "Augmentation":
    from avrobust_training.modality_dropout import ModalityDropout

    return ModalityDropout(config)


def _build_specaugment(config: SpecAugmentConfig) -> "Augmentation":
    from avrobust_training.specaugment import SpecAugment

    return SpecAugment(config)


@hookimpl
def avrobust_augmentations() -> "Iterator[Component[Any, Augmentation]]":
    """Mix-up and its kin, noise, dropout and masks."""
    yield Component(
        name="mixup",
        summary="Mix-up: convex combinations of pairs of clips and of their targets, one ratio for all modalities.",
        config=MixupConfig,
        build=_build_mixup,
        references=("https://arxiv.org/abs/1710.09412",),
        example={"alpha": 0.4},
        version=2,  # a clip is the heavier end of its own mixture
    )
    yield Component(
        name="manifold-mixup",
        summary="Manifold mix-up: convex combinations of what the encoders return for pairs of clips.",
        config=ManifoldMixupConfig,
        build=_build_manifold_mixup,
        references=("https://arxiv.org/abs/1806.05236",),
        example={"alpha": 2, "layers": ["input", "encoded"]},
        version=2,  # a clip is the heavier end of its own mixture
    )
    yield Component(
        name="noisy-feature-mixup",
        summary="Noisy feature mix-up: mix-up of clips or of encodings, with additive and multiplicative noise.",
        config=NoisyFeatureMixupConfig,
        build=_build_noisy_feature_mixup,
        references=("https://arxiv.org/abs/2110.02180",),
        example={"additive": 0.4, "multiplicative": 0.2},
        version=2,  # a clip is the heavier end of its own mixture
    )
    yield Component(
        name="cutmix",
        summary="CutMix: a span of time, or a box of each clip, is replaced by another clip's.",
        config=CutMixConfig,
        build=_build_cutmix,
        references=("https://arxiv.org/abs/1905.04899",),
        example={"alpha": 1, "axis": "time"},
    )
    yield Component(
        name="noise",
        summary="Gaussian or uniform noise on the raw clips, by modality.",
        config=NoiseConfig,
        build=_build_noise,
        references=("https://doi.org/10.1162/neco.1995.7.1.108",),
        example={"scale": {"audio": 0.01, "video": 0.05}},
    )
    yield Component(
        name="modality-dropout",
        summary="Clips that lose one modality: it is silent, or another clip's.",
        config=ModalityDropoutConfig,
        build=_build_modality_dropout,
        references=("https://arxiv.org/abs/1501.00102",),
        example={"probability": {"audio": 0.2, "video": 0.2}},
    )
    yield Component(
        name="specaugment",
        summary="SpecAugment: masked spans of time, and masked bands of frequency, of waveforms too.",
        config=SpecAugmentConfig,
        build=_build_specaugment,
        references=("https://arxiv.org/abs/1904.08779",),
        example={"time_masks": 2, "frequency_masks": 2},
    )
