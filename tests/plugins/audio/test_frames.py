"""Windowed frames with reflected ends: the same as PyTorch's two operations, and their gradients."""

import pytest
import torch
from avrobust_audio.frames import windowed_frames
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F


def in_two(x: Tensor, window: Tensor, hop: int, before: int) -> Tensor:
    ends = (before, len(window) - before)
    return F.pad(x.unsqueeze(1), ends, mode="reflect").squeeze(1).unfold(1, len(window), hop) * window


@given(
    st.integers(1, 40).flatmap(lambda length: st.tuples(st.just(length), st.integers(0, length))),
    st.integers(1, 50),
    st.integers(1, 60),
    st.integers(0, 2**31),
)
def test_the_same_as_reflecting_and_unfolding(window: tuple[int, int], hop: int, more: int, seed: int) -> None:
    length, before = window
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(length, generator=generator, dtype=torch.float64)
    x = torch.randn(2, length + more, generator=generator, dtype=torch.float64, requires_grad=True)
    frames, expected = windowed_frames(x, weights, hop, before), in_two(x, weights, hop, before)
    assert torch.equal(frames, expected)
    assert frames.shape == (2, x.shape[1] // hop + 1, length)
    back = torch.randn(frames.shape, generator=generator, dtype=torch.float64)
    (ours,), (theirs,) = (torch.autograd.grad(each, x, back) for each in (frames, expected))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("hop", [3, 6, 8])
def test_it_is_twice_differentiable(hop: int) -> None:
    window = torch.hann_window(6, dtype=torch.float64)
    x = torch.randn(2, 20, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda x: windowed_frames(x, window, hop, 2), x)
    assert torch.autograd.gradgradcheck(lambda x: windowed_frames(x, window, hop, 2).square(), x)
