"""The configurations of published data sets and of folders of media; free of torch and pyarrow."""

from pathlib import Path
from string import Formatter
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from avrobust_data.configs import DecodingConfig, PositiveSeconds, distinct_names

Lists = dict[str, Path | tuple[Path, ...]]
"""Files that list the clips of each split."""

Share = Annotated[float, Field(gt=0, le=1)]

_EXAMPLE = {"id": "x", "start": 0, "end": 10, "label": "x", "split": "train"}


class PlacedConfig(DecodingConfig):
    """Folders of media files."""

    media: Path
    """The folder with the media files, in any folders below it; it is scanned once. Links out of it are refused. With
    `frame_rate`, the folder with a folder of images for each clip."""
    audio: Path | None = None
    """The folder with the files of the sound, where it is not in those of the pictures: of each clip one in either."""

    @model_validator(mode="after")
    def _heard(self) -> Self:
        if self.frame_rate is not None and self.audio is None and {"audio", "video"} <= set(self.modalities):
            raise ValueError(
                "images (frame_rate) have no sound: name the folder of its files in audio, or say modalities: [video]"
            )
        return self

    def places(self) -> tuple[Path, Path | None]:
        """The folder of the pictures and that of the sound; None if what is read is in the first."""
        if "video" not in self.modalities:
            return self.audio or self.media, None
        return self.media, self.audio if "audio" in self.modalities else None

    @property
    def has_images(self) -> bool:
        """Whether pictures are folders of images."""
        return self.frame_rate is not None and "video" in self.modalities


class MediaFolderConfig(PlacedConfig):
    """A folder of media files, and which clips of a data set to look for in it."""

    seconds: PositiveSeconds = 10.0
    """Length of a clip; longer ones are cropped, shorter ones end in silence and a held last picture."""
    files: str | None = Field(default=None, min_length=1)
    """How files are named below `media`, e.g. "{label}/{id}_{start:06d}_{end:06d}.mp4", with {id}, {start}, {end},
    {label}, {split}; the suffix ".*" stands for any. By default the usual names are tried: the id alone or with its
    start, or start and end, in seconds or milliseconds, perhaps behind "Y", "v_" or "video_", in any folder."""
    audio_files: str | None = Field(default=None, min_length=1)
    """Likewise below `audio`."""
    segments: Literal["auto", "cut", "whole"] = "auto"
    """What a file holds: cut: the clip; whole: the video that the clip is a part of. auto: the clip, if the file's
    name states its times; else some files' lengths decide for all of them."""
    max_missing: float = Field(default=0.2, ge=0, le=1)
    """Share of the listed clips that may have no file before it is an error; fewer are left out, with a warning."""
    ids: Path | None = None
    """A text with an id in each line: of all clips, only these are taken. Ids of videos stand for all their clips."""

    @field_validator("files", "audio_files")
    @classmethod
    def _files(cls, template: str | None) -> str | None:
        if template is not None:
            try:
                fields = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
                template.format(**_EXAMPLE)
            except (KeyError, IndexError, AttributeError, ValueError):
                raise ValueError(f"{template!r}: what can stand in braces is {', '.join(_EXAMPLE)}") from None
            if "id" not in fields:
                raise ValueError(f"{template!r} has no {{id}} in it: all clips would have the same file")
        return template


class ListedConfig(MediaFolderConfig):
    """Clips that files list, split by split."""

    lists: Lists = Field(min_length=1)
    """For each split the file that lists its clips, or several of them."""

    def listed(self) -> list[tuple[str, Path]]:
        """Each file, with its split."""
        return files_of(self.lists)

    @property
    def source(self) -> str:
        """The lists, for messages."""
        return ", ".join(str(file) for _, file in self.listed())

    @field_validator("lists")
    @classmethod
    def _lists(cls, lists: Lists) -> Lists:
        distinct_names(tuple(lists))
        empty = [split for split, given in lists.items() if given == ()]
        if empty:
            raise ValueError(f"{empty[0]!r} has no file")
        return lists


class AudioSetConfig(ListedConfig):
    """AudioSet: the official segment lists and class list, and a copy's media files.

    Lists are CSVs of `YTID, start_seconds, end_seconds, positive_labels`: balanced_train_segments.csv,
    unbalanced_train_segments.csv, eval_segments.csv. The clips' ids are the YouTube ids.
    """

    class_list: Path
    """class_labels_indices.csv (index, mid, display_name): its order is that of the targets, the display names are the
    class names."""


class KineticsSoundsConfig(ListedConfig):
    """Kinetics-Sounds: the clips of Kinetics-400 with labels that can be heard and seen.

    Lists are the CSVs of Kinetics-400 with `label`, `youtube_id`, `time_start`, `time_end`: train.csv, validate.csv.
    The lists of Kinetics' own test split have no labels. Clips' ids are "YOUTUBE-ID_000030_000040". Clips without sound
    are found when they are read, and count as unreadable.
    """

    classes: Literal["ks-27", "ks-31", "ks-32", "ks-34"] | tuple[str, ...] = "ks-31"
    """A list of classes in use, in alphabetical order, or your own names of Kinetics-400 labels in their order."""

    @field_validator("classes")
    @classmethod
    def _classes(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        return value if isinstance(value, str) else _two_classes(value)


class VGGSoundConfig(MediaFolderConfig):
    """VGGSound: 10-second clips of 309 classes; with VGGSounder's labels for the test clips, if they are given.

    Clips' ids are "YOUTUBE-ID_000030".
    """

    clips: Path
    """vggsound.csv, without a header: YouTube id, start in seconds, label, split."""
    class_list: Path | None = None
    """A text with a class in each line, in the order of the targets; by default the labels in alphabetical order."""
    vggsounder: Path | None = None
    """vggsounder.csv (video_id, label, modality A, V or AV): several labels for each test clip, in place of the one.
    The task then is multi-label for all splits, and test clips that it does not label are left out."""
    tags: Literal["any", "audible", "visible", "both"] = "any"
    """Which of VGGSounder's labels count: all, those that are heard (A, AV), seen (V, AV), or both at once (AV)."""

    @model_validator(mode="after")
    def _tags(self) -> "VGGSoundConfig":
        if self.tags != "any" and self.vggsounder is None:
            raise ValueError(f"tags: {self.tags} needs vggsounder: only its labels have tags")
        return self


class AVEConfig(ListedConfig):
    """AVE: 10-second videos of 28 classes of events that are heard and seen.

    Lists are trainSet.txt, valSet.txt, testSet.txt: `Category&VideoID&Quality&StartTime&EndTime`. A video's label is
    its event's; the event's times are not used. Files hold whole videos, which are the clips.
    """

    class_list: Path | None = None
    """A text with a class in each line, in the order of the targets; by default the 28 of the official list
    (Annotations.txt, in the order in which it first names them), which the lists must not go beyond."""


class FolderConfig(PlacedConfig):
    """Media files in folders that are named as their classes: SPLIT/CLASS/FILE, or CLASS/FILE with splits stated.

    Below a class's folder files may lie in further folders. With `frame_rate` a FILE is a folder of images. The sound
    of a clip has the same path below `audio`, but for the suffix.
    """

    lists: Lists | None = None
    """For each split the texts that list its files: a path below `media` in each line, with or without suffix, perhaps
    followed by a blank and a number. Files that no list names are left out."""
    shares: dict[str, Share] | None = None
    """Without splits in folders or lists: the share of each split, e.g. {train: 0.8, test: 0.2}. A hash of the file's
    path chooses, so that a file stays in its split when others come or go."""
    max_missing: float = Field(default=0.2, ge=0, le=1)
    """Share of the lists' lines that may have no file before it is an error."""
    classes: tuple[str, ...] | None = None
    """The class names in the order of the targets; by default all folders of classes: by number if all names are whole
    numbers, else alphabetically."""

    @field_validator("classes")
    @classmethod
    def _classes(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return value if value is None else _two_classes(value)

    @model_validator(mode="after")
    def _one_way_to_split(self) -> "FolderConfig":
        if self.lists is not None and self.shares is not None:
            raise ValueError("lists and shares both say what the splits are; keep one")
        if self.shares is not None and abs(sum(self.shares.values()) - 1) > 1e-6:
            raise ValueError(f"the shares add up to {sum(self.shares.values()):g}, not to 1")
        return self


def files_of(lists: Lists) -> list[tuple[str, Path]]:
    """Each file, with its split."""
    return [
        (split, file) for split, given in lists.items() for file in ((given,) if isinstance(given, Path) else given)
    ]


def _two_classes(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(names) < 2:
        raise ValueError("a classifier needs two classes at least")
    return distinct_names(names)
