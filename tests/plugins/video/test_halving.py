"""The convolution that halves pictures: its bits are PyTorch's, and so are its gradients but for rounding."""

import pytest
import torch
from avrobust_video.halving import STRIDE, halved, input_gradient
from torch import Tensor
from torch.nn import functional as F


@pytest.mark.parametrize("kernel", [5, 6, 7])
@pytest.mark.parametrize("padding", [0, 1, 2, 3])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (15, 18), (9, 8), (8, 11)])
def test_has_the_gradients_of_the_plain_convolution(kernel: int, padding: int, height: int, width: int) -> None:
    x, weight, bias = _inputs((2, 3, 4, height, width), (5, 3, 3, kernel, kernel))
    pad = (1, padding, padding)
    ours, plain = halved(x, weight, bias, pad), F.conv3d(x, weight, bias, STRIDE, pad)
    assert torch.equal(ours, plain)
    assert ours.grad_fn is not None
    assert ours.grad_fn.name() != plain.grad_fn.name()
    upstream = torch.randn(plain.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found, wanted = (torch.autograd.grad(y, (x, weight, bias), upstream) for y in (ours, plain))
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_gradients_have_gradients() -> None:
    x, weight, bias = _inputs((1, 2, 2, 7, 8), (2, 2, 1, 5, 5))

    def convolved(*inputs: Tensor) -> Tensor:
        return halved(*inputs, (0, 2, 2))

    assert torch.autograd.gradgradcheck(convolved, (x, weight, bias))


@pytest.mark.parametrize("time", [1, 5])
def test_float32_rounds_not_much_worse_than_pytorchs(time: int) -> None:
    pad = (time // 2, 3, 3)
    x, weight, _ = _inputs((2, 3, 8, 32, 32), (16, 3, time, 7, 7))
    exact = F.conv3d(x, weight, None, STRIDE, pad)
    upstream = torch.randn(exact.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (wanted,) = torch.autograd.grad(exact, x, upstream)
    found = input_gradient(upstream.float(), weight.detach().float(), pad, x.shape[3:])
    single = x.detach().float().requires_grad_()
    (plain,) = torch.autograd.grad(
        F.conv3d(single, weight.detach().float(), None, STRIDE, pad), single, upstream.float()
    )
    assert _error(found, wanted) <= 4 * _error(plain, wanted)


@pytest.mark.parametrize("kernel", [3, 7])
def test_mixed_precision_and_narrow_kernels_take_pytorchs_own_way(kernel: int) -> None:
    x, weight, _ = _inputs((1, 3, 1, 16, 16), (4, 3, 1, kernel, kernel))
    x, weight = x.detach().float().requires_grad_(), weight.detach().float()
    with torch.autocast("cpu", torch.bfloat16, enabled=kernel == 7):
        y = halved(x, weight, None, (0, 1, 1))
        plain = F.conv3d(x, weight, None, STRIDE, (0, 1, 1))
    assert y.dtype == plain.dtype
    assert y.grad_fn is not None
    assert y.grad_fn.name() == plain.grad_fn.name()


def _inputs(clips: tuple[int, ...], kernel: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
        for shape in (clips, kernel, kernel[:1])
    ]


def _error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).abs().max() / exact.abs().max())
