"""Gradients of the attacked modalities: taken, refused where they mean nothing, and on record for the report."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from avrobust_core.errors import AvrobustError
from avrobust_core.threats.clips import first_flagged


def leaves_of(x: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same values as leaves that want gradients."""
    return {name: value.detach().requires_grad_() for name, value in x.items()}


def joint_gradient(loss: Tensor, leaves: Mapping[str, Tensor], *, more: bool = False) -> dict[str, Tensor]:
    """The gradient of the summed loss for every modality; clips do not mix, so each gets that of its own loss.

    Args:
        loss: (B,), of what depends on the leaves.
        leaves: by attacked modality, (B, ...).
        more: whether the graph is needed again.

    Raises:
        AvrobustError: if the loss does not depend on any of them.
    """
    if not loss.requires_grad:
        raise AvrobustError(
            f"no gradient reaches {', '.join(leaves)} from the model's logits: the model ignores the attacked "
            "modalities, or detaches them, and a gradient attack would measure nothing"
        )
    found = torch.autograd.grad(
        loss, tuple(leaves.values()), torch.ones_like(loss), retain_graph=more, materialize_grads=True
    )
    return dict(zip(leaves, found, strict=True))


def not_finite(gradients: Iterable[Tensor]) -> Tensor:
    """Flag clips with a gradient (B, ...) that holds NaN or infinity: (B,) bool; waits for no device."""
    # A sum carries any NaN or infinity, in one pass and without a tensor of flags as large as the gradient.
    totals = [gradient.flatten(1).sum(dim=1) for gradient in gradients]
    return ~torch.stack(totals).isfinite().all(dim=0)


def refuse_not_finite(ids: Sequence[str], flags: Tensor, what: str = "the loss or its gradient") -> None:
    """Refuse to go on where the loss or its gradient is NaN or infinite: no attack there says anything.

    Args:
        ids: the clips'.
        flags: (B,) bool, for which clips.
        what: is not finite.

    Raises:
        AvrobustError: names the clips.
    """
    if flags.any():
        raise AvrobustError(
            f"{what} is not finite for {first_flagged(ids, flags)}: a robustness measured there would mean nothing; "
            "look for a division by 0, a log of 0 or a square root at 0 in the model"
        )


class GradientRecord:
    """A record of which clips a gradient was asked for, and whether one that is not zero ever came back, by modality.

    Kept by hooks on what goes into the model and what comes out, so that no attack need say it. Where a modality is
    rounded, detached or ignored, no attack by gradients has attacked it, whatever it says.

    Attributes:
        reached: by attacked modality, (B,) bool: the gradient was not zero in at least one of these passes.
    """

    def __init__(self, modalities: Collection[str], clips: int, device: torch.device) -> None:
        self._passes = torch.zeros(clips, dtype=torch.int64, device=device)
        self.reached = {name: torch.zeros(clips, dtype=torch.bool, device=device) for name in modalities}

    @property
    def passes(self) -> Tensor:
        """How many backward passes went through the clip's logits, (B,) int64, each sample of the model counted.

        To be read only: a copy.
        """
        return self._passes.clone()

    def watch(self, perturbed: Mapping[str, Tensor], positions: Tensor) -> dict[str, Tensor]:
        """The same inputs, those that need a gradient as views that tell what reaches them."""
        return {name: self._watched(name, x, positions) for name, x in perturbed.items()}

    def _watched(self, name: str, x: Tensor, positions: Tensor) -> Tensor:
        if not (x.requires_grad and torch.is_grad_enabled()):
            return x

        def note(gradient: Tensor) -> None:
            self.reached[name][positions] |= gradient.flatten(1).any(dim=1)

        view = x.view_as(x)  # a hook on `x` itself would stay there, call after call
        view.register_hook(note)  # type: ignore[no-untyped-call]
        return view

    def expect(self, logits: Tensor, positions: Tensor, samples: int) -> None:
        """Count the backward passes that come through these logits, the mean of so many samples."""
        if logits.requires_grad:

            def note(_: Tensor) -> None:
                self._passes.index_add_(0, positions, torch.full_like(positions, samples))

            logits.register_hook(note)  # type: ignore[no-untyped-call]

    @property
    def missing(self) -> dict[str, Tensor]:
        """Flags of clips whose gradients were asked for and were all zero: by attacked modality, (B,) bool."""
        asked = self._passes > 0
        return {name: asked & ~reached for name, reached in self.reached.items()}
