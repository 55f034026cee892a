"""The gallery of exported clips: what is shown is what the files hold, and as much as there is room for."""

import base64
import html
import io
import re
import wave
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from avrobust_core import Registry
from avrobust_core.report.html import gallery as module
from avrobust_core.report.html.page import gather, render
from avrobust_core.report.html.reading import read_run
from avrobust_core.report.html.view import Gallery, Items, Media, Page, Text

REGISTRY = Registry.discover()


def page_of(folder: Path) -> Page:
    return gather(read_run(folder), REGISTRY)


def shown(page: Page) -> Gallery:
    (found,) = [part for each in page.sections for part in each.parts if isinstance(part, Gallery)]
    return found


def told(page: Page) -> str:
    """The paragraphs of the gallery, and what the summary says is missing."""
    parts = [part for each in page.sections if each.name in ("gallery", "summary") for part in each.parts]
    texts = [part.text for part in parts if isinstance(part, Text)]
    return "\n".join([*texts, *(text for part in parts if isinstance(part, Items) for text in part.items)])


def content(media: Media) -> bytes:
    return base64.b64decode(media.data.partition("base64,")[2])


def pixels(media: Media) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(content(media)))).astype(int)


def samples(media: Media) -> np.ndarray:
    with wave.open(io.BytesIO(content(media))) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (4000, 1, 2)
        return np.frombuffer(sound.readframes(4000), "<i2").astype(int)


def test_pictures_sounds_and_what_was_changed_are_those_of_the_files(made_run, made_export) -> None:
    made = made_run()
    made.write()
    made_export(made).write(("x0",))
    second, first = shown(page_of(made.folder)).clips
    assert (first.title, first.label, second.title, second.label) == ("clip-0", "dog", "clip-1", "cat")
    frames, spectrum, sound = first.media
    (version,) = first.versions
    after, changed, spectrum_after, spectrum_changed, sound_after = version.media
    # Frames 2, 4, 6, 8, each of one grey; the left half of each 4 steps lighter.
    assert frames.label == "clean: frames 2, 4, 6, 8 of 8"
    assert pixels(frames).shape == (16, 64, 3)
    assert pixels(frames)[0, ::16, 0].tolist() == [64 + 16 * i for i in (1, 3, 5, 7)]
    assert (pixels(after) - pixels(frames))[0, :, 0].reshape(4, 16).tolist() == [[4] * 8 + [0] * 8] * 4
    assert changed.label == "difference x 16; grey is none"
    assert set(pixels(changed)[:, 8:16].flat) == {128}
    assert abs(pixels(changed)[:, :8] - 127.5 - 16 * 4).max() <= 1
    # 500 Hz of 2 kHz are a quarter from below, in the first half; what moves every sample alike lies at the bottom.
    assert pixels(spectrum).shape == (80, 320)
    assert abs(int(pixels(spectrum)[:, 60].argmax()) - 60) <= 1
    assert pixels(spectrum)[:, 200:].max() == 0
    assert pixels(spectrum_after)[-1, 250] > 40, "on the clean clip's scale"
    assert pixels(spectrum_changed)[-1].min() > 200
    assert pixels(spectrum_changed)[:60, 10:-10].max() < 60
    # The tone's amplitude a reads as 20 log10(a / 2), for half its energy lies at the negative frequency.
    level = int(re.search(r"white is ([+-]\d+) dB", spectrum_changed.label)[1])
    assert level == pytest.approx(20 * np.log10((1 / 256) / 0.25), abs=1.5)
    assert set(samples(sound_after) - samples(sound)) == {128}
    assert samples(sound).max() == 32768 // 2
    # By hand: a tone of amplitude 1/2 for half of the time, 1/256 throughout; half of the pixels by 4/255.
    assert version.facts["SNR of audio"] == f"{10 * np.log10(0.125 / 2 * 256**2):.1f} dB"
    assert version.facts["PSNR of video"] == f"{20 * np.log10(255 / 4) + 10 * np.log10(2):.1f} dB"


def test_predictions_their_confidence_and_what_saving_leaves_stand_beside_the_clip(made_run, made_export) -> None:
    made = made_run()
    made.write()
    made_export(made).write(("x0",), clips=3)
    versions = {clip.title: clip.versions[0] for clip in shown(page_of(made.folder)).clips}
    facts = versions["clip-2"].facts
    assert versions["clip-2"].title == "x/plain: pgd on both"
    # softmax: exp(2) / (exp(2) + 2), and exp(3) / (exp(3) + 2)
    assert facts["prediction, clean"] == "dog (78.7 %)"
    assert facts["attacked"] == "cat (90.9 %)"
    assert facts["attacked and saved"] == "cat (78.7 %)"
    assert facts["size once saved, of its budget"] == "audio 0.0039 of 0.004"
    told = [versions[f"clip-{i}"].facts["fooled"] for i in range(3)]
    assert told == ["no", "yes, but no longer once saved", "yes, and still once saved"]


def test_every_picture_has_words_every_player_a_name_and_nothing_is_taken_for_markup(
    made_run, made_export, evil: str, monkeypatch
) -> None:
    made = made_run(evil)
    made.write()
    made_export(made).write()
    monkeypatch.setattr("avrobust_core.report.html.page.LONGEST_LINE", 500)  # of texts; media are longer, and whole
    text = render(page := page_of(made.folder))
    media = [each for clip in shown(page).clips for part in (clip, *clip.versions) for each in part.media]
    assert all(f'src="{each.data}"' in text for each in media)
    pictures = re.findall(r'<img src="data:image/png;base64,[\w+/=]+" alt="([^"<>]+)">', text)
    players = re.findall(r'<audio controls [^<>]*aria-label="([^"<>]+)"></audio>', text)
    assert len(pictures) == text.count("<img") == 2 * 2 + 4 * 4
    assert len(players) == text.count("<audio") == 2 + 4
    assert max(Counter(pictures).values()) == max(Counter(players).values()) == 1, "each says which it is"
    assert f"{evil}clip-1, clean: spectrogram of its sound" in map(html.unescape, pictures)
    assert not re.search(r"<[^>]*\bonerror", re.sub(r'"[^"]*"', "", text))


def test_each_cell_is_shown_before_any_twice_and_those_that_were_fooled_first(
    made_run, made_export, monkeypatch
) -> None:
    made = made_run()
    made.write()
    made_export(made).write(("x0", "x1", "y0"), clips=3)
    monkeypatch.setattr(module, "MOST", 4)
    page = page_of(made.folder)
    versions = [(clip.title, version.title) for clip in shown(page).clips for version in clip.versions]
    assert versions == [
        ("clip-1", "x/plain, seed 0: pgd on both"),
        ("clip-1", "x/plain, seed 1: pgd on both"),
        ("clip-1", "y/plain, seed 0: pgd on both"),
        ("clip-2", "x/plain, seed 0: pgd on both"),
    ]
    assert "Shown are 4 of 9 attacked clips (a page has at most 4)" in told(page)


def test_media_beyond_the_room_are_left_out_and_counted(made_run, made_export, monkeypatch) -> None:
    made = made_run()
    made.write()
    made_export(made).write()
    first, _ = shown(page := page_of(made.folder)).clips
    assert "Shown are" not in told(page)

    def size(media: list[Media]) -> int:
        return sum(len(each.data) for each in media)

    room = size([*first.media, *first.versions[0].media, *first.versions[1].media])
    monkeypatch.setattr(module, "ROOM", room)
    page = page_of(made.folder)
    assert [(clip.title, len(clip.versions)) for clip in shown(page).clips] == [("clip-1", 2)]
    assert "Shown are 2 of 4 attacked clips (the page has room for 0 MiB of them)" in told(page)
    monkeypatch.setattr(module, "ROOM", room - 1)
    assert [len(clip.versions) for clip in shown(page_of(made.folder)).clips] == [1]


def test_sound_that_is_too_long_has_no_player_and_the_page_says_so(made_run, made_export, monkeypatch) -> None:
    made = made_run()
    made.write()
    made_export(made).write()
    monkeypatch.setattr("avrobust_core.report.html.clip_views.LONGEST_SOUND", 7999)
    page = page_of(made.folder)
    assert "<audio" not in render(page)
    assert "There are no players: 1 s of sound are 0.0 MiB a clip, more than the page has room for" in told(page)


def test_a_modality_that_was_not_changed_is_not_shown_twice(made_run, made_export, monkeypatch) -> None:
    made = made_run()
    made.write()
    export = made_export(made)
    export.attacked = lambda number: export.clip(number) | {"audio": export.clip(number)["audio"] + 1 / 256}
    export.write()
    (version, _) = shown(page_of(made.folder)).clips[0].versions
    labels = [each.label.partition(",")[0].partition(":")[0] for each in version.media]
    assert labels == ["attacked", "difference", "attacked sound"]
    assert version.facts["PSNR of video"] == "unchanged"


def test_what_cannot_be_shown_is_said_first_and_the_rest_is_there(made_run, made_export) -> None:
    made = made_run()
    made.write()
    export = made_export(made)
    folder = export.write(("x0", "y0", "z0"))
    (folder / "x0" / "pgd" / "clip-1.mkv").write_bytes(b"no film")
    page = page_of(made.folder)
    assert "has clips of 1 cells that this run no longer has" in told(page)
    assert "a clip of export/ is not shown: " in told(page)
    assert [len(clip.versions) for clip in shown(page).clips] == [1, 2]

    for file, text, sentence in (
        ("export.json", "{", "export.json: cannot be read"),
        ("export.json", '{"format": 2}', "its format is 2, and this avrobust reads 1"),
        (
            "export.json",
            '{"format": 1, "split": "test", "cells": [{}]}',
            "it is not as avrobust writes it (KeyError: 'id')",
        ),
        ("data.yaml", "data: [", "data.yaml: is damaged"),
        ("manifest.csv", "path\n", "cannot read such clips back"),
    ):
        kept = (folder / file).read_text()
        (folder / file).write_text(text)
        page = page_of(made.folder)
        assert "export/ is not shown: " in told(page)
        assert sentence in told(page)
        assert "gallery" not in [section.name for section in page.sections]
        (folder / file).write_text(kept)


def test_nothing_outside_of_the_folder_is_shown(made_run, made_export) -> None:
    made = made_run()
    made.write()
    folder = made_export(made).write()
    (folder / "x0" / "pgd" / "clip-1.mkv").rename(made.folder / "secret.mkv")
    manifest = (folder / "manifest.csv").read_text()
    (folder / "manifest.csv").write_text(manifest.replace("x0/pgd/clip-1.mkv", "../secret.mkv"))
    settings = (folder / "data.yaml").read_text()
    (folder / "data.yaml").write_text(
        settings.replace("modalities", f"outside_root: true\n    root: {made.folder}\n    modalities")
    )
    assert "outside of the root" in told(page_of(made.folder))
