"""The components that the plugin offers; free of torch and of transformers."""

from collections.abc import Iterator

from avrobust_core import Component, hookimpl
from avrobust_transformers.configs import AudioConfig, ClassifierConfig, VideoConfig

WAV2VEC2 = "https://arxiv.org/abs/2006.11477"
HUBERT = "https://arxiv.org/abs/2106.07447"
WAVLM = "https://arxiv.org/abs/2110.13900"
VIDEOMAE = "https://arxiv.org/abs/2203.12602"
TIMESFORMER = "https://arxiv.org/abs/2102.05095"
VIVIT = "https://arxiv.org/abs/2103.15691"

TINY_AUDIO = {
    "model_type": "wav2vec2",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [16, 16],
    "conv_kernel": [10, 8],
    "conv_stride": [5, 4],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
TINY_VIDEO = {
    "model_type": "videomae",
    "image_size": 16,
    "patch_size": 8,
    "num_frames": 4,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


@hookimpl
def avrobust_encoders() -> Iterator[Component]:
    """Offer `transformers-audio` and `transformers-video`."""
    yield Component(
        name="transformers-audio",
        summary="Wav2Vec2, HuBERT or WavLM of transformers on waveforms; from a folder, or by an architecture.",
        config=AudioConfig,
        build="avrobust_transformers.audio:make_audio",
        references=(WAV2VEC2, HUBERT, WAVLM),
        example={"architecture": TINY_AUDIO, "rate": None},
    )
    yield Component(
        name="transformers-video",
        summary="VideoMAE, TimeSformer or ViViT of transformers on pictures; from a folder, or by an architecture.",
        config=VideoConfig,
        build="avrobust_transformers.video:make_video",
        references=(VIDEOMAE, TIMESFORMER, VIVIT),
        example={"architecture": TINY_VIDEO},
    )


@hookimpl
def avrobust_fusions() -> Iterator[Component]:
    """Offer `transformers-classifier`."""
    yield Component(
        name="transformers-classifier",
        summary="Classifiers of transformers with their own heads, one for each modality; for encoders `raw`.",
        config=ClassifierConfig,
        build="avrobust_transformers.classifier:make_classifier",
        references=(WAV2VEC2, VIDEOMAE),
        example={
            "models": {
                "audio": {"architecture": {**TINY_AUDIO, "num_labels": 4}},
                "video": {"architecture": {**TINY_VIDEO, "num_labels": 4}},
            }
        },
    )
