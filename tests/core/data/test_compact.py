"""Compact types of packed clips: nothing is lost, and what can be small is."""

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avrobust_core.data.compact import decode, encode


def bits(x: torch.Tensor) -> list[int]:
    return x.contiguous().view(torch.int32).flatten().tolist()


PICTURES = torch.arange(256, dtype=torch.uint8)
SOUND = torch.arange(-32768, 32768, 7).to(torch.int16)


@pytest.mark.parametrize(
    ("x", "encoding"),
    [
        (PICTURES.to(torch.float32) / 255, "uint8/255"),
        (PICTURES.to(torch.float32).div_(255).flip(0)[::3], "uint8/255"),  # not contiguous
        (torch.zeros(2, 5), "uint8/255"),
        (SOUND.to(torch.float32) / 32768, "int16/32768"),
        (torch.tensor([0.0, -0.0]), "float16"),  # the sign of a zero is a bit, too
        (torch.full((3,), float("nan")), "float32"),
        (torch.tensor([1.0, float("inf"), -2.5]), "float16"),
        (torch.arange(256) / 256 + 1e-6, "float32"),
        (torch.tensor([70000.0, -1e-30]), "float32"),
        (torch.zeros(0, 3), "uint8/255"),
        (torch.zeros(1000).index_fill_(0, torch.tensor(501), 0.3), "float32"),  # where no quick look falls
    ],
)
def test_values_are_kept_in_the_smallest_type_that_loses_nothing(x: torch.Tensor, encoding: str) -> None:
    before = bits(x)
    name, kept = encode(x)
    assert name == encoding
    assert bits(decode(kept, name)) == before
    assert bits(x) == before
    assert decode(kept, name).shape == x.shape


@given(arrays.arrays(np.float32, st.integers(0, 9), elements=st.floats(width=32)))
def test_any_floats_come_back_bit_for_bit(values: np.ndarray) -> None:
    x = torch.from_numpy(values)
    name, kept = encode(x)
    assert bits(decode(kept, name)) == bits(x)
