"""The plugin `adversarial`: training on, or beside, clips that are attacked on the way."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from avrobust_adversarial.configs import AdversarialConfig, FastAtConfig, FreeAtConfig, TradesConfig
from avrobust_core import Component, hookimpl

if TYPE_CHECKING:
    from avrobust_core import Augmentation

THREAT = {"audio": {"norm": "linf", "eps": 0.002}, "video": {"norm": "linf", "eps": "4/255"}}
"""Of the examples."""


def build_adversarial(config: AdversarialConfig) -> "Augmentation":
    """Against the attack chosen, or the paper's PGD."""
    from avrobust_adversarial.replacing import make_adversarial

    return make_adversarial(config)


def build_fast_at(config: FastAtConfig) -> "Augmentation":
    """Against a single step."""
    from avrobust_adversarial.fast import make_fast_at

    return make_fast_at(config)


def build_free_at(config: FreeAtConfig) -> "Augmentation":
    """As configured."""
    from avrobust_adversarial.free import FreeTraining

    return FreeTraining(config)


def build_trades(config: TradesConfig) -> "Augmentation":
    """As configured."""
    from avrobust_adversarial.trades import Trades

    return Trades(config)


@hookimpl
def avrobust_augmentations() -> "Iterator[Component[Any, Augmentation]]":
    """Adversarial training."""
    yield Component(
        name="adversarial",
        summary="Adversarial training: clips are replaced by what PGD, or any installed attack, makes of them.",
        config=AdversarialConfig,
        build=build_adversarial,
        references=("https://arxiv.org/abs/1706.06083",),
        example={"threat": THREAT, "steps": 2},
    )
    yield Component(
        name="fast-at",
        summary="Fast adversarial training: clips are replaced by what one step from a random start makes of them.",
        config=FastAtConfig,
        build=build_fast_at,
        references=("https://arxiv.org/abs/2001.03994", "https://arxiv.org/abs/2202.01181"),
        example={"threat": THREAT},
    )
    yield Component(
        name="free-at",
        summary="Free adversarial training: each batch is learned from several times, and each pass moves the clips.",
        config=FreeAtConfig,
        build=build_free_at,
        references=("https://arxiv.org/abs/1904.12843",),
        example={"threat": THREAT, "replays": 2},
    )
    yield Component(
        name="trades",
        summary="TRADES: the loss of clean clips plus how far an attacker drives the prediction from theirs.",
        config=TradesConfig,
        build=build_trades,
        references=("https://arxiv.org/abs/1901.08573",),
        example={"threat": THREAT, "steps": 2},
    )
