"""Models of transformers from a folder, the hub or an architecture; nothing is downloaded unless that was asked for."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from avrobust_core import AvrobustError, WeightsError, first_of
from avrobust_transformers.configs import READ, ModelConfig

Kind = Literal["audio", "video"]

TYPES: Mapping[Kind, tuple[str, ...]] = {
    "audio": ("wav2vec2", "hubert", "wavlm"),
    "video": ("videomae", "timesformer", "vivit"),
}
"""The models that are known to read waveforms, and clips of pictures: others may read something else by that name."""

PREPROCESSORS = ("video_preprocessor_config.json", "preprocessor_config.json")
"""The files that say how inputs are prepared; the first one there counts."""

NOT_NEEDED = ("masked_spec_embed",)
"""Weights that are of use in pre-training only, which checkpoints may lack."""

TRAINING_NOISE = {"apply_spec_augment": False, "layerdrop": 0.0}
"""Settings of audio models that draw from numpy's global random state in training, or leave layers out."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model and how its inputs are prepared.

    Attributes:
        model: of transformers.
        settings: its configuration.
        preparation: what preprocessor_config.json holds; empty where there is none.
        kind: what it reads.
    """

    model: Any
    settings: Any
    preparation: Mapping[str, Any]
    kind: Kind


def load(config: ModelConfig, kinds: Collection[Kind], *, classifies: bool) -> Loaded:
    """Load a model, or make one with random weights.

    Args:
        config: where it comes from.
        kinds: what it may read.
        classifies: whether it is to have a head.

    Raises:
        AvrobustError: if transformers is missing, there is no such folder, or the model is of a type that is not known.
        WeightsError: if weights are missing: a head that was never trained, say.
    """
    try:
        import transformers
    except ImportError as error:
        raise AvrobustError("models of transformers need it: pip install 'avrobust-transformers'") from error
    if config.architecture is not None:
        fields, made = {**config.architecture}, transformers.AutoConfig.for_model
        settings = _settings(kinds, fields.pop("model_type"), lambda kind: made(kind, **fields))
        preparation: Mapping[str, Any] = {}
    else:
        folder = folder_of(config)
        described = _read(folder / "config.json")
        settings = _settings(
            kinds, described.get("model_type"), lambda _: transformers.AutoConfig.from_pretrained(folder)
        )
        preparation = next((_read(folder / name) for name in PREPROCESSORS if (folder / name).exists()), {})
    kind: Kind = "audio" if settings.model_type in TYPES["audio"] else "video"
    for name, value in TRAINING_NOISE.items():
        if hasattr(settings, name):
            setattr(settings, name, value)
    auto: Any = transformers.AutoModel
    if classifies:
        auto = (
            transformers.AutoModelForAudioClassification
            if kind == "audio"
            else transformers.AutoModelForVideoClassification
        )
    if config.architecture is not None:
        return Loaded(auto.from_config(settings), settings, preparation, kind)
    model, about = auto.from_pretrained(
        folder, config=settings, local_files_only=True, output_loading_info=True, dtype="float32"
    )
    missing = [key for key in sorted(about["missing_keys"]) if not key.endswith(NOT_NEEDED)]
    if missing:
        raise WeightsError(
            f"{config.model}: the checkpoint lacks weights of {type(model).__name__}: {first_of(missing)}; they would "
            "be random. Choose a checkpoint that was saved from such a model"
        )
    return Loaded(model, settings, preparation, kind)


def folder_of(config: ModelConfig) -> Path:
    """The folder of a model: as it is, or in the hub's cache.

    Raises:
        AvrobustError: if there is none, or the hub does not give it.
    """
    name = str(config.model)
    if not config.download:
        folder = Path(name).expanduser()
        if not (folder / "config.json").is_file():
            raise AvrobustError(
                f"model: {name!r} is no folder with a config.json; give the folder that `save_pretrained` wrote, or "
                "set `download: true` if it is a name on the Hugging Face hub: nothing is downloaded otherwise"
            )
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=config.revision, allow_patterns=list(READ)))
    except (OSError, ValueError) as error:  # the hub's errors are either, and so are those of the network
        raise AvrobustError(f"model: {name!r} could not be had from the Hugging Face hub: {error}") from error


def _settings(kinds: Collection[Kind], model_type: Any, made: Any) -> Any:
    known = [name for kind in sorted(kinds) for name in TYPES[kind]]
    if model_type not in known:
        raise AvrobustError(f"models of the type {model_type!r} are not read here, but: {', '.join(known)}")
    try:
        return made(model_type)
    except (ValueError, TypeError) as error:
        raise AvrobustError(f"the configuration of a {model_type} model does not fit: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AvrobustError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise AvrobustError(f"{path} holds no JSON object")
    return found
