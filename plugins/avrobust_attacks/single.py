"""The single attacks of the suite: all but the ensemble, which is made of them; free of torch."""

from avrobust_attacks.blackbox.configs import DropConfig, NoiseConfig, SquareConfig
from avrobust_attacks.gradient.configs import ApgdConfig, FgsmConfig, MimConfig, PgdConfig
from avrobust_attacks.minimal.configs import CwConfig, DdnConfig, FmnConfig
from avrobust_attacks.universal.configs import UniversalConfig
from avrobust_core import Component

SINGLE_ATTACKS = (
    Component(
        name="fgsm",
        summary="Fast gradient method: one step over the whole radius, all attacked modalities at once.",
        config=FgsmConfig,
        build="avrobust_attacks.gradient.pgd:fgsm",
        references=("https://arxiv.org/abs/1412.6572",),
        example={},
        version=4,  # other random starts
    ),
    Component(
        name="pgd",
        summary="Projected gradient: joint steps on all attacked modalities, restarts from random points.",
        config=PgdConfig,
        build="avrobust_attacks.gradient.pgd:pgd",
        references=("https://arxiv.org/abs/1706.06083",),
        example={"steps": 10},
        version=5,  # other random starts
    ),
    Component(
        name="mim",
        summary="Momentum iterative method: joint steps along a running sum of normalised gradients.",
        config=MimConfig,
        build="avrobust_attacks.gradient.pgd:mim",
        references=("https://arxiv.org/abs/1710.06081",),
        example={"steps": 10},
        version=3,
    ),
    Component(
        name="apgd",
        summary="Auto-PGD: momentum, and a step size per clip that is halved where it no longer pays.",
        config=ApgdConfig,
        build="avrobust_attacks.gradient.apgd:apgd",
        references=("https://arxiv.org/abs/2003.01690",),
        example={"steps": 20, "loss": "dlr"},
        version=4,  # other random starts
    ),
    Component(
        name="cw",
        summary="Carlini and Wagner: the smallest l2 or linf perturbation, by a penalty, a searched constant and Adam.",
        config=CwConfig,
        build="avrobust_attacks.minimal.cw:CW",
        references=("https://arxiv.org/abs/1608.04644",),
        example={"searches": 3},
        version=4,
    ),
    Component(
        name="ddn",
        summary="Decoupled direction and norm: a cheap search for the smallest l2 perturbation.",
        config=DdnConfig,
        build="avrobust_attacks.minimal.stepped:DDN",
        references=("https://arxiv.org/abs/1811.09600",),
        example={"steps": 100},
        version=3,
    ),
    Component(
        name="fmn",
        summary="Fast minimum-norm: a cheap search for the smallest linf, l2, l1 or l0 perturbation.",
        config=FmnConfig,
        build="avrobust_attacks.minimal.stepped:FMN",
        references=("https://arxiv.org/abs/2102.12827",),
        example={"steps": 100},
        version=3,
    ),
    Component(
        name="noise",
        summary="Uniform or Gaussian noise that fills the budget: the baseline of every attack.",
        config=NoiseConfig,
        build="avrobust_attacks.blackbox.noise:noise",
        example={"draws": 100},
        version=3,  # other random numbers
    ),
    Component(
        name="square",
        summary="Square attack: a black-box random search over blocks of audio, video or features.",
        config=SquareConfig,
        build="avrobust_attacks.blackbox.square:Square",
        references=("https://arxiv.org/abs/1912.00049",),
        example={"queries": 1000},
        version=3,  # other random numbers
    ),
    Component(
        name="drop",
        summary="The attacked modalities removed: silence, the mean clip, or another clip's; takes no notice of eps.",
        config=DropConfig,
        build="avrobust_attacks.blackbox.drop:drop",
        example={"replace": "other-clip"},
        version=2,
    ),
    Component(
        name="universal",
        summary="One perturbation of each modality for a whole set of clips, projected after every step.",
        config=UniversalConfig,
        build="avrobust_attacks.universal.universal:Universal",
        references=("https://arxiv.org/abs/1610.08401", "https://arxiv.org/abs/2203.12122"),
        example={"epochs": 10},
        version=2,
    ),
)
