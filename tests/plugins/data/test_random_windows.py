"""`window: random`: what is learned from is another part of the clip in each epoch; what is measured, its centre."""

import numpy as np
import pytest
import torch
from avrobust_data.clips import make_clips
from avrobust_data.configs import ClipsConfig

from avrobust_core import DataError, derive_seed
from avrobust_core.data.loader import Loader
from avrobust_core.data.loading import Skipped
from avrobust_core.data.packing import pack

SECONDS = 6.0


@pytest.fixture(scope="module")
def manifest(tmp_path_factory, media):
    """Two clips of 6 s in which loudness and brightness both say what time it is, and one of half a second."""
    folder = tmp_path_factory.mktemp("windows")
    times = np.arange(round(8000 * SECONDS)) / 8000
    sound = (0.9 * times / SECONDS * np.sin(2 * np.pi * 500 * times)).astype(np.float32)[None]
    shown = np.arange(round(10 * SECONDS)) / 10
    pictures = np.broadcast_to((255 * shown / SECONDS).astype(np.uint8)[:, None, None, None], (len(shown), 32, 32, 3))
    for name in ("a", "b"):
        media(folder / f"{name}.mkv", sound=sound, rate=8000, pictures=pictures, fps=10, audio_codec="pcm_f32le")
    short = {"sound": sound[:, -4000:], "pictures": pictures[-5:]}
    media(folder / "short.mkv", rate=8000, fps=10, audio_codec="pcm_f32le", **short)
    file = folder / "manifest.csv"
    file.write_text("path,label,split\na.mkv,x,train\nb.mkv,y,train\nshort.mkv,x,train\na2.mkv,x,test\nb2.mkv,y,test\n")
    return file


def data(manifest, window: str = "random"):
    return make_clips(ClipsConfig(manifest=manifest, seconds=1.0, sample_rate=8000, frames=4, size=8, window=window))


def times(clip) -> tuple[float, float]:
    """The middle of a clip in seconds of its file, by its sound and by its pictures."""
    loud = clip.inputs["audio"].abs().mean() * torch.pi / 2 / 0.9  # of a sine wave the mean is 2 / pi
    return float(loud) * SECONDS, float(clip.inputs["video"].mean()) * SECONDS


def same(one, other) -> bool:
    return all(torch.equal(x, other.inputs[name]) for name, x in one.inputs.items())


@pytest.mark.filterwarnings("ignore::avrobust_core.AvrobustWarning")
def test_each_draw_takes_another_part_of_sound_and_picture_alike(manifest) -> None:
    clips = data(manifest)
    found = []
    for draw in range(24):
        clip = clips.read_to_learn("train", 0, draw)
        assert same(clip, clips.read_to_learn("train", 0, draw))
        heard, seen = times(clip)
        assert heard == pytest.approx(seen, abs=0.15)
        share = derive_seed(draw, "a.mkv", "window") / 2**63
        assert heard == pytest.approx(0.5 + share * (SECONDS - 1), abs=0.1)
        found.append(heard)
    assert min(found) < 1.5
    assert max(found) > 4.5


@pytest.mark.filterwarnings("ignore::avrobust_core.AvrobustWarning")
def test_what_is_measured_is_the_centre(manifest) -> None:
    clips, centre = data(manifest), data(manifest, "centre")
    assert same(clips.read("train", 0), centre.read("train", 0))
    assert times(clips.read("train", 0))[0] == pytest.approx(SECONDS / 2, abs=0.1)
    assert same(centre.read_to_learn("train", 0, 1), centre.read("train", 0))
    assert clips.fingerprint() != centre.fingerprint()


@pytest.mark.filterwarnings("ignore::avrobust_core.AvrobustWarning")
def test_clips_draw_each_for_itself_and_short_ones_are_read_whole(manifest) -> None:
    clips = data(manifest)
    assert times(clips.read_to_learn("train", 0, 3)) != times(clips.read_to_learn("train", 1, 3))
    assert same(clips.read_to_learn("train", 2, 3), clips.read("train", 2))


@pytest.mark.filterwarnings("ignore::avrobust_core.AvrobustWarning")
def test_workers_draw_the_same_and_the_memory_of_clips_is_left_alone(manifest) -> None:
    clips = data(manifest)
    clips.read("train", 0)
    with Loader(clips, workers=2) as loader:
        for draw in (None, 1, 2):
            (there,) = loader.batches("train", [[0, 1]], Skipped(clips), draw)
            (here,) = Loader(clips).batches("train", [[0, 1]], Skipped(clips), draw)
            assert there is not None
            assert here is not None
            assert all(torch.equal(x, here.inputs[name]) for name, x in there.inputs.items())
    assert same(clips.read("train", 0), data(manifest, "centre").read("train", 0))


@pytest.mark.filterwarnings("ignore::avrobust_core.AvrobustWarning")
def test_random_windows_are_not_packed(manifest, tmp_path) -> None:
    with pytest.raises(DataError, match=r"another part of each clip in each epoch .*`--set data.with.window=centre`"):
        pack(data(manifest), tmp_path / "packed")
    assert not (tmp_path / "packed").exists()
