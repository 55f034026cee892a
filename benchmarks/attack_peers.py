"""How each peer is asked to attack: as its documentation says, on a module of one tensor in [0, 1].

Each function takes the module, clean inputs (B, ...), targets (B,) and what all parties are given, and returns the
perturbed inputs. Peers are imported inside, so that one that is missing or broken takes no other down.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Settings:
    """What all parties of a comparison are given, ours too.

    Attributes:
        eps: radius in the space of the peers' tensor; a minimum-norm attack has none.
        steps: gradient steps of a run; of each constant's search for `cw`.
        restarts: runs of PGD from random points.
        searches: constants tried by `cw`.
        learning_rate: Adam's, in `cw`.
        classes: number of logits.
        bounds: of the tensor, for peers that can be told.
    """

    eps: float = 0.0
    steps: int = 20
    restarts: int = 1
    searches: int = 9
    learning_rate: float = 0.01
    classes: int = 10
    bounds: tuple[float, float] = (0.0, 1.0)

    @property
    def step_size(self) -> float:
        """Of PGD (Madry et al. 2018)."""
        return 2.5 / self.steps * self.eps


Attacker = Callable[[nn.Module, Tensor, Tensor, Settings], Tensor]


def foolbox_pgd(module: nn.Module, x: Tensor, y: Tensor, settings: Settings) -> Tensor:
    """Restarts by `repeat`, which runs all clips again."""
    foolbox: Any = import_module("foolbox")
    attack = foolbox.attacks.LinfPGD(steps=settings.steps, abs_stepsize=settings.step_size)
    if settings.restarts > 1:
        attack = attack.repeat(settings.restarts)
    victim = foolbox.PyTorchModel(module, bounds=settings.bounds, device=x.device)
    _, clipped, _ = attack(victim, x, y, epsilons=settings.eps)
    found: Tensor = clipped
    return found


def torchattacks_pgd(module: nn.Module, x: Tensor, y: Tensor, settings: Settings) -> Tensor:
    """Restarts by `MultiAttack`, which goes on with the clips that are not fooled yet."""
    torchattacks: Any = import_module("torchattacks")
    runs = [
        torchattacks.PGD(module, eps=settings.eps, alpha=settings.step_size, steps=settings.steps)
        for _ in range(settings.restarts)
    ]
    attack = runs[0] if len(runs) == 1 else torchattacks.MultiAttack(runs)
    found: Tensor = attack(x, y)
    return found


def art_pgd(module: nn.Module, x: Tensor, y: Tensor, settings: Settings) -> Tensor:
    """Restarts by `num_random_init`, which runs all clips again."""
    evasion: Any = import_module("art.attacks.evasion")
    attack = evasion.ProjectedGradientDescentPyTorch(
        art_classifier(module, x, settings),
        eps=settings.eps,
        eps_step=settings.step_size,
        max_iter=settings.steps,
        num_random_init=settings.restarts,
        batch_size=len(x),
        verbose=False,
    )
    return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


def adv_lib_pgd(module: nn.Module, x: Tensor, y: Tensor, settings: Settings) -> Tensor:
    """Restarts on the clips that are not fooled yet."""
    attacks: Any = import_module("adv_lib.attacks")
    found: Tensor = attacks.pgd_linf(
        module,
        x,
        y,
        settings.eps,
        steps=settings.steps,
        restarts=settings.restarts,
        absolute_step_size=settings.step_size,
    )
    return found


def foolbox_cw(module: nn.Module, x: Tensor, y: Tensor, settings: Settings) -> Tensor:
    """Stops a search early, by default, on the loss summed over the batch."""
    foolbox: Any = import_module("foolbox")
    attack = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=settings.searches, steps=settings.steps, stepsize=settings.learning_rate
    )
    found: Tensor
    found, _, _ = attack(foolbox.PyTorchModel(module, bounds=settings.bounds, device=x.device), x, y, epsilons=None)
    return found


def adv_lib_cw(module: nn.Module, x: Tensor, y: Tensor, settings: Settings) -> Tensor:
    """Stops a search early, by default, once no clip's loss falls."""
    wagner: Any = import_module("adv_lib.attacks")
    found: Tensor = wagner.carlini_wagner_l2(
        module,
        x,
        y,
        learning_rate=settings.learning_rate,
        binary_search_steps=settings.searches,
        max_iterations=settings.steps,
    )
    return found


def torchattacks_cw(module: nn.Module, x: Tensor, y: Tensor, settings: Settings) -> Tensor:
    """One constant only: it has no search. All steps go into that one."""
    torchattacks: Any = import_module("torchattacks")
    attack = torchattacks.CW(module, c=1, steps=settings.steps * settings.searches, lr=settings.learning_rate)
    found: Tensor = attack(x, y)
    return found


def art_cw(module: nn.Module, x: Tensor, y: Tensor, settings: Settings) -> Tensor:
    """Gradient descent with a line search of its own, whose defaults are kept."""
    evasion: Any = import_module("art.attacks.evasion")
    attack = evasion.CarliniL2Method(art_classifier(module, x, settings), batch_size=len(x), verbose=False)
    return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


def adv_lib_ddn(module: nn.Module, x: Tensor, y: Tensor, settings: Settings) -> Tensor:
    """As it is."""
    attacks: Any = import_module("adv_lib.attacks")
    found: Tensor = attacks.ddn(module, x, y, steps=settings.steps)
    return found


def adv_lib_fmn(module: nn.Module, x: Tensor, y: Tensor, settings: Settings, *, norm: float) -> Tensor:
    """As it is, in the norm given."""
    attacks: Any = import_module("adv_lib.attacks")
    found: Tensor = attacks.fmn(module, x, y, norm=norm, steps=settings.steps)
    return found


def adv_lib_fab(module: nn.Module, x: Tensor, y: Tensor, settings: Settings) -> Tensor:
    """In linf; a step of its own costs a backward pass for each class, so it has a quarter of them."""
    attacks: Any = import_module("adv_lib.attacks")
    found: Tensor = attacks.fab(module, x, y, norm=math.inf, n_iter=max(1, settings.steps // 4))
    return found


def foolbox_minimal(module: nn.Module, x: Tensor, y: Tensor, settings: Settings, *, name: str) -> Tensor:
    """Its attack of that name."""
    foolbox: Any = import_module("foolbox")
    attack = getattr(foolbox.attacks, name)(steps=settings.steps)
    found: Tensor
    found, _, _ = attack(foolbox.PyTorchModel(module, bounds=settings.bounds, device=x.device), x, y, epsilons=None)
    return found


def torchattacks_auto(module: nn.Module, x: Tensor, y: Tensor, settings: Settings) -> Tensor:
    """Its standard version, whose APGD and FAB do 10 steps where AutoAttack's own do 100."""
    torchattacks: Any = import_module("torchattacks")
    found: Tensor = torchattacks.AutoAttack(module, norm="Linf", eps=settings.eps, n_classes=settings.classes)(x, y)
    return found


def art_auto(module: nn.Module, x: Tensor, y: Tensor, settings: Settings) -> Tensor:
    """Its own choice: APGD on two losses, DeepFool and Square, five restarts each; the step a third of the radius."""
    evasion: Any = import_module("art.attacks.evasion")
    attack = evasion.AutoAttack(
        art_classifier(module, x, settings), eps=settings.eps, eps_step=settings.eps / 3, batch_size=len(x)
    )
    return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


def auto_attack(module: nn.Module, x: Tensor, y: Tensor, settings: Settings) -> Tensor:
    """The authors' own code, packaged as pyautoattack, in its standard version."""
    package: Any = import_module("pyautoattack")
    attack = package.AutoAttack(module, norm="Linf", eps=settings.eps, version="standard", device=x.device)
    found: Tensor
    found, _ = attack.run_standard_evaluation(x, y, batch_size=len(x))
    return found


def art_classifier(module: nn.Module, x: Tensor, settings: Settings) -> Any:
    """The module as ART takes it."""
    classification: Any = import_module("art.estimators.classification")
    return classification.PyTorchClassifier(
        module,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=settings.classes,
        clip_values=settings.bounds,
        device_type="cpu",
    )


PGD: Mapping[str, Attacker] = MappingProxyType(
    {"foolbox": foolbox_pgd, "torchattacks": torchattacks_pgd, "art": art_pgd, "adv-lib": adv_lib_pgd}
)
CW: Mapping[str, Attacker] = MappingProxyType(
    {"foolbox": foolbox_cw, "adv-lib": adv_lib_cw, "torchattacks": torchattacks_cw, "art": art_cw}
)
AUTO_ATTACK: Mapping[str, Attacker] = MappingProxyType(
    {"torchattacks": torchattacks_auto, "pyautoattack": auto_attack, "art": art_auto}
)
MINIMAL: Mapping[str, Mapping[str, Attacker]] = MappingProxyType(
    {
        "l2": {
            "adv-lib ddn": adv_lib_ddn,
            "adv-lib fmn": partial(adv_lib_fmn, norm=2),
            "foolbox ddn": partial(foolbox_minimal, name="DDNAttack"),
        },
        "linf": {
            "adv-lib fmn": partial(adv_lib_fmn, norm=math.inf),
            "foolbox fmn": partial(foolbox_minimal, name="LInfFMNAttack"),
            "adv-lib fab": adv_lib_fab,
        },
    }
)
PACKAGES = ("foolbox", "torchattacks", "art.attacks.evasion", "adv_lib.attacks", "pyautoattack")
