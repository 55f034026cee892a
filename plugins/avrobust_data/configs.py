"""The configurations of this plugin's data sets."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from avrobust_core import Config

Modality = Literal["audio", "video"]
PositiveSeconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]


class ToyAVConfig(Config):
    """Generated audio-visual events.

    Class k belongs to group q = k // 3. The three classes of a group are (sound 2q, pattern 2q), (sound 2q + 1,
    pattern 2q) and (sound 2q, pattern 2q + 1): sound alone confuses the first with the third, pattern alone the first
    with the second.
    """

    classes: int = Field(default=10, ge=2, le=30)
    """Number of classes."""
    labels_per_clip: int = Field(default=1, ge=1)
    """1: one event per clip, single-label. More: one to this many events of different classes, multi-label."""
    train: int = Field(default=1200, ge=1)
    """Clips in the split "train"."""
    val: int = Field(default=200, ge=0)
    """Clips in the split "val"; 0 for no such split."""
    test: int = Field(default=400, ge=1)
    """Clips in the split "test"."""
    sample_rate: int = Field(default=8000, ge=1000, le=192_000)
    """Samples of sound per second; below 8000 all pitches are lowered in proportion."""
    seconds: PositiveSeconds = 1.0
    """Length of a clip."""
    frames: int = Field(default=8, ge=1)
    """Pictures per clip, evenly spread over it."""
    size: int = Field(default=32, ge=8)
    """Height and width of a picture in pixels."""
    noise: float = Field(default=1.0, ge=0, le=10, allow_inf_nan=False)
    """Strength of background and distractors: 0 for none, 1 for the level at which no modality is perfect."""
    seed: int = Field(default=0, ge=0)
    """Another seed gives other clips of the same classes."""
    cache_mib: int = Field(default=256, ge=0)
    """Memory for keeping generated clips, in MiB per process; 0 generates them anew at each read."""

    @model_validator(mode="after")
    def _can_be_made(self) -> "ToyAVConfig":
        if self.labels_per_clip > self.classes:
            raise ValueError(f"labels_per_clip is {self.labels_per_clip}, but there are only {self.classes} classes")
        _check_samples(self.seconds, self.sample_rate)
        return self

    def identity(self) -> dict[str, Any]:
        """All but the cache's size."""
        return self.model_dump(mode="json", exclude={"cache_mib"})


class DecodingConfig(Config):
    """How the media file of a clip becomes arrays."""

    modalities: tuple[Modality, ...] = Field(default=("audio", "video"), min_length=1)
    """The modalities read from each file; leave one out for audio-only or video-only files."""
    seconds: PositiveSeconds = 1.0
    """Length of a clip; of longer files a window is read, shorter ones end in silence and a held last picture, and are
    counted and named."""
    window: Literal["centre", "start", "random"] = "centre"
    """The part of a longer file (or of its segment) that is read, of sound and picture alike. random: learned from is
    another part in each epoch, decoded each time; all that is measured is measured on the centre. What `vertex-mixup`
    and `free-at` remember of a clip then belongs to another part of it."""
    sample_rate: int = Field(default=16_000, ge=1000, le=192_000)
    """Samples of sound per second, after resampling."""
    downmix: Literal["weighted", "mean"] = "weighted"
    """The one channel made of several. weighted: more than two are weighted by their places (ITU-R BS.775: centre 0.71,
    sides 0.5, surround 0.35, low-frequency 0, scaled to the sum 1), so that speech in the centre of 5.1 is 5 dB louder
    than in the mean. mean: the mean of all. One or two channels, and unknown layouts, give the mean in either case."""
    frames: int = Field(default=16, ge=1)
    """Pictures per clip, evenly spread over `seconds` by their timestamps."""
    frame_rate: float | None = Field(default=None, gt=0, le=1000, allow_inf_nan=False)
    """Images per second, where the pictures of a clip are a folder of images (jpg, png, webp), one for each frame, with
    numbers in their names. Files of media state theirs."""
    size: int = Field(default=64, ge=8, le=4096)
    """Height and width of a picture in pixels, after resizing."""
    resize: Literal["crop", "stretch"] = "crop"
    """crop: the shorter side is resized and the centre kept; stretch: the whole picture, aspect ratio ignored."""
    max_unreadable: float = Field(default=0.05, ge=0, le=1)
    """Share of a split's files that may be unreadable before the run ends with an error."""
    clip_timeout: float = Field(default=60.0, gt=0, le=86_400, allow_inf_nan=False)
    """Seconds that decoding one clip may take; a file that takes longer counts as unreadable."""
    cache_mib: int = Field(default=1024, ge=0)
    """Memory for keeping decoded clips, in MiB per process; 0 decodes them anew at each read."""
    hashed_files: int = Field(default=100_000, ge=1)
    """Files whose contents are hashed to notice changes. Of a set with more, so many are, evenly spread; of the others
    only the sizes are looked at."""

    @field_validator("modalities")
    @classmethod
    def _modalities(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return distinct_names(names)

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and "crop" in fields:
            raise ValueError("crop is called window now: write `window: centre` or `window: start`")
        if isinstance(fields, dict) and fields.get("window") == "all":
            raise ValueError(
                "several windows of a clip are a model's to average: ask for clips that hold all of them here "
                "(`seconds: 10`), and give the model `windows: {count: 5, seconds: 2}`"
            )
        return fields

    @model_validator(mode="after")
    def _has_samples(self) -> "DecodingConfig":
        _check_samples(self.seconds, self.sample_rate)
        return self

    def identity(self) -> dict[str, Any]:
        """The fields that decide how files are decoded; the fingerprint covers which clips there are."""
        machine = {"max_unreadable", "clip_timeout", "cache_mib", "hashed_files"}
        fields = DecodingConfig.model_fields.keys() - machine
        return self.model_dump(mode="json", include=set(fields))


class ManifestConfig(Config):
    """A CSV manifest of media files."""

    manifest: Path
    """The CSV file (UTF-8, or with a byte-order mark); a relative path is relative to the working directory."""
    root: Path | None = None
    """The folder that the manifest's paths are relative to and must not leave; by default the manifest's own."""
    outside_root: bool = False
    """Whether paths may leave the root, by `..` or because they are absolute; for manifests that you trust."""
    ids: Path | None = None
    """A list of ids, one per line or in the column `id` of a CSV: only these clips are used. Those that the manifest
    lacks are counted in a warning."""
    separator: str = Field(default="|", min_length=1)
    """The separator between the labels of one cell of the column `labels`; often "|" or ";"."""
    classes: tuple[str, ...] | None = None
    """The class names in the order of the targets; by default all labels of the manifest, sorted: by number if all are
    whole numbers, else alphabetically."""
    splits: tuple[str, ...] = Field(default=("train", "val", "test"), min_length=1)
    """The names that the column `split` may hold."""

    @field_validator("classes", "splits")
    @classmethod
    def _names(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if names is None else distinct_names(names)

    @field_validator("classes")
    @classmethod
    def _two_classes(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and len(value) < 2:
            raise ValueError("a classifier needs two classes at least")
        return value


class ClipsConfig(DecodingConfig, ManifestConfig):
    """Media files named by a CSV manifest.

    The manifest has a header with the columns `path`, `split`, and either `label` (single-label) or `labels`
    (multi-label). Where the sound has a file of its own, `video` and `audio` stand in place of `path`. Pictures may
    be a folder of images (see `frame_rate`). Optional are `id`, `group` (what clips were drawn with: a speaker, a
    source), and `start` and `stop`, in seconds, for clips that are segments of longer files. Other columns are ignored.
    Cells are separated by commas, semicolons or tabs.
    """


def distinct_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names, none empty, padded or given twice; for validators.

    Raises:
        ValueError: says which one is wrong.
    """
    seen: set[str] = set()
    for name in names:
        if not name.strip():
            raise ValueError("a name is empty")
        if name != name.strip():
            raise ValueError(f"{name!r} starts or ends with a space; cells of tables are stripped")
        if name in seen:
            raise ValueError(f"{name!r} is named twice")
        seen.add(name)
    return names


def _check_samples(seconds: float, sample_rate: int) -> None:
    if round(seconds * sample_rate) < 1:
        raise ValueError(f"{seconds} s at {sample_rate} samples per second is no sample at all")
