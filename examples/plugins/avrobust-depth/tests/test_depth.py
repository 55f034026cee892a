"""The plugin's own tests: what it offers holds what avrobust asks of it."""

import pytest
import torch
from avrobust_depth.plugin import avrobust_datasets, avrobust_encoders, avrobust_fusions

from avrobust_core import DataError, MediaSpec
from avrobust_core.testing import Check, ComponentSubject, parametrize_with_checks


@parametrize_with_checks([*avrobust_datasets(), *avrobust_encoders(), *avrobust_fusions()])
def test_what_it_offers_conforms(subject: ComponentSubject, check: Check[ComponentSubject]) -> None:
    """Every check of the conformance kit."""
    check(subject)


def test_clips_fit_their_media_and_depend_on_their_index_alone() -> None:
    """Shapes, bounds, determinism."""
    (component,) = avrobust_datasets()
    data = component.make(component.config(train=16, test=8))
    more = component.make(component.config(train=64, test=8))
    assert data.classes == more.classes
    assert len(set(data.classes)) == 8
    assert data.fingerprint() != more.fingerprint()
    for index in (9, 3):
        clip = data.read("train", index)
        assert clip.id == data.ids("train")[index]
        assert clip.target == index % 8
        for modality, spec in data.media.items():
            assert clip.inputs[modality].shape == spec.shape
            assert spec.bounds[0] <= clip.inputs[modality].min() <= clip.inputs[modality].max() <= spec.bounds[1]
            assert torch.equal(clip.inputs[modality], more.read("train", index).inputs[modality])
    with pytest.raises(DataError, match="train, test"):
        data.ids("val")


def test_the_encoder_returns_what_it_says() -> None:
    """Widths of tokens and embedding, and a gradient down to the depth map."""
    (component,) = avrobust_encoders()
    encoder = component.make(component.config(channels=(4, 6)), MediaSpec(kind="depth", shape=(1, 12, 20)))
    depth = torch.rand(5, 1, 12, 20, requires_grad=True)
    encoded = encoder(depth)
    assert encoded.tokens.shape == (5, 3 * 5, encoder.dims.token)
    assert encoded.pooled.shape == (5, encoder.dims.embed)
    encoded.pooled.square().sum().backward()
    assert depth.grad is not None
    assert depth.grad.abs().sum() > 0


def test_the_encoder_refuses_what_is_not_depth() -> None:
    """Sound, and colour."""
    (component,) = avrobust_encoders()
    for kind, shape in (("audio", (1, 4000)), ("depth", (3, 8, 8))):
        with pytest.raises(DataError, match="reads media of the kind 'depth'"):
            component.make(component.config(), MediaSpec(kind=kind, shape=shape))
