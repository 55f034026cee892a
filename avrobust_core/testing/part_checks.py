"""Checks of the parts of models: encoders and fusions."""

from __future__ import annotations

import torch
from torch import Tensor

from avrobust_core.data.batches import Encoded
from avrobust_core.models.parts import Encoder, Fusion
from avrobust_core.testing.component_subjects import OfferSubject
from avrobust_core.testing.running import Check, CheckFailed, check

CLIPS = 3
"""In a batch that is encoded or fused."""


@check()
def check_encodings(subject: OfferSubject) -> None:
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


@check()
def check_encoder_gradient(subject: OfferSubject) -> None:
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


@check()
def check_encoder_batch_mates(subject: OfferSubject) -> None:
    """In evaluation mode a clip's encoding does not depend on its batch mates."""
    encoder, x = _encoder(subject)
    with torch.no_grad():
        whole = encoder(x).pooled
        single = torch.cat([encoder(x[i : i + 1]).pooled for i in range(len(x))])
    _same(whole, single, "an encoding")


@check()
def check_fused(subject: OfferSubject) -> None:
    """The fused embedding is (B, F) or (B, L, F) as the fusion's dim says, finite, and its head gives logits (B, K)."""
    fusion, encoded = _fusion(subject)
    with torch.no_grad():
        fused = fusion(encoded)
        logits = fusion.make_head(4).eval()(fused)
    if fused.dim() not in (2, 3) or len(fused) != CLIPS or fused.shape[-1] != fusion.dim:
        raise CheckFailed(f"the fused embedding is {tuple(fused.shape)}, but dim = {fusion.dim}, of a batch of {CLIPS}")
    if tuple(logits.shape) != (CLIPS, 4) or not bool(logits.isfinite().all()):
        raise CheckFailed(f"the head gives {tuple(logits.shape)}, or not finite, where logits ({CLIPS}, 4) are wanted")


@check()
def check_fusion_gradient(subject: OfferSubject) -> None:
    """A gradient reaches every modality of every clip."""
    fusion, encoded = _fusion(subject)
    leaves = {name: (e.tokens.requires_grad_(), e.pooled.requires_grad_()) for name, e in encoded.items()}
    logits = fusion.make_head(4)(fusion(encoded))
    total = (logits * torch.tensor([1.0, -2.0, 3.0, 0.5])).sum()
    for name, pair in leaves.items():
        grads = torch.autograd.grad(total, pair, allow_unused=True, materialize_grads=True, retain_graph=True)
        sizes = torch.stack([g.flatten(1).abs().sum(dim=1) for g in grads]).sum(dim=0)
        if not bool((sizes > 0).all()):
            raise CheckFailed(f"no gradient reaches {name}: an attack on it would measure nothing")


@check()
def check_fusion_batch_mates(subject: OfferSubject) -> None:
    """In evaluation mode a clip's fused embedding does not depend on its batch mates."""
    fusion, encoded = _fusion(subject)
    with torch.no_grad():
        whole = fusion(encoded)
        parts = [{n: e.select(torch.tensor([i])) for n, e in encoded.items()} for i in range(CLIPS)]
        _same(whole, torch.cat([fusion(part) for part in parts]), "a fused embedding")


def _encoder(subject: OfferSubject) -> tuple[Encoder, Tensor]:
    """The encoder in evaluation mode, and clips drawn from the whole of their bounds."""
    encoder, (media,) = subject.build_with_arguments()
    low, high = media.bounds or (-1.0, 1.0)
    generator = torch.Generator().manual_seed(0)
    return encoder.eval(), low + (high - low) * torch.rand(CLIPS, *media.shape, generator=generator)


def _fusion(subject: OfferSubject) -> tuple[Fusion, dict[str, Encoded]]:
    fusion, (inputs,) = subject.build_with_arguments()
    generator = torch.Generator().manual_seed(0)
    encoded = {
        name: Encoded(
            tokens=torch.randn(CLIPS, 3 + i, dims.token, generator=generator),
            pooled=torch.randn(CLIPS, dims.embed, generator=generator),
        )
        for i, (name, dims) in enumerate(inputs.items())
    }
    return fusion.eval(), encoded


def _same(whole: Tensor, single: Tensor, what: str) -> None:
    off = float((whole - single).abs().max())
    if off > 1e-3 * float(whole.abs().max()):
        raise CheckFailed(
            f"{what} of a clip by itself is not what it is in a batch (off by up to {off:.2g}): in evaluation mode "
            "nothing may be normalised or taken over the batch"
        )


ENCODER_CHECKS: tuple[Check[OfferSubject], ...] = (check_encodings, check_encoder_gradient, check_encoder_batch_mates)
FUSION_CHECKS: tuple[Check[OfferSubject], ...] = (check_fused, check_fusion_gradient, check_fusion_batch_mates)
