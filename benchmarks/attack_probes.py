"""Tasks of ours that peers are asked to do as they are, to say which of them cannot, and why."""

import torch
from torch import Tensor, nn

from benchmarks.attack_measures import one_line, quiet
from benchmarks.attack_peers import AUTO_ATTACK, CW, PGD, Settings
from benchmarks.attack_subject import Subject
from benchmarks.attack_views import NativeView, View

CLIPS = 4

SETTINGS = Settings(eps=0.3, steps=10, restarts=2, searches=2)
"""Only to see who can do a task at all: quick, and with a radius at which every clip is soon fooled."""


def probe(subject: Subject) -> dict[str, dict[str, str]]:
    """Ask for each modality in its own shape and bounds, and for several labels per clip.

    Returns:
        By task and peer, why it could not do it; a peer that could is not named.
    """
    clip = subject.first(1)
    copies = {name: x.repeat(CLIPS, *[1] * (x.dim() - 1)) for name, x in clip.inputs.items()}
    targets = clip.targets.repeat(CLIPS)
    found = {}
    for name, x in copies.items():
        settings = SETTINGS.within(subject.dataset.media[name].bounds)
        found[f"{name} as it is"] = refusals(NativeView(subject.model, clip, name), x, targets, settings)
    picture = View(subject.model, subject.first(CLIPS), subject.dataset.media, tuple(copies))
    classes = len(subject.dataset.classes)
    several = nn.functional.one_hot(targets, classes) + nn.functional.one_hot((targets + 1) % classes, classes)
    found["several labels"] = refusals(picture, picture.pack(copies), several.float(), SETTINGS)
    return found


def refusals(module: nn.Module, x: Tensor, y: Tensor, settings: Settings) -> dict[str, str]:
    """Which peers raise an error when they are asked to attack this, or return what they must not."""
    found = {}
    for task, peers in {"pgd": PGD, "cw": CW, "autoattack": AUTO_ATTACK}.items():
        for name, attacker in peers.items():
            try:
                with quiet():
                    perturbed = attacker(module, x.clone(), y.clone(), settings)
            except Exception as error:  # noqa: BLE001 - a peer may raise anything, and what it cannot run is a result
                found[f"{name} {task}"] = one_line(error)
            else:
                reason = fault(module, x, y, perturbed, None if task == "cw" else settings.eps)
                if reason is not None:
                    found[f"{name} {task}"] = reason
    return found


def fault(module: nn.Module, x: Tensor, y: Tensor, perturbed: Tensor, eps: float | None) -> str | None:
    """What is wrong with an answer; None for nothing."""
    if not perturbed.isfinite().all():
        return "returned numbers that are not finite"
    distance = float((perturbed - x).abs().max())
    if eps is not None and distance > 1.01 * eps:
        return f"returned a perturbation of {distance:.3g} at a radius of {eps:g}"
    with torch.no_grad():
        fooled = module(perturbed).argmax(dim=1) != y if y.dim() == 1 else torch.ones(1, dtype=torch.bool)
    return None if fooled.any() else "fooled no clip, at any radius" if eps is None else f"fooled no clip at {eps:g}"
