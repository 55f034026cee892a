"""What encoders and fusions declare of themselves, compared with what they return: a plugin's slip is named as one."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from avrobust_core.data.batches import Encoded
from avrobust_core.errors import ModelError
from avrobust_core.models.base_classes import EncodedDims, Encoder, Fusion

_SHAPES = {"tokens": ("(B, T, D)", 3), "pooled": ("(B, E)", 2)}


def check_encoder(encoder: Encoder, modality: str) -> None:
    """Refuse an encoder that does not say its widths, or has no frontend.

    Args:
        encoder: one that was just built.
        modality: what it reads.

    Raises:
        ModelError: names the encoder and what its `__init__` has to set.
    """
    dims: object = getattr(encoder, "dims", None)
    if not isinstance(dims, EncodedDims):
        raise ModelError(
            f"{_named(encoder, modality)} has {_had(dims)} as `dims`: set self.dims = EncodedDims(token=D, embed=E) in "
            "its __init__, the widths of what `encode` returns"
        )
    if not isinstance(getattr(encoder, "frontend", None), nn.Module):
        raise ModelError(
            f"{_named(encoder, modality)} has no module as `frontend`: set self.frontend in its __init__, to "
            "torch.nn.Identity() if it reads the raw input"
        )


def check_fusion(fusion: Fusion) -> None:
    """Refuse a fusion that does not say its width.

    Raises:
        ModelError: names the fusion and what its `__init__` has to set.
    """
    dim: object = getattr(fusion, "dim", None)
    if not isinstance(dim, int) or isinstance(dim, bool) or dim < 1:
        raise ModelError(
            f"{_named(fusion)} has {_had(dim)} as `dim`: set self.dim in its __init__, the width F of what it returns"
        )


def check_encoded(encoder: Encoder, modality: str, found: object, clips: int) -> Encoded:
    """What an encoder returned, if it is as declared: shapes and types are looked at, no values.

    Args:
        encoder: whose it is.
        modality: what it reads.
        found: what it returned.
        clips: B.

    Raises:
        ModelError: names the encoder, what it returned, and what its `dims` say.
    """
    who = _named(encoder, modality)
    if not isinstance(found, Encoded):
        raise ModelError(
            f"{who} returned a {type(found).__name__}; wanted is avrobust_core.Encoded(tokens, pooled), with tokens "
            "(B, T, D) and pooled (B, E)"
        )
    for name, width in (("tokens", encoder.dims.token), ("pooled", encoder.dims.embed)):
        x: Tensor = getattr(found, name)
        letters, rank = _SHAPES[name]
        _check_tensor(who, name, x, clips)
        if x.dim() != rank:
            raise ModelError(f"{who} returned {name} of shape {tuple(x.shape)}; wanted is {letters}")
        if x.shape[-1] != width:
            of = "token" if name == "tokens" else "embed"
            raise ModelError(
                f"{who} returned {name} of shape {tuple(x.shape)}, {x.shape[-1]} wide, but declares "
                f"dims.{of}={width}: mend EncodedDims({of}=...) in its __init__, or what `encode` returns"
            )
    return found


def check_fused(fusion: Fusion, found: Tensor, encoded: Mapping[str, Encoded]) -> Tensor:
    """What a fusion returned, if it is as declared: shape and type are looked at, no values.

    Args:
        fusion: whose it is.
        found: what it returned.
        encoded: what it was given, by modality.

    Raises:
        ModelError: names the fusion, what it returned, and what its `dim` says.
    """
    who, clips = _named(fusion), len(next(iter(encoded.values())).pooled)
    _check_tensor(who, "what is fused", found, clips)
    if found.dim() < 2 or found.shape[-1] != fusion.dim:
        raise ModelError(
            f"{who} returned {tuple(found.shape)}, but declares dim={fusion.dim}, so that wanted is "
            f"({clips}, {fusion.dim}), or ({clips}, L, {fusion.dim}) for a head that pools: mend self.dim in its "
            "__init__, or what `forward` returns"
        )
    return found


def _check_tensor(who: str, what: str, x: object, clips: int) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        seen = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ModelError(f"{who} returned {what} as {seen}; wanted is a floating tensor such as {torch.float32}")
    if x.dim() == 0 or len(x) != clips:
        raise ModelError(
            f"{who} returned {what} of shape {tuple(x.shape)} for {clips} clips: the first axis is that of the clips"
        )


def _named(part: Encoder | Fusion, modality: str | None = None) -> str:
    kind = "fusion" if isinstance(part, Fusion) else "encoder"
    said = part.origin or f"{kind} {type(part).__name__}"
    return said if modality is None else f"{said}, which reads {modality!r},"


def _had(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
