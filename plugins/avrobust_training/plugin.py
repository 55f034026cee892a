"""The plugin `training`: augmentations of the training batch."""

from collections.abc import Iterator

from avrobust_core import Component, hookimpl
from avrobust_training import configs


@hookimpl
def avrobust_augmentations() -> Iterator[Component]:
    """Mix-up and its kin, noise, dropout and masks, and sampling by classes."""
    yield Component(
        name="mixup",
        summary="Mix-up: convex combinations of pairs of clips and of their targets, one ratio for all modalities.",
        config=configs.MixupConfig,
        build="avrobust_training.mixup:Mixup",
        references=("https://arxiv.org/abs/1710.09412",),
        example={"alpha": 0.4},
        version=2,  # a clip is the heavier end of its own mixture
    )
    yield Component(
        name="manifold-mixup",
        summary="Manifold mix-up: convex combinations of what the encoders return for pairs of clips.",
        config=configs.ManifoldMixupConfig,
        build="avrobust_training.manifold_mixup:ManifoldMixup",
        references=("https://arxiv.org/abs/1806.05236",),
        example={"alpha": 2, "layers": ["input", "encoded"]},
        version=2,  # a clip is the heavier end of its own mixture
    )
    yield Component(
        name="noisy-feature-mixup",
        summary="Noisy feature mix-up: mix-up of clips or of encodings, with additive and multiplicative noise.",
        config=configs.NoisyFeatureMixupConfig,
        build="avrobust_training.noisy_feature_mixup:NoisyFeatureMixup",
        references=("https://arxiv.org/abs/2110.02180",),
        example={"additive": 0.4, "multiplicative": 0.2},
        version=3,  # other noise
    )
    yield Component(
        name="cutmix",
        summary="CutMix: a span of time, or a box of each clip, is replaced by another clip's.",
        config=configs.CutMixConfig,
        build="avrobust_training.cutmix:CutMix",
        references=("https://arxiv.org/abs/1905.04899",),
        example={"alpha": 1, "axis": "time"},
    )
    yield Component(
        name="noise",
        summary="Gaussian or uniform noise on the raw clips, by modality.",
        config=configs.NoiseConfig,
        build="avrobust_training.noise:Noise",
        references=("https://doi.org/10.1162/neco.1995.7.1.108",),
        example={"scale": {"audio": 0.01, "video": 0.05}},
        version=2,  # other noise
    )
    yield Component(
        name="modality-dropout",
        summary="Clips that lose one modality: it is silent, or another clip's.",
        config=configs.ModalityDropoutConfig,
        build="avrobust_training.modality_dropout:ModalityDropout",
        references=("https://arxiv.org/abs/1501.00102",),
        example={"probability": {"audio": 0.2, "video": 0.2}},
    )
    yield Component(
        name="specaugment",
        summary="SpecAugment: masked spans of time, and masked bands of frequency, of waveforms too.",
        config=configs.SpecAugmentConfig,
        build="avrobust_training.specaugment:SpecAugment",
        references=("https://arxiv.org/abs/1904.08779",),
        example={"time_masks": 2, "frequency_masks": 2},
    )
    yield Component(
        name="random-resized-crop",
        summary="Random crops of pictures, resized, and mirrored ones: the same in all frames of a clip.",
        config=configs.RandomResizedCropConfig,
        build="avrobust_training.random_resized_crop:RandomResizedCrop",
        references=("https://arxiv.org/abs/1409.4842",),
        example={"scale": 0.5},
    )
    yield Component(
        name="balanced-sampling",
        summary="Epochs drawn with replacement, clips of rare classes more often: AudioSet's usual weights.",
        config=configs.BalancedSamplingConfig,
        build="avrobust_training.balanced_sampling:BalancedSampling",
        references=("https://arxiv.org/abs/2102.01243",),
        example={},
    )
