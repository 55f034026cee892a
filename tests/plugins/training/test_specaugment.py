"""SpecAugment: spans of time in step, bands of features, bands of waveforms."""

from dataclasses import replace

import pytest
import torch

from avrobust_core import Batch, DataError


def test_all_modalities_lose_the_same_spans_of_time(stand, make):
    given = stand()
    found = make("specaugment", time_width=0.5, frequency_masks=0).begin(given.batch, given.step()).batch
    audio = (found.inputs["audio"] == 0).all(dim=1)
    video = (found.inputs["video"] == 0).flatten(3).all(dim=3).all(dim=1)
    assert (audio | (found.inputs["audio"][:, 0] == given.batch.inputs["audio"][:, 0])).all()
    for i in range(8):
        # Each span's edges are rounded to samples and to frames: they differ by less than a frame at each of four.
        assert abs(audio[i].float().mean() - video[i].float().mean()) < 0.21
        assert (audio[i].view(10, 80).float().mean(dim=1)[video[i]] >= 0.5).all()
    assert 0.2 < audio.float().mean() < 0.6
    apart = (
        make("specaugment", time_width=0.5, frequency_masks=0, together=False).begin(given.batch, given.step()).batch
    )
    assert not torch.equal((apart.inputs["video"] == 0).all(dim=1), (found.inputs["video"] == 0).all(dim=1))


def test_widths_are_uniform_up_to_the_largest_and_places_anywhere(stand, make):
    given = stand(clips=50)
    masked = []
    for epoch in range(20):
        augment = make("specaugment", time_masks=1, time_width=0.2, frequency_masks=0, modalities=["audio"])
        found = augment.begin(given.batch, given.step(epoch)).batch
        assert torch.equal(found.inputs["video"], given.batch.inputs["video"])
        masked.append(found.inputs["audio"][:, 0] == 0)
    masked = torch.cat(masked).float()
    widths = masked.mean(dim=1)
    assert widths.max() <= 0.2 + 1e-3
    assert abs(widths.mean() - 0.1) < 0.005  # none runs over the end
    assert abs(widths.std() - 0.2 / 12**0.5) < 0.01
    thirds = masked.view(len(masked), 8, 100).mean(dim=(0, 2))
    assert thirds[1:-1].min() > 0.6 * thirds[1:-1].max()


def test_bands_of_features_are_masked_over_all_frames(stand, make, features):
    given = stand(features)
    found = (
        make("specaugment", time_masks=0, frequency_masks=1, frequency_width=0.5).begin(given.batch, given.step()).batch
    )
    masked = found.inputs["audio"][:, 0] == 0.5  # the bound that is nearest to zero
    assert torch.equal(masked, masked[:, :1].expand_as(masked))
    assert masked.any()
    mean = make("specaugment", time_masks=0, frequency_masks=1, frequency_width=0.5, fill="mean")
    filled = mean.begin(given.batch, given.step()).batch.inputs["audio"]
    own = given.batch.inputs["audio"].mean(dim=(1, 2, 3), keepdim=True).expand_as(filled)
    torch.testing.assert_close(filled[masked.unsqueeze(1)], own[masked.unsqueeze(1)])


def test_a_band_of_a_waveform_is_silenced_and_the_rest_is_kept(stand, make):
    given = stand()
    given = stand({**given.media, "audio": replace(given.media["audio"], rate=16_000)})
    quiet = given.batch.inputs["audio"] * 0.05  # so that nothing is clipped
    batch = Batch({**given.batch.inputs, "audio": quiet}, given.batch.targets, given.batch.ids)
    augment = make("specaugment", time_masks=0, frequency_masks=1, frequency_width=0.6)
    found = augment.begin(batch, given.step()).batch
    assert torch.equal(found.inputs["video"], batch.inputs["video"])
    before, after = torch.fft.rfft(quiet[:, 0]).abs(), torch.fft.rfft(found.inputs["audio"][:, 0]).abs()
    gone = after < 1e-4 * before
    kept = (after - before).abs() < 1e-3 * before + 1e-5
    assert (gone ^ kept).all()
    assert gone.any(dim=1).sum() >= 6
    for row in gone:
        places = row.nonzero().flatten()
        assert len(places) == 0 or places[-1] - places[0] + 1 == len(places)  # one band
    hertz = torch.fft.rfftfreq(800, 1 / 16_000)
    mels = (1 + hertz / 700).log() / torch.tensor(1 + 8000 / 700).log()
    assert all(mels[row].max() - mels[row].min() <= 0.6 for row in gone if row.any())


def test_what_a_filter_makes_louder_is_clipped(stand, make):
    given = stand()
    square = given.batch.inputs["audio"].sign()
    batch = Batch({**given.batch.inputs, "audio": square}, given.batch.targets, given.batch.ids)
    found = make("specaugment", time_masks=0, frequency_width=0.8).begin(batch, given.step()).batch.inputs["audio"]
    assert found.abs().max() == 1


def test_it_refuses_what_it_cannot_mask(stand, make):
    given = stand()
    for media in ({"audio": replace(given.media["audio"], rate=None)}, {"video": given.media["video"]}):
        refused = stand(media)
        with pytest.raises(DataError, match="frequency_masks: 0"):
            make("specaugment").begin(refused.batch, refused.step())
    with pytest.raises(DataError, match="no modality depth"):
        make("specaugment", modalities=["depth"]).begin(given.batch, given.step())
    timeless = stand({**given.media, "video": replace(given.media["video"], time_axis=None)})
    with pytest.raises(DataError, match="time_axis"):
        make("specaugment").begin(timeless.batch, timeless.step())
    make("specaugment", modalities=["audio"]).begin(timeless.batch, timeless.step())
