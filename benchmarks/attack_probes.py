"""Tasks of ours that peers are asked to do as they are, to say which of them cannot, and why."""

from dataclasses import replace

from torch import Tensor, nn

from benchmarks.attack_measures import LEEWAY, one_line, quiet
from benchmarks.attack_peers import AUTO_ATTACK, CW, PGD, Settings
from benchmarks.attack_subject import Subject
from benchmarks.attack_views import NativeView, View

CLIPS = 2

SETTINGS = Settings(eps=0.3, steps=10, searches=2)
"""Only to see who can do a task at all: quick, and with a radius so large that an ensemble soon breaks all clips."""

TASKS = {"pgd": PGD, "cw": CW, "autoattack": AUTO_ATTACK}


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
        bounds = subject.dataset.media[name].bounds or SETTINGS.bounds
        found[f"{name} as it is"] = refusals(NativeView(subject.model, clip, name), x, targets, bounds)
    picture = View(subject.model, subject.first(CLIPS), subject.dataset.media, tuple(copies))
    classes = len(subject.dataset.classes)
    several = nn.functional.one_hot(targets, classes) + nn.functional.one_hot((targets + 1) % classes, classes)
    found["several labels"] = refusals(picture, picture.pack(copies), several.float(), SETTINGS.bounds)
    return found


def refusals(module: nn.Module, x: Tensor, y: Tensor, bounds: tuple[float, float]) -> dict[str, str]:
    """Which peers raise an error when they are asked to attack this, or return what they must not."""
    found = {}
    settings = replace(SETTINGS, bounds=bounds)
    for task, peers in TASKS.items():
        for name, attacker in peers.items():
            try:
                with quiet():
                    perturbed = attacker(module, x.clone(), y.clone(), settings)
            except Exception as error:  # noqa: BLE001 - a peer may raise anything, and what it cannot run is a result
                found[f"{name} {task}"] = one_line(error)
            else:
                distance = float((perturbed - x).abs().max())  # not a number where one is among the samples
                if task != "cw" and not distance <= settings.eps * (1 + LEEWAY):
                    found[f"{name} {task}"] = f"perturbed by {distance:.3g} at a radius of {settings.eps:g}"
    return found
