"""Blocks of convolutions: computed one way or the other, the result is the same, and attacks keep less."""

import pytest
import torch
from avrobust_audio.blocks import ConvBlock
from torch import Tensor, nn


def block(inputs: int = 8, outputs: int = 6, **more: int) -> ConvBlock:
    torch.manual_seed(0)
    made = ConvBlock(inputs, outputs, **more)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.bias, module.running_mean):
                assert value is not None
                nn.init.normal_(value)
            assert module.running_var is not None
            nn.init.uniform_(module.running_var, 0.1, 2.0)
    return made.eval()


def maps(frames: int, inputs: int = 8) -> Tensor:
    return torch.randn(2, inputs, frames, 5, generator=torch.Generator().manual_seed(1))


def plainly(made: ConvBlock, x: Tensor) -> Tensor:
    for i in range(1, made.layers + 1):
        x = torch.relu(made.get_submodule(f"bn{i}")(made.get_submodule(f"conv{i}")(x)))
    return x


@pytest.mark.parametrize("frames", [3, 100])  # kernels are larger, and smaller, than a map
@pytest.mark.parametrize("more", [{}, {"kernel": 5, "layers": 1}])
@pytest.mark.parametrize("frozen", [False, True])
def test_values_and_gradients_are_those_of_the_layers(frames: int, more: dict[str, int], frozen: bool) -> None:
    made = block(**more).requires_grad_(not frozen)
    found = []
    for run in (made, lambda x: plainly(made, x)):
        x = maps(frames).requires_grad_()
        y = run(x)
        (gradient,) = torch.autograd.grad((y * torch.linspace(-1, 1, y.shape[2])[:, None]).sum(), x)
        found.append((y.detach(), gradient))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(made(maps(frames)), found[1][0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frames", [3, 100])
def test_no_input_is_changed(frames: int) -> None:
    made, x = block().requires_grad_(False), maps(frames)
    made(x)
    assert torch.equal(x, maps(frames))


@pytest.mark.parametrize("training", [False, True])
def test_every_parameter_learns_in_either_mode(training: bool) -> None:
    made = block().train(training)
    gradients = torch.autograd.grad(made(maps(20)).square().sum(), list(made.parameters()))
    assert all(bool((gradient != 0).any()) for gradient in gradients)


def test_normalises_over_the_batch_while_training() -> None:
    made = block().train().requires_grad_(False)
    before = made.get_buffer("bn1.running_mean").clone()
    assert not torch.allclose(made(maps(20)), plainly(block(), maps(20)))
    assert not torch.equal(made.get_buffer("bn1.running_mean"), before)


@pytest.mark.parametrize("frames", [3, 100])
def test_an_attack_keeps_one_map_per_convolution(frames: int) -> None:
    def kept(made: ConvBlock) -> int:
        storages = set()

        def pack(saved: Tensor) -> Tensor:
            if saved.shape[-2:] == (frames, 5) and saved.shape[1] == 6:
                storages.add(saved.untyped_storage().data_ptr())
            return saved

        x = maps(frames).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
            y = made(x)
        del y
        return len(storages)

    assert kept(block().requires_grad_(False)) == 2
    assert kept(block()) == 4


@pytest.mark.parametrize("frames", [3, 100])
def test_double_precision_agrees_with_finite_differences(frames: int) -> None:
    made = block(inputs=2, outputs=2).double().requires_grad_(False)
    x = torch.randn(1, 2, frames, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    assert torch.autograd.gradcheck(made, x, fast_mode=True)
