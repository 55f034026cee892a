"""Checks of encoders."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from avrobust_core.data.batches import Encoded
from avrobust_core.data.media import MediaSpec
from avrobust_core.models.base_classes import Encoder
from avrobust_core.testing.component_subjects import ComponentSubject
from avrobust_core.testing.running import CheckFailed, NotApplicable

CLIPS = 3
"""In a batch that is encoded or fused."""
POINTS = 9
"""On the way from one clip to another."""
VANISHED = 1e-3
"""A gradient that accounts for a smaller share than this of what the encoding changes has vanished."""


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
    sizes = _gradient(encoder, x)[1].flatten(1).abs().sum(dim=1)
    if not bool((sizes > 0).all()) or not bool(sizes.isfinite().all()):
        raise CheckFailed("the gradient that reaches the raw input is 0, or not finite, for some clip")


def check_ordinary_clips(subject: ComponentSubject) -> None:
    """Quiet, smooth and full clips are told apart, and the gradient accounts for the difference: it does not vanish.

    On the way from one clip to another the gradient is on average as large as their difference. Its median tells
    whether that comes from all of the way, or from one step on it.
    """
    encoder, clips = _ordinary(subject)
    with torch.no_grad():
        pooled = encoder(clips).pooled
    if not float((pooled - pooled.mean(dim=0)).abs().max()) > 1e-6 * float(pooled.abs().max()):
        raise CheckFailed("quiet, smooth and full clips have one and the same encoding: no attack on it could succeed")
    steps = torch.linspace(0, 1, POINTS)
    for i, j in itertools.combinations(range(len(clips)), 2):
        way = clips[j] - clips[i]
        points = torch.stack([clips[i] + float(step) * way for step in steps])
        along, gradients = _gradient(encoder, points)
        climbed = float((along[1:] - along[:-1]).abs().sum())
        foretold = float(gradients.flatten(1).norm(dim=1).median() * way.norm())
        if climbed > 1e-5 * float(along.abs().max()) and foretold < VANISHED * climbed:
            raise CheckFailed(
                f"between two ordinary clips the encoding changes by {climbed:.2g}, and most gradients on the way tell "
                f"of {foretold:.2g} at most: the gradient vanishes (a step, rounding, or a function that saturates), "
                "and an attack by gradients would measure nothing"
            )
    still = ~_gradient(encoder, clips)[1].flatten(1).any(dim=1)
    if bool(still.any()):
        raise CheckFailed(
            f"no gradient reaches {int(still.sum())} of {len(clips)} ordinary clips (quiet, smooth, or full): an "
            "attack on such clips would measure nothing"
        )


def check_silence(subject: ComponentSubject) -> None:
    """A clip that is constant (digital silence, a black or a white picture) has a finite encoding and gradient."""
    encoder, _, media = _built(subject)
    low, high = media.bounds or (-1.0, 1.0)
    for value in sorted({low, min(max(0.0, low), high), high}):
        x = torch.full((2, *media.shape), float(value))
        values, gradient = _gradient(encoder, x)
        for what, found in (("encoding", values), ("gradient", gradient)):
            if not bool(found.isfinite().all()):
                raise CheckFailed(
                    f"the {what} of a clip that is {value:g} throughout is not finite: one such clip ends a run. Add a "
                    "floor before a logarithm, a root or a division"
                )


def check_time_axis(subject: ComponentSubject) -> None:
    """`time_axis` is None, or the axis of one clip's features along which time runs."""
    encoder, x, media = _built(subject)
    axis: object = encoder.time_axis
    if axis is None:
        raise NotApplicable("it states none (time_axis)")
    with torch.no_grad():
        features = encoder.frontend(x)
    rank = features.dim() - 1
    if not isinstance(axis, int) or isinstance(axis, bool) or not -rank <= axis < rank:
        raise CheckFailed(
            f"time_axis = {axis!r} is none of the {rank} axes of one clip's features, {tuple(features.shape[1:])}: "
            "budgets on features that speak of time would fail"
        )
    if media.time_axis is None:
        return
    raw, time = media.time_axis % len(media.shape) + 1, axis % rank + 1
    if x.shape[raw] < 4:
        return
    centres, spreads = zip(*(_change(encoder, x, features, raw, time, part) for part in (0, 3)), strict=True)
    if min(spreads) >= 0 and centres[1] - centres[0] <= max(spreads):
        raise CheckFailed(
            f"time_axis = {encoder.time_axis}, but changing the first quarter of a clip changes its features at "
            f"{centres[0]:.0%} of that axis on average, changing the last quarter at {centres[1]:.0%}: time runs along "
            "another axis"
        )


def check_frontend(subject: ComponentSubject) -> None:
    """Nothing in the frontend is trained, by parameters or by training mode; it leaves its input as it is."""
    encoder, x, _ = _built(subject)
    if trained := [name for name, p in encoder.frontend.named_parameters() if p.requires_grad]:
        raise CheckFailed(
            f"the frontend has trained parameters ({', '.join(trained[:3])}): attacks on features begin after it, and "
            "budgets would be in units that training moves. Put what is trained into `encode`"
        )
    given = x.clone()
    with torch.no_grad():
        plain = encoder.frontend(x)
        kept = {name: value.clone() for name, value in encoder.frontend.state_dict().items()}
        encoder.frontend.train()
        try:
            trained_on = encoder.frontend(x)
        finally:
            encoder.frontend.eval()
    moved = [name for name, value in encoder.frontend.state_dict().items() if not torch.equal(value, kept[name])]
    if moved or not torch.allclose(trained_on, plain, rtol=1e-4, atol=1e-5):
        raise CheckFailed(
            "the frontend does something else in training mode (batch normalisation, dropout): it is for fixed steps"
        )
    if not torch.equal(x, given):
        raise CheckFailed("the frontend writes into the clips that it is given: work on a copy")


def check_encoded_again(subject: ComponentSubject) -> None:
    """In evaluation mode a clip is encoded the same each time, and neither it nor the encoder changes."""
    encoder, x, _ = _built(subject)
    given = x.clone()
    kept = {name: value.clone() for name, value in encoder.state_dict().items()}
    with torch.no_grad():
        first, second = encoder(x).pooled, encoder(x).pooled
    if not torch.equal(x, given):
        raise CheckFailed("it writes into the clips that it is given: work on a copy")
    if any(not torch.equal(value, kept[name]) for name, value in encoder.state_dict().items()):
        raise CheckFailed("in evaluation mode it changes its own parameters or buffers")
    if not torch.allclose(first, second, rtol=1e-4, atol=1e-6):
        raise CheckFailed("in evaluation mode it encodes the same clip otherwise each time: leave chance to training")


def check_encoder_batch_mates(subject: ComponentSubject) -> None:
    """In evaluation mode a clip's encoding does not depend on its batch mates."""
    encoder, x = _encoder(subject)
    with torch.no_grad():
        whole = encoder(x).pooled
        single = torch.cat([encoder(x[i : i + 1]).pooled for i in range(len(x))])
    same_alone(whole, single, "an encoding")


def _encoder(subject: ComponentSubject) -> tuple[Encoder, Tensor]:
    """The encoder in evaluation mode, and clips drawn from the whole of their bounds."""
    return _built(subject)[:2]


def _built(subject: ComponentSubject) -> tuple[Encoder, Tensor, MediaSpec]:
    """The same, and what it was built for."""
    encoder, (media,) = subject.build_with_arguments()
    low, high = media.bounds or (-1.0, 1.0)
    generator = torch.Generator().manual_seed(0)
    return encoder.eval(), low + (high - low) * torch.rand(CLIPS, *media.shape, generator=generator), media


def _ordinary(subject: ComponentSubject) -> tuple[Encoder, Tensor]:
    """The encoder, and a quiet, a smooth and a full clip: noise of 2 % around the middle, waves, noise of 80 %."""
    encoder, x, media = _built(subject)
    low, high = media.bounds or (-1.0, 1.0)
    middle, half = (low + high) / 2, (high - low) / 2
    noise = (x[:2] - middle) / half
    phase = torch.linspace(0, 40, x[0].numel()).view(x.shape[1:])
    return encoder, torch.stack(
        (middle + 0.02 * half * noise[0], middle + 0.5 * half * phase.sin(), middle + 0.8 * half * noise[1])
    )


def _gradient(encoder: Encoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """One number per clip, from its embedding, (B,), and its gradient, (B, ...)."""
    leaf = x.detach().clone().requires_grad_()
    values = (encoder(leaf).pooled * torch.linspace(-1, 1, encoder.dims.embed)).sum(dim=1)
    if not values.requires_grad:
        raise CheckFailed("no gradient reaches the raw input: an attack on it would measure nothing")
    (gradient,) = torch.autograd.grad(values.sum(), [leaf], allow_unused=True, materialize_grads=True)
    return values.detach(), gradient


@torch.no_grad()
def _change(encoder: Encoder, x: Tensor, features: Tensor, raw: int, axis: int, part: int) -> tuple[float, float]:
    """The centre of what changes along an axis of the features, and its spread, if a quarter of the clip changes.

    Both are shares of the axis; the spread is -1 if nothing changes.
    """
    length = x.shape[raw]
    changed = x.clone()
    quarter = changed.narrow(raw, part * length // 4, length // 4)
    quarter.copy_(quarter.flip(0))  # by those of other clips
    apart = (encoder.frontend(changed) - features).double().square()
    weight = apart.sum(dim=[d for d in range(apart.dim()) if d != axis])
    if not float(weight.sum()) > 0:
        return 0.0, -1.0
    place = (torch.arange(len(weight)) + 0.5) / len(weight)
    weight = weight / weight.sum()
    centre = float((weight * place).sum())
    return centre, float((weight * (place - centre).square()).sum().sqrt())


def same_alone(whole: Tensor, single: Tensor, what: str) -> None:
    """Refuse what clips by themselves give, (B, ...), where it is not what they give in a batch."""
    off = float((whole - single).abs().max())
    if off > 1e-3 * float(whole.abs().max()):
        raise CheckFailed(
            f"{what} of a clip by itself is not what it is in a batch (off by up to {off:.2g}): in evaluation mode "
            "nothing may be normalised or taken over the batch"
        )
