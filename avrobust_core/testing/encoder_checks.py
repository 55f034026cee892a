"""Checks of encoders."""

from __future__ import annotations

import torch
from torch import Tensor

from avrobust_core.data.batches import Encoded
from avrobust_core.models.base_classes import Encoder
from avrobust_core.testing.component_subjects import ComponentSubject
from avrobust_core.testing.running import CheckFailed

CLIPS = 3
"""In a batch that is encoded or fused."""


def check_encodings(subject: ComponentSubject) -> None:
    """Tokens (B, T, D) and pooled (B, E) as dims says: float32, finite; forward is the frontend, then encode."""
    encoder, x = _encoder(subject)
    with torch.no_grad():
        encoded: Encoded = encoder(x)
        again = encoder.encode(encoder.frontend(x))
    for name, tensor, width, rank in (
        ("tokens", encoded.tokens, encoder.dims.token, 3),
        ("pooled", encoded.pooled, encoder.dims.embed, 2),
    ):
        if tensor.dim() != rank or len(tensor) != len(x) or tensor.shape[-1] != width:
            raise CheckFailed(f"{name} is {tuple(tensor.shape)}, but dims says {encoder.dims}, of a batch of {len(x)}")
        if tensor.dtype != torch.float32 or not bool(tensor.isfinite().all()):
            raise CheckFailed(f"{name} is {tensor.dtype}, or not finite, on clips drawn from the whole of their bounds")
    if not torch.allclose(again.pooled, encoded.pooled, rtol=1e-4, atol=1e-5):
        raise CheckFailed(
            "encode(frontend(x)) is not forward(x): attacks on features attack between the two; override neither alone"
        )


def check_encoder_gradient(subject: ComponentSubject) -> None:
    """A gradient reaches every clip of the raw input."""
    encoder, x = _encoder(subject)
    x.requires_grad_()
    total = (encoder(x).pooled * torch.linspace(-1, 1, encoder.dims.embed)).sum()
    if not total.requires_grad:
        raise CheckFailed("no gradient reaches the raw input: an attack on it would measure nothing")
    (gradient,) = torch.autograd.grad(total, [x], allow_unused=True, materialize_grads=True)
    sizes = gradient.flatten(1).abs().sum(dim=1)
    if not bool((sizes > 0).all()) or not bool(sizes.isfinite().all()):
        raise CheckFailed("the gradient that reaches the raw input is 0, or not finite, for some clip")


def check_encoder_batch_mates(subject: ComponentSubject) -> None:
    """In evaluation mode a clip's encoding does not depend on its batch mates."""
    encoder, x = _encoder(subject)
    with torch.no_grad():
        whole = encoder(x).pooled
        single = torch.cat([encoder(x[i : i + 1]).pooled for i in range(len(x))])
    same_alone(whole, single, "an encoding")


def _encoder(subject: ComponentSubject) -> tuple[Encoder, Tensor]:
    """The encoder in evaluation mode, and clips drawn from the whole of their bounds."""
    encoder, (media,) = subject.build_with_arguments()
    low, high = media.bounds or (-1.0, 1.0)
    generator = torch.Generator().manual_seed(0)
    return encoder.eval(), low + (high - low) * torch.rand(CLIPS, *media.shape, generator=generator)


def same_alone(whole: Tensor, single: Tensor, what: str) -> None:
    """Refuse what clips by themselves give, (B, ...), where it is not what they give in a batch."""
    off = float((whole - single).abs().max())
    if off > 1e-3 * float(whole.abs().max()):
        raise CheckFailed(
            f"{what} of a clip by itself is not what it is in a batch (off by up to {off:.2g}): in evaluation mode "
            "nothing may be normalised or taken over the batch"
        )
