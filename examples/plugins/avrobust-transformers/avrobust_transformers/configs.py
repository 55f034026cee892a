"""The components' configurations, which a spec writes under `with:`; free of torch and of transformers."""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from avrobust_core import Config

READ = ("*.json", "*.safetensors", "*.bin")
"""The files of a model's folder that decide what it computes."""


class ModelConfig(Config):
    """Where a model of transformers comes from: `model`, or `architecture` for one that is yet to be trained."""

    model: str | None = None
    """A folder with config.json, weights and preprocessor_config.json, as `save_pretrained` leaves it; or, with
    `download: true`, the name of a model on the Hugging Face hub."""
    download: bool = False
    """Whether `model` is a name on the hub, which may be downloaded; false: nothing is ever downloaded."""
    revision: str | None = None
    """With `download`: the commit of the model; name one, for what a name stands for may change."""
    architecture: Mapping[str, Any] | None = None
    """In place of `model`: the fields of its configuration, like {model_type: wav2vec2, hidden_size: 256}; the weights
    are random."""

    @model_validator(mode="after")
    def _one_source(self) -> "ModelConfig":
        if (self.model is None) == (self.architecture is None):
            raise ValueError("give either `model` (weights from a folder) or `architecture` (random weights)")
        if self.architecture is not None and "model_type" not in self.architecture:
            raise ValueError("architecture needs a model_type, like wav2vec2 or videomae")
        if self.architecture is not None and (self.download or self.revision):
            raise ValueError("download and revision belong to `model`: an architecture has nothing to be downloaded")
        if self.revision is not None and not self.download:
            raise ValueError("revision belongs to `download: true`: a folder is what it is")
        return self

    def identity(self) -> dict[str, Any]:
        """A folder counts by what its files hold, not by its place; a name on the hub by itself and its revision."""
        found = super().identity()
        if self.model is not None and not self.download:
            found["model"] = content_of(Path(self.model))
        return found


class AudioConfig(ModelConfig):
    """Configuration of `transformers-audio`."""

    rate: float | None = Field(default=16000, gt=0)
    """Sample rate in Hz that the model was trained with, where the folder has no preprocessor_config.json to say it;
    null for any."""
    normalise: bool | None = None
    """Whether each clip gets mean 0 and variance 1 first; null for what preprocessor_config.json says, or else true."""


class VideoConfig(ModelConfig):
    """Configuration of `transformers-video`."""

    pooling: Literal["mean", "first"] | None = None
    """The pooled embedding: the mean over tokens, or the first token; null for first where the model's own classifier
    reads that (timesformer, vivit), else mean."""


class ClassifierConfig(Config):
    """Configuration of `transformers-classifier`."""

    models: Mapping[str, ModelConfig] = Field(min_length=1)
    """By modality a classifier of sound or of video, like {video: {model: checkpoints/videomae}}; of several the logits
    are the mean. The sample rate of sound is not known here: give a data set that has the model's."""

    def identity(self) -> dict[str, Any]:
        """Each model by its own identity."""
        return {"models": {name: source.identity() for name, source in self.models.items()}}


def content_of(folder: Path) -> str:
    """A digest of the files in a folder that decide what a model computes; "missing" where there are none."""
    files = sorted({path for pattern in READ for path in folder.glob(pattern)})
    if not files:
        return "missing"
    whole = hashlib.sha256()
    for path in files:
        state = path.stat()
        whole.update(f"{path.name} {_digest(path, state.st_mtime_ns, state.st_size)}\n".encode())
    return whole.hexdigest()


@lru_cache(maxsize=256)
def _digest(path: Path, changed: int, size: int) -> str:
    """The digest of a file; read again only once its time or size has changed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
