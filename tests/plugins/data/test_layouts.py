"""Clips whose sound and pictures are apart: in two files, in two folders, or with a folder of images for a video."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from avrobust_data.clip_files import decode_clip
from avrobust_data.clips import make_clips
from avrobust_data.configs import ClipsConfig, DecodingConfig
from avrobust_data.decoding import decode
from avrobust_data.faults import MediaError
from avrobust_data.sets import configs
from avrobust_data.sets.folder import make_folder
from avrobust_data.sets.kinetics import make_kinetics_sounds
from avrobust_data.sets.vggsound import make_vggsound
from PIL import Image
from pydantic import ValidationError

from avrobust_core import AvrobustWarning, ClipError, DataError

from .conftest import write_media

SECONDS, RATE, PER_SECOND = 4.0, 8000, 10
SMALL: dict[str, Any] = {"seconds": 1.0, "sample_rate": RATE, "frames": 5, "size": 16}


def ramps(seconds: float = SECONDS) -> tuple[np.ndarray, np.ndarray]:
    """Sound that grows louder, (1, N), and pictures that grow lighter by 6 each, (F, 16, 16, 3)."""
    times = np.arange(round(RATE * seconds)) / RATE
    sound = (0.9 * times / SECONDS * np.sin(2 * np.pi * 500 * times)).astype(np.float32)[None]
    grey = (6 * np.arange(round(PER_SECOND * seconds))).astype(np.uint8)
    return sound, np.broadcast_to(grey[:, None, None, None], (len(grey), 16, 16, 3))


def write_images(folder: Path, pictures: np.ndarray, names: str = "{:06d}.png", first: int = 1) -> Path:
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures, first):
        Image.fromarray(np.ascontiguousarray(picture)).save(folder / names.format(number))
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One clip of 4 s: both.mkv, and apart sound.wav, pictures.mkv (lossless) and the folder images."""
    folder = tmp_path_factory.mktemp("parts")
    sound, pictures = ramps()
    seen = {"pictures": pictures, "fps": PER_SECOND, "video_codec": "ffv1", "pixel_format": "bgr0"}
    write_media(folder / "both.mkv", sound=sound, rate=RATE, audio_codec="pcm_f32le", **seen)
    write_media(folder / "pictures.mkv", **seen)
    write_media(folder / "sound.wav", sound=sound, rate=RATE, audio_codec="pcm_f32le")
    write_images(folder / "images", pictures, "frame_{:05d}.png")
    return folder


@pytest.mark.parametrize("apart", ["pictures.mkv", "images"])
@pytest.mark.parametrize(
    ("window", "times"),
    [
        ("centre", ()),
        ("start", ()),
        ("centre", (None, None, 0.3)),
        ("centre", (0.5, 3.2)),
        ("start", (1.25, 1.75)),
        ("start", (3.45, None)),
    ],
)
def test_what_is_apart_is_read_as_what_is_together(parts, apart, window, times) -> None:
    config = DecodingConfig(**SMALL, window=window, frame_rate=PER_SECOND)
    together = decode(parts / "both.mkv", config, *times)
    found = decode_clip(parts / apart, parts / "sound.wav", config, *times)
    assert found.keys() == together.keys()
    assert found.padded == together.padded
    assert np.array_equal(found["video"], together["video"])
    assert np.abs(found["audio"] - together["audio"]).max() < 1e-6


def test_the_longer_one_says_where_the_centre_is(parts, tmp_path) -> None:
    sound, pictures = ramps(3.0)
    write_media(tmp_path / "short.wav", sound=sound, rate=RATE, audio_codec="pcm_f32le")
    config = DecodingConfig(**SMALL, frame_rate=PER_SECOND)
    wanted = decode(parts / "both.mkv", config)
    for seen in (parts / "pictures.mkv", parts / "images"):
        found = decode_clip(seen, tmp_path / "short.wav", config)
        assert np.array_equal(found["video"], wanted["video"])
        assert np.abs(found["audio"] - wanted["audio"]).max() < 1e-6
    found = decode_clip(write_images(tmp_path / "short", pictures), parts / "sound.wav", config)
    assert np.array_equal(found["video"], wanted["video"])


def test_a_single_image_is_shown_throughout(parts, tmp_path) -> None:
    image = write_images(tmp_path / "one", ramps()[1][20:21])
    found = decode_clip(image, parts / "sound.wav", DecodingConfig(**SMALL, frame_rate=1))
    assert (found["video"] == 120).all()


def test_images_are_in_the_order_of_their_numbers_and_as_their_files_are(tmp_path) -> None:
    _, pictures = ramps(1.0)
    folder = write_images(tmp_path / "x", np.repeat(pictures, 2, axis=2), "v2_{}.jpg", first=95)  # "100" before "95"
    (folder / "Thumbs.db").write_bytes(b"x")
    (folder / ".95.jpg").write_bytes(b"x")
    config = DecodingConfig(**SMALL | {"frames": 10, "size": 8}, modalities=("video",), frame_rate=PER_SECOND)
    found = decode_clip(folder, None, config)["video"]
    assert np.abs(found.mean((0, 2, 3)) - 6 * np.arange(10)).max() <= 1
    slower = decode_clip(folder, None, config.model_copy(update={"frame_rate": 2.0, "window": "start"}))["video"]
    assert np.abs(slower.mean((0, 2, 3)) - [*[0] * 5, *[6] * 5]).max() <= 1  # two images in a second


def spoilt(folder: Path, change: Callable[[bytes], bytes]) -> None:
    file = folder / "000003.jpg"
    file.write_bytes(change(file.read_bytes()))


def turned(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(folder / "000003.jpg").save(folder / "000003.jpg", exif=exif)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda folder: spoilt(folder, lambda data: data[:-40]), "the image '000003.jpg': it is cut short"),
    "a hole": (
        lambda folder: spoilt(folder, lambda data: data[: len(data) * 3 // 4] + data[-2:]),
        "'000003.jpg': it cannot be dec",
    ),
    "empty": (lambda folder: spoilt(folder, lambda data: b""), "'000003.jpg': it is empty, or neither JPEG nor"),
    "a text": (lambda folder: spoilt(folder, lambda data: b"<html>"), "'000003.jpg': it is empty, or neither JPEG"),
    "turned": (turned, "its EXIF says that it is to be turned"),
    "a gap": (lambda folder: (folder / "000003.jpg").unlink(), "between '000002.jpg' and '000004.jpg'"),
    "twice": (lambda folder: (folder / "3.jpeg").write_bytes(b"x"), "there twice between '000003.jpg' and '3.jpeg'"),
    "no number": (lambda folder: (folder / "cover.png").write_bytes(b"x"), "'cover.png' has no number"),
    "no image": (lambda folder: [each.unlink() for each in folder.iterdir()], "the folder has no image"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_folder_with_a_fault_is_named_with_it(tmp_path, name) -> None:
    rng = np.random.default_rng(0)
    folder = write_images(tmp_path / "clip", rng.integers(0, 256, (5, 16, 16, 3), dtype=np.uint8), "{:06d}.jpg")
    config = DecodingConfig(**SMALL | {"seconds": 0.5}, modalities=("video",), frame_rate=10)
    decode_clip(folder, None, config)
    change, message = FAULTS[name]
    change(folder)
    with pytest.raises(MediaError) as caught:
        decode_clip(folder, None, config)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_rate_or_a_sound_that_cannot_be_right_is_named(parts) -> None:
    config = DecodingConfig(**SMALL, frame_rate=PER_SECOND)
    for rate, seconds in ((4.9, "8.16"), (21, "1.90")):
        with pytest.raises(MediaError, match=f"its pictures last {seconds} s at frame_rate {rate}, its sound 4.00 s"):
            decode_clip(parts / "images", parts / "sound.wav", config.model_copy(update={"frame_rate": rate}))
    with pytest.raises(MediaError, match=r"say how many a second there are \(frame_rate\)"):
        decode_clip(parts / "images", parts / "sound.wav", DecodingConfig(**SMALL))
    with pytest.raises(MediaError, match="it is a folder, which has no sound"):
        decode_clip(parts / "images", None, config)
    with pytest.raises(MediaError, match=r"begins at 4.00 s, where the images have ended: they last 4.00 s"):
        decode_clip(parts / "images", None, config.model_copy(update={"modalities": ("video",)}), 4.0, 5.0)
    with pytest.raises(MediaError, match=r"no such file \(.*gone.wav\)"):
        decode_clip(parts / "images", parts / "gone.wav", config)


@pytest.fixture
def manifest(parts: Path, tmp_path: Path) -> Callable[..., Any]:
    """Return a function that writes a manifest beside the parts, and makes the data set."""

    def make(text: str, **options: Any) -> Any:
        file = tmp_path / "manifest.csv"
        file.write_text(text)
        given = {"root": parts, "frame_rate": PER_SECOND} | SMALL | options
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AvrobustWarning)
            return make_clips(ClipsConfig(manifest=file, **given))

    return make


TWO = "id,video,audio,label,split\n1,{},sound.wav,a,train\n2,both.mkv,,b,test\n"


def test_a_manifest_may_name_two_files_for_each_clip(manifest) -> None:
    data = manifest(TWO.format("images"))
    both, apart = data.read("test", 0), data.read("train", 0)
    assert torch.equal(both.inputs["video"], apart.inputs["video"])
    assert torch.equal(both.inputs["audio"], apart.inputs["audio"])
    heard = manifest(TWO.replace("both.mkv,,", ",both.mkv,").format("gone"), modalities=["audio"])
    assert torch.equal(heard.read("train", 0).inputs["audio"], heard.read("test", 0).inputs["audio"])
    seen = manifest(TWO.format("images").replace("sound.wav", "gone.wav"), modalities=["video"])
    assert torch.equal(seen.read("train", 0).inputs["video"], seen.read("test", 0).inputs["video"])
    named = manifest("path,audio,sound,label,split\nboth.mkv,gone,gone,a,train\nboth2.mkv,x,y,b,test\n")
    assert torch.equal(named.read("train", 0).inputs["audio"], both.inputs["audio"])  # `path` alone counts


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("v1,x.wav,a,train\nv2,x.wav,b,test\n", "'x.wav' is that of line 2, which is in split 'train'"),
        ("v1,,a,train\nv2,v1,b,test\n", "'v1' is that of line 2, which is in split 'train'"),
        ("v1,x.wav,a,train\nv1,y.wav,b,test\n", "'v1' is that of line 2, which is in split 'train'"),
        ("v1,x.wav,a,train\nv1,x.wav,b,train\n", "'v1' is that of line 2, which is labelled 'a', not 'b'"),
        ("v1,../x.wav,a,train\nv2,,b,test\n", "the path '../x.wav' is outside of the root"),
        ("v1,http://x.org/x.wav,a,train\nv2,,b,test\n", "'http://x.org/x.wav' is an address"),
    ],
)
def test_faults_of_either_file_are_found(manifest, rows, message) -> None:
    with pytest.raises(DataError) as caught:
        manifest("video,audio,label,split\n" + rows, modalities=["audio", "video"])
    assert message in str(caught.value) or "its id" in str(caught.value)
    numbered = "".join(f"{number},{row}\n" for number, row in enumerate(rows.splitlines()))
    with pytest.raises(DataError) as caught:
        manifest("id,video,audio,label,split\n" + numbered)
    assert message in str(caught.value)


def test_one_picture_may_have_several_sounds(manifest) -> None:
    data = manifest("id,video,audio,label,split\n1,v,x.wav,a,train\n2,v,y.wav,b,train\n3,w,z.wav,a,test\n")
    assert data.ids("train") == ["1", "2"]


def test_a_manifest_with_neither_is_told_of_both(manifest) -> None:
    with pytest.raises(DataError, match=r"it lacks path \(or audio and video, for two files per clip\)"):
        manifest("video,label,split\nx,a,train\n")


@pytest.mark.parametrize("hashed", [100_000, 1])
def test_the_fingerprint_follows_images_and_sound(manifest, tmp_path, hashed) -> None:
    _, pictures = ramps()
    pictures = np.random.default_rng(0).integers(0, 256, pictures.shape, dtype=np.uint8)
    write_images(tmp_path / "train", pictures)
    write_images(tmp_path / "test", pictures[::-1])
    for name in ("train", "test"):
        write_media(tmp_path / f"{name}.wav", sound=ramps()[0], rate=RATE, audio_codec="pcm_f32le")
    text = "video,audio,label,split\ntrain,train.wav,a,train\ntest,test.wav,b,test\n"

    def found() -> str:
        return manifest(text, root=tmp_path, hashed_files=hashed).fingerprint()

    seen = [found()]
    assert found() == seen[0]
    (tmp_path / "test" / "000002.png").write_bytes((tmp_path / "test" / "000001.png").read_bytes() + b"x")
    seen.append(found())
    data = bytearray((tmp_path / "test.wav").read_bytes())
    (tmp_path / "test.wav").write_bytes(bytes(data) + b"\0\0")
    seen.append(found())
    (tmp_path / "test" / "000040.png").unlink()
    seen.append(found())
    assert len(set(seen)) == 4


@pytest.fixture
def library(parts: Path, tmp_path: Path) -> Path:
    """Clips a to d: video/ID_000030.mkv, frames/ID_000030/*.png, audio/ID_000030.wav; but no sound of d."""
    for number, name in enumerate("abcd"):
        for place, kind in (("video", "pictures.mkv"), ("audio", "sound.wav"), ("frames", "images")):
            target = tmp_path / place / f"{name * 11}_{30 + number:06d}{Path(kind).suffix}"
            target.parent.mkdir(exist_ok=True)
            if place == "frames":
                target.mkdir()
                for image in (parts / kind).iterdir():
                    (target / image.name).hardlink_to(image)
            elif (place, name) != ("audio", "d"):
                target.hardlink_to(parts / kind)
    rows = [f'{name * 11},{30 + i},"{"xy"[i % 2]}",{"train" if i < 2 else "test"}' for i, name in enumerate("abcd")]
    (tmp_path / "vggsound.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


@pytest.mark.filterwarnings("ignore::avrobust_core.AvrobustWarning")
@pytest.mark.parametrize("place", ["video", "frames"])
def test_sets_find_sound_and_pictures_in_two_folders(library, parts, place) -> None:
    given = {"clips": library / "vggsound.csv", "media": library / place, "audio": library / "audio", **SMALL}
    rate = {"frame_rate": PER_SECOND} if place == "frames" else {}
    data = make_vggsound(configs.VGGSoundConfig(**given, **rate, max_missing=0.25))
    assert [*data.ids("train"), *data.ids("test")] == [f"{name * 11}_0000{30 + i}" for i, name in enumerate("abc")]
    assert data.provenance()["missing"] == {"train": 0, "test": 1}
    wanted = decode(parts / "both.mkv", DecodingConfig(**SMALL))
    clip = data.read("test", 0)
    assert np.array_equal((clip.inputs["video"] * 255).round().numpy(), wanted["video"])
    assert np.abs(clip.inputs["audio"].numpy() - wanted["audio"]).max() < 1e-6
    with pytest.raises(DataError, match=r"1 of the 4 listed clips have no file below .*audio: ddddddddddd_000033"):
        make_vggsound(configs.VGGSoundConfig(**given, **rate))
    heard = make_vggsound(configs.VGGSoundConfig(**given, **rate, max_missing=0.25, modalities=("audio",)))
    assert torch.equal(heard.read("test", 0).inputs["audio"], clip.inputs["audio"])
    seen = make_vggsound(configs.VGGSoundConfig(**given, **rate, modalities=("video",)))
    assert len(seen.ids("test")) == 2
    template = {"files": "{id}_{start:06d}" + ("" if place == "frames" else ".mkv"), "audio_files": "{id}_000030.*"}
    with pytest.raises(DataError, match=r"3 of the 4 listed clips have no file below .*audio"):
        make_vggsound(configs.VGGSoundConfig(**given, **rate, **template))


def test_a_cut_picture_beside_a_whole_sound_is_refused(library) -> None:
    for file in (library / "audio").iterdir():
        file.unlink()
        long = np.tile(ramps()[0], 12)
        write_media(library / "audio" / f"{file.name[:11]}.wav", sound=long, rate=RATE, audio_codec="pcm_f32le")
    given = {"clips": library / "vggsound.csv", "media": library / "video", "audio": library / "audio", **SMALL}
    message = "of 3 clips the pictures' file is a whole video and the sound's no more than"
    with pytest.raises(DataError, match=message), pytest.warns(AvrobustWarning, match="have no file"):
        make_vggsound(configs.VGGSoundConfig(**given, max_missing=0.25))


def test_images_without_a_folder_of_sound_are_refused_by_the_spec(tmp_path) -> None:
    with pytest.raises(ValidationError, match=r"images \(frame_rate\) have no sound"):
        configs.FolderConfig(media=tmp_path, frame_rate=10)


@pytest.mark.filterwarnings("ignore::avrobust_core.AvrobustWarning")
def test_folders_of_classes_may_hold_images_beside_sound(parts, tmp_path) -> None:
    for name in ("train/x/1", "train/y/2", "test/x/3", "test/y/4"):
        write_images(tmp_path / "frames" / name, ramps()[1])
        sound = tmp_path / "audio" / f"{name}.wav"
        sound.parent.mkdir(parents=True, exist_ok=True)
        sound.hardlink_to(parts / "sound.wav")
    (tmp_path / "audio" / "test" / "y" / "4.wav").unlink()
    given = {"media": tmp_path / "frames", "audio": tmp_path / "audio", **SMALL}
    data = make_folder(configs.FolderConfig(**given, frame_rate=PER_SECOND, max_missing=0.25))
    assert [*data.ids("train"), *data.ids("test")] == ["train/x/1", "train/y/2", "test/x/3"]
    wanted = decode(parts / "both.mkv", DecodingConfig(**SMALL))
    assert np.array_equal((data.read("test", 0).inputs["video"] * 255).round().numpy(), wanted["video"])
    (tmp_path / "frames" / "test" / "x" / "3" / "000020.png").unlink()
    with pytest.raises(ClipError, match="images are missing"):
        make_folder(configs.FolderConfig(**given, frame_rate=PER_SECOND, max_missing=0.25)).read("test", 0)


@pytest.mark.filterwarnings("ignore::avrobust_core.AvrobustWarning")
def test_kinetics_lists_with_underscores_name_the_same_classes(parts, tmp_path) -> None:
    head = "label,youtube_id,time_start,time_end,split\n"
    for split, label in (("train", "playing_accordion"), ("test", "playing accordion")):
        (tmp_path / f"{split}.csv").write_text(f"{head}{label},{split},0,4,{split}\nbowling,bowl-{split},0,4,{split}\n")
        for name in (split, f"bowl-{split}"):
            (tmp_path / f"{name}.mkv").hardlink_to(parts / "both.mkv")
    lists = {split: tmp_path / f"{split}.csv" for split in ("train", "test")}
    for classes in ("ks-31", ("bowling", "playing_accordion")):
        data = make_kinetics_sounds(configs.KineticsSoundsConfig(lists=lists, media=tmp_path, classes=classes, **SMALL))
        place = data.classes.index("playing accordion")
        assert [data.read(split, 0).target.item() for split in ("train", "test")] == [place, place]
    assert json.dumps(data.classes) == '["bowling", "playing accordion"]'
