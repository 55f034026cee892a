"""What the attacks for the smallest perturbation offer; free of torch."""

from typing import TYPE_CHECKING, Any

from avrobust_attacks.minimal.configs import CwConfig, DdnConfig, FmnConfig
from avrobust_core import Component

if TYPE_CHECKING:
    from avrobust_core import Attack


def build_cw(config: CwConfig) -> "Attack":
    """As configured."""
    from avrobust_attacks.minimal.cw import CW

    return CW(config)


def build_ddn(config: DdnConfig) -> "Attack":
    """As configured."""
    from avrobust_attacks.minimal.ddn import DDN

    return DDN(config)


def build_fmn(config: FmnConfig) -> "Attack":
    """As configured."""
    from avrobust_attacks.minimal.fmn import FMN

    return FMN(config)


OFFERS: tuple[Component[Any, "Attack"], ...] = (
    Component(
        name="cw",
        summary="Carlini and Wagner: the smallest l2 or linf perturbation, by a penalty, a searched constant and Adam.",
        config=CwConfig,
        build=build_cw,
        references=("https://arxiv.org/abs/1608.04644",),
        example={"searches": 3},
        version=4,
    ),
    Component(
        name="ddn",
        summary="Decoupled direction and norm: a cheap search for the smallest l2 perturbation.",
        config=DdnConfig,
        build=build_ddn,
        references=("https://arxiv.org/abs/1811.09600",),
        example={"steps": 100},
        version=3,
    ),
    Component(
        name="fmn",
        summary="Fast minimum-norm: a cheap search for the smallest linf, l2, l1 or l0 perturbation.",
        config=FmnConfig,
        build=build_fmn,
        references=("https://arxiv.org/abs/2102.12827",),
        example={"steps": 100},
        version=3,
    ),
)
