"""Several channels of sound become one."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from avrobust_data.configs import DecodingConfig
from avrobust_data.decoding import decode
from avrobust_data.downmix import weights
from avrobust_data.faults import MediaError

RATE = 16000


def sound_file(path: Path, channels: np.ndarray, layout: str, codec: str = "pcm_f32le") -> Path:
    """Channels (C, N) float32."""
    with av.open(str(path), "w") as container:
        audio = container.add_stream(codec, rate=RATE, layout=layout)
        data = np.ascontiguousarray(channels.T.reshape(1, -1).astype(np.float32))
        frame = av.AudioFrame.from_ndarray(data, format="flt", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        size = audio.codec_context.frame_size or 1024
        resampler = av.AudioResampler(audio.codec_context.format, layout, RATE, frame_size=size)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(audio.encode(piece))
        container.mux(audio.encode(None))
    return path


def heard(path: Path, **fields: object) -> np.ndarray:
    config = DecodingConfig(modalities=["audio"], sample_rate=RATE, seconds=1.0, window="start", **fields)
    return decode(path, config)["audio"][0]


def tones(count: int) -> np.ndarray:
    """One tone per channel, each of another pitch, of amplitude 0.5."""
    t = np.arange(RATE) / RATE
    return np.stack([0.5 * np.sin(2 * np.pi * 200 * (i + 1) * t) for i in range(count)])


def shares(sound: np.ndarray, count: int) -> np.ndarray:
    """(count,): the weights with which `tones` are in a sound."""
    spectrum = np.abs(np.fft.rfft(sound)) / (len(sound) / 2) / 0.5
    return spectrum[200 * np.arange(1, count + 1)]


def in_decibels(share: float) -> float:
    return 20 * np.log10(share)


LAYOUTS = {
    "mono": [1.0],
    "stereo": [1.0, 1.0],
    "2.1": [1.0, 1.0, 0.0],
    "3.0": [1.0, 1.0, 2**0.5],
    "quad": [1.0, 1.0, 0.5**0.5, 0.5**0.5],
    "5.0": [1.0, 1.0, 2**0.5, 0.5**0.5, 0.5**0.5],
    "5.1": [1.0, 1.0, 2**0.5, 0.0, 0.5**0.5, 0.5**0.5],
    "5.1(side)": [1.0, 1.0, 2**0.5, 0.0, 0.5**0.5, 0.5**0.5],
    "7.1": [1.0, 1.0, 2**0.5, 0.0, *[0.5**0.5] * 4],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_channels_are_weighted_by_their_places(tmp_path, layout) -> None:
    wanted = np.array(LAYOUTS[layout]) / sum(LAYOUTS[layout])
    path = sound_file(tmp_path / "many.wav", tones(len(wanted)), layout)
    assert shares(heard(path), len(wanted)) == pytest.approx(wanted, abs=1e-3)
    mean = np.full(len(wanted), 1 / len(wanted))
    assert shares(heard(path, downmix="mean"), len(wanted)) == pytest.approx(mean, abs=1e-3)


def test_speech_in_the_centre_is_5_decibels_louder_than_in_the_mean(tmp_path) -> None:
    channels = tones(6)
    channels[[0, 1, 3, 4, 5]] = 0
    path = sound_file(tmp_path / "speech.wav", channels, "5.1")
    assert in_decibels(shares(heard(path), 6)[2]) == pytest.approx(-10.7, abs=0.1)
    assert in_decibels(shares(heard(path, downmix="mean"), 6)[2]) == pytest.approx(-15.6, abs=0.1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_mix_exceeds_full_scale(tmp_path, layout) -> None:
    path = sound_file(tmp_path / "full.wav", np.full((len(LAYOUTS[layout]), RATE), 1.0), layout)
    assert heard(path)[100:-100] == pytest.approx(1.0, abs=1e-6)


def test_unknown_layouts_give_the_mean() -> None:
    assert weights(["FL", "FR", "TFL"], "weighted") is None
    assert weights(["FL", "FR", "FC"], "mean") is None
    assert weights(["AMBI0", "AMBI1", "AMBI2", "AMBI3"], "weighted") is None
    assert weights(["LFE"], "weighted") is None  # alone, it is all that there is


def test_channels_that_change_in_mid_stream_are_each_mixed(tmp_path) -> None:
    t = np.arange(RATE // 1152 * 1152) / RATE
    tone = 0.5 * np.sin(2 * np.pi * 440 * t)
    parts = [
        sound_file(tmp_path / f"{len(channels)}.mp2", np.stack(channels), layout, "mp2")
        for layout, channels in {"mono": [tone], "stereo": [tone, 0 * tone]}.items()
    ]
    path = tmp_path / "change.mp2"
    path.write_bytes(b"".join(part.read_bytes() for part in [*parts, parts[0]]))
    config = DecodingConfig(modalities=["audio"], sample_rate=RATE, seconds=2.8, window="start")
    sound = decode(path, config)["audio"][0]
    length = len(t)
    for number, level in enumerate((0.5, 0.25, 0.5)):
        piece = sound[number * length + 2000 : number * length + 12000]
        assert piece.std() * 2**0.5 == pytest.approx(level, rel=0.02)


@pytest.mark.parametrize("peak", [127.0, 32767.0, 8388607.0])
def test_whole_numbers_that_were_written_as_floats_are_refused(tmp_path, peak) -> None:
    path = sound_file(tmp_path / "numbers.wav", peak * 2 * tones(1), "mono")
    with pytest.raises(MediaError, match=r"its sound reaches \d+, .*whole numbers that were written as floats"):
        heard(path)


def test_overshoot_of_a_few_times_is_clamped(tmp_path) -> None:
    assert np.abs(heard(sound_file(tmp_path / "loud.wav", 8 * tones(1), "mono"))).max() == 1
