"""What the attacks without a gradient offer; free of torch."""

from typing import TYPE_CHECKING

from avrobust_attacks.blackbox.configs import DropConfig, NoiseConfig, SquareConfig
from avrobust_core import Component

if TYPE_CHECKING:
    from avrobust_core import Attack


def build_noise(config: NoiseConfig) -> "Attack":
    """Of the kind configured."""
    from avrobust_attacks.blackbox.noise import GaussianNoise, UniformNoise

    kind = UniformNoise if config.kind == "uniform" else GaussianNoise
    return kind(draws=config.draws, loss=config.loss)


def build_square(config: SquareConfig) -> "Attack":
    """As configured."""
    from avrobust_attacks.blackbox.square import Square

    return Square(queries=config.queries, p_init=config.p_init, restarts=config.restarts, loss=config.loss)


def build_drop(config: DropConfig) -> "Attack":
    """Of the kind configured; all but silence must be prepared."""
    from avrobust_attacks.blackbox.drop import DropToMean, DropToOtherClip, DropToSilence
    from avrobust_core import Preparation

    if config.replace == "silence":
        return DropToSilence()
    preparation = Preparation(config.split, config.batch_size)
    if config.replace == "mean":
        return DropToMean(preparation)
    return DropToOtherClip(preparation, different_class=config.different_class, pool=config.pool)


OFFERS: tuple[Component, ...] = (
    Component(
        name="noise",
        summary="Uniform or Gaussian noise that fills the budget: the baseline of every attack.",
        config=NoiseConfig,
        build=build_noise,
        example={"draws": 100},
        version=2,
    ),
    Component(
        name="square",
        summary="Square attack: a black-box random search over blocks of audio, video or features.",
        config=SquareConfig,
        build=build_square,
        references=("https://arxiv.org/abs/1912.00049",),
        example={"queries": 1000},
        version=2,
    ),
    Component(
        name="drop",
        summary="The attacked modalities removed: silence, the mean clip, or another clip's; takes no notice of eps.",
        config=DropConfig,
        build=build_drop,
        example={"replace": "other-clip"},
        version=2,
    ),
)
