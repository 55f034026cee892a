"""The configuration of `features`; free of torch and h5py."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from avrobust_core import Config

SPLIT = "{split}"
"""Stands for a split's name in the files, in paths and in names of arrays."""

USUAL_SPLITS: Mapping[str, str] = MappingProxyType({"train": "train", "val": "valid", "test": "eval"})
"""The splits, and what they are called in the reference's files; of these, those are taken that are there."""

Name = Annotated[str, Field(min_length=1)]


class FeatureConfig(Config):
    """One modality of `features`."""

    array: Name
    """The name of its array; `{split}` in it stands for the split's name in the files."""
    kind: Name | None = None
    """What encoders shall take it for; by default the modality's name. "audio": spectrograms, stored as (frames, bands)
    of each clip, for `tal-trans`, `cnn` and `audio-patches`. "video": features of frames (frames, features), also those
    of sound, for `frame-transformer`."""
    bounds: tuple[float, float] | None = None
    """The lowest and the highest value; a clip with others cannot be read. null for none."""

    @field_validator("bounds")
    @classmethod
    def _ordered(cls, bounds: tuple[float, float] | None) -> tuple[float, float] | None:
        if bounds is not None and not -float("inf") < bounds[0] < bounds[1] < float("inf"):
            raise ValueError(f"bounds {list(bounds)}: they must be finite, the first below the second")
        return bounds


class FeaturesConfig(Config):
    """Features that were computed beforehand, one array for each modality and split, and one for the labels.

    Arrays are (clips, ...) of floating-point or whole numbers, given as float32 as they are: normalisation is the
    encoder's. Labels are (clips,) numbers of classes, or (clips, classes) zeros and ones, of which several may be one.
    """

    path: Name
    """An HDF5 file, an .npz file, or a folder with .npy files; `{split}` in it stands for the split's name in the
    files, so that each split may have its own. A relative path is relative to the working directory."""
    splits: dict[Name, Name | Annotated[tuple[Name, ...], Field(min_length=1)]] | None = None
    """By split ("train", "val", "test"), what stands for `{split}`; or a list, if the split is in several pieces, which
    are taken in this order. By default {train: train, val: valid, test: eval}, as far as there are such arrays."""
    group: str | None = None
    """The group of HDF5, or the folder below `path`, that the arrays are in; a name of an array that begins with "/" is
    looked for from the top. By default "{split}/data" in HDF5, as in the reference's files, "{split}" in a folder, and
    none in .npz."""
    modalities: dict[Name, FeatureConfig] = Field(
        default_factory=lambda: {"audio": FeatureConfig(array="feat_a"), "video": FeatureConfig(array="feat_v")},
        min_length=1,
    )
    """The modalities, and the array of each."""
    labels: Name = "labels"
    """The name of the labels' array."""
    names: Name | None = None
    """The name of an array of the clips' ids; in a folder also of a text file (.txt), an id in each line. By default
    ids are made from the split and the row: "test/0"."""
    classes: tuple[Name, ...] | None = None
    """The class names in the order of the targets; by default numbers."""
    class_list: Path | None = None
    """A file that has the class names instead: AudioSet's class_labels_indices.csv (index, mid, display_name), or a
    text with a name in each line, in the order of the targets."""
    ids: Path | None = None
    """A text file with an id in each line: only those clips are used. Ids that are not there are counted and named."""
    max_unreadable: float = Field(default=0.05, ge=0, le=1)
    """Share of a split's clips that may be unreadable (not finite, outside the bounds, damaged) before the run ends
    with an error."""

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if classes is not None:
            if len(classes) < 2:
                raise ValueError("a classifier needs two classes at least")
            if len(set(classes)) < len(classes):
                raise ValueError(f"{next(name for name in classes if classes.count(name) > 1)!r} is named twice")
        return classes

    @model_validator(mode="after")
    def _fits_together(self) -> "FeaturesConfig":
        if self.classes is not None and self.class_list is not None:
            raise ValueError("classes and class_list both name the classes; keep one")
        for name, feature in self.modalities.items():
            if feature.kind is None and name not in ("audio", "video"):
                raise ValueError(f"modalities.{name}: say what kind it is: audio for spectrograms, video for sequences")
        return self

    def kind(self, modality: str) -> str:
        """The kind that encoders are told."""
        return self.modalities[modality].kind or modality

    def modules_needed(self) -> tuple[str, ...]:
        """h5py for a file that is named as HDF5 is; of others, reading them tells."""
        return ("h5py",) if Path(self.path).suffix.lower() in (".h5", ".hdf5") else ()

    def identity(self) -> dict[str, Any]:
        """Kinds and bounds; the fingerprint covers what the files hold."""
        found = {name: {"kind": self.kind(name), "bounds": f.bounds} for name, f in self.modalities.items()}
        return {"modalities": found}
