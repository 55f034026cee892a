"""The plugin `adversarial`: training on, or beside, clips that are attacked on the way."""

from collections.abc import Iterator

from avrobust_adversarial import configs
from avrobust_core import Component, hookimpl

THREAT = {"audio": {"norm": "linf", "eps": 0.002}, "video": {"norm": "linf", "eps": "4/255"}}
"""The threat of the examples."""


@hookimpl
def avrobust_augmentations() -> Iterator[Component]:
    """Adversarial training."""
    yield Component(
        name="adversarial",
        summary="Adversarial training: clips are replaced by what PGD, or any installed attack, makes of them.",
        config=configs.AdversarialConfig,
        build="avrobust_adversarial.replacing:make_adversarial",
        references=("https://arxiv.org/abs/1706.06083",),
        example={"threat": THREAT, "steps": 2},
        version=2,  # other random starts
    )
    yield Component(
        name="fast-at",
        summary="Fast adversarial training: clips are replaced by what one step from a random start makes of them.",
        config=configs.FastAtConfig,
        build="avrobust_adversarial.fast:make_fast_at",
        references=("https://arxiv.org/abs/2001.03994", "https://arxiv.org/abs/2202.01181"),
        example={"threat": THREAT},
        version=2,  # other random starts
    )
    yield Component(
        name="free-at",
        summary="Free adversarial training: each batch is learned from several times, and each pass moves the clips.",
        config=configs.FreeAtConfig,
        build="avrobust_adversarial.free:FreeTraining",
        version=3,  # other random starts
        references=("https://arxiv.org/abs/1904.12843",),
        example={"threat": THREAT, "replays": 2},
    )
    yield Component(
        name="trades",
        summary="TRADES: the loss of clean clips plus how far an attacker drives the prediction from theirs.",
        config=configs.TradesConfig,
        build="avrobust_adversarial.trades:Trades",
        references=("https://arxiv.org/abs/1901.08573",),
        example={"threat": THREAT, "steps": 2},
        version=2,  # other random starts
    )
    yield Component(
        name="vertex-mixup",
        summary="Vertex mix-up: a clip is mixed with its own adversarial vertex, which training's own gradients move.",
        config=configs.VertexMixupConfig,
        build="avrobust_adversarial.vertex:VertexMixup",
        references=(
            "https://arxiv.org/abs/2003.02484",
            "https://arxiv.org/abs/1904.12843",
            "https://arxiv.org/abs/1912.11969",
        ),
        example={"threat": THREAT},
        version=2,  # other random starts
    )
