"""Clips as media files: read back as the grid says, or, coded with losses, the same clip at the same time."""

import re

import numpy as np
import pytest
import torch
from avrobust_data.cache import to_tensors
from avrobust_data.configs import ClipsConfig
from avrobust_data.decoding import decode

from avrobust_core import MediaSpec
from avrobust_core.errors import RunError
from avrobust_core.report.exported import FileNames
from avrobust_core.report.media_files import PICTURES, SOUND, Coding, Form, Writer


def media(samples: int, rate: int, frames: int, size: int) -> dict[str, MediaSpec]:
    return {
        "audio": MediaSpec(kind="audio", shape=(1, samples), rate=float(rate), bounds=(-1, 1), time_axis=1),
        "video": MediaSpec(
            kind="video", shape=(3, frames, size, size), rate=frames * rate / samples, bounds=(0, 1), time_axis=1
        ),
    }


def written_and_read(tmp_path, specs, clip, sound, pictures):
    form = Form.of(specs)
    writer = Writer(form, Coding.of(sound, SOUND), Coding.of(pictures, PICTURES))
    files = writer.write(clip, tmp_path, "clip")
    read = to_tensors(decode(tmp_path / files["path"], ClipsConfig(manifest="none", **form.settings())))
    return read, form.kept(clip, writer.sound), files


@pytest.mark.parametrize("sound", ["pcm16", "float32"])
@pytest.mark.parametrize("which", [("audio", "video"), ("audio",), ("video",)])
@pytest.mark.parametrize("form", [(8000, 8000, 8, 32), (44100, 44100, 3, 17), (12000, 8000, 1, 8)])
def test_nothing_is_lost_but_what_the_grid_takes(tmp_path, sound, which, form) -> None:
    samples, _, frames, size = form
    generator = torch.Generator().manual_seed(0)
    clip = {
        "audio": torch.rand(1, samples, generator=generator) * 2 - 1,
        "video": torch.rand(3, frames, size, size, generator=generator),
    }
    clip["audio"][0, :3] = torch.tensor([1.0, -1.0, -0.0])
    clip["video"][:, 0, 0, 0] = torch.tensor([0.0, 1.0, 0.5])
    specs = media(*form)
    part = {name: clip[name] for name in which}
    read, kept, files = written_and_read(tmp_path, {name: specs[name] for name in which}, part, sound, "ffv1")
    assert files["path"] == ("clip.wav" if which == ("audio",) else "clip.mkv")
    first = (tmp_path / files["path"]).read_bytes()
    written_and_read(tmp_path, {name: specs[name] for name in which}, part, sound, "ffv1")
    assert (tmp_path / files["path"]).read_bytes() == first, "the same clip gives the same bytes"
    for name, x in kept.items():
        assert torch.equal(read[name], x)
        step = {"pcm16": 1 / 32768, "float32": 0}[sound] if name == "audio" else 0.5001 / 255
        assert float((x - clip[name]).abs().max()) <= step
    if "audio" in which and sound == "pcm16":
        assert kept["audio"][0, :2].tolist() == [32767 / 32768, -1]


@pytest.mark.parametrize(("sound", "rate"), [("aac:48k", 16_000), ("aac:32k", 4000), ("opus:48k", 22_050)])
def test_what_is_coded_with_losses_is_the_same_clip_at_the_same_time(tmp_path, sound, rate) -> None:
    try:
        Coding.of(sound, SOUND), Coding.of("h264:200k", PICTURES)
    except RunError as error:
        pytest.skip(str(error))
    time = torch.arange(rate) / rate
    across = torch.arange(32) / 31
    clip = {
        "audio": (0.3 * torch.sin(2 * torch.pi * (300 * time + 200 * time**2)))[None],
        "video": torch.stack([across.expand(8, 32, 32) * (i + 1) / 8 for i in range(8)])[:, 0].expand(3, 8, 32, 32),
    }
    read, kept, files = written_and_read(tmp_path, media(rate, rate, 8, 32), clip, sound, "h264:200k")
    assert files["wav"] == "", "a WAV beside it would be of another sound"
    assert not torch.equal(read["audio"], kept["audio"])
    assert float(np.corrcoef(read["audio"], kept["audio"])[0, 1]) > 0.99
    assert float((read["video"] - kept["video"]).abs().mean()) < 0.03, "each picture in its place"


def test_a_rate_is_in_bits_per_second_and_the_file_has_it(tmp_path) -> None:
    try:
        rates = [Coding.of(f"aac:{rate}", SOUND).rate for rate in ("24k", "0.096M", "24000")]
    except RunError as error:
        pytest.skip(str(error))
    assert rates == [24_000, 96_000, 24_000]
    specs = {"audio": media(32_000, 16_000, 1, 8)["audio"]}
    noise = torch.rand(1, 32_000, generator=torch.Generator().manual_seed(0)) - 0.5
    sizes = []
    for sound in ("aac:24k", "aac:96k"):
        _, _, files = written_and_read(tmp_path, specs, {"audio": noise}, sound, "ffv1")
        sizes.append((tmp_path / files["path"]).stat().st_size)
    assert sizes[1] > 2 * sizes[0]


@pytest.mark.parametrize(
    ("text", "known", "sentence"),
    [
        ("aac:0k", SOUND, "'aac:0k': aac needs bits per second, such as aac:64k"),
        ("aac:64kb", SOUND, "'aac:64kb': aac needs bits per second"),
        ("h264:1M", {"h264": ("no-such-encoder", "nor-this")}, "no encoder for h264 (no-such-encoder or nor-this)"),
    ],
)
def test_a_coding_that_there_is_not_is_refused(text: str, known: dict[str, tuple[str, ...]], sentence: str) -> None:
    with pytest.raises(RunError, match=re.escape(sentence)):
        Coding.of(text, known)


def test_odd_pictures_are_refused_where_the_coding_halves_them(tmp_path) -> None:
    specs = {"video": media(800, 800, 1, 9)["video"]}
    with pytest.raises(RunError, match="even number of pixels, and these are 9 pixels high; choose ffv1"):
        written_and_read(tmp_path, specs, {"video": torch.zeros(3, 1, 9, 9)}, "pcm16", "h264:100k")


@pytest.mark.parametrize(
    "spec",
    [
        MediaSpec(kind="audio", shape=(2, 8), rate=8, bounds=(-1, 1)),
        MediaSpec(kind="audio", shape=(1, 8), rate=8),
        MediaSpec(kind="audio", shape=(1, 8), bounds=(-1, 1)),
        MediaSpec(kind="video", shape=(3, 2, 8, 9), rate=2, bounds=(0, 1)),
        MediaSpec(kind="video", shape=(3, 2, 8, 8), rate=2, bounds=(-1, 1)),
        MediaSpec(kind="depth", shape=(1, 2, 8, 8), rate=2, bounds=(0, 1)),
        MediaSpec(kind="features", shape=(10, 2048), bounds=(-0.5, 1.5)),
    ],
    ids=str,
)
def test_clips_that_no_file_gives_back_are_refused_by_name(spec: MediaSpec) -> None:
    with pytest.raises(RunError, match="mine cannot be exported"):
        Form.of({"mine": spec})


def test_names_of_files_are_plain_short_and_never_given_twice() -> None:
    names = FileNames()
    given = [names.of(("clean", each)) for each in ("../../etc/x", "etc/x", "ETC_X", "..", "é" * 300, "a" * 300)]
    assert given[:4] == ["clean/etc_x", "clean/etc_x-2", "clean/ETC_X-3", "clean/clip"]
    assert len({name.casefold() for name in given}) == len(given)
    assert all(len(name) < 80 and ".." not in name for name in given)
    assert names.of(("clean", "etc/x")) == "clean/etc_x-2"
