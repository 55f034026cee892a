"""Checks of fusions."""

from __future__ import annotations

import copy
import itertools

import torch

from avrobust_core.data.batches import Encoded
from avrobust_core.models.base_classes import Fusion
from avrobust_core.registry.loading import one_line
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


def check_modality_order(subject: ComponentSubject) -> None:
    """The order in which the modalities come in the mapping makes no difference."""
    fusion, encoded = _fusion(subject)
    with torch.no_grad():
        fused = fusion(encoded)
        for names in itertools.permutations(encoded):
            try:
                other = fusion({name: encoded[name] for name in names})
            except Exception as error:
                raise CheckFailed(
                    f"given its modalities in the order {', '.join(names)} it raised {one_line(error)}: go through "
                    "them in an order of its own, by name"
                ) from error
            if other.shape != fused.shape or not torch.allclose(other, fused, rtol=1e-4, atol=1e-5):
                raise CheckFailed(
                    f"given its modalities in the order {', '.join(names)} it fuses them otherwise: an attack replaces "
                    "encodings and hands them on in another order. Go through them in an order of its own, by name, as "
                    "in sorted(inputs)"
                )


def check_fused_again(subject: ComponentSubject) -> None:
    """In evaluation mode clips are fused the same each time, and neither they nor the fusion change."""
    fusion, encoded = _fusion(subject)
    given = copy.deepcopy(encoded)
    kept = {name: value.clone() for name, value in fusion.state_dict().items()}
    with torch.no_grad():
        first = fusion(encoded)
        if any(
            not torch.equal(getattr(encoded[name], part), getattr(each, part))
            for name, each in given.items()
            for part in ("tokens", "pooled")
        ):
            raise CheckFailed("it writes into the encodings that it is given: work on a copy")
        if encoded.keys() != given.keys():
            raise CheckFailed(
                "it takes modalities out of the mapping that it is given, or puts some in: work on a copy"
            )
        second = fusion(encoded)
    if any(not torch.equal(value, kept[name]) for name, value in fusion.state_dict().items()):
        raise CheckFailed("in evaluation mode it changes its own parameters or buffers")
    if not torch.allclose(first, second, rtol=1e-4, atol=1e-6):
        raise CheckFailed("in evaluation mode it fuses the same clips otherwise each time: leave chance to training")


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
