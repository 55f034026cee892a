"""Encoders with the log-mel front end read log-mel spectrograms that were made beforehand, as if they had made them."""

import pytest
import torch
from avrobust_audio.plugin import avrobust_encoders

from avrobust_core import DataError, Encoder, MediaSpec

CONFIGS = {
    "tal-trans": {"embed": 64, "heads": 2, "n_mels": 32},
    "cnn": {"channels": [4, 8], "n_mels": 32},
    "audio-patches": {"width": 16, "n_mels": 32},
}
WAVEFORMS = MediaSpec(kind="audio", shape=(1, 8_000), rate=8_000, bounds=(-1, 1), time_axis=1)


def spectrograms(*shape: int) -> MediaSpec:
    return MediaSpec(kind="audio", shape=shape, time_axis=1)


def build(name: str, media: MediaSpec) -> Encoder:
    component = next(c for c in avrobust_encoders() if c.name == name)
    torch.manual_seed(0)
    made: Encoder = component.make(component.config(**CONFIGS[name]), media)
    return made.eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_spectrogram_gives_what_its_waveform_gives(name: str) -> None:
    heard = build(name, WAVEFORMS)
    waveforms = 0.1 * torch.randn(2, 1, 8_000, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        seen = heard.frontend(waveforms)
        read = build(name, spectrograms(*seen.shape[1:]))
        assert torch.equal(read.frontend(seen), seen)
        assert read.state_dict().keys() == heard.state_dict().keys()
        for found, expected in (
            (read(seen).tokens, heard(waveforms).tokens),
            (read(seen).pooled, heard(waveforms).pooled),
        ):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("name", CONFIGS)
def test_spectrograms_of_other_bands_or_channels_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="have 64 bands, and n_mels is 32; set n_mels to 64"):
        build(name, spectrograms(1, 40, 64))
    with pytest.raises(DataError, match=r"not kind 'audio' of shape \(2, 40, 32\)"):
        build(name, spectrograms(2, 40, 32))


@pytest.mark.parametrize("name", ["tal-trans", "cnn"])
def test_spectrograms_that_are_too_short_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="1 frames are too few"):
        build(name, spectrograms(1, 1, 32))
