"""What the universal attack offers; free of torch."""

from typing import TYPE_CHECKING, Any

from avrobust_core import Component

if TYPE_CHECKING:
    from avrobust_core import Attack

OFFERS: tuple[Component[Any, "Attack"], ...] = ()
