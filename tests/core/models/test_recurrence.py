"""Recurrent layers give in `differentiable_recurrence` what they give in evaluation, and nothing else is changed."""

import pytest
import torch
from torch import Tensor, nn

from avrobust_core.models.recurrence import differentiable_recurrence


class Net(nn.Module):
    """A recurrent layer with dropout between its layers, batch normalisation and dropout."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(4, 6, num_layers=3, dropout=0.5, batch_first=True, bidirectional=True)
        self.rest = nn.Sequential(nn.BatchNorm1d(12), nn.Dropout(0.5), nn.Linear(12, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        found: Tensor = self.rest(self.rnn(x)[0][:, -1])
        return found


class Noisy(nn.GRU):
    """With a forward pass of its own, in which training mode means more."""

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise in training."""
        found: tuple[Tensor, Tensor] = super().forward(x + torch.randn_like(x) * self.training, h)
        return found


class Named(nn.LSTM):
    """With the library's own forward pass."""


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU, Named])
@pytest.mark.parametrize("fails", [False, True])
def test_outputs_gradients_and_buffers_are_those_of_evaluation(kind: type[nn.RNNBase], fails: bool) -> None:
    torch.manual_seed(0)
    net = Net(kind).eval()
    x = torch.randn(5, 7, 4, requires_grad=True)
    plain = net(x)
    (gradient,) = torch.autograd.grad(plain.square().sum(), x)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    try:
        with differentiable_recurrence(net, "cpu"):
            assert net.rnn.training
            assert not any(module.training for module in net.modules() if module is not net.rnn)
            found = net(x)
            (again,) = torch.autograd.grad(found.square().sum(), x)
            if fails:
                raise RuntimeError("inside")
    except RuntimeError:
        assert fails
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(again, gradient)
    assert all(torch.equal(net.state_dict()[key], value) for key, value in before.items())
    assert (net.rnn.training, net.rnn.dropout) == (False, 0.5)


def test_a_layer_with_a_forward_of_its_own_and_layers_elsewhere_are_left_alone() -> None:
    layer, elsewhere = Noisy(4, 6), nn.GRU(4, 6)
    model = nn.ModuleList([layer, elsewhere]).eval()
    with differentiable_recurrence(nn.ModuleList([layer]), "cpu"):
        assert not layer.training
    with differentiable_recurrence(model):
        assert not any(module.training for module in model.modules())
