"""Checks of fusions."""

from __future__ import annotations

import torch

from avrobust_core.data.batches import Encoded
from avrobust_core.models.base_classes import Fusion
from avrobust_core.testing.component_subjects import ComponentSubject
from avrobust_core.testing.encoder_checks import CLIPS, same_alone
from avrobust_core.testing.running import CheckFailed


def check_fused(subject: ComponentSubject) -> None:
    """The fused embedding is (B, F) or (B, L, F) as the fusion's dim says, finite, and its head gives logits (B, K)."""
    fusion, encoded = _fusion(subject)
    with torch.no_grad():
        fused = fusion(encoded)
        logits = fusion.make_head(4).eval()(fused)
    if fused.dim() not in (2, 3) or len(fused) != CLIPS or fused.shape[-1] != fusion.dim:
        raise CheckFailed(f"the fused embedding is {tuple(fused.shape)}, but dim = {fusion.dim}, of a batch of {CLIPS}")
    if tuple(logits.shape) != (CLIPS, 4) or not bool(logits.isfinite().all()):
        raise CheckFailed(f"the head gives {tuple(logits.shape)}, or not finite, where logits ({CLIPS}, 4) are wanted")


def check_fusion_gradient(subject: ComponentSubject) -> None:
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


def check_fusion_batch_mates(subject: ComponentSubject) -> None:
    """In evaluation mode a clip's fused embedding does not depend on its batch mates."""
    fusion, encoded = _fusion(subject)
    with torch.no_grad():
        whole = fusion(encoded)
        parts = [{n: e.select(torch.tensor([i])) for n, e in encoded.items()} for i in range(CLIPS)]
        same_alone(whole, torch.cat([fusion(part) for part in parts]), "a fused embedding")


def _fusion(subject: ComponentSubject) -> tuple[Fusion, dict[str, Encoded]]:
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
